"""Overlap of a predicted mask with the true one, case by case.

Empty masks are a policy, not an accident. `undefined` (the default): a number that has no meaning without a
mask is NaN and leaves the mean, with its count reported. `scored`: both empty is full marks, one empty is
none; a missing surface costs the diagonal of the grid. Where the two differ, the evidence pack prints both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from ichnos.arrays import Mask
from ichnos.evidence.metrics.surfaces import (
    SurfaceDistances,
    distances_between,
    require_same_grid,
    union_box,
)
from ichnos.volume import Volume, volume_ml

EmptyPolicy = Literal["undefined", "scored"]
EmptyState = Literal["neither", "truth", "prediction", "both"]
SIZE_BINS_ML: tuple[float, ...] = (0.0, 1.0, 5.0, 30.0)  # lower edges; the last bin has no upper one
_SHARES = ("dice", "iou", "precision", "recall", "nsd")


@dataclass(frozen=True)
class Overlap:
    """How a predicted mask agrees with the true one; NaN is undefined."""

    dice: float
    iou: float
    precision: float  # NaN for an empty prediction
    recall: float  # NaN for an empty truth
    nsd: float  # normalised surface distance at `tolerance_mm`
    hd95_mm: float
    assd_mm: float
    truth_ml: float
    prediction_ml: float
    tolerance_mm: float
    diagonal_mm: float  # of the grid; what a missing surface costs under the policy "scored"

    @property
    def volume_error_ml(self) -> float:
        """Return prediction minus truth, in mL."""
        return self.prediction_ml - self.truth_ml

    @property
    def empty(self) -> EmptyState:
        """Say which of the two masks is empty."""
        if self.truth_ml == 0:
            return "both" if self.prediction_ml == 0 else "truth"
        return "prediction" if self.prediction_ml == 0 else "neither"

    def under(self, policy: EmptyPolicy) -> Overlap:
        """Return the record under a policy for empty masks; a record with two filled masks is the same under
        both.

        >>> from ichnos.volume import sphere
        >>> nothing = sphere(radius_mm=5).map_array(np.zeros_like)
        >>> overlap(nothing, nothing).dice, overlap(nothing, nothing).under("scored").dice
        (nan, 1.0)
        """
        if policy == "undefined" or self.empty == "neither":
            return self
        share, distance_mm = (1.0, 0.0) if self.empty == "both" else (0.0, self.diagonal_mm)
        return replace(self, **dict.fromkeys(_SHARES, share), hd95_mm=distance_mm, assd_mm=distance_mm)

    def row(self) -> dict[str, float]:
        """Return the measures by name, for a table."""
        return {**asdict(self), "volume_error_ml": self.volume_error_ml}


def overlap(truth: Volume, prediction: Volume, *, tolerance_mm: float = 2.0) -> Overlap:
    """Compare a predicted mask with the true one on the same grid; every voxel that is not zero counts as
    inside.

    >>> from ichnos.volume import sphere
    >>> ball = sphere(radius_mm=10, spacing_mm=1.0)
    >>> overlap(ball, ball).dice, overlap(ball, ball).assd_mm
    (1.0, 0.0)
    """
    require_same_grid(truth, prediction)
    true, predicted = truth.array != 0, prediction.array != 0
    start, stop = union_box(true, predicted)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    true, predicted = true[box], predicted[box]
    surfaces = distances_between(true, predicted, truth.spacing_mm)
    diagonal_mm = float(np.linalg.norm(np.array(truth.shape) * truth.spacing_mm))
    return _measured(
        true, predicted, surfaces, voxel_ml=truth.voxel_ml, tolerance_mm=tolerance_mm, diagonal_mm=diagonal_mm
    )


def _measured(
    true: Mask,
    predicted: Mask,
    surfaces: SurfaceDistances,
    *,
    voxel_ml: float,
    tolerance_mm: float,
    diagonal_mm: float,
) -> Overlap:
    n_true, n_predicted = np.count_nonzero(true), np.count_nonzero(predicted)
    both = np.count_nonzero(true & predicted)
    return Overlap(
        dice=_ratio(2 * both, n_true + n_predicted),
        iou=_ratio(both, n_true + n_predicted - both),
        precision=_ratio(both, n_predicted),
        recall=_ratio(both, n_true),
        nsd=surfaces.normalised_surface_distance(tolerance_mm),
        hd95_mm=surfaces.hausdorff_mm(95.0),
        assd_mm=surfaces.assd_mm(),
        truth_ml=n_true * voxel_ml,
        prediction_ml=n_predicted * voxel_ml,
        tolerance_mm=tolerance_mm,
        diagonal_mm=diagonal_mm,
    )


def _ratio(part: float | np.integer[Any], whole: float | np.integer[Any]) -> float:
    return float(part / whole) if whole else float("nan")


def dice(truth: Volume, prediction: Volume) -> float:
    """Return the Dice coefficient alone, without the surfaces; NaN if both masks are empty.

    >>> from ichnos.volume import sphere
    >>> ball = sphere(radius_mm=10, spacing_mm=1.0)
    >>> dice(ball, ball), dice(ball, ball.map_array(np.zeros_like))
    (1.0, 0.0)
    """
    require_same_grid(truth, prediction)
    true, predicted = truth.array != 0, prediction.array != 0
    return _ratio(
        2 * np.count_nonzero(true & predicted), np.count_nonzero(true) + np.count_nonzero(predicted)
    )


def growth_dice(*, baseline: Volume, truth_followup: Volume, predicted_followup: Volume) -> float:
    """Return the Dice of what is new: voxels inside the follow-up and outside the baseline; NaN if neither
    shows any growth.

    A set difference, not a signed one: blood that has gone does not cancel, or count as, blood that has come.

    >>> from ichnos.volume import sphere
    >>> ball = sphere(radius_mm=20, spacing_mm=1.0)
    >>> small, large = (ball.map_array(lambda a: a & (np.indices(a.shape)[0] < n)) for n in (15, 20))
    >>> growth_dice(baseline=small, truth_followup=large, predicted_followup=large)
    1.0
    """
    require_same_grid(baseline, truth_followup)
    require_same_grid(baseline, predicted_followup)
    old = baseline.array != 0
    came, predicted = (truth_followup.array != 0) & ~old, (predicted_followup.array != 0) & ~old
    return _ratio(
        2 * np.count_nonzero(came & predicted), np.count_nonzero(came) + np.count_nonzero(predicted)
    )


def cl_dice(truth: Volume, prediction: Volume) -> float:
    """Return the centre-line Dice of two tubular masks (Shit et al. 2021, arXiv 2003.07311); NaN if either is
    empty.

    The harmonic mean of how much of the predicted centre line lies in the truth and how much of the true
    centre line was found.
    """
    require_same_grid(truth, prediction)
    true, predicted = truth.array != 0, prediction.array != 0
    start, stop = union_box(true, predicted)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    true, predicted = np.ascontiguousarray(true[box]), np.ascontiguousarray(predicted[box])
    if not true.any() or not predicted.any():
        return float("nan")
    true_line, predicted_line = _centre_line(true), _centre_line(predicted)
    precision = _ratio(np.count_nonzero(predicted_line & true), np.count_nonzero(predicted_line))
    recall = _ratio(np.count_nonzero(true_line & predicted), np.count_nonzero(true_line))
    return _ratio(2 * precision * recall, precision + recall) if precision + recall else 0.0


def _centre_line(mask: Mask) -> Mask:
    from skimage import morphology

    line: Mask = morphology.skeletonize(mask) > 0  # type: ignore[no-untyped-call]
    return line


@dataclass(frozen=True)
class LesionCount:
    """Lesions of one size: how many there are, how many were found, how many predicted ones are false."""

    from_ml: float
    to_ml: float
    truth: int  # true lesions of this size
    found: int  # of these, touched by the prediction by the required share of their voxels
    predicted: int  # predicted lesions of this size
    false: int  # of these, without any true voxel

    def __add__(self, other: LesionCount) -> LesionCount:
        return replace(
            self,
            truth=self.truth + other.truth,
            found=self.found + other.found,
            predicted=self.predicted + other.predicted,
            false=self.false + other.false,
        )

    @property
    def sensitivity(self) -> float:
        """Return found / truth; NaN without true lesions.

        >>> LesionCount(0, 1, truth=4, found=3, predicted=5, false=1).sensitivity
        0.75
        """
        return _ratio(self.found, self.truth)

    @property
    def precision(self) -> float:
        """Return the share of predicted lesions that are not false; NaN without predictions.

        >>> LesionCount(0, 1, truth=4, found=3, predicted=5, false=1).precision
        0.8
        """
        return _ratio(self.predicted - self.false, self.predicted)


def lesion_detection(
    truth: Volume, prediction: Volume, *, bins_ml: Sequence[float] = SIZE_BINS_ML, least_share: float = 0.0
) -> tuple[LesionCount, ...]:
    """Count lesions (26-connected components) by size, in mL, and which were found; `bins_ml` are lower
    edges.

    `least_share` is the share of a true lesion's voxels that the prediction must cover; 0 asks for one voxel.
    """
    require_same_grid(truth, prediction)
    true, predicted = truth.array != 0, prediction.array != 0
    start, stop = union_box(true, predicted)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    true_sizes, true_covered = _components(true[box], predicted[box])
    predicted_sizes, predicted_covered = _components(predicted[box], true[box])
    found = true_covered >= np.maximum(1, least_share * true_sizes)
    edges = np.array([*bins_ml, np.inf])
    true_bin = np.searchsorted(edges, true_sizes * truth.voxel_ml, side="right") - 1
    predicted_bin = np.searchsorted(edges, predicted_sizes * truth.voxel_ml, side="right") - 1
    counts = []
    for i, (low, high) in enumerate(pairwise(edges)):
        here, there = true_bin == i, predicted_bin == i
        hits, false = int(found[here].sum()), int((predicted_covered[there] == 0).sum())
        counts.append(LesionCount(float(low), float(high), int(here.sum()), hits, int(there.sum()), false))
    return tuple(counts)


def _components(mask: Mask, other: Mask) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxel count of each component and how many of its voxels the other mask covers."""
    import cc3d

    if not mask.any():
        return np.zeros(0), np.zeros(0)
    labels = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26)
    sizes = np.bincount(labels.ravel())
    covered = np.bincount(labels[other], minlength=len(sizes))
    return sizes[1:].astype(float), covered[1:].astype(float)


def volume_error_ml(truth: Volume, prediction: Volume) -> float:
    """Return the predicted minus the true volume, in mL; defined for empty masks too.

    >>> from ichnos.volume import sphere
    >>> ball = sphere(radius_mm=10, spacing_mm=1.0)
    >>> round(volume_error_ml(ball, ball.map_array(np.zeros_like)), 1)
    -4.2
    """
    return volume_ml(prediction) - volume_ml(truth)
