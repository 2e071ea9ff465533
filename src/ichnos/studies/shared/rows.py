"""From rows of patients to cells of a table, and where the numbers of a page come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ichnos.cohort import Cohort
from ichnos.errors import InputRefused
from ichnos.evidence.metrics import regression
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.metrics.resampling import bca_mean
from ichnos.evidence.tables import Cell
from ichnos.models import Model
from ichnos.studies.shared.budget import StudyBudget, hardware_of, time_spent
from ichnos.studies.shared.page import cell

PatientRow = Mapping[str, Any]
_LEAST_FOR_INTERVAL = 3
_BEYOND = 1e4  # an odds ratio or its inverse that says that the data do not determine it


def known_number(text: object) -> float:
    """Return a known_number as it stands in a table; NaN for what is not known.

    >>> known_number("3.5"), known_number("")
    (3.5, nan)
    """
    try:
        return float(str(text))
    except ValueError:
        return float("nan")


def paired_columns(rows: Sequence[PatientRow], first: str, second: str) -> tuple[list[float], list[float]]:
    """Return two columns of the rows that have both.

    >>> paired_columns([{"a": "1", "b": "2"}, {"a": "3", "b": ""}], "a", "b")
    ([1.0], [2.0])
    """
    pairs = [(known_number(row.get(first)), known_number(row.get(second))) for row in rows]
    kept = [(a, b) for a, b in pairs if np.isfinite(a) and np.isfinite(b)]
    return [a for a, _ in kept], [b for _, b in kept]


def adjusted_effect(kind: regression.ModelKind, formula: str, table: Any, term: str, *, of: str) -> Estimate:
    """Return an adjusted effect; where patients do not determine it, say so in words that do not need the
    formula.
    """
    try:
        model = regression.fit(kind, formula, table)
        return determined(model, term, of=of)
    except InputRefused:
        raise InputRefused(_too_few(len(table), of)) from None


def determined(model: regression.Fit, term: str, *, of: str) -> Estimate:
    """Return an effect of a fitted model; an odds ratio that the data leave open is refused in words."""
    found = model.effect(term).estimate
    if model.kind != "linear" and not 1 / _BEYOND < found.low < found.high < _BEYOND:
        raise InputRefused(_too_few(model.n, of))
    return found


def _too_few(patients: int, of: str) -> str:
    return f"{patients} {of} do not determine it: too few, or too alike, for its terms"


def column_mean(rows: Sequence[PatientRow], column: str, *, of: str) -> Cell:
    """Return the mean of a column with its interval, or why there is none.

    >>> column_mean([{"dice": "0.5"}, {"dice": ""}, {"dice": "0.75"}], "dice", of="a mask").value
    0.625
    """
    values = [value for row in rows if np.isfinite(value := known_number(row.get(column)))]
    if not values:
        return f"no patient with {of}"
    if len(values) < _LEAST_FOR_INTERVAL:
        return Estimate(float(np.mean(values)), float("nan"), float("nan"), len(values))
    return cell(lambda: bca_mean(values))


def page_provenance(
    cohort: Cohort, budget: StudyBudget, models: Mapping[str, Model]
) -> dict[str, str | float | int]:
    """Return where the numbers of a page come from."""
    weights = {
        name: f"{m.manifest.weights_sha256[:16]}, step {m.manifest.provenance.steps}"
        for name, m in models.items()
    }
    splits = {
        split or "no split": sum(p.split == split for p in cohort)
        for split in dict.fromkeys(p.split for p in cohort)
    }
    return {
        "patients": ", ".join(f"{count} {split}" for split, count in splits.items()),
        "scale": (
            "own cohort"
            if budget.scale is None and not budget.smoke
            else ("smoke" if budget.smoke else f"{budget.scale:g}")
        ),
        "smoke": int(budget.smoke),
        "recipe": _recipe_words(budget),
        "parts": ", ".join(budget.parts) or "all",
        "seeds": budget.seeds,
        "seed": budget.seed,
        "hardware": hardware_of(budget),
        **time_spent(budget),
        **{f"weights of {name}": told for name, told in weights.items()},
    }


def _recipe_words(budget: StudyBudget) -> str:
    if budget.smoke:
        return "a few steps"
    changes = budget.recipe.networks
    changed = [f"{name}: {', '.join(f'{k} {v}' for k, v in how.items())}" for name, how in changes.items()]
    return "; ".join([budget.recipe.base, *changed])


def plain_cells(row: Mapping[str, Cell]) -> dict[str, Any]:
    """Return a row's cells as plain values, for the stored run; `cells_of` gives them back.

    >>> plain_cells({"AUC": Estimate(0.8, 0.7, 0.9, 50)})["AUC"]["value"]
    0.8
    """
    return {name: asdict(cell) if isinstance(cell, Estimate) else cell for name, cell in row.items()}


def cells_of(row: Mapping[str, Any]) -> dict[str, Cell]:
    """Return the cells of a stored row.

    >>> cells_of(plain_cells({"AUC": Estimate(0.8, 0.7, 0.9, 50)}))["AUC"].n
    50
    """
    return {
        name: Estimate(**_numbers(cell)) if isinstance(cell, dict) else cell for name, cell in row.items()
    }


def _numbers(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float("nan") if value is None else value for name, value in stored.items()}


CompareWay = Callable[[str], Cell]  # column of a way to read -> what its cell holds


def table_row(
    measure: str, paper: Cell, ways: Mapping[str, str], compare: CompareWay, limit: Cell
) -> dict[str, Cell]:
    """Return one row: the paper's value, one cell per way to read, and what is reachable.

    >>> table_row("AUC", 0.8, {"read": "auc"}, lambda column: f"<{column}>", 0.9)
    {'measure': 'AUC', 'paper': 0.8, 'auc': '<read>', 'limit': 0.9}
    """
    return {
        "measure": measure,
        "paper": paper,
        **{title: compare(key) for key, title in ways.items()},
        "limit": limit,
    }
