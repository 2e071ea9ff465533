"""Adjusted effects: logistic, ordinal, linear and Cox models over a table of cases, with interactions, and
their forest of estimates.

Formulas are those of R and patsy: "mrs_shift ~ injury * surgery + age_years". Fits are statsmodels'; this
module names the failures, takes the effects to the scale on which journals print them, and adds the test of
proportional odds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import LEVEL, Estimate, normal_quantile

ModelKind = Literal["logistic", "ordinal", "linear", "cox"]
EFFECT_NAMES: Mapping[ModelKind, str] = {
    "logistic": "odds ratio",
    "ordinal": "common odds ratio",
    "linear": "coefficient",
    "cox": "hazard ratio",
}
EVENTS_PER_TERM = 10  # fewer make estimates unstable (Peduzzi 1996); flagged, not refused


@dataclass(frozen=True)
class Effect:
    """One term of a model."""

    term: str
    coefficient: float  # log odds, log hazard, or units of the outcome
    se: float
    p: float
    estimate: Estimate  # on the printed scale: a ratio, or the coefficient itself for a linear model


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model."""

    kind: ModelKind
    formula: str
    effects: tuple[Effect, ...]  # without intercept and thresholds
    n: int  # rows used
    dropped: int  # rows left out because a value is missing
    events: int  # cases of the rarer outcome; for linear models the rows
    log_likelihood: float
    covariance: Floats  # (terms, terms), in the order of `effects`
    warnings: tuple[str, ...] = ()

    @property
    def effect_name(self) -> str:
        """Return what the estimates are: "odds ratio" and so on."""
        return EFFECT_NAMES[self.kind]

    def effect(self, term: str) -> Effect:
        """Return one term by name, or refuse with the names there are."""
        for effect in self.effects:
            if effect.term == term:
                return effect
        raise InputRefused(
            f"the model has no term {term!r}; its terms are {', '.join(e.term for e in self.effects)}"
        )


def fit(kind: ModelKind, formula: str, table: Any, *, time: str | None = None, level: float = LEVEL) -> Fit:
    """Fit a model to a pandas table; rows with a missing value are left out and counted.

    For "cox" the outcome is the event column (0/1), and `time` names the column of follow-up times.
    """
    data, dropped = complete_rows(formula, table, time)
    outcome, design = design_matrices(formula, data)
    _check_outcome(kind, formula, outcome)
    design = design.drop(columns="Intercept", errors="ignore")
    n, k = len(data), design.shape[1]
    _check_terms(formula, n, k)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = _fitted(kind, formula, outcome, design, data[time].to_numpy(float) if time else None)
        spread = _covariance(result, formula, n)
    # their intercept comes first; ordinal thresholds come last
    terms = slice(1, k + 1) if kind in ("logistic", "linear") else slice(k)
    coefficient, covariance = np.asarray(result.params)[terms], spread[terms, terms]
    freedom = result.df_resid if kind == "linear" else None
    effects = tuple(
        _effect(name, coefficient[i], covariance[i, i], kind, n, freedom, level)
        for i, name in enumerate(design.columns)
    )
    events = _rarer(outcome) if kind in ("logistic", "cox") else n
    told = _warned(caught, effects, events, k)
    return Fit(kind, formula, effects, n, dropped, events, float(result.llf), covariance, told)


def _check_terms(formula: str, rows: int, terms: int) -> None:
    if terms == 0:
        raise InputRefused(f"{formula!r} has no term on its right side; name at least one column")
    if rows <= terms + 1:
        raise InputRefused(
            f"{rows} rows are too few for the {terms} terms of {formula!r}; give more rows, or take out a"
            " term"
        )


def _covariance(result: Any, formula: str, rows: int) -> Floats:
    """Return the covariance of the estimates, or say that there is none."""
    try:
        return np.asarray(result.cov_params())
    except (ValueError, np.linalg.LinAlgError):
        raise InputRefused(
            f"the likelihood of {formula!r} has no single maximum in {rows} rows, so its effects have no"
            " interval; take out a term"
        ) from None


def complete_rows(formula: str, table: Any, time: str | None) -> tuple[Any, int]:
    """Return the rows that have every value a formula needs, and how many were left out."""
    from patsy import EvalFactor, ModelDesc

    wanted = {time} if time else set()
    description = ModelDesc.from_formula(formula)
    factors = [f for term in (*description.lhs_termlist, *description.rhs_termlist) for f in term.factors]
    text = " ".join(f.code for f in factors if isinstance(f, EvalFactor))
    wanted |= {column for column in table.columns if _mentions(text, str(column))}
    if not factors or any(
        not any(_mentions(f.code, str(c)) for c in table.columns)
        for f in factors
        if isinstance(f, EvalFactor)
    ):
        raise InputRefused(
            f"{formula!r} names a column that the table does not have; it has"
            f" {', '.join(map(str, table.columns))}"
        )
    kept = table.dropna(subset=sorted(wanted))
    if len(kept) < 5:
        raise InputRefused(
            f"only {len(kept)} of {len(table)} rows have every value that {formula!r} needs; impute or take"
            " out a column"
        )
    return kept, len(table) - len(kept)


def _mentions(text: str, column: str) -> bool:
    import re

    return re.search(rf"(?<![\w.]){re.escape(column)}(?![\w.])", text) is not None


def design_matrices(formula: str, data: Any) -> tuple[Floats, Any]:
    """Return the outcome (n,) and the design matrix of a formula, or refuse a constant or textual column."""
    from patsy import PatsyError, dmatrices

    try:
        left, right = dmatrices(formula, data, return_type="dataframe")
    except (PatsyError, NameError) as error:
        raise InputRefused(
            f"the formula {formula!r} cannot be used on this table: {str(error).splitlines()[0]}"
        ) from None
    if left.shape[1] != 1:
        raise InputRefused(f"the outcome of {formula!r} is text; code it as numbers first")
    constant = [c for c in right.columns if c != "Intercept" and right[c].nunique() < 2]
    if constant:
        raise InputRefused(
            f"{', '.join(constant)} has the same value in every row of {formula!r}, so it has no effect to"
            " estimate"
        )
    return left.iloc[:, 0].to_numpy(float), right


def _check_outcome(kind: ModelKind, formula: str, outcome: Floats) -> None:
    values = np.unique(outcome)
    if kind in ("logistic", "cox") and not np.isin(values, (0, 1)).all():
        raise InputRefused(
            f"the outcome of {formula!r} must be 0 or 1 for a {kind} model; it holds {values[:5].tolist()}"
        )
    if kind == "cox" and 1 not in values:
        raise InputRefused(f"no row of {formula!r} has an event, so there is no hazard to compare")
    if kind != "cox" and values.size < 2:
        raise InputRefused(f"the outcome of {formula!r} has the same value in every row")


def _fitted(kind: ModelKind, formula: str, outcome: Floats, design: Any, time: Floats | None) -> Any:
    import statsmodels.api as sm
    from statsmodels.miscmodels.ordinal_model import OrderedModel
    from statsmodels.tools.sm_exceptions import PerfectSeparationError

    _check_rank(formula, sm.add_constant(design.to_numpy(float), has_constant="add"))
    if kind == "linear":
        return sm.OLS(outcome, sm.add_constant(design)).fit()
    if kind == "cox":
        if time is None:
            raise InputRefused("a Cox model needs the name of the column with follow-up times")
        return sm.PHReg(time, design, status=outcome, ties="efron").fit()
    try:
        if kind == "logistic":
            return sm.Logit(outcome, sm.add_constant(design)).fit(disp=0, maxiter=100)
        ordinal = OrderedModel(outcome.astype(int), design.to_numpy(float), distr="logit")
        return ordinal.fit(method="bfgs", disp=0, maxiter=500)
    except (PerfectSeparationError, np.linalg.LinAlgError):
        raise InputRefused(
            f"a column of {formula!r} separates the outcomes perfectly, so its effect has no finite estimate"
        ) from None


def _check_rank(formula: str, columns: Floats) -> None:
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        raise InputRefused(
            f"the columns of {formula!r} depend on each other (one is a sum of others), so their effects"
            " cannot be told apart"
        )


def _effect(
    name: str,
    coefficient: float,
    variance: float,
    kind: ModelKind,
    n: int,
    freedom: float | None,
    level: float,
) -> Effect:
    from scipy import stats

    se = float(np.sqrt(variance)) if variance >= 0 else float("nan")
    quantile = normal_quantile(level) if freedom is None else float(stats.t.ppf(0.5 + level / 2, freedom))
    p = 2 * (
        stats.norm.sf(abs(coefficient / se))
        if freedom is None
        else stats.t.sf(abs(coefficient / se), freedom)
    )
    bounds = np.array([coefficient, coefficient - quantile * se, coefficient + quantile * se])
    value, low, high = bounds if kind == "linear" else np.exp(np.clip(bounds, -700, 700))
    return Effect(
        str(name), float(coefficient), se, float(p), Estimate(float(value), float(low), float(high), n, level)
    )


def _rarer(outcome: Floats) -> int:
    return int(min(outcome.sum(), outcome.size - outcome.sum()))


def _warned(
    caught: Sequence[warnings.WarningMessage], effects: Sequence[Effect], events: int, terms: int
) -> tuple[str, ...]:
    sentences = []
    if any("Convergence" in w.category.__name__ for w in caught):
        sentences.append("the fit did not converge; its estimates are not to be trusted")
    wide = [e.term for e in effects if not np.isfinite(e.se) or e.se > 50]
    if wide or any("PerfectSeparation" in w.category.__name__ for w in caught):
        sentences.append(
            f"the outcome is (nearly) separated by {', '.join(wide) or 'a column'}: that estimate is not"
            " finite"
        )
    if events < EVENTS_PER_TERM * terms:
        sentences.append(
            f"{events} cases of the rarer outcome for {terms} terms are fewer than {EVENTS_PER_TERM} per term"
        )
    return tuple(sentences)
