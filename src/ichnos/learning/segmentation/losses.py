"""The loss of one network with many targets: every target may be known in one patient and unknown in the
next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

# weight of the Dice term where the target does not occur: it then only says "less", as cross-entropy already
# does
ABSENT_SHARE = 0.25
COORDINATE_WEIGHT = 3.0  # of the mean absolute error, in the coordinate's unit


def multi_target_loss(
    logits: torch.Tensor,
    truth: torch.Tensor,
    known: torch.Tensor,
    *,
    coordinates: Sequence[int] = (),
    sparse_weight: float = 0.0,
) -> torch.Tensor:
    """Return the loss of all targets: Dice + cross-entropy for masks, absolute error for coordinates.

    logits, truth: (batch, target, x, y, z), NaN where undefined; known: (batch, target) in {0, 1}.

    >>> truth = torch.full((1, 2, 2, 2, 2), 0.5)
    >>> truth[0, 1, 0] = float("nan")
    >>> out = torch.zeros(1, 2, 2, 2, 2)
    >>> both = multi_target_loss(out, truth, torch.ones(1, 2), coordinates=(1,))
    >>> mask_alone = multi_target_loss(out[:, :1], truth[:, :1], torch.ones(1, 1))
    >>> round(float(both - mask_alone), 3)
    1.5
    """
    masks = [channel for channel in range(logits.shape[1]) if channel not in coordinates]
    parts = (logits[:, masks], truth[:, masks], known[:, masks])
    total = dice_and_cross_entropy(*parts, sparse_weight=sparse_weight)
    if wanted := list(coordinates):
        total = total + COORDINATE_WEIGHT * _mean_error(*(t[:, wanted] for t in (logits, truth, known)))
    return total


def _mean_error(values: torch.Tensor, truth: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute error where the truth is known and defined."""
    inside = torch.isfinite(truth) & (known[:, :, None, None, None] > 0)
    error = torch.where(inside, values.float() - truth.nan_to_num(), 0.0).abs()
    return error.sum() / inside.sum().clamp(min=1)


def dice_and_cross_entropy(
    logits: torch.Tensor, truth: torch.Tensor, known: torch.Tensor, *, sparse_weight: float = 0.0
) -> torch.Tensor:
    """Return soft Dice + binary cross-entropy, averaged over the targets that are known.

    logits, truth: (batch, target, x, y, z), truth a degree in 0..1 so that partial volume teaches partial
    probability; known: (batch, target) in {0, 1}.

    >>> one = torch.ones(1, 2, 4, 4, 4)
    >>> bool(dice_and_cross_entropy(20 * one, one, torch.ones(1, 2)) < 1e-3)
    True
    >>> bool(dice_and_cross_entropy(-20 * one, one, torch.tensor([[1.0, 0.0]])) > 10)
    True
    """
    logits, truth, known = logits.float(), truth.float(), known.float()
    dice = _dice_per_target(torch.sigmoid(logits), truth, known)
    entropy = _cross_entropy_per_target(logits, truth, known, sparse_weight=sparse_weight)
    targets_known = (known.sum(0) > 0).float()
    return ((dice + entropy) * targets_known).sum() / targets_known.sum().clamp(min=1)


def _dice_per_target(probability: torch.Tensor, truth: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return 1 - Dice of each target. It pools the batch, so that a crop without the target does not divide
    zero by zero.
    """
    axes, weight = (0, 2, 3, 4), known[:, :, None, None, None]
    probability, truth = probability * weight, truth * weight
    overlap = (probability * truth).sum(axes)
    dice = 1 - (2 * overlap + 1) / ((probability**2).sum(axes) + (truth**2).sum(axes) + 1)
    return dice * torch.where(truth.sum(axes) > 0, 1.0, ABSENT_SHARE)


def _cross_entropy_per_target(
    logits: torch.Tensor, truth: torch.Tensor, known: torch.Tensor, *, sparse_weight: float
) -> torch.Tensor:
    """Return the cross-entropy of each target, a mean over the patches where it is known.

    `sparse_weight` adds the mean over the target's own voxels: without it a target of a few voxels in a
    thousand starts by vanishing, where Dice has no slope left; with it probabilities come out too high, so it
    must be annealed to 0.
    """
    space = (2, 3, 4)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=space)
    if sparse_weight > 0:
        missed = (F.softplus(-logits) * truth).sum(dim=space) / truth.sum(dim=space).clamp(min=1)
        entropy = entropy + sparse_weight * missed
    return (entropy * known).sum(0) / known.sum(0).clamp(min=1)


_Map = torch.Tensor  # (batch, target, x, y, z), degree 0..1
_EPSILON = 1e-6


def cl_dice_loss(probability: _Map, truth: _Map, known: torch.Tensor, *, steps: int = 4) -> torch.Tensor:
    """Return 1 - centre-line Dice with soft skeletons (Shit et al. 2021, arXiv 2003.07311), over the targets
    that are known and there.

    `steps` is half the thickness, in voxels, of the thickest tube to be thinned to its middle.

    >>> tube = torch.zeros(1, 1, 8, 8, 8)
    >>> tube[..., 3:6, 3:6, :] = 1
    >>> whole, cut = tube.clone(), tube.clone()
    >>> cut[..., 3:5] = 0
    >>> bool(cl_dice_loss(whole, tube, torch.ones(1, 1)) < 1e-4 < cl_dice_loss(cut, tube, torch.ones(1, 1)))
    True
    """
    weight = _weight(truth, known)
    probability, truth = probability * weight, truth * weight
    line, true_line = _soft_skeleton(probability, steps), _soft_skeleton(truth, steps)
    axes = (0, 2, 3, 4)
    precision = ((line * truth).sum(axes) + _EPSILON) / (line.sum(axes) + _EPSILON)
    recall = ((true_line * probability).sum(axes) + _EPSILON) / (true_line.sum(axes) + _EPSILON)
    return _mean_over_present(1 - 2 * precision * recall / (precision + recall), weight)


def rim_loss(probability: _Map, truth: _Map, known: torch.Tensor) -> torch.Tensor:
    """Return 1 - Dice of the soft rims, a rim being a mask less its erosion by a voxel (after Bokhovkin &
    Burnaev 2019, arXiv 1905.07852).

    >>> ball = torch.zeros(1, 1, 8, 8, 8)
    >>> ball[..., 2:6, 2:6, 2:6] = 1
    >>> known = torch.ones(1, 1)
    >>> bool(rim_loss(ball, ball, known) < 1e-4 < rim_loss(ball.roll(1, 2), ball, known))
    True
    """
    weight = _weight(truth, known)
    rim, true_rim = ((field - _eroded(field)) * weight for field in (probability, truth))
    axes = (0, 2, 3, 4)
    dice = (2 * (rim * true_rim).sum(axes) + _EPSILON) / (
        (rim**2).sum(axes) + (true_rim**2).sum(axes) + _EPSILON
    )
    return _mean_over_present(1 - dice, weight)


def _weight(truth: _Map, known: torch.Tensor) -> torch.Tensor:
    """Return 1 for the (batch, target) pairs that are known and in which the target occurs: without it
    there is no form to judge.
    """
    present = (truth > 0.5).flatten(2).any(2)
    return (known.bool() & present).float()[:, :, None, None, None]


def _mean_over_present(per_target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    present = (weight.flatten(1).reshape(weight.shape[0], -1).sum(0) > 0).float()
    return (per_target * present).sum() / present.sum().clamp(min=1)


def _highest(field: _Map, axis: int) -> _Map:
    """Take the maximum over a voxel and its two neighbours along an axis; an axis of one voxel has none."""
    size = field.shape[axis]
    if size == 1:
        return field
    if field.requires_grad:
        window = [3 if a == axis else 1 for a in (2, 3, 4)]
        return F.max_pool3d(field, window, 1, [n // 2 for n in window])
    # the same numbers; without a gradient five times as fast on a processor
    pairs = torch.maximum(field.narrow(axis, 0, size - 1), field.narrow(axis, 1, size - 1))
    inner = torch.maximum(pairs.narrow(axis, 0, size - 2), pairs.narrow(axis, 1, size - 2))
    return torch.cat([pairs.narrow(axis, 0, 1), inner, pairs.narrow(axis, size - 2, 1)], axis)


def _eroded(field: _Map) -> _Map:
    """Take the minimum over the six neighbours and the voxel itself."""
    opposite = -field
    x, y, z = (_highest(opposite, axis) for axis in (2, 3, 4))
    return -torch.maximum(x, torch.maximum(y, z))


def _dilated(field: _Map) -> _Map:
    """Take the maximum over the 26 neighbours and the voxel itself."""
    for axis in (2, 3, 4):
        field = _highest(field, axis)
    return field


def _soft_skeleton(field: _Map, steps: int) -> _Map:
    inner = _eroded(field)
    skeleton = F.relu(field - _dilated(inner))
    for _ in range(steps):
        field, inner = inner, _eroded(inner)
        delta = F.relu(field - _dilated(inner))
        skeleton = skeleton + F.relu(delta - skeleton * delta)
    return skeleton
