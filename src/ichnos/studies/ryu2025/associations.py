"""What the volume of leukoaraiosis says about patients in Ryu 2025: who has more, and how they fare."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.imputation import impute
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.metrics.pooling import fit_imputed
from ichnos.evidence.metrics.proportional_odds import proportional_odds_test
from ichnos.evidence.metrics.regression import ModelKind, fit
from ichnos.evidence.tables import Cell, Table, p_value
from ichnos.studies.ryu2025.design import RISK, WHITE_MATTER_WAYS
from ichnos.studies.shared.page import cell, comparison
from ichnos.studies.shared.rows import PatientRow, adjusted_effect, known_number

_SPARE = 4  # patients more than terms, without whom a regression is not tried
_IMPUTATIONS = 10
_PAPER = "associated; size not at hand"
_VOLUMES = {
    "volume": WHITE_MATTER_WAYS["volume"],
    "threshold": WHITE_MATTER_WAYS["threshold"],
    "true": "limit",
}


def association_table(rows: Sequence[PatientRow]) -> Table:
    """Who has more of it, and how they fare; each term adjusted for the others."""
    if not rows:
        raise InputRefused("no patient is left to look at; see the contact sheets of the transfer")
    table = risk_frame(rows)
    terms = [name for name in RISK if table[name].nunique() > 1]
    out = [_line(f"ln(1 + mL) per unit of {term}", partial(_of_risk, table, terms, term)) for term in terms]
    out += [
        _line(f"odds of a worse mRS at 90 days: {title}", partial(_of_outcome, table, terms, term))
        for term, title in (("", "per ln(1 + mL)"), ("male", "male"), ("earlier_stroke", "earlier stroke"))
        if not term or term in terms
    ]
    out.append(_line("Brant's test of proportional odds", partial(_brant, table, terms), "not reported"))
    absent = [name for name in RISK if name not in terms]
    missing = int(table[[*terms, "nihss", "mrs_90d"]].isna().any(axis=1).sum())
    note = (
        "limit: with the simulation's true volume. The mRS model holds age, sex, NIHSS and the risk factors."
        + (f" Not in the cohort, or the same in all: {', '.join(absent)}." if absent else "")
        + (
            f" {missing} patients lack a fact; {_IMPUTATIONS} multiple imputations, pooled by Rubin's rules."
            if missing
            else " No patient lacks a fact, so that nothing was imputed."
        )
    )
    return comparison("associations", f"Associations in {len(rows)} clinical patients", out, note=note)


def risk_frame(rows: Sequence[PatientRow]) -> pd.DataFrame:
    """Return volumes, risk factors and outcome of each patient as numbers; NaN where not known."""
    names = [name for name in (*RISK, "nihss", "mrs_90d") if name != "male"]
    sexes = {"m": 1.0, "f": 0.0}
    return pd.DataFrame(
        [
            {
                **{name: known_number(row.get(name)) for name in names},
                **{key: known_number(row.get(f"{key}_ml")) for key in _VOLUMES},
                "male": sexes.get(str(row.get("sex")), float("nan")),
            }
            for row in rows
        ]
    )


def _line(measure: str, compute: Any, paper: str = _PAPER) -> dict[str, Cell]:
    return {
        "measure": measure,
        "paper": paper,
        **{title: cell(partial(compute, key)) for key, title in _VOLUMES.items()},
    }


def _of_risk(table: pd.DataFrame, terms: Sequence[str], term: str, key: str) -> Cell:
    return _effect("linear", f"ln_volume ~ {' + '.join(terms)}", table, key, term)


def _of_outcome(table: pd.DataFrame, terms: Sequence[str], term: str, key: str) -> Cell:
    return _effect("ordinal", _outcome_formula(terms), table, key, term or "ln_volume")


def _outcome_formula(terms: Sequence[str]) -> str:
    return f"mrs_90d ~ ln_volume + nihss + {' + '.join(terms)}"


def _prepared(formula: str, table: pd.DataFrame, key: str) -> pd.DataFrame:
    terms = formula.count("+") + 1
    if table[key].isna().all() or len(table) < terms + _SPARE:
        raise InputRefused(
            f"{int(table[key].notna().sum())} patients are too few for {terms} terms; {terms + _SPARE} are"
            " the least"
        )
    wanted = [name for name in (*RISK, "nihss", "mrs_90d") if name in formula]
    return table.assign(ln_volume=np.log1p(table[key]))[[*wanted, "ln_volume"]].dropna(subset=["ln_volume"])


def _effect(kind: ModelKind, formula: str, table: pd.DataFrame, key: str, term: str) -> Estimate:
    """Return an adjusted effect, over imputations where facts are missing."""
    data = _prepared(formula, table, key)
    if not data.isna().any().any():
        return adjusted_effect(kind, formula, data, term, of="patients")
    filled = impute(data, list(data.columns), imputations=_IMPUTATIONS, rng=np.random.default_rng(0))
    return fit_imputed(partial(fit, kind, formula), filled).effect(term).estimate


def _brant(table: pd.DataFrame, terms: Sequence[str], key: str) -> str:
    formula = _outcome_formula(terms)
    found = proportional_odds_test(formula, _prepared(formula, table, key))
    return f"χ² {found.chi2:.1f} ({found.freedom}), p {p_value(found.p)}"
