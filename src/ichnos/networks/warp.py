"""Affine warp (after Abramova 2024): a U-Net and a localisation network look at a CT and its lesion, and move
both by one affine map.

    image (CT, mask) -> U-Net -> features -> strided convolutions -> pool -> 12 numbers -> 3 x 4 affine ->
    grid_sample(image)

The published widths are 64-128-256 with 512 at the bottom. Axis letters: b batch, c channel, x y z space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ichnos.networks.unet import ResidualUNet


def _halved(features: int) -> tuple[nn.Module, nn.Module]:
    """Halve the resolution (b, c, x, y, z)."""
    return nn.Conv3d(features, features, 3, stride=2, padding=1), nn.LeakyReLU(0.01)


class AffineWarp(nn.Module):
    """Predict the follow-up of an image (b, input_channels, x, y, z) as one affine move of it; untrained, it
    does not move.

    >>> network = AffineWarp(2, features_per_stage=[4, 8])
    >>> image = torch.rand(1, 2, 8, 8, 8)
    >>> torch.allclose(network(image), image, atol=1e-5)
    True
    """

    def __init__(
        self,
        input_channels: int = 2,
        features_per_stage: Sequence[int] = (64, 128, 256, 512),
        localisation: int = 16,
    ) -> None:
        super().__init__()
        self.trunk = ResidualUNet(
            input_channels,
            localisation,
            features_per_stage=features_per_stage,
            strides=[1, *[2] * (len(features_per_stage) - 1)],
            n_conv_per_stage=1,
            n_conv_per_stage_decoder=1,
        )
        self.look = nn.Sequential(
            *_halved(localisation), *_halved(localisation), nn.AdaptiveAvgPool3d(2), nn.Flatten()
        )
        self.move = nn.Linear(8 * localisation, 12)
        nn.init.zeros_(self.move.weight)
        nn.init.zeros_(self.move.bias)

    def change(self, image: Tensor) -> Tensor:
        """Return how far the affine map is from the identity (b, 3, 4), in half widths of the image."""
        features = self.trunk(image)
        found: Tensor = self.move(self.look(features)).reshape(-1, 3, 4)
        return found

    def warped(self, image: Tensor, change: Tensor) -> Tensor:
        """Move an image (b, c, x, y, z) by a change; beyond its edge it goes on as its edge does."""
        affine = change + torch.eye(3, 4, device=change.device, dtype=change.dtype)
        grid = F.affine_grid(affine, list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, padding_mode="border", align_corners=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.warped(image, self.change(image))
