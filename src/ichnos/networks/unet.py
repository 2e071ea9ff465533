"""Residual-encoder U-Net, 2-D and 3-D: the trunk of U-Mamba (Ma 2024, figure 1) and, alone, its plain twin of
equal topology.

    image -> stem -> stage 0 -> stage 1 -> ... -> stage S-1        every stage halves (stride s) and widens
    (features s)
                       |           |                 |
    logits 0 <- ... <- up <------- up <------------- +             up: nearest, 1x1 conv, concatenate the
    skip, residual block

Parameter names are the published ones, so that checkpoints of U-Mamba's nnU-Net fork load. Axis letters: b
batch, c channel, z y x space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ichnos.errors import InputRefused, UsageError
from ichnos.networks.tracing import exporting, tracing

Size = int | Sequence[int]


class ResidualUNet(nn.Module):
    """U-Net of residual blocks; returns logits at full resolution, or with deep supervision a list from full
    to coarsest resolution.

    `features_per_stage`, `kernel_sizes`, `strides` have one entry per stage (an int or one number per axis),
    `n_conv_per_stage` counts blocks per stage and `n_conv_per_stage_decoder` per decoder stage. As published,
    the deeper half of both gets one block only. `full_resolution_skip=False` drops the skip of the last
    decoder stage, as U-Mamba's 2-D networks do.

    >>> blocks = {"n_conv_per_stage": 1, "n_conv_per_stage_decoder": 1}
    >>> network = ResidualUNet(1, 2, dim=2, features_per_stage=[4, 8], strides=[1, 2], **blocks)
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
        full_resolution_skip: bool = True,
    ) -> None:
        super().__init__()
        topology = Topology.of(
            dim, features_per_stage, kernel_sizes, strides, n_conv_per_stage, n_conv_per_stage_decoder
        )
        self.encoder = Encoder(input_channels, topology)
        self.decoder = Decoder(
            num_classes,
            topology,
            deep_supervision=deep_supervision,
            full_resolution_skip=full_resolution_skip,
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


class Topology:
    """Stages of encoder and decoder, checked and spelt out: one tuple per axis, one block count per stage."""

    def __init__(
        self,
        dim: int,
        features: tuple[int, ...],
        kernels: tuple[tuple[int, ...], ...],
        strides: tuple[tuple[int, ...], ...],
        blocks: tuple[int, ...],
        decoder_blocks: tuple[int, ...],
    ) -> None:
        self.dim, self.features, self.kernels, self.strides = dim, features, kernels, strides
        self.blocks, self.decoder_blocks = blocks, decoder_blocks

    @property
    def stages(self) -> int:
        return len(self.features)

    @classmethod
    def of(
        cls,
        dim: int,
        features_per_stage: Sequence[int],
        kernel_sizes: Size | Sequence[Size],
        strides: Sequence[Size],
        n_conv_per_stage: Size,
        n_conv_per_stage_decoder: Size,
    ) -> Topology:
        if dim not in (2, 3):
            raise UsageError(f"dim is {dim}; a U-Net has 2 or 3 spatial axes")
        stages = len(features_per_stage)
        blocks = _counts("n_conv_per_stage", n_conv_per_stage, stages)
        decoder_blocks = _counts("n_conv_per_stage_decoder", n_conv_per_stage_decoder, stages - 1)
        shallow, shallow_decoder = math.ceil(stages / 2), math.ceil((stages - 1) / 2 + 0.5)
        return cls(
            dim,
            tuple(int(f) for f in features_per_stage),
            _odd_kernels(kernel_sizes, stages, dim),
            _per_stage("strides", strides, stages, dim),
            tuple(n if s < shallow else 1 for s, n in enumerate(blocks)),
            tuple(n if s < shallow_decoder else 1 for s, n in enumerate(decoder_blocks)),
        )


def _odd_kernels(given: Size | Sequence[Size], stages: int, dim: int) -> tuple[tuple[int, ...], ...]:
    kernels = _per_stage("kernel_sizes", given, stages, dim)
    if any(k % 2 == 0 for kernel in kernels for k in kernel):
        raise UsageError(f"kernel_sizes {kernels} holds an even number; the residual sum needs odd kernels")
    return kernels


def _per_stage(name: str, given: Size | Sequence[Size], stages: int, dim: int) -> tuple[tuple[int, ...], ...]:
    per_stage = [given] * stages if isinstance(given, int) else list(given)
    full = tuple((v,) * dim if isinstance(v, int) else tuple(int(i) for i in v) for v in per_stage)
    if len(full) != stages or any(len(v) != dim for v in full):
        raise UsageError(f"{name} is {given}; features_per_stage asks for {stages} stages of {dim} axes")
    return full


def _counts(name: str, given: Size, entries: int) -> tuple[int, ...]:
    counts = (given,) * entries if isinstance(given, int) else tuple(int(n) for n in given)
    if len(counts) != entries or any(n < 1 for n in counts):
        raise UsageError(f"{name} is {given}; expected {entries} numbers of at least 1")
    return counts


# --- blocks
# ------------------------------------------------------------------------------------------


def _conv(
    dim: int, channels_in: int, channels_out: int, kernel: Size, stride: Size = 1, *, padding: Size = 0
) -> nn.Module:
    kind: Any = nn.Conv3d if dim == 3 else nn.Conv2d
    module: nn.Module = kind(channels_in, channels_out, kernel, stride, padding)
    return module


def _norm(dim: int, channels: int) -> nn.Module:
    return (nn.InstanceNorm3d if dim == 3 else nn.InstanceNorm2d)(channels, eps=1e-5, affine=True)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.01, inplace=True)


class ResidualBlock(nn.Module):
    """Conv, norm, LeakyReLU, conv, norm, plus a 1x1 convolution of the input, LeakyReLU; strides on the
    first and on the 1x1.
    """

    def __init__(
        self, dim: int, channels_in: int, channels: int, kernel: Sequence[int], stride: Size
    ) -> None:
        super().__init__()
        padding = [k // 2 for k in kernel]
        self.conv1 = _conv(dim, channels_in, channels, kernel, stride, padding=padding)
        self.norm1 = _norm(dim, channels)
        self.conv2 = _conv(dim, channels, channels, kernel, padding=padding)
        self.norm2 = _norm(dim, channels)
        self.conv3 = _conv(dim, channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = _leaky(self.norm1(self.conv1(x)))
        return _leaky(self.norm2(self.conv2(y)) + self.conv3(x))


class ConvNorm(nn.Module):
    """Convolution and instance norm under the published names."""

    def __init__(self, dim: int, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.conv = _conv(dim, channels, channels, kernel, padding=[k // 2 for k in kernel])
        self.norm = _norm(dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y


class IdentityBlock(nn.Module):
    """Two convolutions around the identity: the blocks of a stage after its first."""

    def __init__(self, dim: int, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, channels, kernel)
        self.conv2 = ConvNorm(dim, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return _leaky(self.conv2(_leaky(self.conv1(x))) + x)


def _stage(
    dim: int, channels_in: int, channels: int, kernel: Sequence[int], stride: Size, blocks: int
) -> nn.Sequential:
    first = ResidualBlock(dim, channels_in, channels, kernel, stride)
    return nn.Sequential(first, *(IdentityBlock(dim, channels, kernel) for _ in range(blocks - 1)))


# --- encoder and decoder
# ------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Stem, then stages; returns the output of every stage, finest first. `mixers`, one per stage, come
    before a stage's output is used.
    """

    def __init__(
        self, input_channels: int, topology: Topology, mixers: Sequence[nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.topology = topology
        dim, features, kernels = topology.dim, topology.features, topology.kernels
        self.stem = _stage(dim, input_channels, features[0], kernels[0], 1, topology.blocks[0])
        if mixers is not None:
            self.mamba_layers = nn.ModuleList(mixers)
        widths = pairwise((features[0], *features))
        rows = zip(widths, kernels, topology.strides, topology.blocks, strict=True)
        self.stages = nn.ModuleList(
            _stage(dim, below, width, kernel, stride, n) for (below, width), kernel, stride, n in rows
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        check_image(image, self.topology)
        x = self.stem(image)
        mixers = getattr(self, "mamba_layers", [nn.Identity()] * self.topology.stages)
        skips = []
        for stage, mixer in zip(self.stages, mixers, strict=True):
            x = mixer(stage(x))
            skips.append(x)
        return skips


class Decoder(nn.Module):
    """From the deepest skip upwards; `deep_supervision` may be set after construction, as nnU-Net's
    trainer does.
    """

    def __init__(
        self, num_classes: int, topology: Topology, *, deep_supervision: bool, full_resolution_skip: bool
    ) -> None:
        super().__init__()
        self.deep_supervision, self.full_resolution_skip = deep_supervision, full_resolution_skip
        dim, last = topology.dim, topology.stages - 2
        rows = []
        for s in range(topology.stages - 1):
            level = last - s  # the encoder stage whose resolution this decoder stage restores
            below, width = topology.features[level + 1], topology.features[level]
            joined = 2 * width if full_resolution_skip or s < last else width
            stage = _stage(dim, joined, width, topology.kernels[level], 1, topology.decoder_blocks[s])
            rows.append(
                (
                    stage,
                    NearestUpsample(dim, below, width, topology.strides[level + 1]),
                    _conv(dim, width, num_classes, 1),
                )
            )
        self.stages = nn.ModuleList(stage for stage, _, _ in rows)
        self.upsample_layers = nn.ModuleList(upsample for _, upsample, _ in rows)
        self.seg_layers = nn.ModuleList(seg for _, _, seg in rows)

    def forward(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        x, last = skips[-1], len(self.stages) - 1
        outputs = []
        for s, (stage, upsample, seg) in enumerate(
            zip(self.stages, self.upsample_layers, self.seg_layers, strict=True)
        ):
            x = upsample(x)  # b c z y x -> b c/2 2z 2y 2x
            if self.full_resolution_skip or s < last:
                x = torch.cat([x, skips[-(s + 2)]], dim=1)
            x = stage(x)
            if self.deep_supervision or s == last:
                outputs.append(seg(x))
        return outputs[::-1] if self.deep_supervision else outputs[-1]


class NearestUpsample(nn.Module):
    """Nearest-neighbour upsampling and 1x1 convolution. The two commute, so the convolution runs on the
    smaller grid.
    """

    def __init__(self, dim: int, channels_in: int, channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.scale = [float(s) for s in stride]
        self.conv = _conv(dim, channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), scale_factor=self.scale, mode="nearest")


# --- rules shared with U-Mamba
# ------------------------------------------------------------------------------------------


def check_image(image: Tensor, topology: Topology) -> None:
    """Refuse an image whose axes are not (b, c, *space), or whose sizes the strides do not divide."""
    if exporting() or tracing():
        return
    total = [math.prod(axis) for axis in zip(*topology.strides, strict=True)]
    if image.dim() != topology.dim + 2 or any(
        int(n) % t for n, t in zip(image.shape[2:], total, strict=True)
    ):
        raise InputRefused(
            f"the image has shape {tuple(image.shape)}; this network takes (batch, channel, {topology.dim}"
            f" axes) with sizes divisible by {total}: pad the image or choose another patch size"
        )


def init_convolutions(network: nn.Module) -> None:
    """Draw the weights of 2-D and 3-D convolutions from He's normal distribution for a LeakyReLU of slope
    0.01; biases are 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, a=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def is_published_alias(key: str) -> bool:
    """Say whether a key of a published state dict repeats a tensor that stands there under another name.

    >>> is_published_alias("decoder.encoder.stages.0"), is_published_alias("decoder.stages.0")
    (True, False)
    """
    return ".all_modules." in f".{key}" or key.startswith("decoder.encoder.")


def ignore_published_aliases(network: nn.Module) -> None:
    """Let `load_state_dict` accept the originals' dicts, which hold the encoder and each conv and norm of
    a block twice.
    """

    def drop(_module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for key in [k for k in state if k.startswith(prefix) and is_published_alias(k.removeprefix(prefix))]:
            del state[key]

    network.register_load_state_dict_pre_hook(drop)


def conv_feature_map_size(encoder: Encoder, decoder: Decoder, input_size: Sequence[int]) -> int:
    """Count feature-map elements as dynamic-network-architectures does: every convolution's output, for
    batch 1.
    """
    topology = encoder.topology
    voxels, sizes = math.prod(input_size), []
    for stride in topology.strides:
        voxels //= math.prod(stride)
        sizes.append(voxels)
    first = math.prod(input_size) * topology.features[0] * (2 * topology.blocks[0] + 1)
    down = sum(v * f * (2 * n + 1) for v, f, n in zip(sizes, topology.features, topology.blocks, strict=True))
    up = 0
    for s, (level, blocks) in enumerate(
        zip(reversed(range(topology.stages - 1)), topology.decoder_blocks, strict=True)
    ):
        classes = cast(Any, decoder.seg_layers[s]).out_channels if decoder.deep_supervision else 0
        up += sizes[level] * (topology.features[level] * (2 * blocks + 2) + classes)
    return int(first + down + up)
