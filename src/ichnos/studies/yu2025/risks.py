"""What one method says of the external patients, and of the training patients it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.thresholds import youden_point

Risks = Mapping[str, "MethodRisk"]  # by the name of the method


@dataclass(frozen=True, eq=False)
class KnownPatient:
    """One patient whose expansion is known."""

    patient: str
    centre: str
    outcome: float  # 1 expanded, 0 not


@dataclass(frozen=True, eq=False)
class KnownPatients:
    """Who trains and who is asked."""

    training: tuple[KnownPatient, ...]
    external: tuple[KnownPatient, ...]

    @property
    def centres(self) -> tuple[str, ...]:
        """Return the external centres."""
        return tuple(sorted({p.centre for p in self.external}))


@dataclass(frozen=True, eq=False)
class MethodRisk:
    """One method's score of each patient, or why there is none."""

    risk: Mapping[str, float] = field(default_factory=dict)  # external patient -> score
    reason: str = ""  # why there is no score; "" where there is
    probability: bool = True  # the score is a probability, 0 to 1
    # training patient -> the score from folds that did not train on the patient; empty for other methods
    out_of_fold: Mapping[str, float] = field(default_factory=dict)
    by_seed: tuple[Mapping[str, float], ...] = ()  # the external scores of each seed's networks

    @property
    def known(self) -> bool:
        """Say whether there is a score.

        >>> MethodRisk({}, reason="no column").known
        False
        """
        return not self.reason


def mean_risk(risks: Sequence[MethodRisk]) -> MethodRisk:
    """Return the mean of one method's risks over seeds; what one seed could not give, the method has not.

    >>> mean_risk([MethodRisk({"a": 0.2}), MethodRisk({"a": 0.4})]).risk["a"]
    0.30000000000000004
    """
    failed = next((risk for risk in risks if not risk.known), None)
    if failed is not None or len(risks) == 1:
        return failed or risks[0]

    def mean(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
        shared = [name for name in each[0] if all(name in one for one in each)]
        return {name: float(np.mean([one[name] for one in each])) for name in shared}

    return MethodRisk(
        mean([risk.risk for risk in risks]),
        probability=risks[0].probability,
        out_of_fold=mean([risk.out_of_fold for risk in risks]),
        by_seed=tuple(risk.risk for risk in risks),
    )


def risk_rows(risks: Risks) -> list[dict[str, Any]]:
    """Return risks as plain rows, for the stored run."""
    return [{"method": name, **vars(risk)} for name, risk in risks.items()]


def risks_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, MethodRisk]:
    """Return the risks of stored rows.

    >>> risks_of(risk_rows({"BAT": MethodRisk({"a": 3.0}, probability=False)}))["BAT"].risk
    {'a': 3.0}
    """
    names = ("risk", "reason", "probability", "out_of_fold", "by_seed")
    return {
        str(row["method"]): MethodRisk(
            **{name: row[name] for name in names if name != "by_seed"} | {"by_seed": tuple(row["by_seed"])}
        )
        for row in rows
    }


def person_rows(people: KnownPatients) -> list[dict[str, Any]]:
    """Return who trains and who is asked as plain rows, for the stored run."""
    groups = ((True, people.training), (False, people.external))
    return [
        {"patient": p.patient, "centre": p.centre, "outcome": p.outcome, "training": training}
        for training, group in groups
        for p in group
    ]


def known_patients(rows: Sequence[Mapping[str, Any]]) -> KnownPatients:
    """Return the patients of stored rows.

    >>> rows = [{"patient": "a", "centre": "D", "outcome": 1.0, "training": False}]
    >>> known_patients(rows).centres
    ('D',)
    """
    groups = [
        tuple(
            KnownPatient(str(r["patient"]), str(r["centre"]), float(r["outcome"]))
            for r in rows
            if bool(r["training"]) == training
        )
        for training in (True, False)
    ]
    return KnownPatients(groups[0], groups[1])


@dataclass(frozen=True, eq=False)
class CentreScores:
    """The patients of one external centre whom a method scores."""

    patients: tuple[str, ...]
    outcome: Floats  # (n,) 0 or 1
    score: Floats  # (n,)


def centre_scores(people: KnownPatients, method: MethodRisk, centre: str) -> CentreScores:
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


def training_scores(people: KnownPatients, method: MethodRisk) -> CentreScores:
    """Return outcome and out-of-fold score of the training patients, to choose thresholds and fit sets on."""
    held = [p for p in people.training if p.patient in method.out_of_fold]
    return CentreScores(
        tuple(p.patient for p in held),
        np.array([p.outcome for p in held], float),
        np.array([method.out_of_fold[p.patient] for p in held], float),
    )


def operating_threshold(people: KnownPatients, method: MethodRisk) -> float:
    """Return the threshold of greatest sensitivity + specificity on the out-of-fold training scores."""
    held = training_scores(people, method)
    return youden_point(held.outcome, held.score, chosen_on="training, out of fold").threshold
