"""One call that judges a set of synthetic images: how near to real ones, how new, and of what use."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ichnos.arrays import Floats, Floats32
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import Auc, auc
from ichnos.evidence.metrics.synthetic.copies import CopyCheck, find_copies, membership_auc
from ichnos.evidence.metrics.synthetic.distances import (
    FloorDistance,
    frechet_over_floor,
    kernel_over_floor,
)

Features = Callable[[Floats32], Floats]  # images (n, side, side) -> (n, d)
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with what is known of them."""

    images: Floats32  # (n, side, side)
    outcomes: Floats  # (n,) 0 or 1
    patients: tuple[str, ...] = ()  # of each real image; () for synthetic ones


@dataclass(frozen=True, eq=False)
class SyntheticVerdict:
    """What was found; a sentence stands where the images do not determine a number."""

    frechet: FloorDistance | str
    kernel: FloorDistance | str
    copies: CopyCheck | str
    membership: Auc | str  # 0.5: the synthetic images betray nobody whom they were made from
    trained_on_synthetic: Auc | str  # a classifier of synthetic images, tested on held-out real ones
    trained_on_real: Auc | str  # the same classifier trained on real images alone


def judge_synthetic(
    synthetic: ImageSet,
    originals: ImageSet,
    held_out: ImageSet,
    *,
    features: Features,
    features_name: str,
    rng: np.random.Generator,
    classified: ImageSet | None = None,
    most_aligned: int | None = None,
) -> SyntheticVerdict:
    """Judge synthetic images against the real ones they were made from and real ones of other patients.

    `classified` are the real images whose place the synthetic ones take in a classifier, by default the
    originals; where only one class is synthetic, the other class is theirs. Every image is aligned in the
    search for copies, some tens of ms each, unless `most_aligned` says how many of a kind are.
    """
    made, known, other = (features(part.images) for part in (synthetic, originals, held_out))
    alike = [held_out.outcomes == outcome for outcome in np.unique(synthetic.outcomes)]
    real = np.any(alike, axis=0)
    patients = [p for p, kept in zip(held_out.patients, real, strict=True) if kept]
    images = (synthetic.images, originals.images, held_out.images)
    taught, outcomes = known, originals.outcomes
    if classified is not None:
        taught, outcomes = features(classified.images), classified.outcomes
    x, y = _training_set(made, synthetic.outcomes, taught, outcomes)
    return SyntheticVerdict(
        _or_why(lambda: frechet_over_floor(made, other[real], patients, features=features_name, rng=rng)),
        _or_why(lambda: kernel_over_floor(made, other[real], patients, features=features_name, rng=rng)),
        _or_why(lambda: find_copies(*images, most=most_aligned)),
        _or_why(lambda: membership_auc(*images, most=most_aligned)),
        _or_why(lambda: classifier_auc(x, y, other, held_out.outcomes)),
        _or_why(lambda: classifier_auc(taught, outcomes, other, held_out.outcomes)),
    )


def _or_why(compute: Callable[[], Value]) -> Value | str:
    try:
        return compute()
    except InputRefused as refusal:
        return str(refusal)


def _training_set(made: Floats, outcome: Floats, known: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """Return synthetic features with outcomes, and originals of a class that is not synthetic."""
    lacking = np.isin(truth, np.unique(outcome), invert=True)
    return np.concatenate([made, known[lacking]]), np.concatenate([outcome, truth[lacking]])


def classifier_auc(x: Floats, outcome: Floats, x_test: Floats, test_outcome: Floats) -> Auc:
    """Train a ridge logistic regression on features and return its AUC on other ones.

    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0.0, 1.0], 40)
    >>> x = rng.normal(size=(80, 4)) + 2 * y[:, None]
    >>> classifier_auc(x[::2], y[::2], x[1::2], y[1::2]).value > 0.95
    True
    """
    from sklearn.linear_model import LogisticRegression

    if np.unique(outcome).size < 2:
        raise InputRefused("the images to train on have one outcome only, so no classifier can be trained")
    centre, scale = x.mean(0), x.std(0) + 1e-9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that has not converged ranks nearly as well
        model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=500)
        model.fit((x - centre) / scale, outcome)
    return auc(test_outcome, model.decision_function((x_test - centre) / scale))
