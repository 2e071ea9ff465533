"""One moment of a patient, baseline or follow-up: tissue displaced, blood in it, what was there before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ichnos.simulation.disease import chronic as parenchyma
from ichnos.simulation.disease import clot, filling, haemorrhage, mass_effect, ventricles
from ichnos.simulation.disease.chronic import Chronic
from ichnos.simulation.disease.haemorrhage import Lesion
from ichnos.simulation.disease.operation import Operation, operated
from ichnos.simulation.fields import Grid, enlarged, gathered, indices_of, looked_up, sampled
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.heads.variation import Variation
from ichnos.simulation.patient import Latent, Moment, Tissue
from ichnos.simulation.streams import random_stream


@dataclass(frozen=True, eq=False)
class Background:
    """What a patient is besides the bleed, the same at baseline and at follow-up."""

    head: SourceHead
    table: Tensor  # (256,) codes of the head -> `Tissue` at the patient's atrophy
    variation: Variation
    latent: Latent
    chronic: Chronic
    operation: Operation | None = None

    @property
    def grid(self) -> Grid:
        """Return the patient's grid."""
        return self.variation.grid

    @property
    def device(self) -> torch.device:
        """Return where the maps are."""
        return self.head.codes.device

    def blood_ml(self, *, followup: bool) -> tuple[float, float]:
        """Return the drawn volumes of ICH and IVH."""
        drawn = self.latent
        if followup:
            return drawn.drawn_followup_ich_ml, drawn.drawn_followup_ivh_ml
        return drawn.drawn_ich_ml, drawn.drawn_ivh_ml

    def mni_mm(self, source_mm: Tensor) -> Tensor:
        """Return the MNI position of places of the source head."""
        return sampled(self.head.mni_mm, self.head.feature_affine, source_mm)

    def depth_mm(self, source_mm: Tensor) -> Tensor:
        """Return how deep inside the skull places of the source head lie."""
        return sampled(self.head.features[1:], self.head.feature_affine, source_mm)[0]


@dataclass(frozen=True, eq=False)
class RenderedMoment:
    """The maps of one moment and the geometry behind them."""

    maps: Moment
    limit: float  # arrival time at the haematoma's edge; 0 without haematoma
    source_mm: Tensor  # (3, x, y, z) on the coarse grid: where tissue comes from in the source head
    displacement_mm: Tensor  # (3, x, y, z) on the coarse grid: mass effect


@dataclass(frozen=True, eq=False)
class _Blood:
    """Maps of one haematoma on the fine grid."""

    ich: Tensor
    hu: Tensor
    oedema: Tensor
    ivh: Tensor
    limit: float  # arrival time at the haematoma's edge


@dataclass(frozen=True, eq=False)
class _Lasting:
    """Maps of what the patient carries at any moment."""

    leukoaraiosis: Tensor
    acute: Tensor
    old: Tensor
    calcium: Tensor


def rendered_moment(background: Background, lesion: Lesion | None, *, followup: bool) -> RenderedMoment:
    """Render the patient at baseline or at follow-up."""
    grid, points = background.grid, background.variation.source_mm
    push, source = torch.zeros_like(points), points
    if lesion is not None:
        order = _ventricular_order(background, points)
        push = mass_effect_mm(background, lesion, background.blood_ml(followup=followup), order)
        source = background.variation.at(grid.coarse_points(background.device) - push)
    tissue, drain = _tissue(background, source), None
    if background.operation is not None:
        mni_mm, depth_mm = background.mni_mm(source), background.depth_mm(source)
        tissue, drain = operated(background.operation, tissue, mni_mm, depth_mm, grid)
    empty = _nothing(grid, background.device)
    blood = _Blood(empty, empty, empty, empty, 0.0)
    if lesion is not None:
        blood = _blood(background, lesion, tissue, source, followup=followup)
    lasting = _lasting(background, tissue, source, blood)
    calcium = lasting.calcium if drain is None else torch.maximum(lasting.calcium, drain)
    old_maps = (lasting.leukoaraiosis, lasting.acute, lasting.old, calcium)
    maps = Moment(tissue, blood.ich, blood.ivh, blood.hu, blood.oedema, *old_maps)
    return RenderedMoment(maps, blood.limit, source, push)


def _blood(
    background: Background, lesion: Lesion, tissue: Tensor, source: Tensor, *, followup: bool
) -> _Blood:
    grid, latent = background.grid, background.latent
    ivh_ml = background.blood_ml(followup=followup)[1]
    bled = _bled(background, lesion, tissue, source, followup=followup)
    ivh = _into_ventricles(tissue, bled.ich, ivh_ml, grid, _ventricular_order(background, source))
    if ivh_ml <= 0:
        return replace(bled, ivh=ivh)
    density_hu = clot.base_density_hu(latent.haematocrit, latent.onset_to_ct_h) - 8.0
    return replace(bled, ivh=ivh, hu=torch.where((ivh > 0) & (bled.hu <= 0), density_hu, bled.hu))


def _nothing(grid: Grid, device: torch.device) -> Tensor:
    """Return a map of zeros that takes no memory (and cannot be written to)."""
    return torch.zeros((), device=device).expand(grid.shape)


def _tissue(background: Background, source: Tensor) -> Tensor:
    """Return the tissue map, slab by slab so that the peak of memory stays low."""
    grid, codes = background.grid, background.head.codes
    out = torch.empty(grid.shape, dtype=torch.uint8, device=codes.device)
    index = indices_of(source, background.head.affine)
    n = grid.coarse_shape[0]
    for first in range(0, n - 1, 8):
        last = min(first + 8, n - 1)
        slab = gathered(codes, grid.enlarged(index[:, first : last + 1]))
        out[first * grid.step : last * grid.step + 1] = looked_up(background.table, slab)
    return out


def mass_effect_mm(
    background: Background, lesion: Lesion, volumes: tuple[float, float], order: Tensor | None = None
) -> Tensor:
    """Return the displacement (coarse grid) by blood in tissue and ventricles, mL; `order` fills these."""
    grid, head, x = background.grid, background.head, background.variation.source_mm
    voxel_ml = (grid.step * grid.spacing_mm) ** 3 / 1000
    time = haemorrhage.at(lesion, lesion.time, x, fill=400.0)
    tissue = looked_up(background.table, gathered(head.codes, indices_of(x, head.affine)))
    blood = filling.filled(time, haemorrhage.allowed(tissue), volumes[0] / voxel_ml, softness=4.0)
    fluid = ((tissue == Tissue.CSF) | (tissue == Tissue.VENTRICLE)).float()
    ventricle = (tissue == Tissue.VENTRICLE) | (tissue == Tissue.CHOROID)
    distended = None
    if volumes[1] > 0 and order is not None:
        room_ml = float(ventricle.sum()) * voxel_ml
        cast = filling.filled(order, ventricle, volumes[1] / voxel_ml, softness=2.0)
        distended = max(ventricles.distension(volumes[1]), 1 - 0.75 * room_ml / volumes[1]) * cast
    depth = background.depth_mm(x)
    return mass_effect.displacement(blood, fluid, ventricle.float(), depth, grid, distended=distended)


def beside_old_infarct(background: Background) -> Background:
    """Return the patient with ventricles and sulci widened beside an old infarct that has shrunk."""
    share, chronic = parenchyma.shrunken_share(background.chronic), background.chronic
    if share == 0:
        return background
    grid, head, variation = background.grid, background.head, background.variation
    tissue = looked_up(background.table, gathered(head.codes, indices_of(variation.source_mm, head.affine)))
    brain = (tissue >= Tissue.CORTEX) & (tissue <= Tissue.BRAINSTEM)
    score = sampled(chronic.scores[2][None], head.feature_affine, variation.source_mm)[0]
    voxels = chronic.old_ml / ((grid.step * grid.spacing_mm) ** 3 / 1000)
    lost = share * parenchyma.degree(score, brain, voxels, softness=0.12)
    ventricle = (tissue == Tissue.VENTRICLE).float()
    fluid = (tissue == Tissue.CSF).float() + ventricle
    pull = mass_effect.shrinkage(lost, fluid, ventricle, background.depth_mm(variation.source_mm), grid)
    source = variation.at(grid.coarse_points(background.device) - pull)
    return replace(background, variation=replace(variation, source_mm=source))


def _lesion_box(variation: Variation, lesion: Lesion) -> tuple[slice, slice, slice]:
    """Return the coarse box that may hold blood and oedema: the crop, as the patient's deformation carries
    it.
    """
    points, affine = variation.source_mm, lesion.crop.affine
    size = lesion.crop.spacing_mm * (lesion.crop.tissue.shape[0] - 1)
    inside = torch.ones(points.shape[1:], dtype=torch.bool, device=points.device)
    for axis in range(3):
        inside &= (points[axis] >= affine[axis, 3]) & (points[axis] <= affine[axis, 3] + size)
    return variation.grid.box(inside, margin=1)


def _bled(
    background: Background, lesion: Lesion, tissue: Tensor, source: Tensor, *, followup: bool
) -> _Blood:
    """Return the haematoma and its oedema; the ventricles are left empty."""
    grid, latent = background.grid, background.latent
    voxel_ml = grid.spacing_mm**3 / 1000
    box = _lesion_box(background.variation, lesion)
    fine, at = grid.fine(box), grid.enlarged(source[(slice(None), *box)])
    ich_ml = background.blood_ml(followup=followup)[0]
    phe_ml = latent.drawn_followup_phe_ml if followup else latent.drawn_phe_ml
    time = haemorrhage.at(lesion, lesion.time, at, fill=400.0)
    solid = haemorrhage.allowed(tissue[fine])
    where = haemorrhage.reachable(lesion, tissue[fine], grid.spacing_mm)
    blood, limit = filling.filled_with_limit(time, where, ich_ml / voxel_ml, softness=0.6)
    around = haemorrhage.at(lesion, haemorrhage.spread_around(lesion, lesion.time, limit), at, fill=200.0)
    oedema = filling.oedema_degree(around, solid & (blood < 0.5), phe_ml / voxel_ml) * (1 - blood)
    density = haemorrhage.at(lesion, lesion.hu_followup if followup else lesion.hu, at, fill=0.0)
    parts = (blood, torch.where(time < limit + 6.0, density, 0.0), oedema)
    ich, hu, oedema = (_whole(grid, fine, part) for part in parts)
    return _Blood(ich, hu, oedema, _nothing(grid, at.device), limit)


def _whole(grid: Grid, fine: tuple[slice, slice, slice], part: Tensor) -> Tensor:
    """Return the map on the whole fine grid of which a box is known; 0 elsewhere."""
    out = torch.zeros(grid.shape, device=part.device)
    out[fine] = part
    return out


def _ventricular_order(background: Background, source: Tensor) -> Tensor:
    """Return the order in which blood fills the ventricles (coarse grid); parts are those of baseline."""
    latent = background.latent
    generator = random_stream(latent.seed, "ivh")
    volume_ml = latent.drawn_ivh_ml or latent.drawn_followup_ivh_ml
    pools = ventricles.drawn_pools(latent, volume_ml, generator)
    return ventricles.filling_order(pools, background.mni_mm(source), generator)


def _into_ventricles(tissue: Tensor, ich: Tensor, ivh_ml: float, grid: Grid, order: Tensor) -> Tensor:
    """Return the fraction of blood in the ventricles, filled in the order of a map on the coarse grid."""
    if ivh_ml <= 0:
        return _nothing(grid, tissue.device)
    coarse = tissue[:: grid.step, :: grid.step, :: grid.step]
    box = grid.box((coarse == Tissue.VENTRICLE) | (coarse == Tissue.CHOROID), margin=2)
    fine = grid.fine(box)
    inner = tissue[fine]
    inside = (inner == Tissue.VENTRICLE) | (inner == Tissue.CHOROID)
    voxels = ivh_ml / (grid.spacing_mm**3 / 1000)
    blood = filling.filled(grid.enlarged(order[(None, *box)])[0], inside, voxels, softness=0.6)
    return _whole(grid, fine, blood) * (1 - ich)


def _lasting(background: Background, tissue: Tensor, source: Tensor, blood: _Blood) -> _Lasting:
    """Return what lasts, on the fine grid; blood takes its place, but for acute infarcts."""
    grid, chronic = background.grid, background.chronic
    coarse = tissue[:: grid.step, :: grid.step, :: grid.step]
    box = grid.box((coarse >= Tissue.CORTEX) & (coarse <= Tissue.BRAINSTEM), margin=1)
    fine = grid.fine(box)
    inner, rest = tissue[fine], 1 - blood.ich[fine] - blood.ivh[fine]
    brain = (inner >= Tissue.CORTEX) & (inner <= Tissue.BRAINSTEM)
    # scores are smooth: half the resolution is enough
    middle = grid.enlarged(source[(slice(None), *box)], step=grid.step // 2)

    def score(index: int) -> Tensor:
        return enlarged(sampled(chronic.scores[index, None], background.head.feature_affine, middle), 2)[0]

    def lesions(index: int, where: Tensor, volume_ml: float, softness: float) -> Tensor:
        voxels = volume_ml / (grid.spacing_mm**3 / 1000)
        return parenchyma.degree(score(index), where, voxels, softness=softness)

    nothing, whole = _nothing(grid, tissue.device), partial(_whole, grid, fine)
    return _Lasting(
        whole(lesions(0, inner == Tissue.WHITE, chronic.leukoaraiosis_ml, 0.35) * rest),
        whole(lesions(1, brain, chronic.acute_ml, 0.12)) if chronic.acute_ml > 0 else nothing,
        whole(lesions(2, brain, chronic.old_ml, 0.12) * rest) if chronic.old_ml > 0 else nothing,
        whole(parenchyma.calcified(score(3), inner, chronic.calcium) * rest),
    )
