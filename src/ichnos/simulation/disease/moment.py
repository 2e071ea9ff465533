"""One moment of a patient, baseline or follow-up: tissue displaced, blood in it, what was there before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ichnos.simulation.disease import chronic as parenchyma
from ichnos.simulation.disease import clot, filling, haemorrhage, mass_effect
from ichnos.simulation.disease.chronic import Chronic
from ichnos.simulation.disease.haemorrhage import Lesion
from ichnos.simulation.fields import Grid, enlarged, gathered, indices_of, looked_up, sampled, smooth_noise
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.heads.variation import Variation, patient_point
from ichnos.simulation.patient import Latent, Moment, Tissue
from ichnos.simulation.streams import random_stream

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class RenderedMoment:
    """The maps of one moment and the geometry behind them."""

    maps: Moment
    limit: float  # arrival time at the haematoma's edge; 0 without haematoma
    source_mm: Tensor  # (3, x, y, z) on the coarse grid: where tissue comes from in the source head
    displacement_mm: Tensor  # (3, x, y, z) on the coarse grid: mass effect


def rendered_moment(
    head: SourceHead,
    table: Tensor,
    latent: Latent,
    chronic: Chronic,
    variation: Variation,
    lesion: Lesion | None,
    *,
    followup: bool,
) -> RenderedMoment:
    """Render the patient at baseline or at follow-up."""
    grid, device = variation.grid, head.codes.device
    volumes = (
        (latent.drawn_followup_ich_ml, latent.drawn_followup_ivh_ml)
        if followup
        else (latent.drawn_ich_ml, latent.drawn_ivh_ml)
    )
    push = torch.zeros_like(variation.source_mm)
    if lesion is not None:
        push = mass_effect_mm(head, table, variation, lesion, volumes)
    source = variation.at(grid.coarse_points(device) - push) if lesion is not None else variation.source_mm
    tissue = _tissue(head, table, grid, source)
    empty = _nothing(grid, device)
    ich, hu, oedema, ivh, limit = empty, empty, empty, empty, 0.0
    if lesion is not None:
        box = _lesion_box(grid, variation, lesion, volumes[0])
        at = grid.enlarged(source[(slice(None), *box)])
        ich, hu, oedema, limit = _bled(lesion, latent, tissue, grid, grid.fine(box), at, followup=followup)
        ivh = _into_ventricles(
            tissue, ich, volumes[1], grid, patient_point(variation, lesion.centre_mm), latent.seed
        )
        if volumes[1] > 0:
            hu = torch.where(
                (ivh > 0) & (hu <= 0),
                clot.base_density_hu(latent.haematocrit, latent.onset_to_ct_h) - 8.0,
                hu,
            )
    leuko, acute, old, calcium = _chronic_maps(head, chronic, tissue, grid, source)
    if lesion is not None:  # blood takes the place of what was there
        rest = 1 - ich - ivh
        leuko, calcium = leuko.mul_(rest), calcium.mul_(rest)
        old = old * rest if chronic.old_ml > 0 else old
    maps = Moment(tissue, ich, ivh, hu, oedema, leuko, acute, old, calcium)
    return RenderedMoment(maps, limit, source, push)


def _nothing(grid: Grid, device: torch.device) -> Tensor:
    """Return a map of zeros that takes no memory (and cannot be written to)."""
    return torch.zeros((), device=device).expand(grid.shape)


def _tissue(head: SourceHead, table: Tensor, grid: Grid, source: Tensor) -> Tensor:
    """Return the tissue map, slab by slab so that the peak of memory stays low."""
    out = torch.empty(grid.shape, dtype=torch.uint8, device=head.codes.device)
    index = indices_of(source, head.affine)
    n = grid.coarse_shape[0]
    for first in range(0, n - 1, 8):
        last = min(first + 8, n - 1)
        codes = gathered(head.codes, grid.enlarged(index[:, first : last + 1]))
        out[first * grid.step : last * grid.step + 1] = looked_up(table, codes)
    return out


def mass_effect_mm(
    head: SourceHead, table: Tensor, variation: Variation, lesion: Lesion, volumes: tuple[float, float]
) -> Tensor:
    """Return the mass effect's displacement on the coarse grid."""
    grid, x = variation.grid, variation.source_mm
    voxel_ml = (grid.step * grid.spacing_mm) ** 3 / 1000
    time = haemorrhage.at(lesion, lesion.time, x, fill=400.0)
    tissue = looked_up(table, gathered(head.codes, indices_of(x, head.affine)))
    blood = filling.filled(time, haemorrhage.allowed(tissue), volumes[0] / voxel_ml, softness=4.0)
    fluid = ((tissue == Tissue.CSF) | (tissue == Tissue.VENTRICLE)).float()
    depth = sampled(head.features[1:], head.feature_affine, x)[0]
    ventricle = (tissue == Tissue.VENTRICLE) | (tissue == Tissue.CHOROID)
    room_ml = float(ventricle.sum()) * voxel_ml
    swelling = max(0.0, 1 - 0.75 * room_ml / volumes[1]) if volumes[1] > 0 else 0.0
    return mass_effect.displacement(blood, fluid, ventricle.float(), depth, grid, swelling=swelling)


def _lesion_box(
    grid: Grid, variation: Variation, lesion: Lesion, ich_ml: float
) -> tuple[slice, slice, slice]:
    """Return the coarse box that may hold blood and oedema: the crop, as the patient's deformation carries
    it.
    """
    points, affine = variation.source_mm, lesion.crop.affine
    size = lesion.crop.spacing_mm * (lesion.crop.tissue.shape[0] - 1)
    inside = torch.ones(points.shape[1:], dtype=torch.bool, device=points.device)
    for axis in range(3):
        inside &= (points[axis] >= affine[axis, 3]) & (points[axis] <= affine[axis, 3] + size)
    return grid.box(inside, margin=1)


def _bled(
    lesion: Lesion,
    latent: Latent,
    tissue: Tensor,
    grid: Grid,
    fine: tuple[slice, slice, slice],
    at: Tensor,
    *,
    followup: bool,
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return ICH fraction, blood HU and oedema degree on the fine grid, and the arrival time at the
    haematoma's edge.
    """
    voxel_ml = grid.spacing_mm**3 / 1000
    ich_ml, phe_ml = (
        (latent.drawn_followup_ich_ml, latent.drawn_followup_phe_ml)
        if followup
        else (latent.drawn_ich_ml, latent.drawn_phe_ml)
    )
    time = haemorrhage.at(lesion, lesion.time, at, fill=400.0)
    where = haemorrhage.allowed(tissue[fine])
    blood, limit = filling.filled_with_limit(time, where, ich_ml / voxel_ml, softness=0.6)
    around = haemorrhage.at(lesion, haemorrhage.spread_around(lesion, lesion.time, limit), at, fill=200.0)
    oedema = filling.oedema_degree(around, where & (blood < 0.5), phe_ml / voxel_ml) * (1 - blood)
    density = haemorrhage.at(lesion, lesion.hu_followup if followup else lesion.hu, at, fill=0.0)
    maps = []
    for part in (blood, torch.where(time < limit + 6.0, density, 0.0), oedema):
        whole = torch.zeros(grid.shape, device=at.device)
        whole[fine] = part
        maps.append(whole)
    return maps[0], maps[1], maps[2], limit


def _into_ventricles(
    tissue: Tensor, ich: Tensor, ivh_ml: float, grid: Grid, centre_mm: np.ndarray, seed: int
) -> Tensor:
    """Fill ventricles from the point of rupture, the dependent parts (occipital horns, in a patient on the
    back) first.
    """
    if ivh_ml <= 0:
        return _nothing(grid, tissue.device)
    out = torch.zeros(grid.shape, device=tissue.device)
    voxels = ((tissue == Tissue.VENTRICLE) | (tissue == Tissue.CHOROID)).nonzero()
    points = voxels * grid.spacing_mm + torch.from_numpy(grid.affine[:3, 3]).to(
        device=tissue.device, dtype=torch.float32
    )
    away = (points - torch.from_numpy(centre_mm).to(points)).norm(dim=1)
    from_rupture = (points - points[int(away.argmin())]).norm(dim=1)
    generator = random_stream(seed, "ivh")
    noise = smooth_noise((24, 24, 24), correlation=3, generator=generator, device=tissue.device)
    low = points.min(0).values
    unit = (points - low) / (points.max(0).values - low).clamp(min=1) * 23
    rough = sampled(noise, np.eye(4), unit.T.reshape(3, -1, 1, 1))[0].reshape(-1)
    score = 0.6 * from_rupture + 0.45 * (points[:, 1] - low[1]) + 2.5 * rough
    fraction, _ = filling.filled_with_limit(
        score, torch.ones_like(score, dtype=torch.bool), ivh_ml / (grid.spacing_mm**3 / 1000), softness=2.0
    )
    out[voxels[:, 0], voxels[:, 1], voxels[:, 2]] = fraction * (
        1 - ich[voxels[:, 0], voxels[:, 1], voxels[:, 2]]
    )
    return out


def _chronic_maps(
    head: SourceHead, chronic: Chronic, tissue: Tensor, grid: Grid, source: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return leukoaraiosis, acute and old infarct, and calcification on the fine grid."""
    coarse = tissue[:: grid.step, :: grid.step, :: grid.step]
    box = grid.box((coarse >= Tissue.CORTEX) & (coarse <= Tissue.BRAINSTEM), margin=1)
    fine = grid.fine(box)
    middle = grid.enlarged(
        source[(slice(None), *box)], step=grid.step // 2
    )  # scores are smooth: half the resolution is enough
    inner, voxel_ml = tissue[fine], grid.spacing_mm**3 / 1000
    brain = (inner >= Tissue.CORTEX) & (inner <= Tissue.BRAINSTEM)

    def on_fine(score: Tensor) -> Tensor:
        return enlarged(sampled(score[None], head.feature_affine, middle), 2)[0]

    def whole(part: Tensor) -> Tensor:
        out = torch.zeros(grid.shape, device=tissue.device)
        out[fine] = part
        return out

    def infarct(score: Tensor, volume_ml: float) -> Tensor:
        if volume_ml <= 0:
            return _nothing(grid, tissue.device)
        return whole(parenchyma.degree(on_fine(score), brain, volume_ml / voxel_ml, softness=0.12))

    white = parenchyma.degree(
        on_fine(chronic.scores[0]), inner == Tissue.WHITE, chronic.leukoaraiosis_ml / voxel_ml, softness=0.35
    )
    calcium = parenchyma.calcified(on_fine(chronic.scores[3]), inner, chronic.calcium)
    acute, old = (
        infarct(chronic.scores[i], volume) for i, volume in ((1, chronic.acute_ml), (2, chronic.old_ml))
    )
    return whole(white), acute, old, whole(calcium)
