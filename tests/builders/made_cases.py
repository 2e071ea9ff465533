"""Made patients for tests of the prognosis: drawn from formulas, so that what a fit should find is known."""

from __future__ import annotations

import numpy as np

from ichnos.clinical.injury import INJURY_GRADES
from ichnos.learning.fit.growth_cases import GrowthCase
from ichnos.learning.fit.outcome_cases import OutcomeCase
from ichnos.prognosis.growth import GrowthInputs
from ichnos.prognosis.outcome import OutcomeInputs

EFFECT = {
    "no risk": -3.8,
    "PHE infiltration": -2.3,
    "haematoma infiltration": -0.7,
    "complete interruption": 0.0,
}
OPERATED = {
    "no risk": 0.0,
    "PHE infiltration": 0.0,
    "haematoma infiltration": -2.1,
    "complete interruption": 0.0,
}


def growth_cases(n: int, *, seed: int = 0, slope: float = 1.4) -> list[GrowthCase]:
    """Draw haematomas of which the restless ones grow more often."""
    rng = np.random.default_rng(seed)
    cases = []
    for k in range(n):
        z = rng.normal()
        ich_ml = float(np.clip(20 * np.exp(0.7 * rng.normal()), 1, 100))
        risk = 1 / (1 + np.exp(1.6 - slope * z))
        share = np.exp(-0.4 + 0.6 * rng.normal()) if rng.random() < risk else 0.02 + 0.05 * rng.normal()
        inputs = GrowthInputs(
            ich_ml=ich_ml,
            ivh_ml=float(3 * (rng.random() < 0.3)),
            sphericity=float(np.clip(0.7 + 0.05 * rng.normal(), 0.4, 1)),
            roundness=float(np.clip(0.8 + 0.05 * rng.normal(), 0.4, 1)),
            mean_hu=float(60 + 4 * rng.normal()),
            spread_hu=float(12 + 3 * z),
            depth_hu=float(14 + 3 * rng.normal()),
            gap_hu=float(8 + 2 * rng.normal()),
            dark_share=float(rng.uniform(0, 0.2)),
            black_hole=float(rng.random() < 0.1),
            blend=float(rng.random() < 0.1),
            islands=float(rng.integers(0, 4)),
            onset_to_ct_h=float(np.clip(3 * np.exp(0.7 * rng.normal()), 0.5, 48)),
            anticoagulated=float(rng.random() < 0.1),
        )
        cases.append(GrowthCase(f"p{k}", inputs, ich_ml * (1 + share), inputs.ivh_ml, oracle=float(risk)))
    return cases


def outcome_cases(n: int, *, seed: int = 0) -> list[OutcomeCase]:
    """Draw trial patients with the published effects of injury and surgery on motor NIHSS."""
    rng = np.random.default_rng(seed)
    cases = []
    for k in range(n):
        grade = INJURY_GRADES[int(rng.integers(4))]
        arm = "surgery" if rng.random() < 0.5 else "medical"
        age, gcs = float(rng.uniform(40, 85)), float(rng.integers(6, 16))
        inputs = OutcomeInputs(
            grade,
            float(rng.uniform(5, 60)),
            float(2 * (rng.random() < 0.4)),
            float(rng.uniform(0, 30)),
            0.5,
            age,
            gcs,
        )
        inputs = OutcomeInputs(**{**inputs.__dict__, "blood_load_ml": float(rng.uniform(0, 2))})
        effect = EFFECT[grade] + OPERATED[grade] * (arm == "surgery")
        motor = 8 + effect + 0.2 * (age - 65) / 10 + rng.normal()
        worse = 0.5 * effect + 0.4 * (age - 65) / 10 + 0.1 * (14 - gcs) + rng.logistic()
        mrs = float(sum(worse > cut for cut in (-4.0, -2.6, -1.5, -0.5, 0.7, 1.6)))
        cases.append(OutcomeCase(f"p{k}", inputs, arm, float(np.clip(motor, 0, 16)), mrs))
    return cases
