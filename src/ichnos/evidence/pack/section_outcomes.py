"""Sections on yes/no outcomes: does the score separate, is the probability true, would deciding by it
help, does it beat simpler scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ichnos.clinical.expansion import DEFINITIONS
from ichnos.clinical.scores import Comparator, comparators
from ichnos.errors import InputRefused
from ichnos.evidence import figures
from ichnos.evidence.metrics.calibration import Calibration, calibration, decision_curve, logit
from ichnos.evidence.metrics.discrimination import (
    Booleans,
    auc,
    compare_paired,
    holm,
    precision_recall_auc,
    roc_curve,
)
from ichnos.evidence.metrics.intervals import Estimate, proportion
from ichnos.evidence.metrics.pooling import random_effects
from ichnos.evidence.metrics.recalibration import conformal_rates, fit_conformal, fit_recalibrator
from ichnos.evidence.metrics.regression import fit
from ichnos.evidence.metrics.thresholds import (
    OperatingPoint,
    Rates,
    at_prevalence,
    predictive_values,
    rates,
    youden_point,
)
from ichnos.evidence.pack.flags import Flag, check_centres, check_events, check_prevalence
from ichnos.evidence.pack.plan import EvidencePlan, OutcomePlan
from ichnos.evidence.pack.predictions import Study
from ichnos.evidence.pack.sections import Section
from ichnos.evidence.tables import Cell, Table, number, p_value
from ichnos.volume import Floats

LEAST_TO_ADJUST = 10  # cases of the rarer outcome, below which no adjusted model is fitted
LEAST_TO_CALIBRATE = 20  # cases of each outcome on the validation split, below which nothing is fitted there
_TITLES = {"volume": "Baseline volume", "bat": "BAT", "brain": "BRAIN", "hep": "HEP"}


@dataclass(frozen=True, eq=False)
class _Data:
    """One outcome with its score on the evaluated cases, and on the validation split."""

    plan: OutcomePlan
    events: Booleans
    score: Floats
    rows: Any  # pandas: the evaluated cases, complete for this outcome
    left_out: int
    tuning_events: Booleans  # empty where there is no validation split
    tuning_score: Floats

    @property
    def can_tune(self) -> bool:
        enough = min(int(self.tuning_events.sum()), int((~self.tuning_events).sum())) >= LEAST_TO_CALIBRATE
        return enough and bool(np.ptp(self.tuning_score) > 0)

    @property
    def is_probability(self) -> bool:
        every = np.concatenate([self.score, self.tuning_score])
        return bool((every >= 0).all() and (every <= 1).all())


def outcome_sections(study: Study) -> tuple[Section, ...]:
    """Return one section for each planned outcome whose probability the predictions hold."""
    found = []
    for plan in study.plan.outcomes:
        if f"predicted_{plan.probability}" not in study.table.columns:
            continue
        title = f"Outcome: {plan.name}"
        try:
            found.append(_section(_data(study, plan), study, title))
        except InputRefused as refusal:
            found.append(
                Section(
                    plan.name,
                    title,
                    (f"Not evaluated: {refusal}.",),
                    flags=(Flag("alarm", "not_evaluated", str(refusal)),),
                )
            )
    return tuple(found)


def truth_of(plan: EvidencePlan, outcome: OutcomePlan, table: Any) -> Floats:
    """Return the 0/1 outcome of each row (NaN unknown): a column, or haematoma expansion by its
    definition.
    """
    import pandas as pd

    if outcome.truth:
        if outcome.truth not in table.columns:
            raise InputRefused(
                f"the outcome {outcome.name} needs the column {outcome.truth!r}, which the cohort does not"
                " have"
            )
        values: Floats = pd.to_numeric(table[outcome.truth], errors="coerce").to_numpy(float)
        return values
    definition = DEFINITIONS[plan.expansion]
    needed = [
        *plan.volume_columns,
        *(plan.ivh_columns if definition.ivh_growth_at_least_ml is not None else ()),
    ]
    lacking = [c for c in needed if c not in table.columns]
    if lacking:
        raise InputRefused(
            f"expansion ({definition.name}) needs the column(s) {', '.join(lacking)}, which the cohort does"
            " not have; name the columns with the volumes in the plan's volume_columns and ivh_columns"
        )
    volumes = [pd.to_numeric(table[c], errors="coerce").to_numpy(float) for c in needed]
    return np.where(
        volumes[0] > 0, definition(*volumes), np.nan
    )  # without a bleed there is nothing to expand


def _data(study: Study, plan: OutcomePlan) -> _Data:
    import pandas as pd

    column = f"predicted_{plan.probability}"

    def known(table: Any) -> tuple[Booleans, Floats, Any]:
        if not len(table) or column not in table.columns:
            return np.zeros(0, bool), np.zeros(0), table
        truth, score = (
            truth_of(study.plan, plan, table),
            pd.to_numeric(table[column], errors="coerce").to_numpy(float),
        )
        keep = ~np.isnan(truth) & ~np.isnan(score)
        return truth[keep] == 1, score[keep], table[keep].reset_index(drop=True)

    events, score, rows = known(study.table)
    if not events.size:
        raise InputRefused(f"no patient has both the outcome {plan.name} and the column {plan.probability}")
    tuning_events, tuning_score, _ = known(study.calibration_table)
    return _Data(plan, events, score, rows, len(study.table) - events.size, tuning_events, tuning_score)


def _section(data: _Data, study: Study, title: str) -> Section:
    name, plan = data.plan.name, study.plan
    rng = np.random.default_rng(plan.seed)
    area = auc(data.events, data.score)
    pr = precision_recall_auc(data.events, data.score, rng=rng, repeats=plan.bootstrap_repeats)
    point = _point(data, plan)
    decided = rates(data.events, data.score, point)
    rivals = (
        comparators(data.rows, columns=plan.score_columns, hep_points=plan.hep_points)
        if not data.plan.truth
        else ()
    )
    against, curves, rival_notes = _against(data, rivals)
    prevalence = proportion(int(data.events.sum()), data.events.size)
    tables = [_rates_table(name, decided, prevalence), against]
    curves = {"model": (roc_curve(data.events, data.score), f"model {area}"), **curves}
    drawn = [
        figures.roc_figure(f"roc_{name}", curves, caption=f"{name}: ROC curves with area and 95 % interval.")
    ]
    flags = [
        check_events(name, area.events, area.n - area.events),
        check_centres(name, data.events, data.rows["centre"]),
    ]
    if np.ptp(data.score) == 0:
        flags.append(
            Flag(
                "alarm",
                "constant_score",
                f"{name}: every case has the same score, so the model separates nothing.",
            )
        )
    per_centre, forest = _per_centre(data)
    tables += per_centre
    drawn += forest
    numbers: dict[str, Any] = {
        "auc": area,
        "pr_auc": pr,
        "prevalence": prevalence,
        "rates": decided,
        "threshold": point.threshold,
    }
    methods = [_methods(data, plan, point)]
    if data.is_probability:
        made = _probabilities(data, plan)
        tables, drawn = [*tables, *made.tables], [*drawn, *made.figures]
        flags += [*made.flags, check_prevalence(name, data.events, data.score, plan.training_prevalence)]
        methods += made.methods
        numbers |= made.numbers
    else:
        flags.append(
            Flag(
                "note",
                "no_probability",
                f"{name}: the score is not a probability (0 to 1), so calibration and net benefit are left"
                " out.",
            )
        )
    adjusted = _adjusted(data)
    if adjusted is not None:
        tables, drawn = [*tables, adjusted[0]], [*drawn, adjusted[1]]
        methods.append("The score's effect adjusted for clinical facts is from logistic regression.")
    text = [
        f"{area.events} events in {area.n} patients ({prevalence.value:.1%}). AUC {area}; average precision"
        f" {pr}."
    ]
    if data.left_out:
        text.append(f"{data.left_out} patients are left out because outcome or prediction is not known.")
    if point.chosen_on == "evaluated":
        flags.append(
            Flag(
                "warn",
                "threshold",
                f"{name}: too few validation cases, so the threshold was chosen on the evaluated ones: its"
                " rates are optimistic.",
            )
        )
    kept = tuple(flag for flag in flags if flag is not None)
    return Section(
        name, title, (*text, *rival_notes), tuple(tables), tuple(drawn), kept, tuple(methods), numbers
    )


def _point(data: _Data, plan: EvidencePlan) -> OperatingPoint:
    if plan.threshold is not None:
        return OperatingPoint(plan.threshold, "given", "beforehand")
    if data.can_tune:
        return youden_point(data.tuning_events, data.tuning_score, chosen_on="validation")
    return youden_point(data.events, data.score, chosen_on="evaluated")


def _methods(data: _Data, plan: EvidencePlan, point: OperatingPoint) -> str:
    outcome = (
        f"Haematoma expansion was defined as growth {DEFINITIONS[plan.expansion].name}. "
        if not data.plan.truth
        else ""
    )
    how = {"given": "given beforehand", "youden": f"chosen by Youden's index on the {point.chosen_on} cases"}[
        point.rule
    ]
    return (
        f"{outcome}Discrimination for {data.plan.name} is the area under the ROC curve with DeLong's standard"
        " error and a logit interval, and average precision with a bootstrap interval"
        f" ({plan.bootstrap_repeats} resamples within class). The threshold {number(point.threshold)} was"
        f" {how}; rates carry Wilson intervals. Scores were compared by DeLong's paired test with Holm's"
        " correction."
    )


def _rates_table(name: str, decided: Rates, prevalence: Estimate) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            "Sensitivity",
            decided.sensitivity,
            f"{decided.true_positive} / {decided.true_positive + decided.false_negative}",
        ),
        (
            "Specificity",
            decided.specificity,
            f"{decided.true_negative} / {decided.true_negative + decided.false_positive}",
        ),
        ("PPV", decided.ppv, f"{decided.true_positive} / {decided.true_positive + decided.false_positive}"),
        ("NPV", decided.npv, f"{decided.true_negative} / {decided.true_negative + decided.false_negative}"),
        (
            "Accuracy",
            decided.accuracy,
            f"{decided.true_positive + decided.true_negative} / {decided.accuracy.n}",
        ),
        ("Prevalence", prevalence, f"{decided.true_positive + decided.false_negative} / {prevalence.n}"),
    ]
    for share in (0.1, 0.2, 0.3):
        ppv, npv = predictive_values(
            sensitivity=decided.sensitivity.value, specificity=decided.specificity.value, prevalence=share
        )
        rows.append((f"PPV, NPV at a prevalence of {share:.0%}", f"{number(ppv)}, {number(npv)}", ""))
    point = decided.point
    where = "beforehand" if point.rule == "given" else f"on the {point.chosen_on} cases"
    note = f"Threshold {number(point.threshold)}, {point.rule}, chosen {where}."
    return Table(
        f"rates_{name}",
        f"{name}: decisions at the operating point",
        ("", "Value (95 % interval)", "Cases"),
        tuple(rows),
        note,
    )


def _against(data: _Data, rivals: Sequence[Comparator]) -> tuple[Table, dict[str, Any], tuple[str, ...]]:
    """Compare the model with each simpler score on the cases that have both."""
    area = auc(data.events, data.score)
    rows: list[tuple[Cell, ...]] = [
        ("Model", area.n, area.events, Estimate(area.value, area.low, area.high, area.n), None, None, None)
    ]
    curves: dict[str, Any] = {}
    notes, tested = [], []
    for rival in rivals:
        keep = ~np.isnan(rival.values) if not rival.missing else np.zeros(0, bool)
        if rival.missing or keep.sum() < 5 or len(set(data.events[keep])) < 2:
            notes.append(
                f"{_TITLES[rival.name]} was not compared:"
                f" {rival.missing or 'too few cases have every fact it needs'}."
            )
            continue
        events, score = data.events[keep], rival.values[keep]
        other, gap = auc(events, score), compare_paired(events, data.score[keep], score)
        curves[rival.name] = (roc_curve(events, score), f"{_TITLES[rival.name]} {other}")
        tested.append(gap.p)
        difference = Estimate(gap.value, gap.low, gap.high, other.n)
        rows.append(
            (
                _TITLES[rival.name],
                other.n,
                other.events,
                Estimate(other.value, other.low, other.high, other.n),
                difference,
                p_value(gap.p),
                None,
            )
        )
    adjusted = iter(holm(tested))
    rows = [row if row[5] is None else (*row[:6], p_value(float(next(adjusted)))) for row in rows]
    columns = ("Score", "n", "Events", "AUC", "Model minus score", "p", "p (Holm)")
    note = "DeLong's interval and paired test on the cases that have both scores."
    return (
        Table(f"auc_{data.plan.name}", f"{data.plan.name}: discrimination", columns, tuple(rows), note),
        curves,
        tuple(notes),
    )


def _per_centre(data: _Data) -> tuple[list[Table], list[figures.Figure]]:
    where = data.rows["centre"].to_numpy()
    names = sorted(set(where))
    if len(names) < 2:
        return [], []
    found, skipped = [], []
    for centre in names:
        events, score = data.events[where == centre], data.score[where == centre]
        if 0 < events.sum() < events.size:
            found.append((str(centre) or "(no centre)", auc(events, score)))
        else:
            skipped.append(str(centre) or "(no centre)")
    usable = [(n, a) for n, a in found if np.isfinite(a.low) and a.se > 0]
    pooled = None
    if len(usable) >= 3:
        logits = [float(np.log(a.value / (1 - a.value))) for _, a in usable]
        pooled = random_effects(logits, [a.se / (a.value * (1 - a.value)) for _, a in usable])
    rows: list[tuple[Cell, ...]] = [
        (n, a.n, a.events, Estimate(a.value, a.low, a.high, a.n)) for n, a in found
    ]
    note = f"Centres with one outcome only are left out: {', '.join(skipped)}." if skipped else ""
    drawn = []
    if pooled is not None:
        middle, low, high = (_expit(v) for v in (pooled.pooled.value, pooled.pooled.low, pooled.pooled.high))
        summary, reach = (
            Estimate(middle, low, high, len(usable)),
            (_expit(pooled.prediction_low), _expit(pooled.prediction_high)),
        )
        rows.append(
            (
                "Mean of centres (random effects)",
                sum(a.n for _, a in usable),
                sum(a.events for _, a in usable),
                summary,
            )
        )
        if np.isfinite(reach).all():
            rows.append(
                ("Next centre (95 % prediction)", None, None, f"{number(reach[0])} to {number(reach[1])}")
            )
        caption = (
            f"{data.plan.name}: AUC per centre, their mean and the 95 % prediction interval for the next"
            " centre."
        )
        labels = [(f"{n} ({a.events}/{a.n})", Estimate(a.value, a.low, a.high, a.n)) for n, a in usable]
        pool = ("Random effects", summary)
        drawn.append(
            figures.forest_figure(
                f"forest_auc_{data.plan.name}",
                labels,
                pooled=pool,
                prediction=reach,
                axis="AUC",
                reference=0.5,
                caption=caption,
            )
        )
    columns = ("Centre", "n", "Events", "AUC")
    return [
        Table(
            f"auc_centres_{data.plan.name}",
            f"{data.plan.name}: discrimination per centre",
            columns,
            tuple(rows),
            note,
        )
    ], drawn


def _expit(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def _probabilities(data: _Data, plan: EvidencePlan) -> Section:
    """Judge the probability as it comes, and as recalibrated where that could be fitted on other cases."""
    name = data.plan.name
    kinds: dict[str, tuple[Floats, Calibration]] = {
        "as predicted": (data.score, calibration(data.events, data.score))
    }
    methods = [
        "Calibration is given by the observed to expected ratio, intercept and slope of a logistic"
        " recalibration, Brier score, expected calibration error over tenths and the integrated calibration"
        " index of a lowess curve; usefulness by decision curves."
    ]
    if data.can_tune:
        fitted = fit_recalibrator(
            data.tuning_events, logit(data.tuning_score), method="platt", fitted_on="validation"
        )
        mended = fitted(logit(data.score))
        kinds["Platt, fitted on validation"] = (mended, calibration(data.events, mended))
        methods.append("Recalibration (Platt) was fitted on the validation split and frozen.")
    if plan.training_prevalence is not None:
        target = float(data.tuning_events.mean()) if data.can_tune else float(data.events.mean())
        shifted = at_prevalence(data.score, trained_at=plan.training_prevalence, true_prevalence=target)
        kinds[f"prevalence {plan.training_prevalence:.0%} → {target:.0%}"] = (
            shifted,
            calibration(data.events, shifted),
        )
        source = "validation" if data.can_tune else "evaluated"
        methods.append(
            f"Prior odds were shifted from the training prevalence after balancing to that of the {source}"
            " patients."
        )
    conformal, told = _conformal(data, plan)
    drawn = [
        figures.calibration_figure(
            f"calibration_{name}",
            kinds["as predicted"][1],
            data.score,
            caption=f"{name}: calibration as predicted.",
        )
    ]
    if len(kinds) > 1:
        label, (p, result) = list(kinds.items())[1]
        drawn.append(
            figures.calibration_figure(
                f"calibration_recalibrated_{name}", result, p, caption=f"{name}: calibration, {label}."
            )
        )
    best = list(kinds)[1] if len(kinds) > 1 else "as predicted"
    curves = {"model": (decision_curve(data.events, kinds[best][0]), f"model, {best}")}
    prevalence = float(data.events.mean())
    drawn.append(
        figures.decision_figure(
            f"decision_{name}", curves, prevalence=prevalence, caption=f"{name}: decision curve."
        )
    )
    numbers: dict[str, Any] = {"calibration": {k: _summary(c) for k, (_, c) in kinds.items()}}
    tables = (_calibration_table(name, {k: c for k, (_, c) in kinds.items()}), *conformal)
    return Section(name, "", tables=tables, figures=tuple(drawn), methods=(*methods, *told), numbers=numbers)


def _summary(c: Calibration) -> dict[str, Any]:
    return {
        "slope": c.slope,
        "intercept": c.intercept,
        "brier": c.brier,
        "ece": c.ece,
        "ici": c.ici,
        "oe": c.observed_over_expected,
    }


def _calibration_table(name: str, kinds: Mapping[str, Calibration]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("Observed / expected", *(c.observed_over_expected for c in kinds.values())),
        ("Intercept (ideal 0)", *(c.intercept for c in kinds.values())),
        ("Slope (ideal 1)", *(c.slope for c in kinds.values())),
        ("Brier score", *(c.brier for c in kinds.values())),
        ("Brier skill", *(c.brier_skill for c in kinds.values())),
        ("Expected calibration error", *(c.ece for c in kinds.values())),
        ("Integrated calibration index", *(c.ici for c in kinds.values())),
    ]
    return Table(f"calibration_{name}", f"{name}: calibration", ("", *kinds), tuple(rows), "95 % intervals.")


def _conformal(data: _Data, plan: EvidencePlan) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    if not data.can_tune:
        return (), ()
    fitted = fit_conformal(data.tuning_events, data.tuning_score, coverage=plan.conformal_coverage)
    found = conformal_rates(fitted, data.events, data.score)
    rows: tuple[tuple[Cell, ...], ...] = (
        ("Promised coverage", found.promised),
        ("Measured coverage", found.coverage),
        ("of patients with the event", found.coverage_events),
        ("of patients without", found.coverage_others),
        ("Abstained (both or neither outcome remains possible)", found.abstained),
        ("Accuracy where decided", found.accuracy_when_decided),
    )
    table = Table(
        f"conformal_{data.plan.name}",
        f"{data.plan.name}: conformal sets with the right to abstain",
        ("", "Value"),
        rows,
    )
    return (table,), (
        (
            "Class-conditional conformal sets were fitted on the validation split; a set of both or no"
            " outcomes is an abstention."
        ),
    )


def _adjusted(data: _Data) -> tuple[Table, figures.Figure] | None:
    """Estimate what the score adds to clinical facts; None where the facts are absent or the model has no
    fit.
    """
    import pandas as pd

    facts = [c for c in data.plan.adjust_for if c in data.rows.columns]
    rarer = min(int(data.events.sum()), int((~data.events).sum()))
    if not facts or rarer < LEAST_TO_ADJUST or np.ptp(data.score) == 0:
        return None
    x = logit(data.score) if data.is_probability else data.score
    columns = {c: pd.to_numeric(data.rows[c], errors="coerce") for c in facts}
    usable = {c: v for c, v in columns.items() if v.notna().sum() > 10 and v.std() > 0}
    frame = pd.DataFrame(
        {
            "event": data.events.astype(float),
            "model_score": (x - x.mean()) / x.std(),
            **{c: (v - v.mean()) / v.std() for c, v in usable.items()},
        }
    )
    try:
        result = fit("logistic", "event ~ " + " + ".join(["model_score", *usable]), frame)
    except InputRefused:
        return None
    rows = tuple((e.term, e.estimate, p_value(e.p)) for e in result.effects)
    told = " ".join(f"Note: {w}." for w in result.warnings)
    note = (
        f"Odds ratio per standard deviation; {result.n} patients, {result.events} of the rarer outcome."
        f" {told}".strip()
    )
    table = Table(
        f"adjusted_{data.plan.name}",
        f"{data.plan.name}: adjusted for clinical facts",
        ("Per SD", "Odds ratio", "p"),
        rows,
        note,
    )
    labels = [(e.term, e.estimate) for e in result.effects]
    caption = f"{data.plan.name}: adjusted odds ratios per standard deviation."
    return table, figures.forest_figure(
        f"forest_adjusted_{data.plan.name}",
        labels,
        axis="Odds ratio per SD",
        reference=1.0,
        ratio=True,
        caption=caption,
    )
