"""The tables of part two of Yu 2025: discrimination, decisions, calibration, benefit, what is reachable."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from ichnos.arrays import Array
from ichnos.errors import InputRefused
from ichnos.evidence.figures import roc_figure
from ichnos.evidence.metrics.calibration import calibration, decision_curve
from ichnos.evidence.metrics.discrimination import AucDifference, auc, compare_paired, holm, roc_curve
from ichnos.evidence.metrics.intervals import Estimate, bootstrap, proportion
from ichnos.evidence.metrics.recalibration import ConformalRates, conformal_rates, fit_conformal
from ichnos.evidence.tables import Cell, Table, p_value
from ichnos.simulation.disease import law, oracle
from ichnos.studies.shared.page import PagePicture, cell, comparison
from ichnos.studies.yu2025.arms import OURS, PUBLISHED
from ichnos.studies.yu2025.comparators import FITTED_HERE, THAT_SHIPS
from ichnos.studies.yu2025.risks import (
    KnownPatients,
    MethodRisk,
    Risks,
    centre_scores,
    operating_threshold,
    training_scores,
)

_LEAST_TO_CALIBRATE = 8  # patients of a centre
_BENEFIT_THRESHOLDS = (0.1, 0.2, 0.3)  # risks of expansion at which treatment might begin
_COVERAGE = 0.9  # that conformal sets promise in each class
_PAPER_AUC = {
    (PUBLISHED, "D"): "0.714 (0.661 to 0.770), 1:4",
    (PUBLISHED, "E"): "0.728 (0.667 to 0.783), 1:4",
    ("published, synthesis 1:2", "D"): "0.793 (0.750 to 0.837)",
    ("published, synthesis 1:2", "E"): "0.781 (0.733 to 0.827)",
    ("published, synthesis 1:1", "D"): "0.752 (0.701 to 0.806)",
    ("published, synthesis 1:1", "E"): "0.738 (0.681 to 0.792)",
    ("BAT", "D"): "0.70 in other external cohorts",
    ("BRAIN", "D"): "0.70 in other external cohorts",
    ("HEP", "D"): "0.65 in other external cohorts",
}
_PAPER_RATES: dict[str, Cell] = {
    "accuracy": ".747 / .730",
    "sensitivity": ".661 / .630",
    "specificity": ".771 / .755",
    "NPV": ".890 / .891",
    "PPV": ".446 / .392",
}
_CALIBRATION = {
    "slope": "slope",
    "intercept": "intercept",
    "observed over expected": "observed_over_expected",
    "Brier": "brier",
}
_CONFORMAL = {
    "coverage": "coverage",
    "coverage, expanded": "coverage_events",
    "coverage, others": "coverage_others",
    "left undecided": "abstained",
    "accuracy where decided": "accuracy_when_decided",
}
# What is drawn -> its colour, by the names that figures know.
_DRAWN = {
    PUBLISHED: "bat",
    "published, synthesis 1:2": "reference",
    OURS: "model",
    FITTED_HERE: "hep",
    THAT_SHIPS: "brain",
    "volume alone": "volume",
    "oracle": "truth",
}


def auc_table(people: KnownPatients, risks: Risks) -> Table:
    """AUC of every method per external centre, and its paired difference from the published arm."""
    differences = {centre: paired_differences(people, risks, centre) for centre in people.centres}
    rows = []
    for name, method in risks.items():
        row: dict[str, Cell] = {"method": name}
        for centre in people.centres:
            gap, adjusted = differences[centre][name]
            row |= {
                f"paper, {centre}": _PAPER_AUC.get((name, centre), "not in the paper"),
                f"AUC, {centre}": cell(partial(centre_auc, people, method, centre)),
                f"minus published, {centre}": gap,
                f"p (Holm), {centre}": adjusted,
            }
        rows.append(row)
    note = (
        "DeLong's intervals and paired tests against the published arm on the same patients; p adjusted by"
        " Holm over the methods of a centre. Scores without probability rank as they are."
    )
    return comparison("auc", "Discrimination of expansion at the external centres", rows, note=note)


def centre_auc(people: KnownPatients, method: MethodRisk, centre: str) -> Estimate:
    """Return a method's AUC at one external centre."""
    scores = centre_scores(people, method, centre)
    area = auc(scores.outcome, scores.score)
    return Estimate(area.value, area.low, area.high, area.n)


def paired_differences(
    people: KnownPatients, risks: Risks, centre: str, *, against: str = PUBLISHED
) -> dict[str, tuple[Cell, Cell]]:
    """Return each method's difference of AUC from one of them and its adjusted p, or the words why not."""
    gaps: dict[str, AucDifference | str] = {}
    for name, method in risks.items():
        try:
            gaps[name] = "itself" if name == against else _difference(people, risks, method, centre, against)
        except InputRefused as refusal:
            gaps[name] = str(refusal)
    tested = {name: gap for name, gap in gaps.items() if isinstance(gap, AucDifference)}
    adjusted = dict(zip(tested, holm([gap.p for gap in tested.values()]).tolist(), strict=True))
    return {
        name: (gap, gap) if isinstance(gap, str) else (_shown_gap(gap), _shown_p(adjusted[name]))
        for name, gap in gaps.items()
    }


def _difference(
    people: KnownPatients, risks: Risks, method: MethodRisk, centre: str, against: str
) -> AucDifference:
    reference = risks.get(against, MethodRisk(reason=f"{against} is not known"))
    if not reference.known:
        raise InputRefused(reference.reason)
    scores = centre_scores(people, method, centre)
    kept = np.array([np.isfinite(reference.risk.get(p, np.nan)) for p in scores.patients], bool)
    other = [reference.risk[p] for p, keep in zip(scores.patients, kept, strict=True) if keep]
    gap = compare_paired(scores.outcome[kept], scores.score[kept], other)
    if not np.isfinite(gap.value):
        raise InputRefused(f"{kept.sum()} patients of centre {centre} do not determine a difference of areas")
    return gap


def _shown_gap(gap: AucDifference) -> str:
    interval = f" ({gap.low:+.3f} to {gap.high:+.3f})" if np.isfinite(gap.low) else ", no interval"
    return f"{gap.value:+.3f}{interval}"


def _shown_p(p: float) -> str:
    return p_value(p) if np.isfinite(p) else "no test: the areas do not vary"


def operating_table(people: KnownPatients, risks: Risks) -> Table:
    """Sensitivity and its relatives at the threshold that the out-of-fold training scores choose."""
    rows: list[dict[str, Cell]] = []
    for name, method in risks.items():
        if method.known and method.out_of_fold:
            threshold = operating_threshold(people, method)
            rows += [
                {"method": f"{name}, {centre}", **_decisions(people, method, centre, threshold)}
                for centre in people.centres
            ]
    rows.append({"method": "paper, synthesis 1:2, first / second external centre", **_PAPER_RATES})
    note = "Greatest sensitivity + specificity on the training patients. Wilson's intervals."
    return comparison("operating_point", "At the operating point of the training patients", rows, note=note)


def _decisions(people: KnownPatients, method: MethodRisk, centre: str, threshold: float) -> dict[str, Cell]:
    scores = centre_scores(people, method, centre)
    truth, positive = scores.outcome > 0.5, scores.score >= threshold

    def share(part: Array, whole: Array) -> Cell:
        return cell(lambda: proportion(int(part.sum()), int(whole.sum())))

    return {
        "accuracy": share(positive == truth, np.ones(truth.size)),
        "sensitivity": share(positive & truth, truth),
        "specificity": share(~positive & ~truth, ~truth),
        "NPV": share(~positive & ~truth, ~positive),
        "PPV": share(positive & truth, positive),
    }


def calibration_table(people: KnownPatients, risks: Risks) -> Table:
    """Calibration of every probability per external centre."""
    rows: list[dict[str, Cell]] = [
        {
            "method": f"{name}, {centre}",
            **{
                title: cell(partial(_calibrated, people, method, centre, what))
                for title, what in _CALIBRATION.items()
            },
        }
        for name, method in risks.items()
        if method.known and method.probability
        for centre in people.centres
    ]
    note = "Aim: slope 0.9 to 1.1. The paper does not report calibration."
    return comparison("calibration", "Do the probabilities mean what they say?", rows, note=note)


def _calibrated(people: KnownPatients, method: MethodRisk, centre: str, what: str) -> Cell:
    scores = centre_scores(people, method, centre)
    if scores.outcome.size < _LEAST_TO_CALIBRATE:
        raise InputRefused(
            f"{scores.outcome.size} patients; {_LEAST_TO_CALIBRATE} are the least for a calibration"
        )
    value: Cell = getattr(calibration(scores.outcome, scores.score), what)
    return value


def benefit_table(people: KnownPatients, risks: Risks) -> Table:
    """Net benefit of treating by the probability, per 100 patients, beside treating everybody."""
    rows: list[dict[str, Cell]] = []
    for name, method in risks.items():
        if method.known and method.probability:
            for centre in people.centres:
                row: dict[str, Cell] = {"method": f"{name}, {centre}"}
                for t in _BENEFIT_THRESHOLDS:
                    row[f"at {t:.0%}"] = cell(partial(_benefit, people, method, centre, t))
                    row[f"treat all, {t:.0%}"] = cell(partial(_benefit_of_all, people, method, centre, t))
                rows.append(row)
    note = (
        "True positives less weighted false positives per 100 patients (Vickers & Elkin 2006); 95 % by"
        " resampling patients in each class. Treating nobody is 0."
    )
    return comparison("benefit", "Would deciding by the probability help?", rows, note=note)


def _benefit(people: KnownPatients, method: MethodRisk, centre: str, threshold: float) -> Estimate:
    scores = centre_scores(people, method, centre)
    outcome, probability = scores.outcome, scores.score

    def benefit(at: Array) -> float:
        curve = decision_curve(outcome[at], probability[at], thresholds=[threshold])
        return 100 * float(curve.model[0])

    decision_curve(outcome, probability)  # refuses a single class by name
    return bootstrap(benefit, outcome, rng=np.random.default_rng(0), repeats=500)


def _benefit_of_all(people: KnownPatients, method: MethodRisk, centre: str, threshold: float) -> float:
    scores = centre_scores(people, method, centre)
    return 100 * float(decision_curve(scores.outcome, scores.score, thresholds=[threshold]).treat_all[0])


def conformal_table(people: KnownPatients, risks: Risks) -> Table:
    """Class-conditional conformal sets fitted on out-of-fold training scores, measured on each centre."""
    rows: list[dict[str, Cell]] = [
        {
            "method": f"{name}, {centre}",
            **{
                title: cell(partial(_conformal_rate, people, method, centre, what))
                for title, what in _CONFORMAL.items()
            },
        }
        for name, method in risks.items()
        if method.known and method.out_of_fold
        for centre in people.centres
    ]
    if not rows:
        rows = [{"method": "no method", "coverage": "no classifier could be trained over folds"}]
    note = (
        f"Sets are fitted to hold the truth in {_COVERAGE:.0%} of each class; a set of both outcomes, or of"
        " none, leaves the patient undecided. Wilson's intervals."
    )
    return comparison("conformal", "Who can be decided upon?", rows, note=note)


def _conformal_rate(people: KnownPatients, method: MethodRisk, centre: str, what: str) -> Cell:
    held, scores = training_scores(people, method), centre_scores(people, method, centre)
    fitted = fit_conformal(held.outcome, held.score, coverage=_COVERAGE)
    rates: ConformalRates = conformal_rates(fitted, scores.outcome, scores.score)
    value: Cell = getattr(rates, what)
    return value


def reach_table(people: KnownPatients, risks: Risks) -> Table:
    """The oracle's AUC, ours over it, and the oracle's in thousands of patients without images."""
    draws = law.draw(20_000, torch.Generator().manual_seed(1))
    limit = oracle.ranking_auc(oracle.expansion_probability(draws), draws.expanded)
    rows: list[dict[str, Cell]] = [
        {"question": "the oracle in 20,000 simulated patients", "aim": "the limit", "value": limit}
    ]
    rows += [
        {
            "question": f"{name} over the oracle, {centre}",
            "aim": "0.95 or more",
            "value": cell(partial(_over_oracle, people, risks, name, centre)),
        }
        for centre in people.centres
        for name in risks
        if name.startswith("ours")
    ]
    note = "AUCs, and their ratios on the same patients; 95 % by resampling patients in each class."
    return comparison("reach", "What is reachable", rows, note=note)


def _over_oracle(people: KnownPatients, risks: Risks, name: str, centre: str) -> Estimate:
    best = risks.get("oracle", MethodRisk(reason="the cohort has no oracle"))
    scores = centre_scores(people, risks[name], centre)
    if not best.known:
        raise InputRefused(best.reason)
    truth, own = scores.outcome, scores.score
    limit = np.array([best.risk[p] for p in scores.patients])
    auc(truth, own)  # refuses a single class by name

    def ratio(at: Array) -> float:
        reachable = auc(truth[at], limit[at]).value
        return auc(truth[at], own[at]).value / reachable if reachable > 0 else float("nan")

    return bootstrap(ratio, truth, rng=np.random.default_rng(0), repeats=500)


def roc_pictures(people: KnownPatients, risks: Risks) -> list[PagePicture]:
    """Draw ROC curves per external centre; a centre with one outcome has none."""
    pictures: list[PagePicture] = []
    for centre in people.centres:
        curves = {}
        for name, colour in _DRAWN.items():
            method = risks.get(name)
            if method is None or not method.known:
                continue
            scores = centre_scores(people, method, centre)
            if 0 < scores.outcome.sum() < scores.outcome.size:
                area = auc(scores.outcome, scores.score)
                text = str(area) if np.isfinite(area.low) else f"{area.value:.3f}, no interval"
                curves[colour] = (roc_curve(scores.outcome, scores.score), f"{name}: {text}")
        if curves:
            caption = f"Expansion at the external centre {centre}."
            pictures.append(roc_figure(f"roc-{centre}", curves, caption=caption))
    return pictures
