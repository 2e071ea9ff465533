"""Notice that something has changed, without knowing how it should be: conformal test martingales.

While nothing changes, the values of a stream (noise of the CTs, errors of a forecast) come in an order that
means nothing: they are exchangeable. Then the rank of each value among those before it is uniform and
independent of all earlier ranks, whatever the distribution (Vovk, Gammerman and Shafer 2005). Bets against
that, spread over directions by the Simple Jumper (Vovk, Petej, Nouretdinov and others 2021, COPA), win money
only after a change. Nothing has to be known of the site beforehand, and constant selection of who gets a
partner exam does no harm.

The promise on false alarms holds over all looks only if a look never rewrites what earlier looks saw: streams
grow at their end alone, ties are broken by the same numbers each time, shares of alpha are fixed.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats
from ichnos.evidence.metrics.intervals import finite

# Probability of any false alarm, ever, over all streams together, of one model. Changes of the inputs are
# plain, so that a strict limit costs a few CTs; at 5 % one quiet site in twenty would be alarmed for nothing.
ALPHA = 0.01
_BETS = np.array([-1.8, -0.9, 0.0, 0.9, 1.8])  # f(p) = 1 + bet (p - 1/2): rising or falling ranks
_JUMP = 0.01  # share of the money that is spread anew before each value
_EXPECTED_JUMP = 0.5  # the same where the headers tell of a new scanner or protocol


def ranks(values: npt.ArrayLike, rng: np.random.Generator, *, spread: bool = False) -> Floats:
    """Return the conformal p-value of each value among itself and those before it; ties are broken by chance.

    With `spread` the distance to the median of all of them is ranked: it rises when the values scatter more.

    >>> p = ranks([1.0, 2.0, 3.0, 0.5], np.random.default_rng(0))
    >>> bool(p[2] > 2 / 3), bool(p[3] < 1 / 4)
    (True, True)
    """
    x = finite("the stream", values, least=0)
    out, ties = np.empty(x.size), rng.uniform(size=x.size)
    for n in range(x.size):
        seen = x[: n + 1]
        scores = np.abs(seen - np.median(seen)) if spread else seen
        below, equal = np.count_nonzero(scores < scores[n]), np.count_nonzero(scores == scores[n])
        out[n] = (below + ties[n] * equal) / (n + 1)
    return out


def betting_capital(p: npt.ArrayLike, expected: npt.ArrayLike | None = None) -> Floats:
    """Return the log capital after each p-value; `expected` marks those at which a change is announced.

    >>> flat = (np.arange(200) * 0.618) % 1  # as uniform as can be
    >>> bool(betting_capital(flat).max() < 3), bool(betting_capital(np.full(40, 0.9))[-1] > 3)
    (True, True)
    """
    values = np.asarray(p, np.float64)
    jumps = np.full(values.size, _JUMP)
    if expected is not None:
        jumps = np.where(np.asarray(expected, bool), _EXPECTED_JUMP, _JUMP)
    shares, total, out = np.full(_BETS.size, 1 / _BETS.size), 0.0, np.empty(values.size)
    for n, (value, jump) in enumerate(zip(values, jumps, strict=True)):
        shares = (1 - jump) * shares + jump / _BETS.size
        shares = shares * (1 + _BETS * (value - 0.5))
        won = float(shares.sum())
        total += math.log(won)
        shares, out[n] = shares / won, total
    return out


@dataclass(frozen=True)
class ChangeAlarm:
    """A stream whose bets against "nothing has changed" have won too much."""

    stream: str  # "noise_hu of the CTs"
    at: int  # index of the value at which it was raised
    evidence: float  # e-value, its share of alpha included: at least 1 / alpha
    before: float  # median before the change, as far as the ranks tell where it was
    after: float
    text: str  # a sentence


@dataclass(frozen=True)
class Stream:
    """One thing that is watched, in the order of coming."""

    name: str
    values: tuple[float, ...]
    unit: str = ""
    weight: float = 1.0  # its share of alpha, whatever streams come later; all together at most one
    expected: tuple[bool, ...] = ()  # where the headers tell of a new scanner; () nowhere
    spread: bool = False  # watch the scatter instead of the size


def watch(streams: list[Stream], seed: int = 0, *, alpha: float = ALPHA) -> list[ChangeAlarm]:
    """Return the alarms of streams that share one alpha, the probability of any false alarm, ever.

    Each stream breaks its ties by numbers of its own, so that its past is the same at every look.
    """
    whole = max(1.0, sum(stream.weight for stream in streams))
    found = []
    for stream in streams:
        if not stream.values:
            continue
        ties = np.random.default_rng([seed, zlib.crc32(stream.name.encode())])
        p = ranks(stream.values, ties, spread=stream.spread)
        capital = betting_capital(p, stream.expected or None)
        evidence = capital + math.log(stream.weight / whole)
        over = np.flatnonzero(evidence >= -math.log(alpha))
        if over.size:
            found.append(_alarm(stream, int(over[0]), float(np.exp(min(evidence[over[0]], 700.0))), p))
    return sorted(found, key=lambda alarm: alarm.at)


def _alarm(stream: Stream, at: int, evidence: float, p: Floats) -> ChangeAlarm:
    began = _onset(p[: at + 1])
    x = np.asarray(stream.values)
    if stream.spread:
        x = np.abs(x - np.median(x[: max(began, 1)]))
    before, after = float(np.median(x[: max(began, 1)])), float(np.median(x[began : at + 1]))
    what = "scatter (median distance from the middle)" if stream.spread else "median"
    text = (
        f"{stream.name} has changed: {what} {before:.3g} before, {after:.3g} in the {at + 1 - began} since"
        f" ({stream.unit or 'no unit'}); e-value {evidence:.0f}"
    )
    return ChangeAlarm(stream.name, at, evidence, before, after, text)


def _onset(p: Floats) -> int:
    """Return from which value on the ranks depart most from the middle (the largest standardised sum)."""
    n = len(p)
    tail = np.cumsum((p - 0.5)[::-1])[::-1]
    lengths = np.arange(n, 0, -1)
    score = np.abs(tail) / np.sqrt(lengths / 12)
    score[lengths < 3] = 0
    return int(score.argmax())
