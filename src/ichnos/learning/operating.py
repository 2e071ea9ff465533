"""Operating points: the probability above which a voxel counts, per target, where the overlap with the truth is greatest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from ichnos.learning.segmentation import Batch
from ichnos.models import TargetSpec

LEAST_DICE = 0.2  # a target that reaches less has no operating point worth the name
LEVELS = tuple(k / 20 for k in range(1, 20))


def operating_points(
    network: torch.nn.Module, batch_at: Callable[[int], Batch], steps: Iterable[int], targets: tuple[TargetSpec, ...]
) -> tuple[TargetSpec, ...]:
    """Return the targets with the thresholds of greatest Dice, pooled over the batches of some steps that were not learnt from.

    Pooled, so that blood seen in a patient without any counts against a low threshold. A target that does not occur, or is hardly ever
    met, keeps its threshold.
    """
    levels = torch.tensor(LEVELS)
    overlap, size = torch.zeros(len(targets), len(levels)), torch.zeros(len(targets), len(levels))
    device = next(network.parameters()).device
    for step in steps:
        batch = batch_at(step)
        with torch.inference_mode():
            out = network(batch.image.to(device))
        logits = (out[0] if isinstance(out, (list, tuple)) else out).float().cpu()
        for channel, target in enumerate(targets):
            if target.kind == "mask":
                truth = batch.truth[:, channel] > 0.5
                for k, level in enumerate(torch.logit(levels).tolist()):
                    found = logits[:, channel] > level
                    overlap[channel, k] += float((found & truth).sum())
                    size[channel, k] += float(found.sum() + truth.sum())
    dice = 2 * overlap / size.clamp(min=1)
    best = dice.argmax(dim=1).tolist()
    return tuple(
        target.model_copy(update={"threshold": LEVELS[best[channel]]}) if dice[channel].max() >= LEAST_DICE else target
        for channel, target in enumerate(targets)
    )
