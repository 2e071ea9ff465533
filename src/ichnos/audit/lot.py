"""Which follow-ups a person should outline: a lot, so that nobody picks what looks odd.

A follow-up that the judged model itself has read says too much good of its volumes and flattens the slope of
its probabilities. Outlines of a random share correct both (`ichnos.audit.monitoring.corrected`).
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ichnos.audit.score import Score, first_judged

# Of the follow-ups. On simulated hospitals one in five (161 of 825) gives a calibration slope with a standard
# deviation of 0.2 (0.04 too steep in the mean), and a coverage with one of 3 points and no bias
# (`ichnos study hospital`).
LOT_SHARE = 0.2
FEWEST_OUTLINED = 20  # below, the correction is less certain than what it corrects
# Outlined share from which all outlines count, not only the lot's: what is missing then is what came last.
_NEARLY_ALL = 0.9
OUTLINE_TABLE = "to_outline.csv"


def in_lot(pair: str, *, share: float = LOT_SHARE) -> bool:
    """Say whether a person should outline a pair: by a hash of its id, the same for ever and everywhere.

    A greater share keeps whom a smaller one has. The hash is not that of the split.

    >>> sum(in_lot(f"p{n}-followup") for n in range(4000)) / 4000 - 0.2 < 0.02
    True
    """
    return int(hashlib.sha256(f"outline {pair}".encode()).hexdigest()[:8], 16) / 16**8 < share


def independent_scores(scores: Iterable[Score]) -> list[Score]:
    """Return the scores whose truth owes nothing to the judged model, in order, each question once.

    Other exams count all. Where the model itself judged some pairs of a quantity, people's outlines count if
    they are of the lot, or of nearly all pairs: outlines that somebody picked would speak for the picked.
    """
    every = list(scores)
    partly = _partly_outlined(every)
    return first_judged(
        score
        for score in every
        if score.judge == "exam"
        or (score.judge == "person" and ((score.model, score.quantity) not in partly or in_lot(score.pair)))
    )


def watched_scores(scores: Iterable[Score]) -> list[Score]:
    """Return the judgements whose errors are watched for change: each pair as it was judged first, so that no
    outline rewrites what has been watched; people's where they outline nearly all pairs.
    """
    every = list(scores)
    partly = _partly_outlined(every)
    return first_judged(s for s in every if s.judge != "model" or (s.model, s.quantity) in partly)


def _partly_outlined(scores: Sequence[Score]) -> set[tuple[str, str]]:
    """Return the models and quantities of which the model itself judged more than a few pairs alone."""
    people: dict[tuple[str, str], set[str]] = {}
    pairs: dict[tuple[str, str], set[str]] = {}
    for score in scores:
        name = score.model, score.quantity
        if score.judge != "exam":
            pairs.setdefault(name, set()).add(score.pair)
        if score.judge == "person":
            people.setdefault(name, set()).add(score.pair)
    return {name for name, own in pairs.items() if len(people.get(name, ())) < _NEARLY_ALL * len(own)}


@dataclass(frozen=True)
class OutlineCount:
    """How many follow-ups a model has judged itself, and how far people have outlined the lot."""

    by_model: int
    wanted: int  # of these, in the lot
    outlined: int  # of the wanted
    others: int  # outlined beside the lot


def outline_count(scores: Iterable[Score]) -> OutlineCount:
    """Count pairs of one model by who judged them."""
    every = list(scores)
    by_model = {score.pair for score in every if score.judge == "model"}
    people = {score.pair for score in every if score.judge == "person"}
    lot = {pair for pair in by_model if in_lot(pair)}
    return OutlineCount(len(by_model), len(lot), len(lot & people), len(people - lot))


def pairs_to_outline(scores: Iterable[Score]) -> list[Score]:
    """Return one score of each pair of the lot that no person has outlined yet, in order."""
    every = list(scores)
    people = {score.pair for score in every if score.judge == "person"}
    wanted = [s for s in every if s.judge == "model" and s.pair not in people and in_lot(s.pair)]
    return list({score.pair: score for score in reversed(wanted)}.values())[::-1]


@dataclass(frozen=True)
class WantedOutline:
    """A pair of the lot, and which of its CTs lack an outline."""

    patient: str
    exams: tuple[str, ...]  # ct, followup
    month: str


def outlines_text(wanted: Iterable[WantedOutline]) -> str:
    """Return what is to be outlined as comma-separated text.

    >>> outlines_text([WantedOutline("A1", ("ct", "followup"), "2026-03")]).splitlines()[1]
    'A1,ct followup,2026-03'
    """
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("patient", "exams", "month"))
    table.writerows((one.patient, " ".join(one.exams), one.month) for one in wanted)
    return out.getvalue()
