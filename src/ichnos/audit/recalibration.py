"""Recalibrate from a site's own pairs: intervals by split conformal, probabilities by a shrunken fit.

Twenty pairs are enough to begin. What is fitted stays near what was shipped until the pairs demand otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ichnos.arrays import Floats
from ichnos.audit.lot import OUTLINE_TABLE, independent_scores
from ichnos.audit.score import Score, by_quantity
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.calibration import logit
from ichnos.prognosis.site import (
    ChanceShift,
    IntervalScaling,
    SiteRecalibration,
    half_width,
    scaled_error,
)

FEWEST_PAIRS = 20
# Standard deviations of the prior on log odds: shipped probabilities are right unless pairs say otherwise.
_INTERCEPT_SD, _SLOPE_SD = 1.0, 0.25
_MOST_EXPLAINED = 0.5  # of the scatter by the exam's error: beyond, what is left is too uncertain to use


def recalibrate(
    scores: Sequence[Score], *, site: str = "", level: float = 0.8, exam_sd: Mapping[str, float] = {}
) -> SiteRecalibration:
    """Fit intervals and probabilities from scores of one model; quantities with too few pairs are left.

    What the model itself judged teaches nothing: on simulated hospitals it made intervals hold less often and
    probabilities too high. `exam_sd` is the standard deviation of a partner exam's own error by quantity, in
    ln(1 + mL).
    """
    models = {score.model for score in scores}
    if len(models) > 1:
        raise InputRefused(f"the scores are of {len(models)} models; give those of one model")
    intervals, chances = {}, {}
    teaching = independent_scores(scores)
    for name, judged in judged_intervals(teaching).items():
        intervals[name] = scaling_of(judged, level=level, exam_sd=exam_sd.get(name, 0.0))
    for name, own in by_quantity(teaching).items():
        if own[0].kind == "probability" and len(own) >= FEWEST_PAIRS:
            chances[name] = chance_of([s.predicted for s in own], [bool(s.truth) for s in own])
    if not intervals and not chances:
        counts = ", ".join(f"{len(own)} of {name}" for name, own in by_quantity(teaching).items()) or "none"
        more = what_is_left_out(scores)
        raise InputRefused(
            f"{FEWEST_PAIRS} pairs of a quantity are needed to recalibrate; there are {counts}"
            + (f". {more}" if more else "")
        )
    if unknown := sorted(set(exam_sd) - set(intervals)):
        raise InputRefused(
            f"the error of a partner exam was given for {', '.join(unknown)}, of which no interval is"
            f" recalibrated; recalibrated are {', '.join(intervals) or 'none'}"
        )
    pairs = len({score.pair for score in teaching})
    return SiteRecalibration(site=site, pairs=pairs, intervals=intervals, chances=chances)


def judged_intervals(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Return by quantity the scores that judge an interval, where they are enough to recalibrate it."""
    judged = {
        name: [score for score in own if score.held is not None]
        for name, own in by_quantity(scores).items()
        if own[0].kind == "volume"
    }
    return {name: own for name, own in judged.items() if len(own) >= FEWEST_PAIRS}


def scaling_of(scores: Sequence[Score], *, level: float, exam_sd: float = 0.0) -> IntervalScaling:
    """Return the limits that hold a new patient with this probability on average, both tails alike.

    Order statistics of the errors in units of the interval that was given (split conformal), interpolated at
    rank (n + 1) p: no distribution is assumed, only that the next patients come as these did.
    """
    errors = _without_exam_error(scores, exam_sd)
    tails = ((1 - level) / 2, 0.5, (1 + level) / 2)
    low, middle, high = (float(x) for x in np.quantile(errors, tails, method="weibull"))
    return IntervalScaling(low=low, middle=middle, high=high, pairs=errors.size, level=level, exam_sd=exam_sd)


def _without_exam_error(scores: Sequence[Score], exam_sd: float) -> Floats:
    """Return the errors in units of the intervals, drawn towards their median until their variance is what
    remains without the partner exam's.

    A partner exam that errs too makes the model seem to err more than it does.
    """
    given = [
        (s.truth, s.predicted, s.low, s.high) for s in scores if s.low is not None and s.high is not None
    ]
    errors = np.array([scaled_error(*one) for one in given])
    if not exam_sd:
        return errors
    own = float(np.mean([(exam_sd / half_width(*one)) ** 2 for one in given]))
    share = own / max(float(np.var(errors, ddof=1)), 1e-12)
    if share > _MOST_EXPLAINED:
        raise InputRefused(
            f"a partner exam that errs by {exam_sd:g} would explain {min(share, 9.99):.0%} of the scatter of"
            f" {scores[0].quantity}, and at most {_MOST_EXPLAINED:.0%} can be taken out; measure it again on"
            " repeated outlines, or leave it out"
        )
    middle = np.median(errors)
    return np.asarray(middle + (errors - middle) * np.sqrt(1 - share))


def chance_of(probability: Sequence[float], outcome: Sequence[bool]) -> ChanceShift:
    """Return the shift of log odds that the outcomes demand, the shipped one being the prior.

    >>> rng = np.random.default_rng(0)
    >>> p = rng.uniform(0.1, 0.5, 400)
    >>> shift = chance_of(p, rng.uniform(size=400) < p / 2)
    >>> shift.intercept < -0.4, 0.6 < shift.slope < 1.4
    (True, True)
    """
    x, y = logit(np.asarray(probability)), np.asarray(outcome, np.float64)
    design = np.stack([np.ones_like(x), x])
    prior = np.diag([_INTERCEPT_SD**-2, _SLOPE_SD**-2])
    at = np.array([0.0, 1.0])
    for _ in range(50):  # Newton's steps; the posterior is concave
        mean = 1 / (1 + np.exp(-(at @ design)))
        gradient = design @ (y - mean) - prior @ (at - [0.0, 1.0])
        step = np.linalg.solve((design * (mean * (1 - mean))) @ design.T + prior, gradient)
        at = at + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:
            break
    return ChanceShift(intercept=float(at[0]), slope=max(float(at[1]), 0.05), pairs=len(y))


def what_is_left_out(scores: Sequence[Score]) -> str:
    """Say which quantities the model itself has judged, so that its pairs teach nothing; "" where none.

    >>> one = Score("p", "1", "followup", "followup_volume", "volume", "m", 1.0, 2.0, judge="model")
    >>> print(what_is_left_out([one] * 30))
    Left out: followup_volume: the model itself read these follow-ups; 20 that people outlined by ...
    """
    taught = by_quantity(independent_scores(scores))
    own = dict.fromkeys(score.quantity for score in scores if score.judge == "model")
    left = [name for name in own if len(taught.get(name, ())) < FEWEST_PAIRS]
    if not left:
        return ""
    return (
        f"Left out: {', '.join(left)}: the model itself read these follow-ups; {FEWEST_PAIRS} that people"
        f" outlined by lot are needed ({OUTLINE_TABLE})."
    )


def what_pairs_allow(pairs: int) -> str:
    """Say what so many pairs can do for a model, in a sentence.

    >>> what_pairs_allow(12)
    '12 pairs: too few to recalibrate; 20 are needed.'
    """
    if pairs < FEWEST_PAIRS:
        return f"{pairs} pairs: too few to recalibrate; {FEWEST_PAIRS} are needed."
    points = 100 * float(np.sqrt(0.8 * 0.2 / (pairs + 2)))
    also = "the level of probabilities can be set" if pairs < 100 else "probabilities can be refitted too"
    return f"{pairs} pairs: 80 % intervals hold 80 % on average, give or take {points:.0f} points; {also}."
