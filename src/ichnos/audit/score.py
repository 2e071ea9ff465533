"""One score: what had been read or forecast at the time, held against what the partner exam showed."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast

from ichnos.errors import InputRefused

ScoreKind = Literal["volume", "probability", "overlap", "grade"]
SCORE_KINDS: tuple[ScoreKind, ...] = ("volume", "probability", "overlap", "grade")
Judge = Literal["exam", "model", "person"]  # an exam of its own; the judged model read it; people outlined it
JUDGES: tuple[Judge, ...] = ("exam", "model", "person")
_LEVEL = re.compile(r"^(\d+(?:\.\d+)?) %")  # "80 % interval, calibrated on …"


@dataclass(frozen=True)
class Score:
    """One quantity of one pair under one model; `key` is what makes it count once.

    >>> score = Score("A1-followup", "A1", "followup", "expansion", "probability", "ab12", 0.3, 1.0)
    >>> score.key, round(score.loss, 2), score.held
    (('A1-followup', 'ab12', 'expansion', 'exam'), 0.49, None)
    """

    pair: str  # patient and partner
    patient: str
    partner: str  # followup, flair, diffusion; "reader" where a person drew it
    quantity: str  # the measure of the reading, or "growth_dice", …
    kind: ScoreKind
    model: str  # SHA-256 of the weights that had read
    predicted: float  # mL, probability 0..1, Dice 0..1, or the number of a grade
    truth: float  # the same by the partner exam; 1 for an overlap
    low: float | None = None  # interval that was given, same unit
    high: float | None = None
    level: float | None = None  # share of patients that the interval promised to hold
    centre: str = ""
    scanner: str = ""
    thickness_mm: float | None = None
    month: str = ""  # YYYY-MM
    verdict: str = "pass"  # of the pair: pass or warn
    judge: Judge = "exam"  # whose reading of the partner exam is the truth

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return what makes the score unique: pair, model, quantity, judge."""
        return self.pair, self.model, self.quantity, self.judge

    @property
    def question(self) -> tuple[str, str, str]:
        """Return what several judges may answer: pair, model, quantity."""
        return self.pair, self.model, self.quantity

    @property
    def held(self) -> bool | None:
        """Say whether the interval held the truth; None where none with a promised level was given."""
        if self.low is None or self.high is None or self.level is None:
            return None
        return self.low <= self.truth <= self.high

    @property
    def loss(self) -> float:
        """Return Brier's score, 1 - Dice, whether a grade was wrong, or the interval score in mL."""
        if self.kind == "probability":
            return (self.predicted - self.truth) ** 2
        if self.kind == "overlap":
            return 1 - self.predicted
        if self.kind == "grade":
            return float(self.predicted != self.truth)
        if self.low is None or self.high is None or self.level is None:
            return abs(self.predicted - self.truth)
        return interval_score(self.predicted, self.low, self.high, self.truth, level=self.level)

    @property
    def error(self) -> float:
        """Return the signed error: of ln(1 + mL) for a volume, of the plain numbers otherwise."""
        if self.kind == "volume":
            return math.log1p(max(self.truth, 0.0)) - math.log1p(max(self.predicted, 0.0))
        return self.truth - self.predicted


def interval_score(median: float, low: float, high: float, truth: float, *, level: float) -> float:
    """Return the weighted interval score (Bracher 2021, PLoS Comput Biol 17:e1008618): the CRPS as far as a
    median and one interval determine it, in the unit of the truth.

    >>> interval_score(20, 18, 30, 22, level=0.8), interval_score(20, 18, 30, 40, level=0.8)
    (1.4666666666666666, 14.133333333333333)
    """
    miss = 1 - level
    outside = max(low - truth, 0.0) + max(truth - high, 0.0)
    interval = (high - low) + 2 / miss * outside
    return (0.5 * abs(truth - median) + miss / 2 * interval) / 1.5


def promised_level(words: str) -> float | None:
    """Return the share of patients that an interval promises to hold, by its words; None where it does not.

    >>> promised_level("80 % interval, fitted on 90"), promised_level("volume at probability 0.25")
    (0.8, None)
    """
    match = _LEVEL.match(words)
    return None if match is None or "refits" in words else float(match[1]) / 100


def once(scores: Iterable[Score]) -> list[Score]:
    """Return the scores in order, each key once: what came first holds.

    >>> a = Score("p", "1", "flair", "q", "volume", "m", 1.0, 2.0)
    >>> len(once([a, a]))
    1
    """
    first: dict[tuple[str, str, str, str], Score] = {}
    for score in scores:
        first.setdefault(score.key, score)
    return list(first.values())


def first_judged(scores: Iterable[Score]) -> list[Score]:
    """Return for each pair, model and quantity the judgement that came first: later ones rewrite no history.

    >>> a = Score("p", "1", "followup", "q", "volume", "m", 1.0, 2.0, judge="model")
    >>> b = Score("p", "1", "followup", "q", "volume", "m", 1.0, 3.0, judge="person")
    >>> [score.judge for score in first_judged([a, b])]
    ['model']
    """
    first: dict[tuple[str, str, str], Score] = {}
    for score in scores:
        first.setdefault(score.question, score)
    return list(first.values())


def standing(scores: Iterable[Score]) -> list[Score]:
    """Return one judgement for each pair, model and quantity: a person's before the model's own.

    >>> a = Score("p", "1", "followup", "q", "volume", "m", 1.0, 2.0, judge="model")
    >>> b = Score("p", "1", "followup", "q", "volume", "m", 1.0, 3.0, judge="person")
    >>> [score.judge for score in standing([a, b])]
    ['person']
    """
    best: dict[tuple[str, str, str], Score] = {}
    for score in scores:
        known = best.get(score.question)
        if known is None or (known.judge == "model" and score.judge != "model"):
            best[score.question] = score
    return list(best.values())


def by_quantity(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Return the scores of each quantity, in order."""
    found: dict[str, list[Score]] = {}
    for score in scores:
        found.setdefault(score.quantity, []).append(score)
    return found


# ---- tables


def scores_text(scores: Iterable[Score]) -> str:
    """Return scores as comma-separated text, with loss and `held` for readers of the table."""
    out = io.StringIO()
    columns = [*(field.name for field in fields(Score)), "held", "loss"]
    table = csv.DictWriter(out, columns, lineterminator="\n")
    table.writeheader()
    for score in scores:
        held = None if score.held is None else int(score.held)
        table.writerow({**asdict(score), "held": held, "loss": f"{score.loss:.6g}"})
    return out.getvalue()


def scores_of_text(text: str, *, where: str = "the table of scores") -> list[Score]:
    """Read scores back from their table."""
    rows = list(csv.DictReader(io.StringIO(text)))
    return [score_of(row, where=f"{where}, line {n}") for n, row in enumerate(rows, start=2)]


def score_of(row: Mapping[str, Any], *, where: str = "a score") -> Score:
    """Return a score from a row of a table or ledger; empty cells are unknown."""
    numbers = ("predicted", "truth", "low", "high", "level", "thickness_mm")
    names = {field.name for field in fields(Score)}
    try:
        values: dict[str, Any] = {name: value for name, value in row.items() if name in names}
        for name in numbers:
            text = values.get(name)
            values[name] = None if text in (None, "") else float(cast("str", text))
        if values["predicted"] is None or values["truth"] is None or values["kind"] not in SCORE_KINDS:
            raise ValueError("predicted, truth and kind are needed")
        values["judge"] = values.get("judge") or _judge_of_old(str(values.get("partner")))
        if values["judge"] not in JUDGES:
            raise ValueError(f"judge is one of {', '.join(JUDGES)}")
        return Score(**values)
    except (TypeError, ValueError, KeyError) as error:
        raise InputRefused(f"{where} is not a score: {error}; give scores.csv of `ichnos audit`") from None


def _judge_of_old(partner: str) -> Judge:
    """Return the judge of a score that ichnos 0.1.0 kept without one: of a follow-up it is not known, and
    the model itself is the cautious answer.
    """
    return "model" if partner == "followup" else "exam"
