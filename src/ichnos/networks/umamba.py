"""U-Mamba (Ma, Li & Wang 2024, arXiv 2401.04722): the residual U-Net with a Mamba layer at the bottom (Bot)
or in the encoder (Enc).

Parameter names and behaviour are the published ones. Two things the originals leave out are arguments, off by
default: `mamba_residual` adds the input of a Mamba layer to its output, `full_resolution_skip` gives the last
2-D decoder stage its skip back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ichnos.errors import InputRefused
from ichnos.networks.mamba import Mamba
from ichnos.networks.tracing import exporting, tracing
from ichnos.networks.unet import (
    Decoder,
    Encoder,
    Size,
    Topology,
    conv_feature_map_size,
    ignore_published_aliases,
    init_convolutions,
)


class UMambaBot(nn.Module):
    """U-Net with one Mamba layer on the deepest feature map; arguments as in `ResidualUNet`.

    >>> network = UMambaBot(1, 2, dim=2, features_per_stage=[4, 8], strides=[1, 2])
    >>> network(torch.zeros(1, 1, 16, 16)).shape
    torch.Size([1, 2, 16, 16])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        dim: int = 3,
        features_per_stage: Sequence[int],
        kernel_sizes: Size | Sequence[Size] = 3,
        strides: Sequence[Size],
        n_conv_per_stage: Size = 2,
        n_conv_per_stage_decoder: Size = 2,
        deep_supervision: bool = False,
        mamba_residual: bool = False,
        full_resolution_skip: bool = False,
    ) -> None:
        super().__init__()
        topology = Topology.of(
            dim, features_per_stage, kernel_sizes, strides, n_conv_per_stage, n_conv_per_stage_decoder
        )
        self.encoder = Encoder(input_channels, topology)
        self.mamba_layer = MambaLayer(topology.features[-1], residual=mamba_residual)
        skip = dim == 3 or full_resolution_skip
        self.decoder = Decoder(
            num_classes, topology, deep_supervision=deep_supervision, full_resolution_skip=skip
        )
        init_convolutions(self)
        ignore_published_aliases(self)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        skips: list[Tensor] = self.encoder(image)
        skips[-1] = self.mamba_layer(skips[-1])
        logits: Tensor | list[Tensor] = self.decoder(skips)
        return logits

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Count the elements of all feature maps for one image of `input_size`, from which nnU-Net's
        planner estimates memory.
        """
        return conv_feature_map_size(self.encoder, self.decoder, input_size)


class UMambaEnc(nn.Module):
    """U-Net with Mamba layers between encoder stages; arguments as in `ResidualUNet`, and the `input_size` it
    is made for.

    Where a stage of `input_size` has no more voxels than channels, its Mamba layer takes channels for tokens
    and voxels for features: such a network accepts this size only.

    >>> network = UMambaEnc(1, 2, input_size=(16, 16), dim=2, features_per_stage=[4, 8], strides=[1, 2])
    >>> network(torch.zeros(1, 1, 16, 16)).shape
    torch.Size([1, 2, 16, 16])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        input_size: Sequence[int],
        dim: int = 3,
        features_per_stage: Sequence[int],
        kernel_sizes: Size | Sequence[Size] = 3,
        strides: Sequence[Size],
        n_conv_per_stage: Size = 2,
        n_conv_per_stage_decoder: Size = 2,
        deep_supervision: bool = False,
        mamba_residual: bool = False,
        full_resolution_skip: bool = False,
    ) -> None:
        super().__init__()
        topology = Topology.of(
            dim, features_per_stage, kernel_sizes, strides, n_conv_per_stage, n_conv_per_stage_decoder
        )
        self.encoder = Encoder(
            input_channels, topology, mamba_layers(topology, input_size, residual=mamba_residual)
        )
        skip = dim == 3 or full_resolution_skip
        self.decoder = Decoder(
            num_classes, topology, deep_supervision=deep_supervision, full_resolution_skip=skip
        )
        init_convolutions(self)
        ignore_published_aliases(self)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        skips: list[Tensor] = self.encoder(image)
        logits: Tensor | list[Tensor] = self.decoder(skips)
        return logits

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Count the elements of all feature maps for one image of `input_size`, from which nnU-Net's
        planner estimates memory.
        """
        return conv_feature_map_size(self.encoder, self.decoder, input_size)


def mamba_layers(topology: Topology, input_size: Sequence[int], *, residual: bool) -> list[nn.Module]:
    """One mixer per encoder stage: in 3-D a Mamba layer after each, in 2-D after every other, so that the
    last stage has one.
    """
    if len(input_size) != topology.dim:
        raise InputRefused(
            f"input_size is {tuple(input_size)}; a {topology.dim}-D network needs {topology.dim} sizes"
        )
    size = [int(n) for n in input_size]
    layers: list[nn.Module] = []
    for s, (stride, features) in enumerate(zip(topology.strides, topology.features, strict=True)):
        size = [n // k for n, k in zip(size, stride, strict=True)]
        voxels = math.prod(size)
        channels_as_tokens = voxels <= features
        has_mamba = topology.dim == 3 or bool(s % 2) ^ bool(topology.stages % 2)
        width = voxels if channels_as_tokens else features
        layers.append(
            MambaLayer(width, channels_as_tokens=channels_as_tokens, residual=residual)
            if has_mamba
            else nn.Identity()
        )
    return layers


class MambaLayer(nn.Module):
    """LayerNorm and Mamba over the tokens of a feature map (b, c, *space), in float32 also under autocast.

    Tokens are voxels in row-major order, or with `channels_as_tokens` the channels, whose features are then
    the voxels.
    """

    def __init__(self, width: int, *, channels_as_tokens: bool = False, residual: bool = False) -> None:
        super().__init__()
        self.width, self.channels_as_tokens, self.residual = width, channels_as_tokens, residual
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            # NaN under mixed precision was the originals' most reported fault: this layer stays in the
            # precision of its weights
            image = x.to(self.norm.weight.dtype)
            flat = image.flatten(2)  # b c zyx
            tokens = flat if self.channels_as_tokens else flat.transpose(1, 2)  # b l width
            if not (exporting() or tracing()) and tokens.shape[-1] != self.width:
                raise InputRefused(
                    f"this Mamba layer was made for {self.width} features and got {tokens.shape[-1]}:"
                    " give the network images of its input_size"
                )
            mixed = self.mamba(self.norm(tokens))
            out: Tensor = (mixed if self.channels_as_tokens else mixed.transpose(1, 2)).reshape(image.shape)
            return image + out if self.residual else out
