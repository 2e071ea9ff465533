"""Fill a region in the order of a score until it holds a given volume."""

from __future__ import annotations

import torch
from torch import Tensor


def filled(score: Tensor, where: Tensor, voxels: float, *, softness: float) -> Tensor:
    """Return fractions 0..1, highest where the score is lowest, that add up to so many voxels (or fill
    `where`).

    >>> line = torch.arange(5.0)
    >>> filled(line, line < 9, 2.0, softness=0.1).round().tolist()
    [1.0, 1.0, 0.0, 0.0, 0.0]
    """
    return filled_with_limit(score, where, voxels, softness=softness)[0]


def filled_with_limit(
    score: Tensor, where: Tensor, voxels: float, *, softness: float
) -> tuple[Tensor, float]:
    """Return the fractions of `filled`, and the score at their edge (fraction 0.5).

    >>> line = torch.arange(5.0)
    >>> round(filled_with_limit(line, line < 9, 2.0, softness=0.1)[1], 1)
    1.1
    """
    candidates = score[where]
    if voxels <= 0 or len(candidates) == 0:
        return torch.zeros_like(score), float(score.min()) - 1.0
    low, high = float(candidates.min()) - softness, float(candidates.max()) + softness
    for _ in range(22):
        middle = (low + high) / 2
        amount = float(((middle - candidates) / (2 * softness) + 0.5).clamp_(0, 1).sum())
        low, high = (middle, high) if amount < voxels else (low, middle)
    return torch.where(where, ((high - score) / (2 * softness) + 0.5).clamp(0, 1), 0.0), high


def oedema_degree(around: Tensor, where: Tensor, voxels: float) -> Tensor:
    """Return oedema degrees: 1 beside the blood, 0.5 at the edge of the wanted volume, quickly 0 beyond.

    >>> around = torch.tensor([0.5, 1.0, 2.0, 9.0])
    >>> [round(degree, 2) for degree in oedema_degree(around, around > 0, 2).tolist()]
    [0.82, 0.5, 0.1, 0.0]
    """
    candidates = around[where]
    wanted = min(int(voxels), len(candidates))
    if wanted <= 0:
        return torch.zeros_like(around)
    limit = max(float(candidates.kthvalue(wanted).values), 0.5)
    fading = torch.where(around <= limit, 1 - 0.5 * (around / limit) ** 1.5, 0.5 - (around - limit) / 2.5)
    return torch.where(where, fading.clamp(0, 1), 0.0)
