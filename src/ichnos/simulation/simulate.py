"""Make one virtual patient: vary a head, bleed into it, displace what is in the way, keep the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ichnos.anatomy import tract as tract_atlas
from ichnos.anatomy.tract_levels import variation_mm
from ichnos.simulation.disease import chronic as parenchyma
from ichnos.simulation.disease import haemorrhage, law, mass_effect, oracle
from ichnos.simulation.disease.chronic import Chronic
from ichnos.simulation.disease.haemorrhage import Lesion
from ichnos.simulation.exams.fibres import fibres_of
from ichnos.simulation.fields import Grid, enlarged, gathered, indices_of, looked_up, sampled, smooth_noise
from ichnos.simulation.heads.source import SourceHead, lookup
from ichnos.simulation.heads.variation import Variation, patient_point, scale_at, varied
from ichnos.simulation.patient import SIGNS, SITES, Latent, Tissue, Truth, VirtualPatient

Tensor = torch.Tensor
_NAN = float("nan")
_TRACT_EDGE_MM = 1.4  # width over which the share of a voxel in the tract falls from 1 to 0


@dataclass(frozen=True)
class Wishes:
    """What a patient is to be like, and which maps are wanted."""

    spacing_mm: float = 1.0
    haematoma_probability: float = 1.0
    acute_infarct_probability: float = 0.04
    old_infarct_probability: float = 0.16
    variation: float = 1.0  # 0: the source head itself; 1: the usual variety
    age_years: float | None = None  # None: drawn
    leukoaraiosis_ml: float | None = None  # None: drawn, growing with age
    site: str | None = None  # one of SITES; None: drawn
    side: str | None = None  # "left", "right"; None: drawn
    ich_ml: float | None = None  # None: drawn
    followup: bool = True
    mni: bool = False  # MNI position of every voxel
    fibres: bool = False  # fibre orientations for diffusion
    oracle_samples: int = (
        0  # > 0: probability of blood at follow-up from so many re-samplings of the hidden part
    )


@dataclass(frozen=True, eq=False)
class _Moment:
    """The patient's maps at one time."""

    tissue: Tensor
    ich: Tensor
    ivh: Tensor
    blood_hu: Tensor
    oedema: Tensor
    leukoaraiosis: Tensor
    infarct_acute: Tensor
    infarct_old: Tensor
    calcification: Tensor
    limit: float  # arrival time at the haematoma's edge; 0 without haematoma
    source_mm: Tensor  # coarse
    displacement_mm: Tensor  # coarse, mass effect


def simulate_patient(
    seed: int, head: SourceHead, wishes: Wishes | None = None, *, device: torch.device | str = "cpu"
) -> VirtualPatient:
    """Simulate one patient: the same seed, head and wishes give the same bytes on a CPU.

    Random numbers are drawn on the CPU from a generator of their own, so that a GPU sees the same patient up
    to rounding.
    """
    wishes = wishes or Wishes()
    head = head.to(torch.device(device))
    draws = _constrained(law.draw(1, _stream(seed, "law")), wishes)
    latent = _latent(
        draws,
        seed,
        head,
        float(torch.rand(1, generator=_stream(seed, "haematoma"))) < wishes.haematoma_probability,
    )
    variation = varied(
        head,
        atrophy=latent.atrophy,
        strength=wishes.variation,
        spacing_mm=wishes.spacing_mm,
        generator=_stream(seed, "variation"),
    )
    table = lookup(latent.atrophy, head.codes.device)
    chronic = parenchyma.drawn_chronic(
        head,
        leukoaraiosis_ml=latent.drawn_leukoaraiosis_ml,
        acute_probability=wishes.acute_infarct_probability,
        old_probability=wishes.old_infarct_probability,
        age_years=latent.age_years,
        generator=_stream(seed, "chronic"),
    )
    lesion = _lesion(head, table, latent, variation) if latent.has_haematoma else None
    baseline = _moment(head, table, latent, chronic, variation, lesion, followup=False)
    followup = None
    if wishes.followup:
        later = lesion and replace(
            lesion, time=haemorrhage.grown_later(lesion, baseline.limit, _stream(seed, "later"))
        )
        followup = _moment(head, table, latent, chronic, variation, later, followup=True)
    growth = None
    if wishes.oracle_samples > 0 and lesion is not None:
        growth = _growth_probability(head, table, draws, variation, lesion, baseline, wishes.oracle_samples)
    return _assembled(head, wishes, latent, chronic, draws, variation, baseline, followup, growth)


def _constrained(draws: law.Draws, wishes: Wishes) -> law.Draws:
    """Return the draws with what was wished for put in; volumes at follow-up keep their growth."""
    changes: dict[str, Tensor] = {}
    if wishes.age_years is not None:
        changes["age_years"] = torch.tensor([wishes.age_years])
        changes["atrophy"] = ((changes["age_years"] - 35) / 60).clamp(0, 1)
    if wishes.leukoaraiosis_ml is not None:
        changes["leukoaraiosis_ml"] = torch.tensor([wishes.leukoaraiosis_ml])
    if wishes.site is not None:
        changes["site"] = torch.tensor([SITES.index(wishes.site)])
    if wishes.side is not None:
        changes["side"] = torch.tensor([("left", "right", "midline").index(wishes.side)])
    if wishes.ich_ml is not None:
        factor = wishes.ich_ml / draws.ich_ml
        changes |= {
            name: getattr(draws, name) * factor
            for name in ("ich_ml", "followup_ich_ml", "phe_ml", "followup_phe_ml")
        }
    return replace(draws, **changes)


def _latent(draws: law.Draws, seed: int, head: SourceHead, has_haematoma: bool) -> Latent:
    def value(field: Tensor) -> float:
        return float(field[0])

    present = (
        tuple(name for name, there in zip(SIGNS, draws.signs[0].tolist(), strict=True) if there)
        if has_haematoma
        else ()
    )
    blood = 1.0 if has_haematoma else 0.0
    return Latent(
        seed=seed,
        source=head.name,
        age_years=value(draws.age_years),
        sex="m" if bool(draws.male[0]) else "f",
        atrophy=value(draws.atrophy),
        has_haematoma=has_haematoma,
        site=SITES[int(draws.site[0])] if has_haematoma else "",
        side=("left", "right", "midline")[int(draws.side[0])] if has_haematoma else "",
        onset_to_ct_h=value(draws.onset_to_ct_h),
        followup_interval_h=value(draws.followup_interval_h),
        anticoagulated=bool(draws.anticoagulated[0]),
        haematocrit=value(draws.haematocrit),
        signs=present,
        irregularity=value(draws.irregularity),
        heterogeneity=value(draws.heterogeneity),
        activity=value(draws.activity),
        drawn_ich_ml=blood * value(draws.ich_ml),
        drawn_ivh_ml=blood * value(draws.ivh_ml),
        drawn_followup_ich_ml=blood * value(draws.followup_ich_ml),
        drawn_followup_ivh_ml=blood * value(draws.followup_ivh_ml),
        drawn_phe_ml=blood * value(draws.phe_ml),
        drawn_followup_phe_ml=blood * value(draws.followup_phe_ml),
        drawn_leukoaraiosis_ml=value(draws.leukoaraiosis_ml),
    )


_STREAMS = ("law", "haematoma", "variation", "chronic", "tract", "ivh", "lesion", "later", "resample")


def _stream(seed: int, name: str) -> torch.Generator:
    """Return the generator of one part of a patient, so that asking for more maps changes none of the
    others.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + 7919 * _STREAMS.index(name)) % 2**63)


def _lesion(head: SourceHead, table: Tensor, latent: Latent, variation: Variation) -> Lesion:
    generator = _stream(latent.seed, "lesion")
    centre = haemorrhage.bleeding_point(head, latent.site, latent.side, generator)
    return haemorrhage.grown(
        head, table, latent, centre, scale=scale_at(variation, centre), generator=generator
    )


# ---- one moment
# ------------------------------------------------------------------------------------------


def _moment(
    head: SourceHead,
    table: Tensor,
    latent: Latent,
    chronic: Chronic,
    variation: Variation,
    lesion: Lesion | None,
    *,
    followup: bool,
) -> _Moment:
    """Render the patient at baseline or at follow-up."""
    grid, device = variation.grid, head.codes.device
    volumes = (
        (latent.drawn_followup_ich_ml, latent.drawn_followup_ivh_ml)
        if followup
        else (latent.drawn_ich_ml, latent.drawn_ivh_ml)
    )
    push = torch.zeros_like(variation.source_mm)
    if lesion is not None:
        push = _push(head, table, variation, lesion, volumes)
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
                haemorrhage.base_density_hu(latent.haematocrit, latent.onset_to_ct_h) - 8.0,
                hu,
            )
    leuko, acute, old, calcium = _chronic_maps(head, chronic, tissue, grid, source)
    if lesion is not None:  # blood takes the place of what was there
        rest = 1 - ich - ivh
        leuko, calcium = leuko.mul_(rest), calcium.mul_(rest)
        old = old * rest if chronic.old_ml > 0 else old
    return _Moment(tissue, ich, ivh, hu, oedema, leuko, acute, old, calcium, limit, source, push)


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


def _push(
    head: SourceHead, table: Tensor, variation: Variation, lesion: Lesion, volumes: tuple[float, float]
) -> Tensor:
    """Return the mass effect's displacement on the coarse grid."""
    grid, x = variation.grid, variation.source_mm
    voxel_ml = (grid.step * grid.spacing_mm) ** 3 / 1000
    time = haemorrhage.at(lesion, lesion.time, x, fill=400.0)
    tissue = looked_up(table, gathered(head.codes, indices_of(x, head.affine)))
    blood = haemorrhage.filled(time, haemorrhage.allowed(tissue), volumes[0] / voxel_ml, softness=4.0)
    fluid = ((tissue == Tissue.CSF) | (tissue == Tissue.VENTRICLE)).float()
    depth = sampled(head.features[1:], head.feature_affine, x)[0]
    ventricle = (tissue == Tissue.VENTRICLE) | (tissue == Tissue.CHOROID)
    room_ml = float(ventricle.sum()) * voxel_ml
    swelling = max(0.0, 1 - 0.75 * room_ml / volumes[1]) if volumes[1] > 0 else 0.0
    return mass_effect.displacement(blood, fluid, ventricle.float(), depth, grid, swelling=swelling)


def _growth_probability(
    head: SourceHead,
    table: Tensor,
    draws: law.Draws,
    variation: Variation,
    lesion: Lesion,
    baseline: _Moment,
    samples: int,
) -> Tensor:
    """Return P(blood at follow-up) per voxel: the hidden part is drawn again and again, given all that the
    baseline shows.

    Each sample has its own volume at follow-up, its own new focus and its own mass effect. Samples grow on
    every second voxel of the lesion's crop, and blood is looked up on every second voxel of the patient: what
    the mean of many shows is smooth.
    """
    lesion = haemorrhage.halved(lesion)
    grid, half = variation.grid, variation.grid.step // 2
    generator = _stream(int(draws.ich_ml[0] * 1e4), "resample")
    volumes_ml = oracle.resampled_followup_ml(draws, samples, generator)
    coarse_ich = baseline.ich[:: grid.step, :: grid.step, :: grid.step]
    box = grid.box(coarse_ich > 0, margin=max(2, round(12 / (grid.step * grid.spacing_mm))))
    allowed = haemorrhage.allowed(baseline.tissue[grid.fine(box)][::half, ::half, ::half])
    voxel_ml = (half * grid.spacing_mm) ** 3 / 1000
    total = torch.zeros(allowed.shape, device=allowed.device)
    for ich_ml in volumes_ml.tolist():
        later = replace(lesion, time=haemorrhage.grown_later(lesion, baseline.limit, generator))
        push = _push(head, table, variation, later, (ich_ml, 0.0))
        source = variation.at(grid.coarse_points(push.device) - push)[(slice(None), *box)]
        time = haemorrhage.at(later, later.time, grid.enlarged(source, step=grid.step // half), fill=400.0)
        total += haemorrhage.filled(time, allowed, ich_ml / voxel_ml, softness=0.8)
    out = torch.zeros(grid.shape, device=total.device)
    out[grid.fine(box)] = enlarged((total / samples)[None], half)[0]
    return torch.maximum(out, baseline.ivh)


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
    blood, limit = haemorrhage.filled_with_limit(time, where, ich_ml / voxel_ml, softness=0.6)
    around = haemorrhage.at(lesion, haemorrhage.spread_around(lesion, lesion.time, limit), at, fill=200.0)
    oedema = haemorrhage.oedema_degree(around, where & (blood < 0.5), phe_ml / voxel_ml) * (1 - blood)
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
    generator = _stream(seed, "ivh")
    noise = smooth_noise((24, 24, 24), correlation=3, generator=generator, device=tissue.device)
    low = points.min(0).values
    unit = (points - low) / (points.max(0).values - low).clamp(min=1) * 23
    rough = sampled(noise, np.eye(4), unit.T.reshape(3, -1, 1, 1))[0].reshape(-1)
    score = 0.6 * from_rupture + 0.45 * (points[:, 1] - low[1]) + 2.5 * rough
    fraction, _ = haemorrhage.filled_with_limit(
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


# ---- the whole
# ------------------------------------------------------------------------------------------


def _assembled(
    head: SourceHead,
    wishes: Wishes,
    latent: Latent,
    chronic: Chronic,
    draws: law.Draws,
    variation: Variation,
    baseline: _Moment,
    followup: _Moment | None,
    growth: Tensor | None,
) -> VirtualPatient:
    grid = variation.grid
    mni = sampled(head.mni_mm, head.feature_affine, baseline.source_mm)
    probability = float(oracle.expansion_probability(draws)[0]) if latent.has_haematoma else _NAN
    return VirtualPatient(
        affine=grid.affine,
        tissue=baseline.tissue,
        ich=baseline.ich,
        ivh=baseline.ivh,
        blood_hu=baseline.blood_hu,
        oedema=baseline.oedema,
        leukoaraiosis=baseline.leukoaraiosis,
        infarct_acute=baseline.infarct_acute,
        infarct_old=baseline.infarct_old,
        calcification=baseline.calcification,
        tract=_tract(mni, baseline.tissue, grid, latent.seed),
        mni_mm=grid.enlarged(mni) if wishes.mni else None,
        fibres=fibres_of(head, baseline.source_mm, baseline.tissue, grid) if wishes.fibres else None,
        tissue_followup=followup.tissue if followup else None,
        ich_followup=followup.ich if followup else None,
        ivh_followup=followup.ivh if followup else None,
        blood_hu_followup=followup.blood_hu if followup else None,
        oedema_followup=followup.oedema if followup else None,
        leukoaraiosis_followup=followup.leukoaraiosis if followup else None,
        infarct_acute_followup=followup.infarct_acute if followup else None,
        infarct_old_followup=followup.infarct_old if followup else None,
        calcification_followup=followup.calcification if followup else None,
        growth_probability=growth,
        expansion_probability=probability,
        latent=latent,
        truth=_truth(head, grid, baseline, followup, chronic),
    )


def _tract(mni: Tensor, tissue: Tensor, grid: Grid, seed: int) -> Tensor:
    """Return both corticospinal tracts on the fine grid: the atlas, individually shifted and thickened,
    carried by the deformation.
    """
    generator = _stream(seed, "tract")
    out = torch.zeros((2, *grid.shape), device=tissue.device)
    position_sd, thickness_sd = (torch.from_numpy(sd).to(mni) for sd in _tract_variation(mni[2]))
    thicker = torch.randn(2, generator=generator).tolist()
    for index, side in enumerate(tract_atlas.SIDES):
        wobble = smooth_noise(
            grid.coarse_shape, correlation=7, generator=generator, device=tissue.device, channels=3
        )
        atlas = tract_atlas.atlas(side).distance_mm
        moved = mni + wobble * position_sd
        field = torch.from_numpy(atlas.array).to(tissue.device)[None]
        coarse = sampled(field, atlas.affine, moved, fill=tract_atlas.FAR_MM)[0]
        box = grid.box(coarse < 6.0, margin=1)
        at = torch.cat([moved, (thicker[index] * thickness_sd)[None]])[(slice(None), *box)]
        *points, extra = grid.enlarged(at)
        distance = sampled(field, atlas.affine, torch.stack(points), fill=tract_atlas.FAR_MM)[0] - extra
        fine = grid.fine(box)
        out[(index, *fine)] = (0.5 - distance / _TRACT_EDGE_MM).clamp(0, 1)
        out[(index, *fine)] *= _holds_tract(tissue[fine], points[2])
    return out


def _tract_variation(z_mm: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the spread of the tract's position and half thickness between people at each height, mm."""
    heights = z_mm.cpu().numpy()
    spread = variation_mm(heights.ravel())
    return spread[0].reshape(heights.shape), spread[1].reshape(heights.shape)


def _holds_tract(tissue: Tensor, z_mm: Tensor) -> Tensor:
    """Return where the tract may run (bool): white matter among the gyri, any brain tissue below."""
    solid = (tissue != Tissue.VENTRICLE) & (tissue != Tissue.CSF) & (tissue >= Tissue.CORTEX)
    return torch.where(z_mm >= tract_atlas.GYRI_MM, tissue == Tissue.WHITE, solid)


def _truth(
    head: SourceHead, grid: Grid, baseline: _Moment, followup: _Moment | None, chronic: Chronic
) -> Truth:
    voxel_ml = grid.spacing_mm**3 / 1000

    def blood_ml(fraction: Tensor | None) -> float:
        return _NAN if fraction is None else float(fraction.sum()) * voxel_ml

    def mask_ml(degree: Tensor | None) -> float:
        return _NAN if degree is None else float(torch.count_nonzero(degree >= 0.5)) * voxel_ml

    ventricle = sampled(head.features[:1], head.feature_affine, baseline.source_mm)
    grades = parenchyma.fazekas(baseline.leukoaraiosis, ventricle, grid)
    return Truth(
        ich_ml=blood_ml(baseline.ich),
        ivh_ml=blood_ml(baseline.ivh),
        phe_ml=mask_ml(baseline.oedema),
        followup_ich_ml=blood_ml(followup.ich if followup else None),
        followup_ivh_ml=blood_ml(followup.ivh if followup else None),
        followup_phe_ml=mask_ml(followup.oedema if followup else None),
        leukoaraiosis_ml=mask_ml(baseline.leukoaraiosis),
        infarct_acute_ml=mask_ml(baseline.infarct_acute),
        infarct_old_ml=mask_ml(baseline.infarct_old),
        fazekas_periventricular=grades[0],
        fazekas_deep=grades[1],
        midline_shift_mm=_midline_shift(head, grid, baseline),
    )


def _midline_shift(head: SourceHead, grid: Grid, baseline: _Moment) -> float:
    """Return the largest sideways displacement of tissue from the midline at the level of the deep nuclei."""
    x, y, z = sampled(head.mni_mm, head.feature_affine, baseline.source_mm)
    midline = (x.abs() < 4) & (y > -25) & (y < 30) & (z > 0) & (z < 30)
    return float((baseline.displacement_mm[0].abs() * midline).max())


def draws_of(seed: int) -> law.Draws:
    """Return what the law draws for a seed, without making the patient: of which kind it will be, and how
    it will grow.
    """
    return law.draw(1, _stream(seed, "law"))
