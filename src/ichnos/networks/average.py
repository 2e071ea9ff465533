"""Several segmentation networks that answer as one: the mean of their probabilities, tile by tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ichnos.networks import build

_SMALLEST = 1e-6  # probability, so that logits stay finite


class MeanEnsemble(nn.Module):
    """Average networks of one shape (b, c, *space) -> logits (b, targets, *space).

    `coordinates` are the channels whose values are averaged as they are. With `mirrored`, the channel that
    each channel becomes when left and right are exchanged, the mirror image along the first spatial axis is
    read too and its answers are exchanged back. `softmax`: channels share one probability, as nnU-Net's
    labels do.

    >>> stages = {"features_per_stage": [4, 8], "strides": [1, 2]}
    >>> shape = {"input_channels": 1, "num_classes": 2, "dim": 2, **stages}
    >>> network = MeanEnsemble({"name": "unet", "arguments": shape}, members=2, mirrored=[1, 0])
    >>> network(torch.zeros(1, 1, 8, 8)).shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(
        self,
        member: Mapping[str, Any],
        members: int,
        coordinates: Sequence[int] = (),
        mirrored: Sequence[int] | None = None,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        self.softmax = softmax
        self.members = nn.ModuleList(build(member["name"], **member["arguments"]) for _ in range(members))
        self.coordinates = list(coordinates)
        self.mirrored = None if mirrored is None else list(mirrored)

    def forward(self, image: Tensor) -> Tensor:
        each = [self._answer(member, image) for member in self.members]
        mean = torch.stack(each).mean(0)
        sure = mean.clamp(_SMALLEST, 1 - _SMALLEST)
        if self.softmax:
            return torch.log(sure)
        masks = torch.log(sure) - torch.log(1 - sure)  # OpenVINO knows no `logit`
        if not self.coordinates:
            return masks
        return torch.stack(
            [mean[:, k] if k in self.coordinates else masks[:, k] for k in range(mean.shape[1])], dim=1
        )

    def _answer(self, member: nn.Module, image: Tensor) -> Tensor:
        """Return a member's probabilities, and its coordinates as they are."""
        answer = self._probable(member(image))
        if self.mirrored is None:
            return answer
        other = self._probable(member(image.flip(2))).flip(2)[:, self.mirrored]
        return (answer + other) / 2

    def _probable(self, out: Tensor | list[Tensor]) -> Tensor:
        logits = (out[0] if isinstance(out, (list, tuple)) else out).float()
        if self.softmax:
            return torch.softmax(logits, dim=1)
        if not self.coordinates:
            return torch.sigmoid(logits)
        channels = range(logits.shape[1])
        parts = [logits[:, k] if k in self.coordinates else torch.sigmoid(logits[:, k]) for k in channels]
        return torch.stack(parts, dim=1)
