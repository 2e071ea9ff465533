"""Operating points: per target, the probability threshold with the greatest overlap with the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from ichnos.learning.loop.team import Team
from ichnos.learning.segmentation.objective import Batch
from ichnos.models import TargetSpec

LEAST_DICE = 0.2  # a target that reaches less keeps the threshold it has
_LEVELS = tuple(k / 20 for k in range(1, 20))


class Overlaps:
    """Overlap with the truth at every level, pooled over what is added: false positives count against a low
    threshold.

    >>> seen = Overlaps((TargetSpec(name="ICH"),))
    >>> seen.add(0, torch.logit(torch.tensor([0.9, 0.3, 0.3, 0.1])), torch.tensor([True, True, True, False]))
    >>> seen.points()[0].threshold
    0.1
    """

    def __init__(self, targets: tuple[TargetSpec, ...]) -> None:
        self.targets = targets
        self.levels = torch.logit(torch.tensor(_LEVELS))
        self.shared, self.size = (
            torch.zeros(len(targets), len(_LEVELS)),
            torch.zeros(len(targets), len(_LEVELS)),
        )

    def add(self, channel: int, logits: torch.Tensor, truth: torch.Tensor) -> None:
        """Count one target where its truth is known."""
        for k, level in enumerate(self.levels):
            mask = logits > level
            self.shared[channel, k] += float((mask & truth).sum())
            self.size[channel, k] += float(mask.sum() + truth.sum())

    def merge(self, team: Team) -> None:
        """Add what the other members of a team have counted."""
        for name in ("shared", "size"):
            setattr(self, name, torch.stack(team.gathered([getattr(self, name)])).sum(0))

    def points(self) -> tuple[TargetSpec, ...]:
        """Return the targets with the thresholds of greatest Dice; a rare or missed target keeps its own."""
        dice = 2 * self.shared / self.size.clamp(min=1)
        best = dice.argmax(dim=1).tolist()
        return tuple(
            target.model_copy(update={"threshold": _LEVELS[best[channel]]})
            if dice[channel].max() >= LEAST_DICE
            else target
            for channel, target in enumerate(self.targets)
        )


def operating_points(
    network: torch.nn.Module,
    batch_at: Callable[[int], Batch],
    steps: Iterable[int],
    targets: tuple[TargetSpec, ...],
) -> tuple[TargetSpec, ...]:
    """Return the targets with the thresholds of greatest Dice over batches that were not trained on."""
    seen = Overlaps(targets)
    device = next(network.parameters()).device
    for step in steps:
        batch = batch_at(step)
        with torch.inference_mode():
            out = network(batch.image.to(device))
        logits = (out[0] if isinstance(out, (list, tuple)) else out).float().cpu()
        for channel, target in enumerate(targets):
            if target.kind == "mask":
                seen.add(channel, logits[:, channel], batch.truth[:, channel] > 0.5)
    return seen.points()
