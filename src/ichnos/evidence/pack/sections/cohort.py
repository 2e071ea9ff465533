"""The first section: who was studied, and the proof that nobody is on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np

from ichnos.evidence.pack.evaluation import Evaluation
from ichnos.evidence.pack.flags import ReviewFlag
from ichnos.evidence.pack.section import Section
from ichnos.evidence.tables import Cell, Table


def cohort_section(evaluation: Evaluation) -> Section:
    """Describe the patients per centre and split, the flow, and missing facts."""
    proof = evaluation.proof
    flow = Table("flow", "Flow of patients", ("Step", "Patients"), tuple(evaluation.flow.items()))
    hashes = ", ".join(h[:12] for h in proof.model_hashes) or "not given"
    cohorts = ", ".join(evaluation.cohorts)
    studied = f"We evaluated {len(evaluation.cases)} patients of {_centres(evaluation)}."
    return Section(
        "cohort",
        "Patients",
        paragraphs=(f"Cohorts: {cohorts}. Model hash: {hashes}. {proof.sentence}",),
        tables=(flow, *_facts_tables(evaluation)),
        flags=_flags(evaluation),
        methods=(f"{studied} {proof.sentence}",),
        numbers={
            "evaluated": len(evaluation.cases),
            "leakage_proven": proof.proven,
            "flow": dict(evaluation.flow),
        },
    )


_UNNAMED = {
    "centre": "The cohort names no centre, so nothing can be said about transport between centres.",
    "split": ("The cohort names no split: that no patient was used for training is the author's to show."),
}


def _flags(evaluation: Evaluation) -> tuple[ReviewFlag, ...]:
    flags = [
        ReviewFlag("warn", f"no_{column}", text)
        for column, text in _UNNAMED.items()
        if not any(evaluation.table[column])
    ]
    flags += [
        ReviewFlag("note", "simulated_training", f"Of the model that made these readings: {limit}")
        for limit in evaluation.predictions.origins
    ]
    missing = len(evaluation.without_prediction)
    if missing:
        share = missing / (missing + len(evaluation.cases))
        text = (
            f"{missing} patients ({share:.0%}) of the evaluated splits have no prediction and are left out."
        )
        flags.append(ReviewFlag("alarm" if share > 0.05 else "warn", "without_prediction", text))
    if not evaluation.proof.proven:
        flags.append(ReviewFlag("warn", "leakage_unproven", evaluation.proof.sentence))
    return tuple(flags)


def _centres(evaluation: Evaluation) -> str:
    n = len({c.centre for c in evaluation.cases if c.centre})
    return "unnamed centres" if n == 0 else f"{n} centre{'s' if n > 1 else ''}"


def _facts_tables(evaluation: Evaluation) -> tuple[Table, ...]:
    """Lay out the facts per centre: medians and quartiles of numbers, shares of yes/no columns, and what
    is missing.
    """
    table = evaluation.table
    facts = [
        c
        for c in table.columns
        if c not in ("patient", "centre", "split") and not str(c).startswith("predicted_")
    ]
    centres = sorted(set(table["centre"]))
    groups = [
        ("All", table),
        *((c or "(none)", table[table["centre"] == c]) for c in centres if len(centres) > 1),
    ]
    rows: list[tuple[Cell, ...]] = [("Patients", *(len(g) for _, g in groups), "")]
    for name in facts:
        missing = int(table[name].isna().sum())
        for label, cells in _described(name, [g[name] for _, g in groups]):
            rows.append((label, *cells, missing))
    columns = ("", *(name for name, _ in groups), "Missing")
    note = "Median (lower to upper quartile) or number (share). Shares are of the known."
    return (Table("patients", "Patients per centre", columns, tuple(rows), note),)


def _described(name: str, columns: list[Any]) -> list[tuple[str, list[str]]]:
    import pandas as pd

    known = columns[0].dropna()
    if not len(known):
        return [(name, ["–"] * len(columns))]
    numeric = pd.to_numeric(known, errors="coerce").notna().all()
    values = set(pd.to_numeric(known)) if numeric else set(known)
    if numeric and not values <= {0, 1}:
        return [(name, [_quartiles(c.dropna().astype(float).to_numpy()) for c in columns])]
    levels = [1.0] if numeric else sorted(values)
    if len(levels) > 8:
        return [(name, [f"{c.nunique()} values" for c in columns])]
    return [
        (name if numeric else f"{name}: {level}", [_share(c.dropna(), level) for c in columns])
        for level in levels
    ]


def _quartiles(values: Any) -> str:
    if not values.size:
        return "–"
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _share(values: Any, level: object) -> str:
    n = int((values == level).sum())
    return f"{n} ({n / len(values):.0%})" if len(values) else "–"
