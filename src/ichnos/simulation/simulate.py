"""Make one virtual patient: vary a head, bleed into it, displace what is in the way, keep the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ichnos.anatomy import tract as tract_atlas
from ichnos.anatomy.tract_levels import variation_mm
from ichnos.simulation.disease import chronic as parenchyma
from ichnos.simulation.disease import haemorrhage, law, oracle
from ichnos.simulation.disease.growth_map import growth_probability
from ichnos.simulation.disease.haemorrhage import Lesion
from ichnos.simulation.disease.law import USUAL, PopulationMix
from ichnos.simulation.disease.moment import Background, RenderedMoment, beside_old_infarct, rendered_moment
from ichnos.simulation.disease.operation import drawn_operation, operation_words
from ichnos.simulation.exams.fibres import fibres_of
from ichnos.simulation.fields import Grid, sampled, smooth_noise
from ichnos.simulation.heads.source import SourceHead, lookup
from ichnos.simulation.heads.variation import scale_at, varied
from ichnos.simulation.patient import SIGNS, SITES, Latent, Moment, Tissue, Truth, VirtualPatient
from ichnos.simulation.streams import random_stream

_NAN = float("nan")
_SIDES = ("left", "right", "midline")  # as the law counts them
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
    draws = _constrained(draws_of(seed, spec.mix), spec)
    background = _background(seed, head.to(torch.device(device)), spec, draws)
    lesion = _lesion(background) if background.latent.has_haematoma else None
    baseline = rendered_moment(background, lesion, followup=False)
    followup = None
    if spec.followup:
        later = lesion and replace(
            lesion, time=haemorrhage.grown_later(lesion, baseline.limit, random_stream(seed, "later"))
        )
        followup = rendered_moment(background, later, followup=True)
    growth = None
    if spec.oracle_samples > 0 and lesion is not None:
        growth = growth_probability(background, draws, lesion, baseline, spec.oracle_samples)
    return _assembled(spec, background, draws, baseline, followup, growth)


def _background(seed: int, head: SourceHead, spec: PatientSpec, draws: law.Draws) -> Background:
    """Draw what the patient is besides the bleed: anatomy, lesions of earlier years, operation."""
    chance = float(torch.rand(1, generator=random_stream(seed, "haematoma")))
    latent = _latent(draws, seed, head, chance < spec.haematoma_probability)
    variation = varied(
        head,
        atrophy=latent.atrophy,
        ventricles_mm=_wider_beside(latent.drawn_leukoaraiosis_ml),
        strength=spec.variation,
        spacing_mm=spec.spacing_mm,
        generator=random_stream(seed, "variation"),
    )
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
    table = lookup(latent.atrophy, head.codes.device)
    return beside_old_infarct(Background(head, table, variation, latent, chronic, operation))


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
        changes["side"] = torch.tensor([_SIDES.index(spec.side)])
    if spec.ich_ml is not None:
        factor = spec.ich_ml / draws.ich_ml
        changes |= {
            name: getattr(draws, name) * factor
            for name in ("ich_ml", "followup_ich_ml", "phe_ml", "followup_phe_ml")
        }
    return replace(draws, **changes)


_DRAWN_NUMBERS = (
    "age_years",
    "atrophy",
    "onset_to_ct_h",
    "followup_interval_h",
    "haematocrit",
    "irregularity",
    "heterogeneity",
    "activity",
)
_DRAWN_FLAGS = ("anticoagulated", "antiplatelet", "earlier_bleed")
_DRAWN_BLOOD = ("ich_ml", "ivh_ml", "followup_ich_ml", "followup_ivh_ml", "phe_ml", "followup_phe_ml")


def _latent(draws: law.Draws, seed: int, head: SourceHead, has_haematoma: bool) -> Latent:
    """Return one patient's draws; without haematoma, no site, no signs and no blood."""
    first = {field.name: getattr(draws, field.name)[0] for field in fields(draws)}
    signs = [name for name, present in zip(SIGNS, first["signs"].tolist(), strict=True) if present]
    blood = 1.0 if has_haematoma else 0.0
    drawn: dict[str, Any] = {name: float(first[name]) for name in _DRAWN_NUMBERS}
    drawn |= {name: bool(first[name]) for name in _DRAWN_FLAGS}
    drawn |= {f"drawn_{name}": blood * float(first[name]) for name in _DRAWN_BLOOD}
    return Latent(
        seed=seed,
        source=head.name,
        sex="m" if first["male"] else "f",
        has_haematoma=has_haematoma,
        site=SITES[int(first["site"])] if has_haematoma else "",
        side=_SIDES[int(first["side"])] if has_haematoma else "",
        signs=tuple(signs) if has_haematoma else (),
        old_infarct_hu=9.0,
        drawn_leukoaraiosis_ml=float(first["leukoaraiosis_ml"]),
        **drawn,
    )


def _lesion(background: Background) -> Lesion:
    head, latent = background.head, background.latent
    generator = random_stream(latent.seed, "lesion")
    centre = haemorrhage.bleeding_point(head, latent.site, latent.side, generator)
    scale = scale_at(background.variation, centre)
    return haemorrhage.grown(head, background.table, latent, centre, scale=scale, generator=generator)


def _assembled(
    spec: PatientSpec,
    background: Background,
    draws: law.Draws,
    baseline: RenderedMoment,
    followup: RenderedMoment | None,
    growth: Tensor | None,
) -> VirtualPatient:
    grid, latent, tissue = background.grid, background.latent, baseline.maps.tissue
    mni = background.mni_mm(baseline.source_mm)
    probability = float(oracle.expansion_probability(draws)[0]) if latent.has_haematoma else _NAN
    return VirtualPatient(
        affine=grid.affine,
        baseline=baseline.maps,
        followup=followup.maps if followup else None,
        tract=_tract(mni, tissue, grid, latent.seed),
        mni_mm=grid.enlarged(mni) if spec.mni else None,
        fibres=fibres_of(background.head, baseline.source_mm, tissue, grid) if spec.fibres else None,
        growth_probability=growth,
        expansion_probability=probability,
        latent=latent,
        truth=_truth(background, baseline, followup),
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


def _truth(background: Background, baseline: RenderedMoment, followup: RenderedMoment | None) -> Truth:
    grid, head, now = background.grid, background.head, baseline.maps
    voxel_ml = grid.spacing_mm**3 / 1000
    later = _bleed_ml(followup.maps if followup else None, voxel_ml)
    ventricle = sampled(head.features[:1], head.feature_affine, baseline.source_mm)
    grades = parenchyma.fazekas(now.leukoaraiosis, ventricle, grid)
    return Truth(
        **_bleed_ml(now, voxel_ml),
        **{f"followup_{name}": volume_ml for name, volume_ml in later.items()},
        leukoaraiosis_ml=_degree_ml(now.leukoaraiosis, voxel_ml),
        infarct_acute_ml=_degree_ml(now.infarct_acute, voxel_ml),
        infarct_old_ml=_degree_ml(now.infarct_old, voxel_ml),
        fazekas_periventricular=grades[0],
        fazekas_deep=grades[1],
        midline_shift_mm=_midline_shift(background, baseline),
    )


def _bleed_ml(moment: Moment | None, voxel_ml: float) -> dict[str, float]:
    """Return the volumes of blood and oedema; NaN for a moment that was not simulated."""
    if moment is None:
        return dict.fromkeys(("ich_ml", "ivh_ml", "phe_ml"), _NAN)
    return {
        "ich_ml": float(moment.ich.sum()) * voxel_ml,
        "ivh_ml": float(moment.ivh.sum()) * voxel_ml,
        "phe_ml": _degree_ml(moment.oedema, voxel_ml),
    }


def _degree_ml(degree: Tensor, voxel_ml: float) -> float:
    return float(torch.count_nonzero(degree >= 0.5)) * voxel_ml


def _midline_shift(background: Background, baseline: RenderedMoment) -> float:
    """Return the largest sideways displacement of tissue from the midline at the level of the deep nuclei."""
    x, y, z = background.mni_mm(baseline.source_mm)
    step_mm = background.grid.step * background.grid.spacing_mm
    near_mm = max(4.0, 0.55 * step_mm)  # on a coarse grid no voxel may lie nearer
    midline = (x.abs() < near_mm) & (y > -25) & (y < 30) & (z > 0) & (z < 30)
    return float((baseline.displacement_mm[0].abs() * midline).max())


def draws_of(seed: int, mix: PopulationMix = USUAL) -> law.Draws:
    """Return what the law draws for a seed, without making the patient: of which kind it will be, and how
    it will grow.
    """
    return law.draw(1, random_stream(seed, "law"), mix)
