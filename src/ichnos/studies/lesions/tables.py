"""The tables of the lesion study: variance explained, effects, sides, ranks, Rankin scale at discharge."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.evidence.metrics.agreement import spearman
from ichnos.evidence.metrics.discrimination import auc, holm
from ichnos.evidence.metrics.intervals import Estimate, bootstrap
from ichnos.evidence.metrics.regression import fit
from ichnos.evidence.tables import Cell, Table
from ichnos.studies.lesions.injuries import MEASURES
from ichnos.studies.shared.page import cell, comparison

REPEATS = 1000
INDEPENDENT = 2  # Rankin grades up to this one mean that daily life is managed without help
_ADJUSTED = {"age, volume": ("age", "log_volume"), "age, sex, volume": ("age", "male", "log_volume")}
_NAMES = {"log_volume": "lesion volume", **MEASURES}


def people_table(rows: Sequence[dict[str, float]]) -> Any:
    """Return the rows as a pandas table with the columns that the models name."""
    import pandas as pd

    table = pd.DataFrame(list(rows))
    table["log_nihss"] = np.log1p(table["nihss"])
    table["log_volume"] = np.log1p(table["volume_ml"])
    for name in MEASURES:
        deviation = float(table[name].std(ddof=0))
        table[f"{name}_sd"] = table[name] / deviation if deviation > 0 else 0.0
    return table


def nihss_table(table: Any, *, seed: int = 0) -> Table:
    """Lay out what each measure adds to the variance of ln(1 + NIHSS) that age, sex and volume explain."""
    rows: list[dict[str, Cell]] = []
    for title, covariates in _ADJUSTED.items():
        data = table.dropna(subset=[*covariates, "nihss"])
        rows.append(
            {"adjusted for": title, "measure": "volume alone", **_explained(data, covariates, (), seed)}
        )
        effects = [_effect(data, covariates, name) for name in MEASURES]
        corrected = holm([p for _, p in effects])
        for name, (estimate, _), p in zip(MEASURES, effects, corrected, strict=True):
            explained = _explained(data, covariates, (name,), seed)
            row = {"adjusted for": title, "measure": MEASURES[name], **explained}
            rows.append({**row, "coefficient per SD": estimate, "p (Holm)": _p(float(p))})
    return comparison(
        "nihss",
        "What the tract adds: linear models of ln(1 + NIHSS)",
        rows,
        note="Volume enters as ln(1 + mL). R² and added R² with percentile intervals over resampled people"
        f" ({REPEATS} resamples); coefficients with 95 % intervals.",
    )


def side_table(table: Any, *, seed: int = 0) -> Table:
    """Lay out the same for people whose lesion lies in the left and in the right hemisphere."""
    rows: list[dict[str, Cell]] = []
    covariates = _ADJUSTED["age, sex, volume"]
    for side, part in (
        ("left", table[table["left_share"] > 0.5]),
        ("right", table[table["left_share"] <= 0.5]),
    ):
        data = part.dropna(subset=[*covariates, "nihss"])
        for name, label in MEASURES.items():
            row: dict[str, Cell] = {"lesion": side, "people": len(data), "measure": label}
            row |= _explained(data, covariates, (name,), seed)
            row["coefficient per SD"] = cell(partial(_coefficient, data, covariates, name))
            rows.append(row)
    return comparison(
        "sides", "Left and right lesions, adjusted for age, sex and volume: ln(1 + NIHSS)", rows
    )


def rank_table(table: Any) -> Table:
    """Lay out rank correlations with NIHSS and with the Rankin scale at discharge, volume alone first."""
    rows: list[dict[str, Cell]] = []
    for name, label in _NAMES.items():
        row: dict[str, Cell] = {"measure": label}
        for outcome, title in (("nihss", "NIHSS"), ("rankin", "Rankin at discharge")):
            data = table.dropna(subset=[outcome])
            row[f"Spearman with {title}"] = cell(partial(spearman, data[name], data[outcome]))
        data = table.dropna(subset=["rankin"])
        row[f"AUC, Rankin > {INDEPENDENT}"] = cell(partial(_area, data["rankin"] > INDEPENDENT, data[name]))
        rows.append(row)
    return comparison("ranks", "Each measure alone", rows)


def rankin_table(table: Any) -> Table:
    """Lay out common odds ratios of a worse Rankin grade at discharge, adjusted for age, sex and volume."""
    covariates = _ADJUSTED["age, sex, volume"]
    data = table.dropna(subset=[*covariates, "rankin"])
    rows: list[dict[str, Cell]] = []
    for name, label in MEASURES.items():
        odds = cell(partial(_odds_ratio, data, covariates, name))
        rows.append({"measure": label, "people": len(data), "common odds ratio per SD": odds})
    return comparison(
        "rankin", "Rankin scale at discharge (6 is death), adjusted for age, sex and volume", rows
    )


def r_squared(outcome: Floats, columns: Floats) -> float:
    """Return the share of variance that a linear model with intercept explains.

    >>> x = np.arange(10.0)
    >>> round(r_squared(2 * x + 1, x[:, None]), 6)
    1.0
    """
    design = np.column_stack([np.ones(len(outcome)), columns])
    residual = outcome - design @ np.linalg.lstsq(design, outcome, rcond=None)[0]
    return 1 - float(residual @ residual) / float(((outcome - outcome.mean()) ** 2).sum())


def _explained(data: Any, covariates: tuple[str, ...], added: tuple[str, ...], seed: int) -> dict[str, Cell]:
    """Return R² of a model and what the added measures add to it, with bootstrap intervals."""
    outcome = data["log_nihss"].to_numpy(float)
    base, whole = (data[list(names)].to_numpy(float) for names in (covariates, (*covariates, *added)))

    def resampled(statistic: Any) -> Cell:
        return cell(
            lambda: bootstrap(
                statistic, np.zeros(len(outcome)), rng=np.random.default_rng(seed), repeats=REPEATS
            )
        )

    row: dict[str, Cell] = {"R²": resampled(lambda i: r_squared(outcome[i], whole[i]))}
    if added:
        row["added R²"] = resampled(
            lambda i: r_squared(outcome[i], whole[i]) - r_squared(outcome[i], base[i])
        )
    return row


def _coefficient(data: Any, covariates: tuple[str, ...], name: str) -> Estimate:
    return _effect(data, covariates, name)[0]


def _odds_ratio(data: Any, covariates: tuple[str, ...], name: str) -> Estimate:
    formula = f"rankin ~ {' + '.join(covariates)} + {name}_sd"
    return fit("ordinal", formula, data).effect(f"{name}_sd").estimate


def _area(dependent: Any, score: Any) -> Estimate:
    area = auc(dependent, score)
    return Estimate(area.value, area.low, area.high, area.n)


def _effect(data: Any, covariates: tuple[str, ...], name: str) -> tuple[Estimate, float]:
    effect = fit("linear", f"log_nihss ~ {' + '.join(covariates)} + {name}_sd", data).effect(f"{name}_sd")
    return effect.estimate, effect.p


def _p(value: float) -> str:
    return f"{value:.1e}" if value < 1e-3 else f"{value:.3f}"
