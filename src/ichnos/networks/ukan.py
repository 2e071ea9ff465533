"""Diffusion U-KAN (Li 2024, arXiv 2406.02918): the denoising U-Net of DDPM with Kolmogorov-Arnold layers at
its bottom.

    head -> residual blocks, level by level -> [ embed -> KAN -> embed -> KAN -> decode -> KAN -> decode ] ->
    residual blocks -> tail

Parameter names are the published ones. Beyond the publication, a map of channels (a lesion mask), a clinical
vector or both may condition it; where `keep` is false for a sample, its condition is replaced by "unknown",
which is what classifier-free guidance needs. Axis letters: b batch, c channel, y x space, l tokens = (y x), e
embedding of time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ichnos.errors import InputRefused, UsageError
from ichnos.networks.kan import KANLinear
from ichnos.networks.tracing import exporting, tracing


def _hidden(condition_map: Tensor, keep: Tensor) -> Tensor:
    """Set the maps (b, c, y, x) to zero where `keep` (b,) does not hold, for guidance."""
    return condition_map * keep.to(condition_map.dtype)[:, None, None, None]


class DiffusionUKAN(nn.Module):
    """Predict the noise (or v) in images (b, in_channels, y, x) at diffusion steps t (b,).

    `T` steps; `ch` base width, a multiple of 32; `ch_mult` one factor per level; `embed_dims` widths of the
    KAN bottleneck, the first equal to ch * ch_mult[-1]; `tdim` width of the time embedding, 4 ch unless
    given. `attn` is accepted and without effect, as in the published program. y and x must be divisible by 4
    * 2 ** (levels - 1).

    >>> network = DiffusionUKAN(T=10, ch=32, ch_mult=[1], num_res_blocks=1, embed_dims=[32, 32, 32], tdim=16)
    >>> network(torch.zeros(2, 3, 8, 8), torch.tensor([0, 9])).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        T: int = 1000,
        ch: int = 64,
        ch_mult: Sequence[int] = (1, 2, 3, 4),
        attn: Sequence[int] = (),
        num_res_blocks: int = 2,
        dropout: float = 0.15,
        embed_dims: Sequence[int] = (256, 320, 512),
        tdim: int | None = None,
        in_channels: int = 3,
        condition_channels: int = 0,
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        check_widths(ch, ch_mult, embed_dims)
        temb = 4 * ch if tdim is None else tdim
        self.steps, self.in_channels, self.condition_channels, self.condition_features = (
            T,
            in_channels,
            condition_channels,
            condition_features,
        )
        self.divisor = 4 * 2 ** (len(ch_mult) - 1)
        self.time_embedding = TimeEmbedding(T, ch, temb)
        if condition_features:
            self.condition_embedding = ConditionEmbedding(condition_features, temb)
        self.head = nn.Conv2d(in_channels + condition_channels, ch, 3, padding=1)

        widths, now = [ch], ch
        self.downblocks = nn.ModuleList()
        for level, factor in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(ResBlock(now, ch * factor, temb, dropout))
                widths.append(now := ch * factor)
            if level < len(ch_mult) - 1:
                self.downblocks.append(Downsample(now))
                widths.append(now)
        self.upblocks = nn.ModuleList()
        for level, factor in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(ResBlock(widths.pop() + now, ch * factor, temb, dropout))
                now = ch * factor
            if level:
                self.upblocks.append(Upsample(now))
        self.tail = nn.Sequential(nn.GroupNorm(32, now), nn.SiLU(), nn.Conv2d(now, in_channels, 3, padding=1))

        shallow, middle, deep = embed_dims
        self.patch_embed3 = PatchEmbed(shallow, middle)
        self.patch_embed4 = PatchEmbed(middle, deep)
        self.norm3, self.norm4, self.dnorm3 = nn.LayerNorm(middle), nn.LayerNorm(deep), nn.LayerNorm(middle)
        self.kan_block1 = nn.ModuleList([KANBlock(middle, temb)])
        self.kan_block2 = nn.ModuleList([KANBlock(deep, temb)])
        self.kan_dblock1 = nn.ModuleList([KANBlock(middle, temb)])
        self.decoder1 = TokenDecoder(deep, middle, temb)
        self.decoder2 = TokenDecoder(middle, shallow, temb)
        init_xavier(self.head)
        init_xavier(self.tail[2], gain=1e-5)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition_map: Tensor | None = None,
        condition_vector: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        self._check(x, condition_map, condition_vector)
        temb = self.time_embedding(t)  # b e
        if condition_vector is not None:
            temb = temb + self.condition_embedding(condition_vector, keep)
        if condition_map is not None:
            x = torch.cat([x, condition_map if keep is None else _hidden(condition_map, keep)], dim=1)
        h = self.head(x)
        skips = [h]
        for block in self.downblocks:
            h = block(h, temb)
            skips.append(h)
        h = self._bottleneck(h, temb)
        for block in self.upblocks:
            if isinstance(block, ResBlock):
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, temb)
        out: Tensor = self.tail(h)
        return out

    def _bottleneck(self, shallow: Tensor, temb: Tensor) -> Tensor:
        """Encode (b, c, y, x) to a half and a quarter of its resolution by KAN blocks over tokens, and
        decode back with two skips.
        """
        tokens, grid3 = self.patch_embed3(shallow)  # b c y x -> b l c', l = y/2 x/2
        middle = as_map(self.norm3(through(self.kan_block1, tokens, temb)), grid3)
        tokens, grid4 = self.patch_embed4(middle)  # b l' c'', l' = y/4 x/4
        deep = as_map(self.norm4(through(self.kan_block2, tokens, temb)), grid4)
        up = F.silu(double(self.decoder1(deep, temb))) + middle
        up = as_map(self.dnorm3(through(self.kan_dblock1, as_tokens(up), temb)), grid3)
        return F.silu(double(self.decoder2(up, temb))) + shallow

    def _check(self, x: Tensor, condition_map: Tensor | None, condition_vector: Tensor | None) -> None:
        if exporting() or tracing():
            return
        if (
            x.dim() != 4
            or x.shape[1] != self.in_channels
            or x.shape[2] % self.divisor
            or x.shape[3] % self.divisor
        ):
            raise InputRefused(
                f"images have shape {tuple(x.shape)}; expected (batch, {self.in_channels}, height, width)"
                f" with sizes divisible by {self.divisor}"
            )
        channels = 0 if condition_map is None else condition_map.shape[1]
        features = 0 if condition_vector is None else condition_vector.shape[1]
        if (channels, features) != (self.condition_channels, self.condition_features):
            raise InputRefused(
                f"the condition has {channels} map channels and {features} vector features; this network was"
                f" built with condition_channels={self.condition_channels} and"
                f" condition_features={self.condition_features}"
            )


def check_widths(ch: int, ch_mult: Sequence[int], embed_dims: Sequence[int]) -> None:
    """Refuse widths that group normalisation in 32 groups or the join with the KAN bottleneck cannot take.

    >>> check_widths(30, (1, 2), (60, 64, 64))
    Traceback (most recent call last):
    ichnos.errors.UsageError: ch=30, ch_mult=[1, 2], embed_dims=[60, 64, 64]: expected widths ...
    """
    if (
        ch % 32
        or len(embed_dims) != 3
        or any(e % 32 for e in embed_dims[1:])
        or embed_dims[0] != ch * ch_mult[-1]
    ):
        raise UsageError(
            f"ch={ch}, ch_mult={list(ch_mult)}, embed_dims={list(embed_dims)}: expected widths divisible by"
            f" 32 and embed_dims[0] equal to ch * ch_mult[-1] = {ch * ch_mult[-1]}"
        )


class TimeEmbedding(nn.Module):
    """Frozen sinusoidal table (T, ch), sine and cosine interleaved, followed by two linear layers."""

    def __init__(self, steps: int, ch: int, temb: int) -> None:
        super().__init__()
        frequency = torch.exp(-torch.arange(0, ch, 2) / ch * math.log(10000))
        angle = torch.arange(steps).float()[:, None] * frequency[None]
        table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # t ch
        self.timembedding = nn.Sequential(
            nn.Embedding.from_pretrained(table), nn.Linear(ch, temb), nn.SiLU(), nn.Linear(temb, temb)
        )
        for layer in (self.timembedding[1], self.timembedding[3]):
            init_xavier(layer)

    def forward(self, t: Tensor) -> Tensor:
        temb: Tensor = self.timembedding(t)
        return temb


class ConditionEmbedding(nn.Module):
    """Embed a clinical vector (b, features) beside time; where it is not kept, a learned "unknown" stands
    in.
    """

    def __init__(self, features: int, temb: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, temb), nn.SiLU(), nn.Linear(temb, temb))
        self.unknown = nn.Parameter(torch.zeros(temb))

    def forward(self, vector: Tensor, keep: Tensor | None) -> Tensor:
        embedded: Tensor = self.layers(vector)
        return embedded if keep is None else torch.where(keep[:, None].bool(), embedded, self.unknown)


class ResBlock(nn.Module):
    """Group norm, swish, conv, plus time; group norm, swish, dropout, conv; plus the shortcut."""

    def __init__(self, channels_in: int, channels: int, temb: int, dropout: float) -> None:
        super().__init__()
        self.block1 = nn.Sequential(
            nn.GroupNorm(32, channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels, 3, padding=1)
        )
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(temb, channels))
        self.block2 = nn.Sequential(
            nn.GroupNorm(32, channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        for layer in (self.block1[2], self.temb_proj[1], self.shortcut):
            init_xavier(layer)
        init_xavier(self.block2[3], gain=1e-5)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.block1(x) + self.temb_proj(temb)[:, :, None, None]
        out: Tensor = self.block2(h) + self.shortcut(x)
        return out


class Downsample(nn.Module):
    """Halve the resolution by a strided convolution; time has no part in it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        init_xavier(self.main)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        out: Tensor = self.main(x)
        return out


class Upsample(nn.Module):
    """Double the resolution by nearest neighbour and a convolution; time has no part in it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Conv2d(channels, channels, 3, padding=1)
        init_xavier(self.main)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        out: Tensor = self.main(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class PatchEmbed(nn.Module):
    """Overlapping patches: strided convolution to half the resolution, then layer norm over tokens."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels_in, channels, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(channels)
        nn.init.normal_(self.proj.weight, std=math.sqrt(2 / (9 * channels)))
        nn.init.zeros_(cast(Tensor, self.proj.bias))

    def forward(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        embedded = self.proj(x)
        return self.norm(as_tokens(embedded)), embedded.shape[2:]


class KANBlock(nn.Module):
    """One Kolmogorov-Arnold layer over normalised tokens, plus time; as published, without a residual."""

    def __init__(self, width: int, temb: int) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(width)
        self.kan = nn.ModuleDict({"fc1": KANLinear(width, width)})
        time = nn.Linear(temb, width)
        self.temb_proj = nn.Sequential(nn.SiLU(), time)
        nn.init.trunc_normal_(time.weight, std=0.02)
        nn.init.zeros_(time.bias)

    def forward(self, tokens: Tensor, temb: Tensor) -> Tensor:
        mixed: Tensor = self.kan["fc1"](self.norm2(tokens)) + self.temb_proj(temb)[:, None]  # b l c + b 1 c
        return mixed


class TokenDecoder(nn.Module):
    """Group norm, swish, conv, plus time."""

    def __init__(self, channels_in: int, channels: int, temb: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.GroupNorm(32, channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels, 3, padding=1)
        )
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(temb, channels))

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        out: Tensor = self.conv(x) + self.temb_proj(temb)[:, :, None, None]
        return out


def through(blocks: nn.ModuleList, tokens: Tensor, temb: Tensor) -> Tensor:
    """Pass tokens through blocks that also take the time embedding."""
    for block in blocks:
        tokens = block(tokens, temb)
    return tokens


def as_tokens(x: Tensor) -> Tensor:
    """(b, c, y, x) -> (b, l, c).

    >>> as_tokens(torch.zeros(2, 3, 4, 5)).shape
    torch.Size([2, 20, 3])
    """
    return x.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """(b, l, c) -> (b, c, y, x).

    >>> as_map(torch.zeros(2, 20, 3), (4, 5)).shape
    torch.Size([2, 3, 4, 5])
    """
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


def double(x: Tensor) -> Tensor:
    """Double the resolution of (b, c, y, x) bilinearly.

    >>> double(torch.ones(1, 1, 2, 3)).shape
    torch.Size([1, 1, 4, 6])
    """
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def init_xavier(module: nn.Module, *, gain: float = 1.0) -> None:
    """Draw weights from Xavier's uniform distribution and set biases to zero; modules without weights are
    left alone.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight, gain=gain)
        nn.init.zeros_(cast(Tensor, module.bias))
