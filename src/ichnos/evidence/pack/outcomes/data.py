"""A yes/no outcome with its score: on the evaluated cases, and on the validation split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.clinical.expansion import DEFINITIONS
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import Booleans
from ichnos.evidence.pack.evaluation import Evaluation
from ichnos.evidence.pack.plan import EvidencePlan, OutcomePlan

LEAST_TO_CALIBRATE = 20  # cases of each outcome on the validation split, below which nothing is fitted there


def stem_of(name: str) -> str:
    """Return a name as part of a file's name.

    >>> stem_of("mRS 0 to 3 at 365 days")
    'mrs_0_to_3_at_365_days'
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@dataclass(frozen=True, eq=False)
class OutcomeData:
    """One outcome with its score on the evaluated cases, and on the validation split."""

    plan: OutcomePlan
    stem: str  # of the files of its tables and figures
    events: Booleans
    score: Floats
    rows: Any  # pandas: the evaluated cases, complete for this outcome
    left_out: int
    tuning_events: Booleans  # empty where there is no validation split
    tuning_score: Floats

    @property
    def can_tune(self) -> bool:
        """Say whether the validation split has enough cases of each outcome to fit anything on."""
        enough = min(int(self.tuning_events.sum()), int((~self.tuning_events).sum())) >= LEAST_TO_CALIBRATE
        return enough and bool(np.ptp(self.tuning_score) > 0)

    @property
    def is_probability(self) -> bool:
        """Say whether every score lies in 0 to 1."""
        every = np.concatenate([self.score, self.tuning_score])
        return bool((every >= 0).all() and (every <= 1).all())


def outcome_columns(plan: EvidencePlan, outcome: OutcomePlan) -> tuple[str, ...]:
    """Return the columns of the cohort that decide an outcome.

    >>> plan = EvidencePlan(expansion="revised")
    >>> outcome_columns(plan, plan.outcomes[0])
    ('ich_ml', 'ich_followup_ml', 'ivh_ml', 'ivh_followup_ml')
    """
    if outcome.truth:
        return (outcome.truth,)
    revised = DEFINITIONS[plan.expansion].ivh_growth_at_least_ml is not None
    return (*plan.volume_columns, *(plan.ivh_columns if revised else ()))


def outcome_truth(plan: EvidencePlan, outcome: OutcomePlan, table: Any) -> Floats:
    """Return the 0/1 outcome of each row (NaN unknown): a column, or haematoma expansion by its
    definition.
    """
    needed = outcome_columns(plan, outcome)
    lacking = [c for c in needed if c not in table.columns]
    if outcome.truth:
        if lacking:
            raise InputRefused(
                f"the outcome {outcome.name} needs the column {outcome.truth!r}, which the cohort does not"
                " have"
            )
        values = numbers_of(table, outcome.truth)
        at_most = outcome.at_most
        return values if at_most is None else np.where(np.isnan(values), np.nan, values <= at_most)
    definition = DEFINITIONS[plan.expansion]
    if lacking:
        raise InputRefused(
            f"expansion ({definition.name}) needs the column(s) {', '.join(lacking)}, which the cohort does"
            " not have; name the columns with the volumes in the plan's volume_columns and ivh_columns"
        )
    volumes = [numbers_of(table, c) for c in needed]
    # without a bleed there is nothing to expand
    return np.where(volumes[0] > 0, definition(*volumes), np.nan)


def numbers_of(table: Any, column: str) -> Floats:
    """Return a column as numbers; what is none is NaN.

    >>> import pandas as pd
    >>> numbers_of(pd.DataFrame({"ml": ["1.5", "n/a"]}), "ml").tolist()
    [1.5, nan]
    """
    import pandas as pd

    values: Floats = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
    return values


def outcome_data(evaluation: Evaluation, plan: OutcomePlan) -> OutcomeData:
    """Return an outcome with its score; a patient without either is counted, and none at all is refused."""
    events, score, rows = _complete(evaluation.plan, plan, evaluation.table)
    if not events.size:
        raise InputRefused(f"no patient has both the outcome {plan.name} and the column {plan.probability}")
    tuning_events, tuning_score, _ = _complete(evaluation.plan, plan, evaluation.calibration_table)
    return OutcomeData(
        plan,
        stem_of(plan.name),
        events,
        score,
        rows,
        len(evaluation.table) - events.size,
        tuning_events,
        tuning_score,
    )


def _complete(plan: EvidencePlan, outcome: OutcomePlan, table: Any) -> tuple[Booleans, Floats, Any]:
    """Return outcome, score and row of the cases that have both."""
    column = f"predicted_{outcome.probability}"
    if not len(table) or column not in table.columns:
        return np.zeros(0, bool), np.zeros(0), table
    truth, score = outcome_truth(plan, outcome, table), numbers_of(table, column)
    keep = ~np.isnan(truth) & ~np.isnan(score)
    return truth[keep] == 1, score[keep], table[keep].reset_index(drop=True)
