"""Vision transformer (Dosovitskiy 2021, figure 1) for 2-D images, whose channels may be slices, and for 3-D
regions.

    image -> patches -> tokens;  [class, clinical, patch tokens + positions] -> L x (attention, MLP) -> norm
    -> head(class token)

Parameter names of the image part are timm's, so that standard ViT-B/16 weights load
(`checkpoints.load_vit_weights`). Axis letters: b batch, c channel, h head, l tokens, m width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ichnos.errors import InputRefused, UsageError
from ichnos.networks.tracing import exporting, tracing


class VisionTransformer(nn.Module):
    """Classify an image (b, input_channels, *image_size), with optional clinical features (b,
    clinical_features), NaN where unknown.

    The defaults are ViT-B/16 at 224 x 224. Every clinical feature is one token; an unknown one is a learned
    token of its own.

    >>> size = {"image_size": (32, 32), "width": 48, "depth": 2, "heads": 4}
    >>> network = VisionTransformer(num_classes=2, clinical_features=3, **size)
    >>> network(torch.zeros(5, 3, 32, 32), torch.full((5, 3), float("nan"))).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        num_classes: int = 2,
        image_size: Sequence[int] = (224, 224),
        patch_size: Sequence[int] | int = 16,
        input_channels: int = 3,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        clinical_features: int = 0,
    ) -> None:
        super().__init__()
        patch = (patch_size,) * len(image_size) if isinstance(patch_size, int) else tuple(patch_size)
        if (
            len(image_size) not in (2, 3)
            or len(patch) != len(image_size)
            or any(n % p for n, p in zip(image_size, patch, strict=True))
        ):
            raise UsageError(
                f"image_size {tuple(image_size)} is not a multiple of patch_size {patch} in 2 or 3 axes"
            )
        if width % heads:
            raise UsageError(f"width {width} is not divisible by {heads} heads")
        self.image_size, self.input_channels, self.clinical_features = (
            tuple(image_size),
            input_channels,
            clinical_features,
        )
        self.patch_grid = tuple(n // p for n, p in zip(image_size, patch, strict=True))
        self.patch_embed = PatchEmbedding(input_channels, width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + math.prod(self.patch_grid), width))
        if clinical_features:
            self.clinical = ClinicalTokens(clinical_features, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, round(mlp_ratio * width), dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        self._init()

    def _init(self) -> None:
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor, clinical: Tensor | None = None) -> Tensor:
        tokens = self._tokens(image, clinical)
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.norm(tokens[:, 0]))
        return logits

    def attention_map(self, image: Tensor, clinical: Tensor | None = None) -> Tensor:
        """Return how much the class token of the last block attends to each patch (b, heads, *patch_grid).

        A head's weights sum to at most one: the rest goes to the class token itself and to the clinical
        tokens.
        """
        tokens = self._tokens(image, clinical)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        last: Any = self.blocks[-1]
        weights: Tensor = last.attn.weights(last.norm1(tokens))  # b h l l
        on_patches: Tensor = weights[:, :, 0, -math.prod(self.patch_grid) :]
        return on_patches.reshape(*on_patches.shape[:2], *self.patch_grid)

    def _tokens(self, image: Tensor, clinical: Tensor | None) -> Tensor:
        if not (exporting() or tracing()):
            self._check(image, clinical)
        patches = self.patch_embed(image) + self.pos_embed[:, 1:]  # b l m
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(image), -1, -1)
        parts = [first, patches] if clinical is None else [first, self.clinical(clinical), patches]
        tokens: Tensor = self.dropout(torch.cat(parts, dim=1))
        return tokens

    def _check(self, image: Tensor, clinical: Tensor | None) -> None:
        if tuple(image.shape[1:]) != (self.input_channels, *self.image_size):
            raise InputRefused(
                f"the image has shape {tuple(image.shape)}; expected (batch, {self.input_channels},"
                f" {', '.join(map(str, self.image_size))})"
            )
        given = 0 if clinical is None else clinical.shape[-1]
        if given != self.clinical_features:
            raise InputRefused(
                f"{given} clinical features were given; this network was built with"
                f" clinical_features={self.clinical_features}"
            )


class PatchEmbedding(nn.Module):
    """Cut the image into patches and project each: (b, c, *space) -> (b, l, m)."""

    def __init__(self, channels: int, width: int, patch: tuple[int, ...]) -> None:
        super().__init__()
        kind: Any = nn.Conv2d if len(patch) == 2 else nn.Conv3d
        self.proj = kind(channels, width, patch, stride=patch)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.proj(image).flatten(2).transpose(1, 2)
        return tokens


class ClinicalTokens(nn.Module):
    """One token per clinical feature: (b, k) -> (b, k, m); where a value is NaN, a learned token says
    "unknown".
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.weight, self.bias, self.unknown = (nn.Parameter(torch.empty(features, width)) for _ in range(3))
        for parameter in (self.weight, self.bias, self.unknown):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, values: Tensor) -> Tensor:
        missing = torch.isnan(values).unsqueeze(-1)  # b k 1
        known = torch.nan_to_num(values).unsqueeze(-1) * self.weight + self.bias
        return torch.where(missing, self.unknown, known)


class Attention(nn.Module):
    """Multi-head self-attention over (b, l, m)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def _split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        qkv: Tensor = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # b l 3 h m/h
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)  # b h l m/h, three times

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self._split(tokens)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out

    def weights(self, tokens: Tensor) -> Tensor:
        """Attention weights (b, h, l, l), rows summing to one."""
        q, k, _ = self._split(tokens)
        return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)


class MLP(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, hidden)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop(self.attn(self.norm1(tokens)))
        out: Tensor = tokens + self.drop(self.mlp(self.norm2(tokens)))
        return out
