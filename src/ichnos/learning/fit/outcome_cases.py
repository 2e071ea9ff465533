"""Patients whose outcome is known: a simulated trial of surgery, with injuries measured on voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ichnos.clinical.injury import InjuryGrade, tract_injury
from ichnos.clinical.treatment import TreatmentArm
from ichnos.prognosis.outcome import OutcomeInputs, injury_of
from ichnos.simulation.disease import law
from ichnos.simulation.disease.clinical_row import ClinicalState, clinical_row
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import SITES, VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient

_NEAREST = 3  # anatomies of a site, nearest in volume, among which a patient's is drawn


@dataclass(frozen=True)
class OutcomeCase:
    """One patient whose outcome is known."""

    id: str
    inputs: OutcomeInputs
    arm: TreatmentArm
    motor_180d: float  # NaN for the dead or where it was not asked
    mrs_365d: float  # NaN where it is not known


@dataclass(frozen=True)
class Anatomy:
    """What only voxels tell of a haematoma: where it lies to the tract, and how far it moves the midline."""

    site: str
    ich_ml: float
    injury: InjuryGrade | None
    blood_load_ml: float | None
    midline_shift_mm: float


def simulated_anatomy(seed: int, head: SourceHead, *, spacing_mm: float = 3.0) -> Anatomy:
    """Simulate a patient in voxels and measure the maps as reading does."""
    patient = simulate_patient(seed, head, PatientSpec(spacing_mm=spacing_mm, followup=False))
    injury, load_ml = _injury(patient)
    return Anatomy(patient.latent.site, patient.truth.ich_ml, injury, load_ml, patient.truth.midline_shift_mm)


def simulated_trial(patients: int, anatomies: Sequence[Anatomy], *, seed: int) -> list[OutcomeCase]:
    """Draw patients of a randomised trial of surgery from the law, without images.

    Injury, load and midline shift are those of one of the three anatomies of the same site that are nearest
    in volume.
    """
    draws = law.draw(patients, torch.Generator().manual_seed(seed))
    rng = np.random.default_rng([seed, 23])
    cases = []
    for k in range(patients):
        site, ich_ml = SITES[int(draws.site[k])], float(draws.ich_ml[k])
        alike = sorted(
            (a for a in anatomies if a.site == site), key=lambda a: abs(math.log(a.ich_ml / ich_ml))
        )[:_NEAREST]
        if alike:
            cases.append(_trial_case(f"t{k}", draws, k, alike[int(rng.integers(len(alike)))], rng))
    return cases


def _trial_case(
    name: str, draws: law.Draws, k: int, anatomy: Anatomy, rng: np.random.Generator
) -> OutcomeCase:
    state = _clinical_state(draws, k, anatomy)
    row = clinical_row(state, trial=True, rng=rng)
    motor, gcs = row["nihss_motor_180d"], float(str(row["gcs"]))
    inputs = OutcomeInputs(
        anatomy.injury,
        state.ich_ml,
        state.ivh_ml,
        state.leukoaraiosis_ml,
        anatomy.blood_load_ml,
        state.age_years,
        gcs,
    )
    arm: TreatmentArm = "surgery" if row["arm"] == "surgery" else "medical"
    motor_180d = math.nan if motor is None else float(motor)
    return OutcomeCase(name, inputs, arm, motor_180d, float(str(row["mrs_365d"])))


def _clinical_state(draws: law.Draws, k: int, anatomy: Anatomy) -> ClinicalState:
    return ClinicalState(
        age_years=float(draws.age_years[k]),
        sex="m" if bool(draws.male[k]) else "f",
        anticoagulated=bool(draws.anticoagulated[k]),
        antiplatelet=bool(draws.antiplatelet[k]),
        earlier_bleed=bool(draws.earlier_bleed[k]),
        onset_to_ct_h=float(draws.onset_to_ct_h[k]),
        ct_to_followup_h=float(draws.followup_interval_h[k]),
        ich_ml=float(draws.ich_ml[k]),
        ivh_ml=float(draws.ivh_ml[k]),
        followup_ich_ml=float(draws.followup_ich_ml[k]),
        followup_ivh_ml=float(draws.followup_ivh_ml[k]),
        leukoaraiosis_ml=float(draws.leukoaraiosis_ml[k]),
        infarct_ml=0.0,
        midline_shift_mm=anatomy.midline_shift_mm,
        injury=anatomy.injury or "no risk",
        site=anatomy.site,
    )


def _injury(patient: VirtualPatient) -> tuple[InjuryGrade | None, float | None]:
    blood = (patient.baseline.ich >= 0.5).float().numpy()
    oedema = ((patient.baseline.oedema >= 0.5) & (patient.baseline.ich < 0.5)).float().numpy()
    height = patient.world(np.column_stack([np.zeros((blood.shape[2], 2)), np.arange(blood.shape[2])]))[:, 2]
    injuries = {
        side: tract_injury(
            (tract >= 0.5).float().numpy(), blood, oedema, z_mm=height, voxel_ml=patient.voxel_ml
        )
        for side, tract in zip(("left", "right"), patient.tract, strict=True)
    }
    return injury_of(
        {side: i.grade for side, i in injuries.items()},
        {side: i.blood_load_ml for side, i in injuries.items()},
    )
