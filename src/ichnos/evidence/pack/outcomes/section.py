"""The section on one outcome: does the score separate, is the probability true, would deciding by it help,
does it beat simpler scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ichnos.clinical.expansion import DEFINITIONS
from ichnos.clinical.scores import Comparator, comparators
from ichnos.errors import InputRefused
from ichnos.evidence.figures import Figure, roc_figure
from ichnos.evidence.metrics.discrimination import Auc, auc, precision_recall_auc, roc_curve
from ichnos.evidence.metrics.intervals import Estimate, proportion
from ichnos.evidence.metrics.thresholds import OperatingPoint, rates, youden_point
from ichnos.evidence.pack.evaluation import Evaluation
from ichnos.evidence.pack.flags import ReviewFlag, check_centres, check_events, check_prevalence
from ichnos.evidence.pack.outcomes.adjusted import adjusted_effects
from ichnos.evidence.pack.outcomes.data import OutcomeData, outcome_data
from ichnos.evidence.pack.outcomes.discrimination import centres_table, rates_table, rivals_table
from ichnos.evidence.pack.outcomes.probability import probability_section
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.evidence.pack.section import Section
from ichnos.evidence.tables import number


def outcome_sections(evaluation: Evaluation) -> tuple[Section, ...]:
    """Return one section for each planned outcome whose probability the predictions hold."""
    sections = []
    for plan in evaluation.plan.outcomes:
        if f"predicted_{plan.probability}" not in evaluation.table.columns:
            continue
        title = f"Outcome: {plan.name}"
        try:
            sections.append(_section(outcome_data(evaluation, plan), evaluation, title))
        except InputRefused as refusal:
            sections.append(
                Section(
                    plan.name,
                    title,
                    (f"Not evaluated: {refusal}.",),
                    flags=(ReviewFlag("alarm", "not_evaluated", str(refusal)),),
                )
            )
    return tuple(sections)


def _section(data: OutcomeData, evaluation: Evaluation, title: str) -> Section:
    """Join the parts: discrimination always, calibration for probabilities, adjusted effects where known."""
    plan = evaluation.plan
    point = _point(data, plan)
    parts = [_discrimination(data, plan, point, title)]
    if data.is_probability:
        parts.append(probability_section(data, plan))
    if (adjusted := adjusted_effects(data)) is not None:
        sentence = "The score's effect adjusted for clinical facts is from logistic regression."
        parts.append(Section(data.plan.name, "", (), (adjusted[0],), (adjusted[1],), methods=(sentence,)))
    return _joined(parts, _flags(data, plan, parts[0].numbers["auc"], point))


def _discrimination(data: OutcomeData, plan: EvidencePlan, point: OperatingPoint, title: str) -> Section:
    rng = np.random.default_rng(plan.seed)
    area = auc(data.events, data.score)
    average_precision = precision_recall_auc(data.events, data.score, rng=rng, repeats=plan.bootstrap_repeats)
    decided = rates(data.events, data.score, point)
    prevalence = proportion(int(data.events.sum()), data.events.size)
    against, curves, rival_notes = rivals_table(data, _rivals(data, plan))
    per_centre, forests = centres_table(data)
    return Section(
        data.plan.name,
        title,
        (*_text(data, area, average_precision, prevalence), *rival_notes),
        tables=(rates_table(data, decided, prevalence), against, *per_centre),
        figures=(_roc(data, area, curves), *forests),
        methods=(_methods(data, plan, point),),
        numbers={
            "auc": area,
            "pr_auc": average_precision,
            "prevalence": prevalence,
            "rates": decided,
            "threshold": point.threshold,
        },
    )


def _rivals(data: OutcomeData, plan: EvidencePlan) -> Sequence[Comparator]:
    """Return the simpler scores that were published for an outcome: they are known for expansion alone."""
    if data.plan.truth:
        return ()
    return comparators(data.rows, columns=plan.score_columns, hep_points=plan.hep_points)


def _roc(data: OutcomeData, area: Auc, rivals: Mapping[str, Any]) -> Figure:
    curves = {"model": (roc_curve(data.events, data.score), f"model {area}"), **rivals}
    caption = f"{data.plan.name}: ROC curves with area and 95 % interval."
    return roc_figure(f"roc_{data.stem}", curves, caption=caption)


def _joined(parts: list[Section], flags: tuple[ReviewFlag, ...]) -> Section:
    numbers: dict[str, Any] = {}
    for part in parts:
        numbers |= part.numbers
    return Section(
        parts[0].name,
        parts[0].title,
        parts[0].paragraphs,
        tuple(table for part in parts for table in part.tables),
        tuple(figure for part in parts for figure in part.figures),
        flags,
        tuple(sentence for part in parts for sentence in part.methods),
        numbers,
    )


def _text(data: OutcomeData, area: Auc, average_precision: Estimate, prevalence: Estimate) -> tuple[str, ...]:
    text = [
        f"{area.events} events in {area.n} patients ({prevalence.value:.1%}). AUC {area}; average precision"
        f" {average_precision}."
    ]
    if data.left_out:
        text.append(f"{data.left_out} patients are left out because outcome or prediction is not known.")
    return tuple(text)


def _flags(data: OutcomeData, plan: EvidencePlan, area: Auc, point: OperatingPoint) -> tuple[ReviewFlag, ...]:
    name = data.plan.name
    flags = [
        check_events(name, area.events, area.n - area.events),
        check_centres(name, data.events, data.rows["centre"]),
    ]
    if np.ptp(data.score) == 0:
        text = f"{name}: every case has the same score, so the model separates nothing."
        flags.append(ReviewFlag("alarm", "constant_score", text))
    if data.is_probability:
        flags.append(check_prevalence(name, data.events, data.score, plan.training_prevalence))
    else:
        text = (
            f"{name}: the score is not a probability (0 to 1), so calibration and net benefit are left out."
        )
        flags.append(ReviewFlag("note", "no_probability", text))
    if point.chosen_on == "evaluated":
        text = (
            f"{name}: too few validation cases, so the threshold was chosen on the evaluated ones: its rates"
            " are optimistic."
        )
        flags.append(ReviewFlag("warn", "threshold", text))
    return tuple(flag for flag in flags if flag is not None)


def _point(data: OutcomeData, plan: EvidencePlan) -> OperatingPoint:
    if plan.threshold is not None:
        return OperatingPoint(plan.threshold, "given", "beforehand")
    if data.can_tune:
        return youden_point(data.tuning_events, data.tuning_score, chosen_on="validation")
    return youden_point(data.events, data.score, chosen_on="evaluated")


def _methods(data: OutcomeData, plan: EvidencePlan, point: OperatingPoint) -> str:
    outcome = (
        f"Haematoma expansion was defined as growth {DEFINITIONS[plan.expansion].name}. "
        if not data.plan.truth
        else ""
    )
    rules = {
        "given": "given beforehand",
        "youden": f"chosen by Youden's index on the {point.chosen_on} cases",
    }
    return (
        f"{outcome}Discrimination for {data.plan.name} is the area under the ROC curve with DeLong's standard"
        " error and a logit interval, and average precision with a bootstrap interval"
        f" ({plan.bootstrap_repeats} resamples within class). The threshold {number(point.threshold)} was"
        f" {rules[point.rule]}; rates carry Wilson intervals. Scores were compared by DeLong's paired test"
        " with Holm's correction."
    )
