"""Synthetic pairs as published: a deformable registration of masks moves the CT with its lesion (greedy)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from ichnos.arrays import Floats32, Mask
from ichnos.errors import InputRefused, require
from ichnos.learning.expansion.pairs import LesionPair, grown_lesion
from ichnos.reading.expansion import signed_distance_mm
from ichnos.registration.transform import Displacement, Transform
from ichnos.volume import Volume

_SMOOTH_MM = 2.0  # of the masks that are registered, so that their difference has a slope


def registered_followup(pair: LesionPair, factor: float, rng: np.random.Generator) -> LesionPair:
    """Return a pair whose follow-up lesion has `factor` times the baseline's volume, its CT moved along.

    The lesion is dilated by a roughened distance, avoiding fluid; the CT follows the registration of the old
    mask to the new one.
    """
    grown = grown_lesion(pair, factor, rng)
    later_hu = moved_hu(pair, pair.hu, pair.blood > 0.5, grown)
    later = grown.astype(np.float32)
    return replace(pair, later=later, later_hu=later_hu, oracle=None, synthetic=True)


def registered_baseline(pair: LesionPair, factor: float) -> LesionPair:
    """Return a pair whose baseline lesion is `factor` times smaller, with the real follow-up behind it."""
    if factor <= 1:
        raise InputRefused(f"a synthetic baseline is smaller than the real one; factor {factor:g} is not > 1")
    blood = pair.blood > 0.5
    depth = -signed_distance_mm(blood, pair.spacing_mm)
    kept = round(float(blood.sum()) / factor)
    smaller = np.zeros(blood.shape, bool)
    smaller.flat[np.argsort(-depth, axis=None, kind="stable")[:kept]] = True
    hu = moved_hu(pair, pair.hu, blood, smaller)
    ich, ivh = (part * smaller for part in (pair.ich, pair.ivh))
    return replace(pair, hu=hu, ich=ich, ivh=ivh, oracle=None, synthetic=True)


def moved_hu(pair: LesionPair, hu: Floats32, lesion: Mask, target: Mask) -> Floats32:
    """Return HU moved by the smooth displacement that brings a lesion's mask onto a target mask."""
    fixed, moving = (_soft(pair, mask) for mask in (target, lesion))
    greedy = require("picsl_greedy", extra="registration", purpose="synthetic pairs").Greedy3D()
    command = "-V 0 -threads 1 -seed 1 -i fixed moving -m SSD -n 100x60x30 -s 2vox 0.7vox -e 1.0 -o warp"
    try:
        greedy.execute(command, fixed=fixed.to_sitk(), moving=moving.to_sitk(), warp=None)
    except RuntimeError as error:
        raise InputRefused(f"sub-{pair.patient}: the registration of its masks gave up: {error}") from None
    lps = Volume.from_sitk(greedy["warp"])
    ras = np.ascontiguousarray(lps.array, np.float32) * np.array([-1, -1, 1], np.float32)
    moved = Transform.of(Displacement(lps.with_array(ras))).pull(_on_grid(pair, hu), fixed, fill=-1000.0)
    return np.asarray(moved.array, np.float32)


def _soft(pair: LesionPair, mask: Mask) -> Volume:
    sigma = [_SMOOTH_MM / step for step in pair.spacing_mm]
    return _on_grid(pair, np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), sigma), np.float32))


def _on_grid(pair: LesionPair, array: Floats32) -> Volume:
    return Volume(np.ascontiguousarray(array), np.diag([*pair.spacing_mm, 1.0]))
