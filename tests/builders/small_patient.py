"""A small virtual patient made of ellipsoids, for tests of the exams: quick to make, and every place in it
is known.
"""

from __future__ import annotations

import numpy as np
import torch

from ichnos.simulation.patient import Fibres, Latent, Moment, Tissue, Truth, VirtualPatient

SIDE_MM = 2.0
SHAPE = (100, 110, 90)
BLEED_MM = (-28.0, 5.0, 0.0)  # in the left hemisphere
BLOOD_HU = 65.0


def small_patient(*, followup: bool = True, fibres: bool = True, bleeds: bool = True) -> VirtualPatient:
    """Make a head: skull, cortex shell, white matter, two ventricles, a bleed on the left that grows,
    fibres running upward.
    """
    affine = np.diag([SIDE_MM, SIDE_MM, SIDE_MM, 1.0])
    affine[:3, 3] = -SIDE_MM * (np.array(SHAPE) - 1) / 2
    axes = [torch.arange(n, dtype=torch.float32) * SIDE_MM + float(affine[a, 3]) for a, n in enumerate(SHAPE)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")

    def ball(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> torch.Tensor:
        parts = [((p - c) / r) ** 2 for p, c, r in zip((x, y, z), centre, radii, strict=True)]
        return torch.sqrt(parts[0] + parts[1] + parts[2])

    tissue = torch.zeros(SHAPE, dtype=torch.uint8)
    head = (
        (Tissue.SCALP, (82, 98, 80)),
        (Tissue.BONE, (76, 92, 74)),
        (Tissue.CSF, (68, 84, 66)),
        (Tissue.CORTEX, (64, 80, 62)),
        (Tissue.WHITE, (54, 70, 52)),
    )
    for code, radii in head:
        tissue[ball((0, 0, 0), radii) <= 1] = int(code)
    for side in (-1, 1):
        tissue[ball((10 * side, 0, 12), (7, 24, 10)) <= 1] = int(Tissue.VENTRICLE)
    white = tissue == Tissue.WHITE
    zero = torch.zeros(SHAPE)

    def bleed(radius_mm: float) -> tuple[torch.Tensor, torch.Tensor]:
        away = ball(BLEED_MM, (1, 1, 1))
        blood = ((radius_mm - away) / SIDE_MM + 0.5).clamp(0, 1) * white
        oedema = (((radius_mm + 8 - away) / 6).clamp(0, 1) * white * (1 - blood)) if bleeds else zero
        return (blood if bleeds else zero), oedema

    ich, oedema = bleed(15.0)
    later, oedema_later = bleed(20.0)
    leuko = ((ball((22, -30, 25), (1, 1, 1)) < 9) & white).to(torch.float32)
    tract = torch.stack(
        [((((x - 24 * s) ** 2 + (y + 12) ** 2).sqrt() < 5) & white).to(torch.float32) for s in (-1, 1)]
    )
    density = torch.full(SHAPE, BLOOD_HU) * (ball(BLEED_MM, (1, 1, 1)) < 28) if bleeds else zero

    def moment(blood: torch.Tensor, around: torch.Tensor) -> Moment:
        return Moment(tissue, blood, zero, density, around, leuko, zero, zero, zero)

    return VirtualPatient(
        affine=affine,
        baseline=moment(ich, oedema),
        followup=moment(later, oedema_later) if followup else None,
        tract=tract,
        mni_mm=None,
        fibres=_upward(affine, white) if fibres else None,
        growth_probability=(0.5 * ich + 0.5 * later) if followup else None,
        expansion_probability=0.7 if bleeds else float("nan"),
        latent=_latent(bleeds),
        truth=_truth(ich, later, oedema, leuko),
    )


def _upward(affine: np.ndarray, white: torch.Tensor) -> Fibres:
    orientation = torch.zeros(3, 3, *SHAPE)
    orientation[0, 2], orientation[1, 0], orientation[2, 1] = 1, 1, 1
    weight = torch.zeros(3, *SHAPE)
    weight[0] = 0.7 * white
    return Fibres(affine, orientation, weight, ("projection", "callosal", "association"))


def _latent(bleeds: bool) -> Latent:
    return Latent(
        seed=5,
        source="ellipsoids",
        age_years=66.0,
        sex="f",
        atrophy=0.4,
        has_haematoma=bleeds,
        site="putamen" if bleeds else "",
        side="left" if bleeds else "",
        onset_to_ct_h=2.0,
        followup_interval_h=20.0,
        anticoagulated=False,
        antiplatelet=False,
        earlier_bleed=False,
        haematocrit=0.42,
        signs=("swirl",) if bleeds else (),
        irregularity=0.0,
        heterogeneity=0.0,
        old_infarct_hu=9.0,
        activity=0.0,
        drawn_ich_ml=14.0,
        drawn_ivh_ml=0.0,
        drawn_followup_ich_ml=33.0,
        drawn_followup_ivh_ml=0.0,
        drawn_phe_ml=10.0,
        drawn_followup_phe_ml=14.0,
        drawn_leukoaraiosis_ml=3.0,
    )


def _truth(ich: torch.Tensor, later: torch.Tensor, oedema: torch.Tensor, leuko: torch.Tensor) -> Truth:
    ml = SIDE_MM**3 / 1000
    return Truth(
        ich_ml=float(ich.sum()) * ml,
        ivh_ml=0.0,
        phe_ml=float((oedema >= 0.5).sum()) * ml,
        followup_ich_ml=float(later.sum()) * ml,
        followup_ivh_ml=0.0,
        followup_phe_ml=10.0,
        leukoaraiosis_ml=float(leuko.sum()) * ml,
        infarct_acute_ml=0.0,
        infarct_old_ml=0.0,
        fazekas_periventricular=0,
        fazekas_deep=1,
        midline_shift_mm=1.0,
    )
