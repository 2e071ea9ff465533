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
from ichnos.evidence.metrics.regression import Fit, ModelKind, fit
from ichnos.evidence.tables import Cell, Table, p_value
from ichnos.studies.ryu2025.design import RISK_FACTORS, WHITE_MATTER_WAYS
from ichnos.studies.shared.page import cell, comparison
from ichnos.studies.shared.rows import PatientRow, determined, known_number

_SPARE = 4  # patients more than terms, without whom a regression is not tried
_IMPUTATIONS = 10
_OUTCOME_TERMS = {"ln_volume": "per ln(1 + mL)", "male": "male", "earlier_stroke": "earlier stroke"}
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
    terms = [name for name in RISK_FACTORS if table[name].nunique() > 1]
    models = _Models(table, terms)
    out = [_line(f"ln(1 + mL) per unit of {term}", partial(models.of_risk, term)) for term in terms]
    out += [
        _line(f"odds of a worse mRS at 90 days: {title}", partial(models.of_outcome, term))
        for term, title in _OUTCOME_TERMS.items()
        if term in ("ln_volume", *terms)
    ]
    out.append(_line("Brant's test of proportional odds", models.brant, "not reported"))
    absent = [name for name in RISK_FACTORS if name not in terms]
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
    names = [name for name in (*RISK_FACTORS, "nihss", "mrs_90d") if name != "male"]
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


class _Models:
    """The models of one table; each is fitted once, though several of its terms are shown."""

    def __init__(self, table: pd.DataFrame, terms: Sequence[str]) -> None:
        self.table = table
        self.risk = f"ln_volume ~ {' + '.join(terms)}"
        self.outcome = f"mrs_90d ~ ln_volume + nihss + {' + '.join(terms)}"
        self.fits: dict[tuple[str, str], Fit] = {}

    def of_risk(self, term: str, key: str) -> Cell:
        """Return the adjusted effect of a risk factor on the volume that `key` names."""
        return self._effect("linear", self.risk, key, term)

    def of_outcome(self, term: str, key: str) -> Cell:
        """Return the adjusted odds of a worse outcome for a unit of a term."""
        return self._effect("ordinal", self.outcome, key, term)

    def brant(self, key: str) -> str:
        """Return the test whether these odds are the same at every cut of the Rankin scale."""
        found = proportional_odds_test(self.outcome, self._prepared(self.outcome, key))
        return f"χ² {found.chi2:.1f} ({found.freedom}), p {p_value(found.p)}"

    def _prepared(self, formula: str, key: str) -> pd.DataFrame:
        terms, volumes = formula.count("+") + 1, self.table[key]
        if volumes.notna().sum() < terms + _SPARE:
            raise InputRefused(
                f"{int(volumes.notna().sum())} patients are too few for {terms} terms; {terms + _SPARE} are"
                " the least"
            )
        wanted = [name for name in (*RISK_FACTORS, "nihss", "mrs_90d") if name in formula]
        data = self.table.assign(ln_volume=np.log1p(volumes))[[*wanted, "ln_volume"]]
        return data.dropna(subset=["ln_volume"])

    def _effect(self, kind: ModelKind, formula: str, key: str, term: str) -> Estimate:
        """Return an adjusted effect, over imputations where facts are missing."""
        at = (formula, key)
        if at not in self.fits:
            self.fits[at] = _fitted(kind, formula, self._prepared(formula, key))
        return determined(self.fits[at], term, of="patients")


def _fitted(kind: ModelKind, formula: str, data: pd.DataFrame) -> Fit:
    if not data.isna().any().any():
        return fit(kind, formula, data)
    rng = np.random.default_rng(0)
    filled = impute(data, list(data.columns), imputations=_IMPUTATIONS, rng=rng)
    return fit_imputed(partial(fit, kind, formula), filled)
