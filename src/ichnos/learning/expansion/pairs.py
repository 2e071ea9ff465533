"""A patient's haematoma at baseline and at follow-up on a region around it, from a cohort or synthetic."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ichnos.arrays import Floats32, Mask
from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.formats import bids, nifti
from ichnos.inference.crops import REGION_SHAPE, REGION_SPACING_MM, roi_grid
from ichnos.reading.expansion import signed_distance_mm
from ichnos.registration import read_transform, register
from ichnos.volume import Volume

SYNTHETIC_FACTORS = (1.33, 1.68, 2.0)  # follow-up over baseline volume, as published


@dataclass(frozen=True, eq=False)
class LesionPair:
    """A patient's lesion at both times on a region around it; shares of a voxel, 0..1."""

    patient: str
    hu: Floats32  # (x, y, z)
    ich: Floats32
    ivh: Floats32
    brain: Mask  # where blood may go: inside the brain
    later: Floats32  # ICH and IVH at follow-up
    later_hu: Floats32 | None = None  # for the warp's L1; None: not known, the term is left out
    oracle: Floats32 | None = None  # the simulation's probability of blood at follow-up
    synthetic: bool = False
    spacing_mm: tuple[float, float, float] = REGION_SPACING_MM

    @property
    def blood(self) -> Floats32:
        """Return ICH and IVH at baseline."""
        total: Floats32 = np.clip(self.ich + self.ivh, 0, 1)
        return total

    @property
    def voxel_ml(self) -> float:
        """Return the volume of a voxel of the region."""
        return float(np.prod(self.spacing_mm)) / 1000


def pair_of(
    cohort: Cohort,
    patient: Patient,
    *,
    spacing_mm: tuple[float, float, float] = REGION_SPACING_MM,
    shape: tuple[int, int, int] = REGION_SHAPE,
) -> LesionPair | None:
    """Load a patient's pair from a cohort; None where haematoma or expansion is missing or empty."""
    labels, later = _target(cohort, patient, "haematoma"), _target(cohort, patient, "expansion")
    if labels is None or later is None or "ct" not in patient.exams or not (labels.array == 1).any():
        return None
    ct = nifti.load(patient.exam("ct")).reoriented("RAS")
    ich = labels.with_array((labels.array == 1).astype(np.float32))
    grid = roi_grid(ich, spacing_mm=spacing_mm, shape=shape)
    hu, oracle = ct.astype(np.float32).on_grid(grid, fill=-1000.0).array, _target(cohort, patient, "oracle")
    return LesionPair(
        patient.id,
        hu,
        ich=_share(labels, (1,), grid),
        ivh=_share(labels, (2,), grid),
        brain=_room_for_blood(_target(cohort, patient, "brain"), hu, grid),
        later=_share(later, (1, 2), grid),
        later_hu=followup_hu(cohort, patient, ct, grid),
        oracle=oracle.on_grid(grid).array.astype(np.float32) if oracle is not None else None,
        spacing_mm=spacing_mm,
    )


def _room_for_blood(brain: Volume | None, hu: Floats32, grid: Volume) -> Mask:
    """Return where blood may grow: in the brain, or anywhere in the skull where no brain is outlined."""
    return hu > -20 if brain is None else _share(brain, (1, 2), grid) > 0.5


def _target(cohort: Cohort, patient: Patient, name: str) -> Volume | None:
    """Load a patient's target; None where there is none."""
    if cohort.root is None:
        raise InputRefused(
            "the cohort has no folder, so its targets cannot be found; read it with formats.bids.read_cohort"
        )
    file = bids.find_target(cohort.root, patient.id, name)
    return nifti.load(file).reoriented("RAS") if file is not None else None


def _share(labels: Volume, values: tuple[int, ...], grid: Volume) -> Floats32:
    """Return the share of each voxel of the grid that labels of these values fill."""
    mask = labels.with_array(np.isin(labels.array, values).astype(np.float32))
    share: Floats32 = mask.on_grid(grid, fill=0.0).array
    return share


def followup_hu(cohort: Cohort, patient: Patient, ct: Volume, grid: Volume) -> Floats32 | None:
    """Return the follow-up CT on a grid of the baseline CT; None where there is none.

    The transform that `ichnos transfer` wrote is used; without one the CTs are registered rigidly.
    """
    if "followup" not in patient.exams:
        return None
    later = nifti.load(patient.exam("followup")).reoriented("RAS")
    who = bids.subject(patient.id)
    stored = sorted(Path(str(cohort.root)).glob(f"derivatives/*/{who}/{who}_from-ct_to-followup_xfm.h5"))
    try:
        transform = (
            read_transform(stored[0])
            if stored
            else register(ct, later, fixed_contrast="ct", moving_contrast="ct").transform
        )
    except InputRefused:  # another part of the body, or too little of the head: the L1 term is left out
        return None
    return np.asarray(transform.pull(later.astype(np.float32), grid, fill=-1000.0).array, np.float32)


def synthetic_pair(pair: LesionPair, factor: float, rng: np.random.Generator) -> LesionPair:
    """Return a pair with a follow-up lesion of `factor` times the baseline's volume; the CT is pushed along.

    The CT is pulled from the old lesion's edge to the new one's along the distance to it; that is faster than
    `synthetic.registered_followup`. A pair whose real follow-up CT is not known gets no synthetic one either:
    a loss that only copies know would pull a network away from the patients.
    """
    grown = grown_lesion(pair, factor, rng)
    later_hu = None
    if pair.later_hu is not None:
        distance = signed_distance_mm(pair.blood > 0.5, pair.spacing_mm)
        later_hu = _moved(pair, distance, max(float(distance[grown].max()), 1.0))
    return replace(pair, later=grown.astype(np.float32), later_hu=later_hu, oracle=None, synthetic=True)


def grown_lesion(pair: LesionPair, factor: float, rng: np.random.Generator) -> Mask:
    """Dilate a lesion to `factor` times its volume by a roughened distance, in the brain, avoiding fluid."""
    blood = pair.blood > 0.5
    distance = signed_distance_mm(blood, pair.spacing_mm)
    rough = ndimage.gaussian_filter(rng.normal(size=blood.shape), [8.0 / s for s in pair.spacing_mm])
    score = distance + 2.0 * rough / max(float(rough.std()), 1e-6)
    allowed = blood | (pair.brain & (pair.hu > 15))
    wanted = min(round(factor * float(blood.sum())), int(allowed.sum()))
    at = np.flatnonzero(allowed)
    grown = np.zeros(blood.shape, bool)
    grown.flat[at[np.argsort(np.where(blood, -100.0, score).flat[at], kind="stable")[:wanted]]] = True
    return grown


def _moved(pair: LesionPair, distance: Floats32, reach_mm: float) -> Floats32:
    """Pull HU outward: what lay at the lesion's edge comes to lie `reach_mm` outside it; inside the pull
    shrinks to 0, outside it fades.
    """
    depth = max(float(-distance.min()), 1.0)
    pull = (
        np.where(
            distance < reach_mm, (distance + depth) / (reach_mm + depth), np.exp((reach_mm - distance) / 10.0)
        )
        * reach_mm
    )
    direction = np.array(np.gradient(distance, *pair.spacing_mm))
    direction /= np.maximum(np.linalg.norm(direction, axis=0), 1e-6)
    steps = np.array(pair.spacing_mm).reshape(3, 1, 1, 1)
    at = np.indices(pair.hu.shape) - direction * pull / steps
    return np.asarray(ndimage.map_coordinates(pair.hu, at, order=1, mode="nearest"), np.float32)


def patch_of(
    pair: LesionPair, size: tuple[int, int, int], rng: np.random.Generator, *, border_share: float
) -> LesionPair:
    """Cut a patch out of a pair, most of them centred on the border of the follow-up lesion, as published."""
    shape = np.array(pair.hu.shape)
    later = pair.later > 0.5
    border = np.argwhere(later & ~ndimage.binary_erosion(later))
    centre = rng.integers(shape)
    if rng.random() < border_share and len(border):
        centre = border[int(rng.integers(len(border)))]
    start = np.clip(centre - np.array(size) // 2, 0, np.maximum(shape - np.array(size), 0))
    at = tuple(slice(int(a), int(a) + n) for a, n in zip(start, size, strict=True))
    short = [(0, max(0, n - int(whole))) for n, whole in zip(size, shape, strict=True)]
    cut: dict[str, Any] = {}
    for name in ("hu", "ich", "ivh", "brain", "later", "later_hu"):
        whole = getattr(pair, name)
        if whole is not None:
            cut[name] = np.pad(whole[at], short, constant_values=-1000.0 if name.endswith("hu") else 0)
    return replace(pair, oracle=None, **cut)


def pairs_fingerprint(pairs: Sequence[LesionPair]) -> str:
    """Return a hash of what a forecaster is trained on."""
    words = " ".join(f"{p.patient}{p.later.sum():.1f}" for p in pairs)
    return hashlib.sha256(words.encode()).hexdigest()
