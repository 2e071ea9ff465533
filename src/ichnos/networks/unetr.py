"""UNETR (Hatamizadeh 2022, arXiv 2103.10504) as MONAI keeps it: a transformer over tokens, decoded by
convolutions; a comparator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ichnos.errors import UsageError, require

_TOKEN = 16  # voxels along each axis that become one token


def _whole_tokens(input_size: Sequence[int]) -> tuple[int, ...]:
    """Return the sides filled up to whole tokens."""
    if len(input_size) != 3 or min(input_size) < 1:
        raise UsageError(
            f"input_size {tuple(input_size)} was given; UNETR needs three sides of at least one voxel"
        )
    return tuple(-(-n // _TOKEN) * _TOKEN for n in input_size)


class Unetr(nn.Module):
    """Segment patches of one size (b, input_channels, x, y, z); returns logits. Sides are filled up to
    multiples of 16 and cut back.

    >>> import torch
    >>> network = Unetr(1, 2, input_size=[16, 16, 8], features=4, width=24, heads=2)
    >>> network(torch.zeros(1, 1, 16, 16, 8)).shape
    torch.Size([1, 2, 16, 16, 8])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        input_size: Sequence[int],
        features: int = 16,
        width: int = 192,
        heads: int = 6,
    ) -> None:
        super().__init__()
        sides = _whole_tokens(input_size)
        missing = [side - n for n, side in zip(input_size, sides, strict=True)]
        self.filling = [part for m in reversed(missing) for part in (0, m)]
        nets = require("monai.networks.nets", extra="learning", purpose="UNETR")
        self.net = nets.UNETR(
            in_channels=input_channels,
            out_channels=num_classes,
            img_size=sides,
            feature_size=features,
            hidden_size=width,
            mlp_dim=4 * width,
            num_heads=heads,
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(F.pad(image, self.filling, mode="replicate"))
        x, y, z = image.shape[2:]
        return logits[:, :, :x, :y, :z]
