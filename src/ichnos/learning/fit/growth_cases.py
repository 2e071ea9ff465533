"""Patients with two CTs, measured as reading measures them: what a growth model is fitted on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from ichnos.clinical.expansion import DEFINITIONS
from ichnos.prognosis.growth import GrowthInputs
from ichnos.reading.measures.growth import growth_inputs
from ichnos.simulation.cohort.compact import quick_scan
from ichnos.simulation.disease import oracle
from ichnos.simulation.exams.scanners import CENTRES, centre, draw_protocol
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.simulate import PatientSpec, draws_of, simulate_patient
from ichnos.volume import volume_ml


@dataclass(frozen=True)
class GrowthCase:
    """One patient with two CTs; cases that share an id are futures of one patient, redrawn."""

    id: str
    inputs: GrowthInputs
    followup_ml: float
    followup_ivh_ml: float
    oracle: float = math.nan  # the simulation's P(expansion); NaN for people

    @property
    def expanded(self) -> float:
        """Return 1 or 0 under the default definition (more than 33 % or 6 mL)."""
        return float(DEFINITIONS["33%-or-6ml"](self.inputs.ich_ml, self.followup_ml))


def simulated_case(seed: int, head: SourceHead, *, spacing_mm: float = 2.0) -> GrowthCase | None:
    """Simulate a patient, scan twice, and measure the first CT as reading does, on the true masks.

    The seed chooses the centre, whose scanner and slice thickness are used. None for a haematoma that the
    thick slices hide.
    """
    patient = simulate_patient(seed, head, PatientSpec(spacing_mm=spacing_mm))
    rng = np.random.default_rng([seed, 17])
    place = centre(sorted(CENTRES)[int(rng.integers(len(CENTRES)))])
    first, second = (draw_protocol(place, rng=rng) for _ in range(2))
    scan = quick_scan(patient, first, second, generator=torch.Generator().manual_seed(seed))
    if not scan.masks["ich"].array.any():
        return None
    latent, later = patient.latent, scan.later
    facts = {"onset_to_ct_h": latent.onset_to_ct_h, "anticoagulation": float(latent.anticoagulated)}
    ras = {name: mask.reoriented("RAS") for name, mask in scan.masks.items()}
    return GrowthCase(
        id=f"{head.name}-{seed}",
        inputs=growth_inputs(ras["ich"], ras["ivh"], scan.ct.reoriented("RAS"), facts=facts),
        followup_ml=volume_ml(later["ich_followup"]),
        followup_ivh_ml=volume_ml(later["ivh_followup"]),
        oracle=patient.expansion_probability,
    )


def redrawn(case: GrowthCase, seed: int, futures: int) -> list[GrowthCase]:
    """Return a simulated patient with other futures, drawn again given all that the first CT shows.

    So a few patients in voxels carry as much information as many. The follow-up keeps the error with which
    this patient's was measured.
    """
    draws = draws_of(seed)
    volumes = oracle.resampled_followup_ml(draws, futures, torch.Generator().manual_seed(seed))
    error = case.followup_ml / float(draws.followup_ich_ml[0])
    return [replace(case, followup_ml=float(v) * error) for v in volumes]


def case_row(case: GrowthCase) -> dict[str, Any]:
    """Return a case as a flat row of plain data."""
    return {
        **asdict(case.inputs),
        "followup_ml": case.followup_ml,
        "followup_ivh_ml": case.followup_ivh_ml,
        "oracle": case.oracle,
    }


def case_of(row: Mapping[str, Any]) -> GrowthCase:
    """Return the case of a row that `case_row` made; the row also holds its "id"."""
    names = GrowthInputs.__dataclass_fields__
    inputs = GrowthInputs(**{name: row[name] for name in names})
    return GrowthCase(str(row["id"]), inputs, row["followup_ml"], row["followup_ivh_ml"], row["oracle"])
