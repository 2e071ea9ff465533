"""Follow-ups that the judged model itself has read, corrected by people's outlines: their tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ichnos.audit.lot import FEWEST_OUTLINED, LOT_SHARE, independent_scores, outline_count
from ichnos.audit.monitoring.corrected import DoublyJudged, corrected_calibration, corrected_mean
from ichnos.audit.monitoring.selection import selection_of
from ichnos.audit.score import Judge, Score, by_quantity
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import Estimate, proportion
from ichnos.evidence.tables import Cell, Table

Means = Literal["the model itself, alone", "the model, corrected by people", "people alone"]
BY_MODEL: Means = "the model itself, alone"
CORRECTED: Means = "the model, corrected by people"
BY_PEOPLE: Means = "people alone"
COVERAGE, SLOPE, INTERCEPT = "interval held", "calibration slope", "calibration intercept"
_WORDS: Mapping[Judge, str] = {"exam": "the exam", "model": "the model itself", "person": "people"}
_NO_SPREAD = 1e-9  # of a share; rounding aside, its standard error is 0
Everyone = Mapping[str, Mapping[str, float]]  # patient -> what may decide on a partner exam
_People = Mapping[tuple[str, str, str], Score]  # question -> what people say


def judged_by(scores: Sequence[Score]) -> str:
    """Say who judged scores, and how many each where several did.

    >>> one = Score("p", "1", "followup", "q", "volume", "m", 1.0, 2.0, judge="model")
    >>> judged_by([one, one]), judged_by([one, Score("r", "2", "followup", "q", "volume", "m", 1.0, 2.0)])
    ('the model itself', 'the model itself (1), the exam (1)')
    """
    counts = Counter(_WORDS[score.judge] for score in scores)
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{who} ({n})" for who, n in counts.items())


@dataclass(frozen=True)
class JudgedNumber:
    """One number of one quantity under one way of judging; in words where there are too few outlines."""

    quantity: str
    number: str  # COVERAGE, SLOPE or INTERCEPT
    means: Means
    value: Estimate | str
    pairs: int
    outlined: int


def followup_numbers(scores: Sequence[Score], everyone: Everyone) -> list[JudgedNumber]:
    """Return coverage and calibration of what the model itself judged, alone and corrected; of one model.

    Weighted for selection where `everyone` tells who gets a follow-up.
    """
    people = {score.question: score for score in independent_scores(scores) if score.judge == "person"}
    found: list[JudgedNumber] = []
    for own in by_quantity([score for score in scores if score.judge == "model"]).values():
        if own[0].kind == "probability":
            found += _calibrations(own, people, everyone)
        elif held := [score for score in own if score.held is not None]:
            found += _coverages(held, people, everyone)
    return found


def _coverages(scores: Sequence[Score], people: _People, everyone: Everyone) -> list[JudgedNumber]:
    judged = _doubly_judged(scores, people, everyone, lambda score: float(bool(score.held)))

    def share(which: DoublyJudged, model_share: float | None) -> tuple[Estimate]:
        one = corrected_mean(which, model_share=model_share)
        if one.high - one.low < _NO_SPREAD:
            one = _without_spread(one, which)
        return (Estimate(one.value, max(one.low, 0.0), min(one.high, 1.0), one.n),)

    return _three_ways(scores[0].quantity, (COVERAGE,), judged, share)


def _without_spread(share: Estimate, judged: DoublyJudged) -> Estimate:
    """Return a share with Wilson's interval, where every outlined interval held, or none did.

    Pairs of unequal weight count as the fewer that they are worth (Kish).
    """
    weights = judged.weights[np.isfinite(judged.by_people)]
    n = int(weights.sum() ** 2 / (weights**2).sum() + 1e-9)
    return replace(proportion(round(share.value * n), n), n=share.n)


def _calibrations(scores: Sequence[Score], people: _People, everyone: Everyone) -> list[JudgedNumber]:
    judged = _doubly_judged(scores, people, everyone, lambda score: score.truth)
    predicted = np.array([score.predicted for score in scores])

    def both(which: DoublyJudged, model_share: float | None) -> tuple[Estimate, Estimate]:
        return corrected_calibration(which, predicted, model_share=model_share)

    return _three_ways(scores[0].quantity, (INTERCEPT, SLOPE), judged, both)


def _doubly_judged(
    scores: Sequence[Score], people: _People, everyone: Everyone, outcome: Callable[[Score], float]
) -> DoublyJudged:
    try:
        _, known = selection_of(scores, everyone)
    except InputRefused:  # nobody is known, or nearly everybody was followed up: all alike
        known = {}
    said = [people.get(score.question) for score in scores]
    return DoublyJudged(
        np.array([outcome(score) for score in scores]),
        np.array([np.nan if one is None else outcome(one) for one in said]),
        np.array([known.get(score.patient, 1.0) for score in scores]),
    )


def _three_ways(
    quantity: str,
    numbers: Sequence[str],
    judged: DoublyJudged,
    compute: Callable[[DoublyJudged, float | None], Sequence[Estimate]],
) -> list[JudgedNumber]:
    ways = (
        (BY_MODEL, judged.by_model_alone(), 0.0),
        (CORRECTED, judged, None),
        (BY_PEOPLE, judged, 0.0),
    )
    found = []
    for means, which, model_share in ways:
        values: Sequence[Estimate | str]
        if means != BY_MODEL and judged.outlined < FEWEST_OUTLINED:
            values = [f"{judged.outlined} outlined pairs of the lot; {FEWEST_OUTLINED} are needed"] * len(
                numbers
            )
        else:
            try:
                values = compute(which, model_share)
            except InputRefused as refusal:
                values = [str(refusal)] * len(numbers)
        pairs = judged.outlined if means == BY_PEOPLE else len(judged.weights)
        outlined = 0 if means == BY_MODEL else judged.outlined
        found += [
            JudgedNumber(quantity, number, means, value, pairs, outlined)
            for number, value in zip(numbers, values, strict=True)
        ]
    return found


# ---- tables


def followups_table(scores: Sequence[Score], everyone: Everyone) -> Table:
    """Return what the model itself judged beside what people's outlines make of it; of one model."""
    rows: list[tuple[Cell, ...]] = [
        (one.quantity, one.number, one.means, one.value, one.pairs, one.outlined)
        for one in followup_numbers(scores, everyone)
    ]
    columns = ("quantity", "number", "judged by", "value", "pairs", "of them outlined")
    note = (
        "The model's own judgement is no evidence: it shares the errors that it judges. Corrected: what it"
        " says of all pairs, plus what people say otherwise of the outlined ones (prediction-powered"
        " inference, Angelopoulos and others 2023, Science 382:669). 95 % intervals, for one look; weighted"
        " for selection where it is known who gets a follow-up."
    )
    caption = "Follow-ups that the model itself read, corrected by people's outlines"
    return Table("followups", caption, columns, tuple(rows), note)


def outlines_table(scores: Sequence[Score]) -> Table:
    """Say how many outlines are wanted, and how many have come; no row where the model judged nothing."""
    count = outline_count(scores)
    row: tuple[Cell, ...] = (count.by_model, count.wanted, count.outlined, count.others)
    columns = ("follow-ups that the model read", "outlines wanted", "of these there", "outlined besides")
    note = (
        f"One follow-up in {1 / LOT_SHARE:.0f} is chosen at random: outline the haematoma on the plain CT and"
        " on the follow-up CT, in any DICOM viewer."
        f" From {FEWEST_OUTLINED} on they correct the rest. Outlines besides count as what they are, and"
        " correct nothing: somebody picked them."
    )
    return Table("outlines", "Outlines by people", columns, (row,) if count.by_model else (), note)
