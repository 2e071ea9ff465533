"""Make one virtual patient: vary a head, bleed into it, displace what is in the way, keep the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ichnos.anatomy import tract as tract_atlas
from ichnos.anatomy.tract_levels import variation_mm
from ichnos.simulation.disease import chronic as parenchyma
from ichnos.simulation.disease import haemorrhage, law, oracle
from ichnos.simulation.disease.chronic import Chronic
from ichnos.simulation.disease.growth_map import growth_probability
from ichnos.simulation.disease.haemorrhage import Lesion
from ichnos.simulation.disease.law import USUAL, PopulationMix
from ichnos.simulation.disease.moment import RenderedMoment, rendered_moment
from ichnos.simulation.disease.operation import drawn_operation, operation_words
from ichnos.simulation.exams.fibres import fibres_of
from ichnos.simulation.fields import Grid, sampled, smooth_noise
from ichnos.simulation.heads.source import SourceHead, lookup
from ichnos.simulation.heads.variation import Variation, scale_at, varied
from ichnos.simulation.patient import SIGNS, SITES, Latent, Tissue, Truth, VirtualPatient
from ichnos.simulation.streams import random_stream

_NAN = float("nan")
_TRACT_EDGE_MM = 1.4  # width over which the share of a voxel in the tract falls from 1 to 0


@dataclass(frozen=True)
class PatientSpec:
    """What a patient is to be like, and which maps are wanted."""

    spacing_mm: float = 1.0
    mix: PopulationMix = USUAL  # the population that the patient is drawn from
    haematoma_probability: float = 1.0
    acute_infarct_probability: float = 0.04
    old_infarct_probability: float = 0.16  # more often beside white-matter disease
    operated_probability: float = 0.02  # a drain, a craniotomy or a hygroma
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


def simulate_patient(
    seed: int, head: SourceHead, spec: PatientSpec | None = None, *, device: torch.device | str = "cpu"
) -> VirtualPatient:
    """Simulate one patient: the same seed, head and spec give the same bytes on a CPU.

    Random numbers are drawn on the CPU from a generator of their own, so that a GPU sees the same patient up
    to rounding.
    """
    spec = spec or PatientSpec()
    head = head.to(torch.device(device))
    draws = _constrained(draws_of(seed, spec.mix), spec)
    latent = _latent(
        draws,
        seed,
        head,
        float(torch.rand(1, generator=random_stream(seed, "haematoma"))) < spec.haematoma_probability,
    )
    variation = varied(
        head,
        atrophy=latent.atrophy,
        ventricles_mm=_wider_beside(latent.drawn_leukoaraiosis_ml),
        strength=spec.variation,
        spacing_mm=spec.spacing_mm,
        generator=random_stream(seed, "variation"),
    )
    table = lookup(latent.atrophy, head.codes.device)
    chronic = parenchyma.drawn_chronic(
        head,
        leukoaraiosis_ml=latent.drawn_leukoaraiosis_ml,
        acute_probability=spec.acute_infarct_probability,
        old_probability=spec.old_infarct_probability,
        age_years=latent.age_years,
        generator=random_stream(seed, "chronic"),
    )
    operation = drawn_operation(spec.operated_probability, random_stream(seed, "operation"))
    latent = replace(latent, old_infarct_hu=chronic.old_hu, operation=operation_words(operation))
    lesion = _lesion(head, table, latent, variation) if latent.has_haematoma else None
    rest = (head, table, latent, chronic, variation)
    baseline = rendered_moment(*rest, lesion, operation, followup=False)
    followup = None
    if spec.followup:
        later = lesion and replace(
            lesion, time=haemorrhage.grown_later(lesion, baseline.limit, random_stream(seed, "later"))
        )
        followup = rendered_moment(*rest, later, operation, followup=True)
    growth = None
    if spec.oracle_samples > 0 and lesion is not None:
        growth = growth_probability(head, table, draws, variation, lesion, baseline, spec.oracle_samples)
    return _assembled(head, spec, latent, chronic, draws, variation, baseline, followup, growth)


def _wider_beside(leukoaraiosis_ml: float) -> float:
    """Return by how many mm white-matter disease widens the ventricles, from 5 mL on; our choice."""
    return 0.9 * math.log((1 + leukoaraiosis_ml) / 6) if leukoaraiosis_ml > 5 else 0.0


def _constrained(draws: law.Draws, spec: PatientSpec) -> law.Draws:
    """Return the draws with what the specification fixes put in; volumes at follow-up keep their growth."""
    changes: dict[str, Tensor] = {}
    if spec.age_years is not None:
        changes["age_years"] = torch.tensor([spec.age_years])
        changes["atrophy"] = ((changes["age_years"] - 35) / 60).clamp(0, 1)
    if spec.leukoaraiosis_ml is not None:
        changes["leukoaraiosis_ml"] = torch.tensor([spec.leukoaraiosis_ml])
    if spec.site is not None:
        changes["site"] = torch.tensor([SITES.index(spec.site)])
    if spec.side is not None:
        changes["side"] = torch.tensor([("left", "right", "midline").index(spec.side)])
    if spec.ich_ml is not None:
        factor = spec.ich_ml / draws.ich_ml
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
        antiplatelet=bool(draws.antiplatelet[0]),
        earlier_bleed=bool(draws.earlier_bleed[0]),
        haematocrit=value(draws.haematocrit),
        signs=present,
        irregularity=value(draws.irregularity),
        heterogeneity=value(draws.heterogeneity),
        old_infarct_hu=9.0,
        activity=value(draws.activity),
        drawn_ich_ml=blood * value(draws.ich_ml),
        drawn_ivh_ml=blood * value(draws.ivh_ml),
        drawn_followup_ich_ml=blood * value(draws.followup_ich_ml),
        drawn_followup_ivh_ml=blood * value(draws.followup_ivh_ml),
        drawn_phe_ml=blood * value(draws.phe_ml),
        drawn_followup_phe_ml=blood * value(draws.followup_phe_ml),
        drawn_leukoaraiosis_ml=value(draws.leukoaraiosis_ml),
    )


def _lesion(head: SourceHead, table: Tensor, latent: Latent, variation: Variation) -> Lesion:
    generator = random_stream(latent.seed, "lesion")
    centre = haemorrhage.bleeding_point(head, latent.site, latent.side, generator)
    return haemorrhage.grown(
        head, table, latent, centre, scale=scale_at(variation, centre), generator=generator
    )


def _assembled(
    head: SourceHead,
    spec: PatientSpec,
    latent: Latent,
    chronic: Chronic,
    draws: law.Draws,
    variation: Variation,
    baseline: RenderedMoment,
    followup: RenderedMoment | None,
    growth: Tensor | None,
) -> VirtualPatient:
    grid = variation.grid
    mni = sampled(head.mni_mm, head.feature_affine, baseline.source_mm)
    probability = float(oracle.expansion_probability(draws)[0]) if latent.has_haematoma else _NAN
    return VirtualPatient(
        affine=grid.affine,
        baseline=baseline.maps,
        followup=followup.maps if followup else None,
        tract=_tract(mni, baseline.maps.tissue, grid, latent.seed),
        mni_mm=grid.enlarged(mni) if spec.mni else None,
        fibres=fibres_of(head, baseline.source_mm, baseline.maps.tissue, grid) if spec.fibres else None,
        growth_probability=growth,
        expansion_probability=probability,
        latent=latent,
        truth=_truth(head, grid, baseline, followup, chronic),
    )


def _tract(mni: Tensor, tissue: Tensor, grid: Grid, seed: int) -> Tensor:
    """Return both corticospinal tracts on the fine grid: the atlas, individually shifted and thickened,
    carried by the deformation.
    """
    generator = random_stream(seed, "tract")
    out = torch.zeros((2, *grid.shape), device=tissue.device)
    position_sd, thickness_sd = _tract_variation(mni[2])
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


def _tract_variation(z_mm: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spread of the tract's position and half thickness between people at each height, mm."""
    position_sd, thickness_sd = variation_mm(z_mm.cpu().numpy().ravel())
    position, thickness = (torch.from_numpy(sd).to(z_mm) for sd in (position_sd, thickness_sd))
    return position.reshape(z_mm.shape), thickness.reshape(z_mm.shape)


def _holds_tract(tissue: Tensor, z_mm: Tensor) -> Tensor:
    """Return where the tract may run (bool): white matter among the gyri, any brain tissue below."""
    solid = (tissue != Tissue.VENTRICLE) & (tissue != Tissue.CSF) & (tissue >= Tissue.CORTEX)
    return torch.where(z_mm >= tract_atlas.GYRI_MM, tissue == Tissue.WHITE, solid)


def _truth(
    head: SourceHead, grid: Grid, baseline: RenderedMoment, followup: RenderedMoment | None, chronic: Chronic
) -> Truth:
    voxel_ml = grid.spacing_mm**3 / 1000

    def blood_ml(fraction: Tensor | None) -> float:
        return _NAN if fraction is None else float(fraction.sum()) * voxel_ml

    def mask_ml(degree: Tensor | None) -> float:
        return _NAN if degree is None else float(torch.count_nonzero(degree >= 0.5)) * voxel_ml

    ventricle = sampled(head.features[:1], head.feature_affine, baseline.source_mm)
    grades = parenchyma.fazekas(baseline.maps.leukoaraiosis, ventricle, grid)
    return Truth(
        ich_ml=blood_ml(baseline.maps.ich),
        ivh_ml=blood_ml(baseline.maps.ivh),
        phe_ml=mask_ml(baseline.maps.oedema),
        followup_ich_ml=blood_ml(followup.maps.ich if followup else None),
        followup_ivh_ml=blood_ml(followup.maps.ivh if followup else None),
        followup_phe_ml=mask_ml(followup.maps.oedema if followup else None),
        leukoaraiosis_ml=mask_ml(baseline.maps.leukoaraiosis),
        infarct_acute_ml=mask_ml(baseline.maps.infarct_acute),
        infarct_old_ml=mask_ml(baseline.maps.infarct_old),
        fazekas_periventricular=grades[0],
        fazekas_deep=grades[1],
        midline_shift_mm=_midline_shift(head, grid, baseline),
    )


def _midline_shift(head: SourceHead, grid: Grid, baseline: RenderedMoment) -> float:
    """Return the largest sideways displacement of tissue from the midline at the level of the deep nuclei."""
    x, y, z = sampled(head.mni_mm, head.feature_affine, baseline.source_mm)
    near_mm = max(4.0, 0.55 * grid.step * grid.spacing_mm)  # on a coarse grid no voxel may lie nearer
    midline = (x.abs() < near_mm) & (y > -25) & (y < 30) & (z > 0) & (z < 30)
    return float((baseline.displacement_mm[0].abs() * midline).max())


def draws_of(seed: int, mix: PopulationMix = USUAL) -> law.Draws:
    """Return what the law draws for a seed, without making the patient: of which kind it will be, and how
    it will grow.
    """
    return law.draw(1, random_stream(seed, "law"), mix)
