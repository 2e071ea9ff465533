"""The threshold is where Dice is greatest over patients who were not learnt from."""

from __future__ import annotations

import torch

from ichnos.learning.segmentation.objective import Batch
from ichnos.learning.segmentation.operating_points import operating_points
from ichnos.models import TargetSpec

TARGETS = (
    TargetSpec(name="ICH"),
    TargetSpec(name="PHE"),
    TargetSpec(name="never"),
    TargetSpec(name="mni_x", kind="coordinate"),
)


class Fixed(torch.nn.Module):
    """Gives the logits that are its input."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


def batch_at(step: int) -> Batch:
    probability = torch.linspace(0.01, 0.99, 64).view(1, 1, 4, 4, 4)
    image = torch.logit(probability).repeat(1, 4, 1, 1, 1)
    truth = torch.cat(
        [(probability > 0.31).float(), (probability > 0.72).float(), 0 * probability, 0 * probability], dim=1
    )
    return Batch(image, truth, torch.ones(1, 4))


def test_each_target_gets_its_own_threshold() -> None:
    found = operating_points(Fixed(), batch_at, range(3), TARGETS)
    assert [round(target.threshold, 2) for target in found] == [0.3, 0.7, 0.5, 0.5]
    assert [target.name for target in found] == [target.name for target in TARGETS]
