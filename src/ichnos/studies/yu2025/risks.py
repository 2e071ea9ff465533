"""What one method says of the external patients, and of the training patients it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.thresholds import youden_point
from ichnos.studies.yu2025.people import People

Risks = Mapping[str, "MethodRisk"]  # by the name of the method


@dataclass(frozen=True, eq=False)
class MethodRisk:
    """One method's score of each patient, or why there is none."""

    risk: Mapping[str, float] = field(default_factory=dict)  # external patient -> score
    reason: str = ""  # why there is no score; "" where there is
    probability: bool = True  # the score is a probability, 0 to 1
    # training patient -> the score from folds that did not train on the patient; empty for other methods
    out_of_fold: Mapping[str, float] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Say whether there is a score.

        >>> MethodRisk({}, reason="no column").known
        False
        """
        return not self.reason


@dataclass(frozen=True, eq=False)
class CentreScores:
    """The patients of one external centre whom a method scores."""

    patients: tuple[str, ...]
    outcome: Floats  # (n,) 0 or 1
    score: Floats  # (n,)


def centre_scores(people: People, method: MethodRisk, centre: str) -> CentreScores:
    """Return outcome and score of a centre's patients; a method without scores is refused by its reason."""
    if not method.known:
        raise InputRefused(method.reason)
    risk = method.risk
    known = [p for p in people.external if p.centre == centre and np.isfinite(risk.get(p.patient, np.nan))]
    return CentreScores(
        tuple(p.patient for p in known),
        np.array([p.outcome for p in known], float),
        np.array([risk[p.patient] for p in known], float),
    )


def training_scores(people: People, method: MethodRisk) -> CentreScores:
    """Return outcome and out-of-fold score of the training patients, to choose thresholds and fit sets on."""
    held = [p for p in people.training if p.patient in method.out_of_fold]
    return CentreScores(
        tuple(p.patient for p in held),
        np.array([p.outcome for p in held], float),
        np.array([method.out_of_fold[p.patient] for p in held], float),
    )


def operating_threshold(people: People, method: MethodRisk) -> float:
    """Return the threshold of greatest sensitivity + specificity on the out-of-fold training scores."""
    held = training_scores(people, method)
    return youden_point(held.outcome, held.score, chosen_on="training, out of fold").threshold
