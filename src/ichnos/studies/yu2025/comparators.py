"""What the classifiers of Yu 2025 are compared with: growth models, clinical scores and the oracle."""

from __future__ import annotations

import numpy as np

from ichnos.clinical.expansion import DEFAULT_DEFINITION, DEFINITIONS
from ichnos.clinical.scores import comparators
from ichnos.errors import InputRefused
from ichnos.learning.fit.growth import fit_growth_model
from ichnos.learning.fit.growth_cases import GrowthCase
from ichnos.models.store import SHIPPED
from ichnos.prognosis.growth import GrowthModel, load_growth_model
from ichnos.studies.yu2025.people import People
from ichnos.studies.yu2025.risks import MethodRisk

FITTED_HERE, THAT_SHIPS = "ours, growth model fitted here", "ours, growth model that ships"
_TITLES = {"volume": "volume alone", "bat": "BAT", "brain": "BRAIN", "hep": "HEP"}
_LEAST_IVH_ML = 0.5  # ventricular blood that a score counts
_LEAST_DARK_SHARE = 0.1  # of the haematoma, from which it counts as hypodense


def growth_model_risks(people: People) -> dict[str, MethodRisk]:
    """Return the risk by the growth model, fitted on the training patients, and by the one that ships."""
    cases = [
        GrowthCase(p.patient, p.inputs, p.followup_ml, p.followup_ivh_ml, p.oracle) for p in people.training
    ]
    try:
        fitted = fit_growth_model(
            cases, cohort="training centres", simulated=False, refits=0, rng=np.random.default_rng(0)
        )
        here = _risk_by(fitted, people)
    except InputRefused as refusal:
        here = MethodRisk(reason=str(refusal))
    try:
        shipped = _risk_by(load_growth_model(SHIPPED / "expansion"), people)
    except InputRefused as refusal:
        shipped = MethodRisk(reason=str(refusal))
    return {FITTED_HERE: here, THAT_SHIPS: shipped}


def _risk_by(model: GrowthModel, people: People) -> MethodRisk:
    definition = DEFINITIONS[DEFAULT_DEFINITION]
    return MethodRisk({p.patient: model.forecast(p.inputs).probability(definition) for p in people.external})


def clinical_score_risks(people: People) -> dict[str, MethodRisk]:
    """Return volume alone, BAT, BRAIN and HEP, from measured signs and the clinical row; a score that
    lacks a column says so.
    """
    import pandas as pd

    rows = []
    for p in people.external:
        row = {
            **p.facts,
            "ich_ml": p.inputs.ich_ml,
            "ivh": p.inputs.ivh_ml >= _LEAST_IVH_ML,
            "blend_sign": p.inputs.blend > 0,
            "hypodensity": p.inputs.black_hole > 0 or p.inputs.dark_share > _LEAST_DARK_SHARE,
        }
        if np.isfinite(p.oracle):  # a simulated patient whose table has no earlier bleeds had none
            row.setdefault("recurrent_ich", 0)
        rows.append(row)
    names = [p.patient for p in people.external]
    return {
        _TITLES[score.name]: MethodRisk(reason=score.missing, probability=False)
        if score.missing
        else MethodRisk(dict(zip(names, score.values.tolist(), strict=True)), probability=False)
        for score in comparators(pd.DataFrame(rows))
    }


def oracle_risk(people: People) -> MethodRisk:
    """Return the probability that the simulation drew each patient's expansion with."""
    known = {p.patient: p.oracle for p in people.external if np.isfinite(p.oracle)}
    return MethodRisk(known, reason="" if known else "the oracle is known in simulated cohorts alone")
