"""TRIPOD+AI and CLAIM items: filled where the run knows the answer, marked "author" where only a person does.

Items are named by number and subject in our own words; the checklists themselves stand in Collins et al. 2024
(BMJ 385:e078378) and Tejani et al. 2024 (Radiol Artif Intell 6:e240300).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ichnos.clinical.expansion import DEFINITIONS
from ichnos.evidence.pack.evaluation import Evaluation
from ichnos.evidence.pack.section import Section
from ichnos.evidence.tables import Table

AUTHOR = "author"
_ABOUT = ("cohort", "compared", "gallery")  # sections that hold no performance


@dataclass(frozen=True)
class _Item:
    number: str
    subject: str
    answer: str = ""  # name of an answer that the run may know; "" for the author's


TRIPOD_AI: tuple[_Item, ...] = (
    _Item("1", "Title: model, population, outcome"),
    _Item("2", "Abstract as its own list asks"),
    _Item("3a", "Context and existing models"),
    _Item("3b", "Intended use and users"),
    _Item("3c", "Known inequalities between groups"),
    _Item("4", "Objectives: development or evaluation", "objective"),
    _Item("5a", "Sources of data", "sources"),
    _Item("5b", "Dates of data"),
    _Item("6a", "Setting and centres", "centres"),
    _Item("6b", "Eligibility"),
    _Item("6c", "Treatments received"),
    _Item("7", "Data preparation and quality checks"),
    _Item("8a", "Outcome and how it was determined", "outcome"),
    _Item("8b", "Who assessed the outcome"),
    _Item("8c", "Blinding of the outcome"),
    _Item("9a", "Choice of predictors"),
    _Item("9b", "Definition of predictors"),
    _Item("9c", "Who assessed predictors"),
    _Item("10", "Sample size", "events"),
    _Item("11", "Missing data", "missing"),
    _Item("12a", "How data were used: development and evaluation kept apart", "leakage"),
    _Item("12b", "Predictors in the analysis"),
    _Item("12c", "Model type and building"),
    _Item("12d", "Heterogeneity between centres", "heterogeneity"),
    _Item("12e", "Measures of performance", "measures"),
    _Item("12f", "Updating: recalibration", "recalibration"),
    _Item("12g", "How predictions were computed", "model"),
    _Item("13", "Class imbalance", "imbalance"),
    _Item("14", "Fairness"),
    _Item("15", "Output: probability or class, thresholds", "threshold"),
    _Item("16", "Differences between training and evaluation", "shift"),
    _Item("17", "Ethical approval"),
    _Item("18a-f", "Funding, conflicts, protocol, registration, data and code"),
    _Item("19", "Patient and public involvement"),
    _Item("20a", "Flow of participants", "flow"),
    _Item("20b", "Characteristics per setting", "characteristics"),
    _Item("20c", "Comparison with development data"),
    _Item("21", "Participants and events in each analysis", "events"),
    _Item("22", "The full model or access to it", "model"),
    _Item("23a", "Performance with intervals, also in subgroups", "performance"),
    _Item("23b", "Heterogeneity in performance", "heterogeneity"),
    _Item("24", "Results of updating", "recalibration"),
    _Item("25", "Interpretation"),
    _Item("26", "Limitations", "flags"),
    _Item("27a-c", "Use in practice, input quality, next steps"),
)

CLAIM: tuple[_Item, ...] = (
    _Item("1-2", "Title and abstract name the AI method"),
    _Item("3-4", "Background, aims and hypotheses"),
    _Item("5", "Prospective or retrospective"),
    _Item("6", "Study goal", "objective"),
    _Item("7", "Data sources", "sources"),
    _Item("8", "Inclusion and exclusion"),
    _Item("9", "Preprocessing"),
    _Item("10", "Selection of data subsets", "flow"),
    _Item("11", "De-identification"),
    _Item("12", "Missing data", "missing"),
    _Item("13", "Image acquisition"),
    _Item("14", "Reference standard defined", "outcome"),
    _Item("15-18", "Why this reference standard; annotators; tools; variability"),
    _Item("19", "Assignment to partitions", "leakage"),
    _Item("20", "Level at which partitions are disjoint", "leakage"),
    _Item("21", "Intended sample size", "events"),
    _Item("22-24", "Model, software, initialisation", "model"),
    _Item("25-27", "Training, selection, ensembling"),
    _Item("28", "Metrics of performance", "measures"),
    _Item("29", "Measures of uncertainty", "intervals"),
    _Item("30", "Robustness analysis", "heterogeneity"),
    _Item("31", "Explainability", "gallery"),
    _Item("32", "Internal validation"),
    _Item("33", "External test data", "centres"),
    _Item("34", "Registration of the trial"),
    _Item("35", "Flow of participants", "flow"),
    _Item("36", "Demographics per partition", "characteristics"),
    _Item("37", "Performance, with benchmarks", "performance"),
    _Item("38", "Diagnostic accuracy and precision", "intervals"),
    _Item("39", "Failure analysis", "gallery"),
    _Item("40-41", "Limitations and implications for practice", "flags"),
    _Item("42-44", "Protocol, software, funding"),
)


def checklists(evaluation: Evaluation, sections: Sequence[Section]) -> tuple[Table, Table]:
    """Return both lists with what this run knows."""
    known = answers(evaluation, sections)
    return (
        _table("tripod_ai", "TRIPOD+AI", TRIPOD_AI, known),
        _table("claim", "CLAIM 2024", CLAIM, known),
    )


def filled_checklists(known: Mapping[str, str], reason: Callable[[str], str]) -> tuple[Table, Table]:
    """Return both lists without an empty row: `reason` says, by an item's subject, why the run has no answer.

    >>> tripod, claim = filled_checklists({}, lambda subject: "not asked here")
    >>> {row[2] for row in tripod.rows}
    {'not asked here'}
    """
    return (
        _without_gaps("tripod_ai", "TRIPOD+AI", TRIPOD_AI, known, reason),
        _without_gaps("claim", "CLAIM 2024", CLAIM, known, reason),
    )


def _without_gaps(
    name: str, title: str, items: Sequence[_Item], known: Mapping[str, str], reason: Callable[[str], str]
) -> Table:
    rows = tuple((i.number, i.subject, known.get(i.answer) or reason(i.subject)) for i in items)
    return Table(name, title, ("Item", "Subject", "Answer"), rows)


def _table(name: str, title: str, items: Sequence[_Item], known: Mapping[str, str]) -> Table:
    rows = tuple((item.number, item.subject, known.get(item.answer, AUTHOR)) for item in items)
    filled = sum(row[2] != AUTHOR for row in rows)
    note = (
        f"{filled} of {len(rows)} lines filled by the run; the others, marked {AUTHOR}, are for the author."
    )
    return Table(name, title, ("Item", "Subject", "Answer"), rows, note)


def answers(evaluation: Evaluation, sections: Sequence[Section]) -> Mapping[str, str]:
    """Return what the run knows, by name; an answer that it cannot give is absent."""
    incomplete, count = int(evaluation.table.isna().any(axis=1).sum()), len(evaluation.cases)
    titles = [s.title for s in sections if s.tables and s.name not in _ABOUT]
    known = {
        "objective": "Evaluation of a model that was fixed beforehand; no model was trained in this run.",
        "sources": f"Cohort(s): {', '.join(evaluation.cohorts)}.",
        "missing": (
            f"{incomplete} of {count} patients lack at least one fact or prediction (Table patients); each"
            " analysis states how many it left out."
        ),
        "measures": "See Methods; every number is defined in docs/evidence.md.",
        "intervals": "95 % intervals throughout; how each is made stands in Methods.",
        "flow": (
            f"Table flow: {evaluation.flow['evaluated']} of {evaluation.flow['in the evaluated splits']}"
            " patients evaluated."
        ),
        "characteristics": "Table patients.",
        "performance": f"Sections {', '.join(titles)}.",
    }
    known |= _centre_answers(evaluation)
    known |= _model_answers(evaluation)
    if any(section.name == "gallery" for section in sections):
        known["gallery"] = "Failure gallery."
    flagged = [flag.text for section in sections for flag in section.flags if flag.level != "note"]
    if flagged:
        known["flags"] = "Raised by the run: " + " ".join(flagged)
    return known | _outcome_answers(evaluation, sections)


def _centre_answers(evaluation: Evaluation) -> dict[str, str]:
    centres = sorted({case.centre for case in evaluation.cases if case.centre})
    known = {}
    if centres:
        known["centres"] = f"{len(centres)} centre(s): {', '.join(centres)}."
    if len(centres) > 1:
        known["heterogeneity"] = "Per-centre tables with a random-effects mean and a prediction interval."
    return known


def _model_answers(evaluation: Evaluation) -> dict[str, str]:
    known = {}
    if evaluation.proof.proven:
        known["leakage"] = evaluation.proof.sentence
    if evaluation.proof.model_hashes:
        known["model"] = f"Model hash {', '.join(h[:12] for h in evaluation.proof.model_hashes)}."
    return known


def _outcome_answers(evaluation: Evaluation, sections: Sequence[Section]) -> dict[str, str]:
    outcomes = [s for s in sections if s.title.startswith("Outcome") and s.numbers]
    if not outcomes:
        masks = any(s.title.startswith("Masks") for s in sections)
        return {"outcome": "Masks on the CT grid, per target and label."} if masks else {}
    expansion = DEFINITIONS[evaluation.plan.expansion].name
    known = {
        "outcome": "; ".join(f"{s.name}: {expansion}" if s.name == "expansion" else s.name for s in outcomes),
        "events": "; ".join(
            f"{s.name}: {s.numbers['auc'].events} events in {s.numbers['auc'].n}" for s in outcomes
        ),
        "threshold": "; ".join(
            f"{s.name}: {s.numbers['threshold']:.3g} ({s.numbers['rates'].point.rule})" for s in outcomes
        ),
    }
    return known | _updating_answers(outcomes, evaluation.plan.training_prevalence)


def _updating_answers(outcomes: Sequence[Section], training_prevalence: float | None) -> dict[str, str]:
    """Say how probabilities were recalibrated, and in what these patients differ from those of training."""
    known = {}
    if any(len(s.numbers.get("calibration", {})) > 1 for s in outcomes):
        known["recalibration"] = (
            "Fitted on other cases or by prevalence; before and after stand side by side."
        )
    if training_prevalence is not None:
        known["imbalance"] = (
            f"Training images held {training_prevalence:.0%} events; prior odds were shifted back."
        )
    shifts = [flag.text for s in outcomes for flag in s.flags if flag.name in ("prevalence", "centres")]
    if shifts:
        known["shift"] = " ".join(shifts)
    return known
