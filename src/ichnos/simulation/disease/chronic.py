"""Lesions that were there before the bleeding: leukoaraiosis, infarcts, calcifications; defined in the
source head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ichnos.simulation.fields import Grid, looked_up, smooth_noise
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import Tissue


@dataclass(frozen=True)
class InfarctKind:
    """A kind of old infarct: how many are of it, and how large."""

    share: float
    median_ml: float
    spread: float  # of ln mL
    deep: bool  # a lacune; the others reach the cortex


# Lacunes, branches, whole territories. Silent infarcts are found in 8 to 28 % of elderly populations (review
# by Vermeer 2007, Lancet Neurol 6:611; most studies 10 to 20 %: Fanning 2014, BMC Med 12:119). The shares of
# kinds and the volumes are our choice.
OLD_INFARCTS = (
    InfarctKind(0.60, 0.5, 0.6, deep=True),
    InfarctKind(0.25, 9.0, 0.6, deep=False),
    InfarctKind(0.15, 55.0, 0.5, deep=False),
)


@dataclass(frozen=True, eq=False)
class Chronic:
    """Scores on the source head's feature grid, and what volume each is to have; a threshold on a score is
    the lesion.
    """

    scores: Tensor  # (4, x, y, z): leukoaraiosis, acute infarct, old infarct, calcification
    acute_ml: float
    old_ml: float
    old_hu: float  # of the old infarct's cavity
    leukoaraiosis_ml: float
    calcium: dict[Tissue, float]  # fraction of calcium in a structure


def drawn_chronic(
    head: SourceHead,
    *,
    leukoaraiosis_ml: float,
    acute_probability: float,
    old_probability: float,
    age_years: float,
    generator: torch.Generator,
) -> Chronic:
    """Draw what a patient of this age carries."""
    uniform = torch.rand(12, generator=generator).tolist()
    normal = torch.randn(3, generator=generator).tolist()
    acute = _volume_ml(12.0, 1.1, normal[0], (0.5, 90)) if uniform[0] < acute_probability else 0.0
    beside = 0.25 * min(1.0, leukoaraiosis_ml / 30)  # small-vessel disease and old infarcts go together
    has_old = uniform[1] < 1 - (1 - old_probability) * (1 - beside)
    kind = OLD_INFARCTS[int(np.searchsorted(np.cumsum([k.share for k in OLD_INFARCTS]), uniform[2]))]
    old = _volume_ml(kind.median_ml, kind.spread, normal[1], (0.2, 180)) if has_old else 0.0
    with_age = 1 / (1 + np.exp(-(age_years - 50) / 8))
    glomus_mm = 1.5 + 4.0 * uniform[9] if uniform[9] < 0.7 * with_age else 0.0
    scores = (
        _leukoaraiosis(head, 0.4 + 0.9 * uniform[6], generator),
        _infarct(head, acute, small=acute < 2, generator=generator),
        _infarct(head, old, small=kind.deep, generator=generator),
        _calcification(head, uniform[7] < 0.7 * with_age, glomus_mm, generator),
    )
    cavity_hu = 4.0 + 18.0 * uniform[10] ** 2
    return Chronic(torch.stack(scores), acute, old, cavity_hu, leukoaraiosis_ml, _calcium(uniform, with_age))


def _volume_ml(median_ml: float, spread: float, score: float, limits_ml: tuple[float, float]) -> float:
    return float(np.clip(median_ml * np.exp(spread * score), *limits_ml))


def _calcium(uniform: list[float], with_age: float) -> dict[Tissue, float]:
    """Return the fraction of calcium of each structure that carries some, more often `with_age` (0..1)."""
    return {
        Tissue.CHOROID: 0.1 + 0.6 * uniform[3] if uniform[3] < 0.8 * with_age else 0.02,
        Tissue.DURA: 0.9 * uniform[4] if uniform[4] < 0.35 * with_age else 0.0,
        Tissue.PALLIDUM: 0.2 + uniform[5] if uniform[5] < 0.2 * with_age else 0.0,
        Tissue.ARTERY: 0.3 + 0.9 * uniform[8] if uniform[8] < 0.6 * with_age else 0.0,
    }


def _leukoaraiosis(head: SourceHead, deep_share: float, generator: torch.Generator) -> Tensor:
    """Return a score: bands along the ventricles, caps on their horns, patches in the deep white matter;
    both sides much alike.
    """
    ventricle, depth = head.features
    x, y, z = head.mni_mm
    shape, device = tuple(ventricle.shape), ventricle.device
    wide, narrow = (
        smooth_noise(shape, correlation=c, generator=generator, device=device)[0] for c in (7.0, 3.0)
    )
    mirrored = (wide + wide.flip(0)) * 0.5  # near enough to the mirror image in an upright, centred head
    band = 2.2 * torch.exp(-ventricle.clamp(min=0) / 4.0)
    horns = [
        torch.exp(-(((x.abs() - a) / 9) ** 2 + ((y - b) / 9) ** 2 + ((z - c) / 10) ** 2))
        for a, b, c in ((17.0, 34.0, 8.0), (28.0, -64.0, 14.0))
    ]
    caps = torch.stack(horns).sum(0)
    reach = torch.sigmoid((z + 2) / 6) * torch.sigmoid((depth - 11) / 2.5)
    deep = (
        deep_share
        * torch.exp(-(((ventricle - 12).clamp(min=0) / 16) ** 2))
        * (0.9 * mirrored + 0.5 * wide + 0.7 * narrow)
    )
    score: Tensor = (band + 1.1 * caps + deep + 0.25 * narrow) * reach - 3.0 * (1 - reach)
    return score


def _infarct(head: SourceHead, volume_ml: float, *, small: bool, generator: torch.Generator) -> Tensor:
    """Return a score that is high around one place: a lacune deep in the brain, or a wedge that reaches
    the cortex.
    """
    ventricle, depth = head.features
    if volume_ml <= 0:
        return torch.full_like(depth, -9.0)
    x, y, z = head.mni_mm
    deep = (depth > 22) & (ventricle > 3) & (z > -6) & (z < 28) & (y > -30) & (y < 26)
    rim = (depth > 6) & (depth < 16) & (z > -24) & (x.abs() > 8)
    places = (deep if small else rim).reshape(-1).nonzero()[:, 0]
    chosen = places[int(torch.randint(len(places), (1,), generator=generator))]
    points = torch.stack([x, y, z])
    place = points.reshape(3, -1)[:, chosen]
    noise = smooth_noise(tuple(depth.shape), correlation=5.0, generator=generator, device=depth.device)[0]
    radius = (3000 * volume_ml / (4 * np.pi)) ** (1 / 3)
    distance = ((points - place.reshape(3, 1, 1, 1)) ** 2).sum(0).sqrt()
    score: Tensor = 1 - distance / radius + 0.18 * noise
    return score


def _calcification(head: SourceHead, pineal: bool, glomus_mm: float, generator: torch.Generator) -> Tensor:
    """Return the noise that breaks calcification into grains; pineal gland and glomera are lumps."""
    noise = smooth_noise(
        tuple(head.features.shape[1:]), correlation=2.0, generator=generator, device=head.codes.device
    )[0]
    # the falx ossifies, the tentorium hardly ever
    noise = noise - 4.0 * ((head.mni_mm[2] < 15) & (head.mni_mm[1] < -45))
    if pineal:
        place = torch.tensor([0.0, -29.0, 3.0], device=noise.device).reshape(3, 1, 1, 1)
        distance = ((head.mni_mm - place) ** 2).sum(0).sqrt()
        noise = torch.where(distance < 4.0, 30.0 - 8.0 * distance, noise)
    if glomus_mm > 0:
        x, y, z = head.mni_mm
        away = ((x.abs() - 23.0) ** 2 + (y + 40.0) ** 2 + (z - 12.0) ** 2).sqrt()
        lump = 8.0 + 14.0 * (1 - away / glomus_mm)
        noise = torch.where(away < glomus_mm, lump, noise)
    return noise


def degree(score: Tensor, where: Tensor, voxels: float, *, softness: float) -> Tensor:
    """Return degrees 0..1 such that as many voxels as asked for reach 0.5, within `where` (bool, same
    shape).

    >>> line = torch.arange(5.0)
    >>> degree(line, line > 0, 2, softness=0.5).tolist()
    [0.0, 0.0, 0.0, 0.5, 1.0]
    """
    wanted = min(round(voxels), int(where.sum()))
    if wanted <= 0:
        return torch.zeros_like(score)
    candidates = score[where]
    threshold = candidates.kthvalue(len(candidates) - wanted + 1).values
    return torch.where(where, ((score - threshold) / (2 * softness) + 0.5).clamp(0, 1), 0.0)


def calcified(score: Tensor, tissue: Tensor, calcium: dict[Tissue, float]) -> Tensor:
    """Return the fraction of calcium in each voxel: grains in the structures that carry it, and the pineal
    gland.
    """
    table = torch.zeros(256)
    for code, fraction in calcium.items():
        table[code] = fraction
    grains = looked_up(table.to(score.device), tissue) * (0.5 + score).clamp(0, 1.6)
    return torch.where(score > 6, ((score - 6) / 20).clamp(0, 0.8), grains).clamp(0, 1)


def shrunken_share(chronic: Chronic) -> float:
    """Return by what share of itself an old infarct has shrunk: not at all while it is weeks old, by two
    fifths once its cavity is fluid; our choice. Lacunes (under 3 mL) leave the brain's shape as it is.
    """
    return 0.4 * float(np.clip((18.0 - chronic.old_hu) / 12, 0, 1)) if chronic.old_ml >= 3 else 0.0


def fazekas(leukoaraiosis: Tensor, ventricle: Tensor, grid: Grid) -> tuple[int, int]:
    """Return the grades that a reader would give the map: periventricular and deep, 0..3 (Fazekas 1987).

    Periventricular, by how far from the ventricle's wall nine tenths of the lesions that touch it reach: 1
    (caps, lining) under 6 mm, 2 (smooth halo) under 16 mm, 3 (irregular, into the deep white matter) beyond;
    0 if they hold under 0.15 mL. Deep, by the largest separate patch, or what reaches further than 10 mm if
    that is more: 0 under 0.02 mL, 1 (punctate) under 0.5 mL, 2 (beginning confluence) under 5 mL, 3 beyond.
    Grades: AJR 149:351; it gives words, the distances and volumes are our choice.
    """
    half = grid.step // 2
    mask = (leukoaraiosis[::half, ::half, ::half] >= 0.5).cpu().numpy()
    side_mm = half * grid.spacing_mm
    if mask.sum() * side_mm**3 < 60:
        return 0, 0
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    distance = grid.enlarged(ventricle, step=grid.step // half)[0][box].cpu().numpy()
    mask = mask[box]
    labels, count = ndimage.label(mask)
    nearest = ndimage.minimum(distance, labels, range(1, count + 1))
    sizes_ml = np.bincount(labels.ravel(), minlength=count + 1)[1:] * side_mm**3 / 1000
    touching = np.r_[False, np.asarray(nearest) < 3.0]
    around = mask & touching[labels] & (distance > 0)
    return _periventricular_grade(distance[around], side_mm), _deep_grade(
        sizes_ml, touching[1:], distance[around], side_mm
    )


def _periventricular_grade(distance: np.ndarray, side_mm: float) -> int:
    if distance.size * side_mm**3 < 150:
        return 0
    return 1 + int(np.digitize(np.quantile(distance, 0.9), [6.0, 16.0]))


def _deep_grade(sizes_ml: np.ndarray, touching: np.ndarray, distance: np.ndarray, side_mm: float) -> int:
    separate = sizes_ml[~touching & (sizes_ml > 0.02)]
    reaching_ml = float((distance > 10).sum()) * side_mm**3 / 1000
    largest = max(float(separate.max(initial=0.0)), reaching_ml)
    return int(np.digitize(largest, [0.02, 0.5, 5.0]))
