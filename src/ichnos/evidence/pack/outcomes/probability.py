"""Is the probability true, and would deciding by it help: calibration, net benefit, conformal sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ichnos.arrays import Floats
from ichnos.evidence.figures import Figure, calibration_figure, decision_figure
from ichnos.evidence.metrics.calibration import Calibration, calibration, decision_curve, logit
from ichnos.evidence.metrics.recalibration import conformal_rates, fit_conformal, fit_recalibrator
from ichnos.evidence.metrics.thresholds import at_prevalence
from ichnos.evidence.pack.outcomes.data import OutcomeData
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.evidence.pack.section import Section
from ichnos.evidence.tables import Cell, Table

# how the probability was treated -> itself and its calibration
Kinds = Mapping[str, tuple[Floats, Calibration]]


def probability_section(data: OutcomeData, plan: EvidencePlan) -> Section:
    """Judge the probability as it comes, and as recalibrated where that could be fitted on other cases."""
    kinds, methods = _kinds(data, plan)
    conformal, conformal_methods = _conformal(data, plan)
    calibrations = {kind: result for kind, (_, result) in kinds.items()}
    numbers: dict[str, Any] = {"calibration": {kind: _summary(c) for kind, c in calibrations.items()}}
    return Section(
        data.plan.name,
        "",
        tables=(_calibration_table(data, calibrations), *conformal),
        figures=_figures(data, kinds),
        methods=(*methods, *conformal_methods),
        numbers=numbers,
    )


def _kinds(data: OutcomeData, plan: EvidencePlan) -> tuple[Kinds, tuple[str, ...]]:
    """Return the probability as predicted, by Platt, and at the true prevalence; with the methods."""
    kinds = {"as predicted": (data.score, calibration(data.events, data.score))}
    methods = [
        "Calibration is given by the observed to expected ratio, intercept and slope of a logistic"
        " recalibration, Brier score, expected calibration error over tenths and the integrated calibration"
        " index of a lowess curve; usefulness by decision curves."
    ]
    if data.can_tune:
        fitted = fit_recalibrator(
            data.tuning_events, logit(data.tuning_score), method="platt", fitted_on="validation"
        )
        recalibrated = fitted(logit(data.score))
        kinds["Platt, fitted on validation"] = (recalibrated, calibration(data.events, recalibrated))
        methods.append("Recalibration (Platt) was fitted on the validation split and frozen.")
    if plan.training_prevalence is not None:
        target = float(data.tuning_events.mean()) if data.can_tune else float(data.events.mean())
        shifted = at_prevalence(data.score, trained_at=plan.training_prevalence, true_prevalence=target)
        kind = f"prevalence {plan.training_prevalence:.0%} → {target:.0%}"
        kinds[kind] = (shifted, calibration(data.events, shifted))
        source = "validation" if data.can_tune else "evaluated"
        methods.append(
            f"Prior odds were shifted from the training prevalence after balancing to that of the {source}"
            " patients."
        )
    return kinds, tuple(methods)


def _figures(data: OutcomeData, kinds: Kinds) -> tuple[Figure, ...]:
    name, stem = data.plan.name, data.stem
    caption = f"{name}: calibration as predicted."
    raw = calibration_figure(f"calibration_{stem}", kinds["as predicted"][1], data.score, caption=caption)
    figures = [raw]
    best = "as predicted"
    if len(kinds) > 1:
        best, (probability, result) = list(kinds.items())[1]
        caption = f"{name}: calibration, {best}."
        figures.append(
            calibration_figure(f"calibration_recalibrated_{stem}", result, probability, caption=caption)
        )
    curves = {"model": (decision_curve(data.events, kinds[best][0]), f"model, {best}")}
    prevalence, caption = float(data.events.mean()), f"{name}: decision curve."
    figures.append(decision_figure(f"decision_{stem}", curves, prevalence=prevalence, caption=caption))
    return tuple(figures)


def _summary(c: Calibration) -> dict[str, Any]:
    return {
        "slope": c.slope,
        "intercept": c.intercept,
        "brier": c.brier,
        "ece": c.ece,
        "ici": c.ici,
        "oe": c.observed_over_expected,
    }


def _calibration_table(data: OutcomeData, kinds: Mapping[str, Calibration]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("Observed / expected", *(c.observed_over_expected for c in kinds.values())),
        ("Intercept (ideal 0)", *(c.intercept for c in kinds.values())),
        ("Slope (ideal 1)", *(c.slope for c in kinds.values())),
        ("Brier score", *(c.brier for c in kinds.values())),
        ("Brier skill", *(c.brier_skill for c in kinds.values())),
        ("Expected calibration error", *(c.ece for c in kinds.values())),
        ("Integrated calibration index", *(c.ici for c in kinds.values())),
    ]
    return Table(
        f"calibration_{data.stem}",
        f"{data.plan.name}: calibration",
        ("", *kinds),
        tuple(rows),
        "95 % intervals.",
    )


def _conformal(data: OutcomeData, plan: EvidencePlan) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    if not data.can_tune:
        return (), ()
    fitted = fit_conformal(data.tuning_events, data.tuning_score, coverage=plan.conformal_coverage)
    rates = conformal_rates(fitted, data.events, data.score)
    rows: tuple[tuple[Cell, ...], ...] = (
        ("Promised coverage", rates.promised),
        ("Measured coverage", rates.coverage),
        ("of patients with the event", rates.coverage_events),
        ("of patients without", rates.coverage_others),
        ("Abstained (both or neither outcome remains possible)", rates.abstained),
        ("Accuracy where decided", rates.accuracy_when_decided),
    )
    table = Table(
        f"conformal_{data.stem}",
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
