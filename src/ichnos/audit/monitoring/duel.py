"""Champion and challenger on the same pairs: which has the smaller loss, at every look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ichnos.audit.lot import independent_scores
from ichnos.audit.monitoring.betting import difference_sequence
from ichnos.audit.score import Score
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.tables import Table

_BOUND_ML = 40.0  # an interval score above counts as so much, so that one wild case decides nothing


@dataclass(frozen=True)
class DuelResult:
    """One quantity of two models; differences are champion minus challenger: above 0, the challenger wins."""

    quantity: str
    pairs: int
    difference: Estimate  # of the mean loss, confidence sequence at the last look
    held: tuple[float, float] | None  # shares of intervals that held: champion, challenger

    @property
    def verdict(self) -> str:
        """Return who is better, as far as this is known at every look."""
        if self.difference.low > 0:
            return "challenger better"
        return "champion better" if self.difference.high < 0 else "not decided"


def duel(scores: Sequence[Score], champion: str, challenger: str) -> list[DuelResult]:
    """Compare two models on the pairs that both were judged on, in the order of the champion's.

    Follow-ups that each model judged itself compare nothing: each would have a truth of its own.
    """
    if champion == challenger:
        raise InputRefused("champion and challenger are the same model; name two")
    fair = independent_scores(scores)
    own = {score.key: score for score in fair if score.model == challenger}
    both: dict[str, list[tuple[Score, Score]]] = {}
    for score in fair:
        other = own.get((score.pair, challenger, score.quantity, score.judge))
        if score.model == champion and other is not None:
            both.setdefault(score.quantity, []).append((score, other))
    return [_result(quantity, pairs) for quantity, pairs in both.items()]


def duel_table(results: Sequence[DuelResult]) -> Table:
    """Return the comparison as a table of the evidence page."""
    rows = []
    for one in results:
        held = "no interval" if one.held is None else f"{one.held[0]:.2f} and {one.held[1]:.2f}"
        rows.append((one.quantity, one.pairs, one.difference, held, one.verdict))
    columns = (
        "quantity",
        "pairs of both",
        "mean loss: champion - challenger",
        "interval held by each",
        "so far",
    )
    note = "Confidence sequences by betting: valid at every look. Who reads tomorrow is a person's decision."
    return Table("duel", "Champion and challenger on the same pairs", columns, tuple(rows), note)


def _result(quantity: str, pairs: Sequence[tuple[Score, Score]]) -> DuelResult:
    bound = _BOUND_ML if pairs[0][0].kind == "volume" else 1.0
    first, second = (np.minimum([pair[k].loss for pair in pairs], bound) for k in (0, 1))
    held = [pair for pair in pairs if pair[0].held is not None and pair[1].held is not None]
    shares = (
        (float(np.mean([bool(a.held) for a, _ in held])), float(np.mean([bool(b.held) for _, b in held])))
        if held
        else None
    )
    return DuelResult(quantity, len(pairs), difference_sequence(first, second, bound=bound).last, shares)
