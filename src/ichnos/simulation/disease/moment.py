"""One moment of a patient, baseline or follow-up: tissue displaced, blood in it, what was there before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ichnos.simulation.disease import chronic as parenchyma
from ichnos.simulation.disease import clot, filling, haemorrhage, mass_effect, ventricles
from ichnos.simulation.disease.arrival import narrow_fluid
from ichnos.simulation.disease.chronic import Chronic
from ichnos.simulation.disease.haemorrhage import Lesion
from ichnos.simulation.disease.operation import Operation, operated
from ichnos.simulation.fields import Grid, enlarged, gathered, indices_of, looked_up, sampled
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.heads.variation import Variation
from ichnos.simulation.patient import Latent, Moment, Tissue
from ichnos.simulation.streams import random_stream


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
    operation: Operation | None = None,
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
        order = _ventricular_order(head, variation.source_mm, latent)
        push = mass_effect_mm(head, table, variation, lesion, volumes, order)
    source = variation.at(grid.coarse_points(device) - push) if lesion is not None else variation.source_mm
    tissue = _tissue(head, table, grid, source)
    drain = None
    if operation is not None:
        mni_mm = sampled(head.mni_mm, head.feature_affine, source)
        depth_mm = sampled(head.features[1:], head.feature_affine, source)[0]
        tissue, drain = operated(operation, tissue, mni_mm, depth_mm, grid)
    empty = _nothing(grid, device)
    ich, hu, oedema, ivh, limit = empty, empty, empty, empty, 0.0
    if lesion is not None:
        box = _lesion_box(grid, variation, lesion, volumes[0])
        at = grid.enlarged(source[(slice(None), *box)])
        ich, hu, oedema, limit = _bled(lesion, latent, tissue, grid, grid.fine(box), at, followup=followup)
        ivh = _into_ventricles(tissue, ich, volumes[1], grid, _ventricular_order(head, source, latent))
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
    calcium = calcium if drain is None else torch.maximum(calcium, drain)
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
    head: SourceHead,
    table: Tensor,
    variation: Variation,
    lesion: Lesion,
    volumes: tuple[float, float],
    order: Tensor | None = None,
) -> Tensor:
    """Return the displacement (coarse grid) by blood in tissue and ventricles, mL; `order` fills these."""
    grid, x = variation.grid, variation.source_mm
    voxel_ml = (grid.step * grid.spacing_mm) ** 3 / 1000
    time = haemorrhage.at(lesion, lesion.time, x, fill=400.0)
    tissue = looked_up(table, gathered(head.codes, indices_of(x, head.affine)))
    blood = filling.filled(time, haemorrhage.allowed(tissue), volumes[0] / voxel_ml, softness=4.0)
    fluid = ((tissue == Tissue.CSF) | (tissue == Tissue.VENTRICLE)).float()
    depth = sampled(head.features[1:], head.feature_affine, x)[0]
    ventricle = (tissue == Tissue.VENTRICLE) | (tissue == Tissue.CHOROID)
    distended = None
    if volumes[1] > 0 and order is not None:
        room_ml = float(ventricle.sum()) * voxel_ml
        cast = filling.filled(order, ventricle, volumes[1] / voxel_ml, softness=2.0)
        distended = max(ventricles.distension(volumes[1]), 1 - 0.75 * room_ml / volumes[1]) * cast
    return mass_effect.displacement(blood, fluid, ventricle.float(), depth, grid, distended=distended)


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
    solid = haemorrhage.allowed(tissue[fine])
    where = solid | narrow_fluid(tissue[fine], grid.spacing_mm) if lesion.into_sulci else solid
    blood, limit = filling.filled_with_limit(time, where, ich_ml / voxel_ml, softness=0.6)
    around = haemorrhage.at(lesion, haemorrhage.spread_around(lesion, lesion.time, limit), at, fill=200.0)
    oedema = filling.oedema_degree(around, solid & (blood < 0.5), phe_ml / voxel_ml) * (1 - blood)
    density = haemorrhage.at(lesion, lesion.hu_followup if followup else lesion.hu, at, fill=0.0)
    maps = []
    for part in (blood, torch.where(time < limit + 6.0, density, 0.0), oedema):
        whole = torch.zeros(grid.shape, device=at.device)
        whole[fine] = part
        maps.append(whole)
    return maps[0], maps[1], maps[2], limit


def _ventricular_order(head: SourceHead, source: Tensor, latent: Latent) -> Tensor:
    """Return the order in which blood fills the ventricles (coarse grid); parts are those of baseline."""
    generator = random_stream(latent.seed, "ivh")
    volume_ml = latent.drawn_ivh_ml or latent.drawn_followup_ivh_ml
    pools = ventricles.drawn_pools(latent, volume_ml, generator)
    mni_mm = sampled(head.mni_mm, head.feature_affine, source)
    return ventricles.filling_order(pools, mni_mm, generator)


def _into_ventricles(tissue: Tensor, ich: Tensor, ivh_ml: float, grid: Grid, order: Tensor) -> Tensor:
    """Return the fraction of blood in the ventricles, filled in the order of a map on the coarse grid."""
    if ivh_ml <= 0:
        return _nothing(grid, tissue.device)
    out = torch.zeros(grid.shape, device=tissue.device)
    coarse = tissue[:: grid.step, :: grid.step, :: grid.step]
    box = grid.box((coarse == Tissue.VENTRICLE) | (coarse == Tissue.CHOROID), margin=2)
    fine = grid.fine(box)
    inner = tissue[fine]
    inside = (inner == Tissue.VENTRICLE) | (inner == Tissue.CHOROID)
    voxels = ivh_ml / (grid.spacing_mm**3 / 1000)
    out[fine] = filling.filled(grid.enlarged(order[(None, *box)])[0], inside, voxels, softness=0.6)
    return out * (1 - ich)


def _chronic_maps(
    head: SourceHead, chronic: Chronic, tissue: Tensor, grid: Grid, source: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return leukoaraiosis, acute and old infarct, and calcification on the fine grid."""
    coarse = tissue[:: grid.step, :: grid.step, :: grid.step]
    box = grid.box((coarse >= Tissue.CORTEX) & (coarse <= Tissue.BRAINSTEM), margin=1)
    fine = grid.fine(box)
    # scores are smooth: half the resolution is enough
    middle = grid.enlarged(source[(slice(None), *box)], step=grid.step // 2)
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
