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
    """Return the loss of all targets: Dice + cross-entropy for masks, absolute error for the channels that
    regress coordinates.

    logits, truth: (batch, target, x, y, z); known: (batch, target) in {0, 1}. A coordinate's truth is NaN
    where it is undefined.

    >>> truth = torch.full((1, 2, 2, 2, 2), 0.5)
    >>> truth[0, 1, 0] = float("nan")
    >>> out = torch.zeros(1, 2, 2, 2, 2)
    >>> both = multi_target_loss(out, truth, torch.ones(1, 2), coordinates=(1,))
    >>> mask_alone = multi_target_loss(out[:, :1], truth[:, :1], torch.ones(1, 1))
    >>> round(float(both - mask_alone), 3)
    1.5
    """
    masks = [channel for channel in range(logits.shape[1]) if channel not in coordinates]
    total = dice_and_cross_entropy(
        logits[:, masks], truth[:, masks], known[:, masks], sparse_weight=sparse_weight
    )
    if coordinates:
        wanted = list(coordinates)
        inside = torch.isfinite(truth[:, wanted]) & (known[:, wanted, None, None, None] > 0)
        error = torch.where(inside, logits[:, wanted].float() - truth[:, wanted].nan_to_num(), 0.0).abs()
        total = total + COORDINATE_WEIGHT * error.sum() / inside.sum().clamp(min=1)
    return total


def dice_and_cross_entropy(
    logits: torch.Tensor, truth: torch.Tensor, known: torch.Tensor, *, sparse_weight: float = 0.0
) -> torch.Tensor:
    """Return soft Dice + binary cross-entropy, averaged over the targets that are known.

    logits, truth: (batch, target, x, y, z), truth a degree in 0..1 so that partial volume teaches partial
    probability; known: (batch, target) in {0, 1}. Dice pools the batch, so that a crop without the target
    does not divide zero by zero. `sparse_weight` adds the cross-entropy's mean over the target's own voxels:
    without it a target of a few voxels in a thousand starts by vanishing, where Dice has no slope left; with
    it probabilities come out too high, so it must be annealed to 0.

    >>> one = torch.ones(1, 2, 4, 4, 4)
    >>> bool(dice_and_cross_entropy(20 * one, one, torch.ones(1, 2)) < 1e-3)
    True
    >>> bool(dice_and_cross_entropy(-20 * one, one, torch.tensor([[1.0, 0.0]])) > 10)
    True
    """
    logits, truth = logits.float(), truth.float()
    weight = known.float()[:, :, None, None, None]
    space = (2, 3, 4)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=space)
    if sparse_weight > 0:
        missed = (F.softplus(-logits) * truth).sum(dim=space) / truth.sum(dim=space).clamp(min=1)
        entropy = entropy + sparse_weight * missed
    probability = torch.sigmoid(logits) * weight
    truth = truth * weight
    axes = (0, 2, 3, 4)
    overlap = (probability * truth).sum(axes)
    dice = 1 - (2 * overlap + 1) / ((probability**2).sum(axes) + (truth**2).sum(axes) + 1)
    dice = dice * torch.where(truth.sum(axes) > 0, 1.0, ABSENT_SHARE)
    targets_known = (known.sum(0) > 0).float()
    mean_entropy = (entropy * known).sum(0) / known.sum(0).clamp(min=1)
    return ((dice + mean_entropy) * targets_known).sum() / targets_known.sum().clamp(min=1)
