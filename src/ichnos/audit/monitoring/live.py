"""Live evidence: what partner exams say of a model so far, how surely, what has moved, what is not known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.audit.lot import independent_scores, watched_scores
from ichnos.audit.monitoring.betting import calibration_evidence, coverage_evidence, mean_sequence
from ichnos.audit.monitoring.change import ChangeAlarm, Stream, watch
from ichnos.audit.monitoring.inputs import ReadInput, first_seen, input_streams
from ichnos.audit.monitoring.judges import followups_table, judged_by, outlines_table
from ichnos.audit.monitoring.selection import selection_of, weighted_mean
from ichnos.audit.score import Score, by_quantity, standing
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.agreement import concordance
from ichnos.evidence.metrics.calibration import calibration
from ichnos.evidence.metrics.discrimination import auc
from ichnos.evidence.metrics.intervals import Estimate, mean_interval, proportion
from ichnos.evidence.tables import Cell, Table

CLAIM_ALPHA = 0.05  # probability that a claim that holds is ever called broken; one claim at a time
_SCORES_SHARE = 0.5  # of alpha; inputs take the rest
_SPREAD_OVER = 4  # quantities that take half of that share; those that come later share the other half
_GROUPS: Mapping[str, Callable[[Score], str]] = {
    "scanner": lambda score: score.scanner or "unknown",
    "thickness": lambda score: thickness_group(score.thickness_mm),
    "site": lambda score: score.centre or "unknown",
    "month": lambda score: score.month or "unknown",
}
EVIDENCE_LIMITS = (
    "Only patients whose partner exam came are judged. Weights correct for what is known of everybody; what"
    " decides on an exam and is not among these columns stays unseen.",
    "A follow-up CT whose haematoma was outlined by the same model shares its errors: a bias common to both"
    " CTs is not seen, intervals seem to hold more often than they do, and the calibration slope of expansion"
    " comes out too flat. Outlines that people draw of the lot correct this; outlines of pairs that somebody"
    " picked do not.",
    "A transfer whose verdict fails is left out; if that happens more often where the model is wrong, the"
    " evidence is too good.",
    "No alarm does not mean that nothing has changed: few pairs show only large changes.",
)


@dataclass(frozen=True)
class LiveEvidence:
    """All that the evidence page and the API show."""

    pairs: int
    patients: int
    models: tuple[str, ...]
    alarms: tuple[ChangeAlarm, ...]
    tables: tuple[Table, ...]
    limits: tuple[str, ...] = EVIDENCE_LIMITS


def live_evidence(
    scores: Sequence[Score],
    inputs: Sequence[ReadInput] = (),
    *,
    everyone: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
) -> LiveEvidence:
    """Return the evidence of one model's scores in the order of their coming, and of all CTs that were read.

    `everyone` holds, of every patient who was read, the columns that may decide on a partner exam.
    """
    alarms = watch([*input_streams(inputs), *score_streams(scores)], seed)
    counted, known = standing(scores), everyone or {}
    tables = [_quantity_table(counted), outlines_table(scores), followups_table(scores, known)]
    tables += [_claims_table(scores), *(_group_table(counted, name) for name in _GROUPS)]
    tables.append(_selection_table(counted, known))
    return LiveEvidence(
        pairs=len({score.pair for score in scores}),
        patients=len({score.patient for score in scores}),
        models=tuple(dict.fromkeys(score.model for score in scores)),
        alarms=tuple(alarms),
        tables=tuple(table for table in tables if table.rows),
    )


def thickness_group(thickness_mm: float | None) -> str:
    """Return the group of a slice thickness.

    >>> [thickness_group(mm) for mm in (1.0, 5.0, None)]
    ['up to 2 mm', 'over 4 mm', 'unknown']
    """
    if thickness_mm is None:
        return "unknown"
    return "up to 2 mm" if thickness_mm <= 2 else "2 to 4 mm" if thickness_mm <= 4 else "over 4 mm"


def score_streams(scores: Sequence[Score]) -> list[Stream]:
    """Return the streams of errors: their size for every quantity, and their scatter for volumes.

    A quantity's share of alpha is fixed by its place among those that ever came.
    """
    groups, streams = by_quantity(watched_scores(scores)), []
    for place, name in enumerate(by_quantity(scores)):
        if not (own := groups.get(name, [])):
            continue
        volume = own[0].kind == "volume"
        versions = 1 if own[0].judge == "exam" else 2  # as judged first, or by people (watched_scores)
        weight = _share_of_alpha(place) / (2 if volume else 1) / versions
        expected = first_seen([score.scanner for score in own])
        values, unit = tuple(error_of(score) for score in own), "ln(1 + mL)" if volume else ""
        streams.append(Stream(f"error of {name}", values, unit, weight, expected))
        if volume:
            streams.append(Stream(f"scatter of the error of {name}", values, unit, weight, expected, True))
    return streams


def _share_of_alpha(place: int) -> float:
    """Return the share of the quantity that came as number `place`; it depends on none that comes later."""
    return _SCORES_SHARE * _SPREAD_OVER / ((_SPREAD_OVER + place) * (_SPREAD_OVER + place + 1))


def error_of(score: Score) -> float:
    """Return the signed error that is watched; of a volume in half widths of its interval."""
    if score.kind != "volume" or score.low is None or score.high is None or score.level is None:
        return score.error
    half = (math.log1p(max(score.high, 0)) - math.log1p(max(score.low, 0))) / 2
    return score.error / max(half, 1e-3)


# ---- tables


def _cell(compute: Callable[[], Cell]) -> Cell:
    """Return a cell, or in words why there is none."""
    try:
        return compute()
    except InputRefused as refusal:
        return str(refusal)


def _quantity_table(scores: Sequence[Score]) -> Table:
    rows = []
    for name, own in by_quantity(scores).items():
        loss = mean_interval([score.loss for score in own])
        rows.append((name, len(own), loss, _coverage(own), *_agreement(own), judged_by(own)))
    columns = (
        "quantity",
        "pairs",
        "mean loss",
        "interval held",
        "discrimination or agreement",
        "calibration slope",
        "judged by",
    )
    note = (
        "Loss: Brier score, 1 - Dice, share of wrong grades, or interval score in mL. Discrimination: AUC of"
        " probabilities; agreement: Lin's concordance of volumes. 95 % intervals, for one look. What the"
        " model itself has judged is judged with its own errors."
    )
    return Table("quantities", "What partner exams say of each quantity", columns, tuple(rows), note)


def _coverage(scores: Sequence[Score]) -> Cell:
    held = [score.held for score in scores if score.held is not None]
    return proportion(sum(held), len(held)) if held else "no interval with a promised level"


def _agreement(scores: Sequence[Score]) -> tuple[Cell, Cell]:
    predicted, truth = [s.predicted for s in scores], [s.truth for s in scores]
    if scores[0].kind == "probability":
        if any(score.judge == "model" for score in scores):
            return _cell(lambda: _area(truth, predicted)), "the model itself is no judge of it; see below"
        return _cell(lambda: _area(truth, predicted)), _cell(lambda: calibration(truth, predicted).slope)
    if scores[0].kind == "volume":
        return _cell(lambda: concordance(predicted, truth)), "does not apply"
    return "does not apply", "does not apply"


def _area(truth: Sequence[float], predicted: Sequence[float]) -> Estimate:
    area = auc(truth, predicted)
    return Estimate(area.value, area.low, area.high, area.n, area.level)


def _claims_table(scores: Sequence[Score]) -> Table:
    """Hold each promise against what came, at every look: coverage of intervals, meaning of probabilities."""
    rows: list[tuple[Cell, ...]] = []
    groups = by_quantity(independent_scores(scores))
    for name, own in groups.items():
        judged = [(s.held, s.level) for s in own if s.held is not None and s.level is not None]
        if judged:
            held, levels = [bool(h) for h, _ in judged], [level for _, level in judged]
            sequence = mean_sequence(np.asarray(held, float)).last
            rows.append(
                (
                    f"interval of {name}",
                    f"{100 * levels[-1]:.0f} %",
                    sequence,
                    *_said(coverage_evidence(held, levels)),
                )
            )
        if own[0].kind == "probability":
            truth, predicted = [bool(s.truth) for s in own], [s.predicted for s in own]
            brier = mean_sequence([s.loss for s in own]).last
            rows.append((name, "means what it says", brier, *_said(calibration_evidence(truth, predicted))))
    unjudged = dict.fromkeys(s.quantity for s in scores if s.quantity not in groups and s.kind != "overlap")
    rows += [
        (name, "not judged", "by the model itself alone", "", "outlines are wanted") for name in unjudged
    ]
    note = (
        "Confidence sequences and e-values by betting: they hold at every look at once (95 %). Coverage for"
        f" intervals, Brier score for probabilities. A claim is broken where its e-value has reached"
        f" {1 / CLAIM_ALPHA:.0f}; it concerns those who came. Of follow-ups that the model itself"
        " read, those count that people outlined by lot."
    )
    columns = ("claim", "promised", "so far, at every look", "largest e-value", "verdict")
    return Table("claims", "What was promised, and whether it holds", columns, tuple(rows), note)


def _said(evidence: npt.NDArray[np.float64]) -> tuple[Cell, Cell]:
    largest = float(np.exp(min(evidence.max(), 50.0)))
    return largest, "broken" if largest >= 1 / CLAIM_ALPHA else "not disproved"


def _group_table(scores: Sequence[Score], name: str) -> Table:
    group = _GROUPS[name]
    rows = []
    for quantity, own in by_quantity(scores).items():
        for value in sorted({group(score) for score in own}):
            part = [score for score in own if group(score) == value]
            loss: Estimate = mean_interval([score.loss for score in part])
            rows.append((quantity, value, len(part), loss, _coverage(part)))
    columns = ("quantity", name, "pairs", "mean loss", "interval held")
    return Table(f"by_{name}", f"By {name}", columns, tuple(rows))


def _selection_table(scores: Sequence[Score], everyone: Mapping[str, Mapping[str, float]]) -> Table:
    """Say per partner exam who got it, and what weighting changes; no row where nobody is known."""
    rows: list[tuple[Cell, ...]] = []
    for partner in dict.fromkeys(score.partner for score in scores if everyone):
        own = [score for score in scores if score.partner == partner]
        try:
            selection, weights = selection_of(own, everyone)
        except InputRefused as refusal:
            rows.append((partner, str(refusal), "", "", ""))
            continue
        for column, (before, after) in selection.differences.items():
            rows.append((partner, f"{column}: standardised difference", before, after, ""))
        for quantity, part in by_quantity(own).items():
            judged = [s for s in part if s.held is not None and s.patient in weights and s.judge != "model"]
            if judged:
                raw = float(np.mean([bool(s.held) for s in judged]))
                share, _ = weighted_mean(
                    [float(bool(s.held)) for s in judged], [weights[s.patient] for s in judged]
                )
                rows.append(
                    (
                        partner,
                        f"{quantity}: interval held",
                        raw,
                        share,
                        f"{selection.effective:.0f} effective",
                    )
                )
    columns = ("partner", "what", "those who came", "weighted to everybody", "pairs")
    note = (
        "Weights: inverse of the estimated chance of the exam, at most ten. Follow-ups that the model itself"
        " judged are not among the intervals here."
    )
    return Table("selection", "Who gets the partner exam", columns, tuple(rows), note)
