"""The loss of a multi-target segmentation: every target may be known in one patient and unknown in the next."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def dice_and_cross_entropy(logits: torch.Tensor, truth: torch.Tensor, known: torch.Tensor, *, positive_weight: float = 1.0) -> torch.Tensor:
    """Return soft Dice + binary cross-entropy, averaged over the targets that are known.

    logits, truth: (batch, target, x, y, z), truth a degree in 0..1 so that partial volume teaches partial probability;
    known: (batch, target) in {0, 1}. Dice pools the batch, so that a crop without the target does not divide zero by zero.

    >>> one = torch.ones(1, 2, 4, 4, 4)
    >>> bool(dice_and_cross_entropy(20 * one, one, torch.ones(1, 2)) < 1e-3)
    True
    >>> bool(dice_and_cross_entropy(-20 * one, one, torch.tensor([[1.0, 0.0]])) > 10)
    True
    """
    logits, truth = logits.float(), truth.float()
    weight = known.float()[:, :, None, None, None]
    pos = torch.as_tensor(positive_weight, device=logits.device)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=pos, reduction="none").mean(dim=(2, 3, 4))
    probability = torch.sigmoid(logits) * weight
    truth = truth * weight
    axes = (0, 2, 3, 4)
    overlap = (probability * truth).sum(axes)
    dice = 1 - (2 * overlap + 1) / ((probability**2).sum(axes) + (truth**2).sum(axes) + 1)
    targets_known = (known.sum(0) > 0).float()
    mean_entropy = (entropy * known).sum(0) / known.sum(0).clamp(min=1)
    return ((dice + mean_entropy) * targets_known).sum() / targets_known.sum().clamp(min=1)
