"""What the score adds to clinical facts."""

from __future__ import annotations

from typing import Any

import numpy as np

from ichnos.errors import InputRefused
from ichnos.evidence.figures import Figure, forest_figure
from ichnos.evidence.metrics.calibration import logit
from ichnos.evidence.metrics.regression import Fit, fit
from ichnos.evidence.pack.outcomes.data import OutcomeData
from ichnos.evidence.tables import Table, p_value

LEAST_TO_ADJUST = 10  # cases of the rarer outcome, below which no adjusted model is fitted


def adjusted_effects(data: OutcomeData) -> tuple[Table, Figure] | None:
    """Estimate what the score adds to clinical facts; None where the facts are absent or the model has no
    fit.
    """
    facts = [c for c in data.plan.adjust_for if c in data.rows.columns]
    rarer = min(int(data.events.sum()), int((~data.events).sum()))
    if not facts or rarer < LEAST_TO_ADJUST or np.ptp(data.score) == 0:
        return None
    frame = _standardised(data, facts)
    terms = [column for column in frame.columns if column != "event"]
    try:
        result = fit("logistic", "event ~ " + " + ".join(terms), frame)
    except InputRefused:
        return None
    return _table(data, result), _forest(data, result)


def _standardised(data: OutcomeData, facts: list[str]) -> Any:
    """Return the event, and score and facts in standard deviations; facts that hardly vary are left out."""
    import pandas as pd

    x = logit(data.score) if data.is_probability else data.score
    columns = {c: pd.to_numeric(data.rows[c], errors="coerce") for c in facts}
    usable = {c: v for c, v in columns.items() if v.notna().sum() > 10 and v.std() > 0}
    return pd.DataFrame(
        {
            "event": data.events.astype(float),
            "model_score": (x - x.mean()) / x.std(),
            **{c: (v - v.mean()) / v.std() for c, v in usable.items()},
        }
    )


def _table(data: OutcomeData, result: Fit) -> Table:
    notes = " ".join(f"Note: {w}." for w in result.warnings)
    counted = f"{result.n} patients, {result.events} of the rarer outcome."
    return Table(
        f"adjusted_{data.stem}",
        f"{data.plan.name}: adjusted for clinical facts",
        ("Per SD", "Odds ratio", "p"),
        tuple((e.term, e.estimate, p_value(e.p)) for e in result.effects),
        f"Odds ratio per standard deviation; {counted} {notes}".strip(),
    )


def _forest(data: OutcomeData, result: Fit) -> Figure:
    return forest_figure(
        f"forest_adjusted_{data.stem}",
        [(e.term, e.estimate) for e in result.effects],
        axis="Odds ratio per SD",
        reference=1.0,
        ratio=True,
        caption=f"{data.plan.name}: adjusted odds ratios per standard deviation.",
    )
