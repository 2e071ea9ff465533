"""The vision transformer: shapes, clinical tokens, attention, and standard weights under two naming
schemes.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from ichnos.errors import InputRefused, UsageError
from ichnos.networks.checkpoints import load_vit_weights
from ichnos.networks.vit import VisionTransformer

TINY: dict[str, Any] = {"width": 24, "depth": 2, "heads": 3}


def test_defaults_are_vit_b_16() -> None:
    with torch.device("meta"):
        network = VisionTransformer(num_classes=1000)
    assert sum(p.numel() for p in network.parameters()) == 86_567_656  # the published size of ViT-B/16


@pytest.mark.parametrize(("size", "patch"), [((32, 48), 16), ((4, 16, 16), (2, 8, 8))])
def test_two_and_three_axes(size: tuple[int, ...], patch: Any) -> None:
    network = VisionTransformer(3, size, patch, input_channels=2, **TINY)
    image = torch.randn(2, 2, *size, requires_grad=True)
    assert network(image).shape == (2, 3)
    network(image).sum().backward()
    assert bool((image.grad.abs().sum(dim=tuple(range(1, image.dim()))) > 0).all())
    attention = network.attention_map(image.detach())
    assert attention.shape == (2, 3, *network.patch_grid)
    assert float(attention.detach().flatten(2).sum(-1).max()) < 1


def test_attention_weights_are_those_that_are_used() -> None:
    torch.manual_seed(0)
    network = VisionTransformer(2, (16, 16), 8, **TINY).double()
    tokens = torch.randn(1, 5, 24, dtype=torch.float64)
    attention = network.blocks[0].attn
    values = attention.qkv(tokens).unflatten(-1, (3, 3, 8))[:, :, 2].transpose(1, 2)
    by_hand = attention.proj((attention.weights(tokens) @ values).transpose(1, 2).flatten(2))
    assert torch.allclose(by_hand, attention(tokens))


def test_clinical_tokens_matter_one_by_one_and_may_be_unknown() -> None:
    torch.manual_seed(0)
    network = VisionTransformer(2, (16, 16), 8, clinical_features=3, **TINY).eval()
    for parameter in network.clinical.parameters():
        torch.nn.init.normal_(parameter)
    image, known = torch.randn(1, 3, 16, 16), torch.tensor([[1.0, -2.0, 0.5]])
    with torch.no_grad():
        reference = network(image, known)
        for i in range(3):
            other, missing = known.clone(), known.clone()
            other[0, i] += 1
            missing[0, i] = float("nan")
            assert not torch.allclose(network(image, other), reference)
            assert network(image, missing).isfinite().all()
            assert not torch.allclose(network(image, missing), reference)


def test_missing_and_superfluous_inputs_are_named() -> None:
    network = VisionTransformer(2, (16, 16), 8, clinical_features=3, **TINY)
    with pytest.raises(InputRefused, match="0 clinical features were given"):
        network(torch.zeros(1, 3, 16, 16))
    with pytest.raises(InputRefused, match=r"expected \(batch, 3, 16, 16\)"):
        network(torch.zeros(1, 3, 16, 24), torch.zeros(1, 3))
    with pytest.raises(UsageError, match="not a multiple"):
        VisionTransformer(2, (15, 16), 8)
    with pytest.raises(UsageError, match="not divisible by 5 heads"):
        VisionTransformer(2, (16, 16), 8, width=24, heads=5)


def as_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = (
        (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^norm\.", "encoder.ln."),
        (r"^head\.", "heads.head."),
        (r"^blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.encoder_layer_\1.ln_\2."),
        (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.encoder_layer_\1.self_attention.in_proj_"),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.encoder_layer_\1.self_attention.out_proj."),
        (r"^blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layers.encoder_layer_\1.mlp.0."),
        (r"^blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layers.encoder_layer_\1.mlp.3."),
    )
    renamed = {}
    for key, value in state.items():
        new = key
        for pattern, theirs in names:
            new = re.sub(pattern, theirs, new)
        renamed[new] = value
    return renamed


@pytest.mark.parametrize("scheme", ["timm", "torchvision"])
def test_standard_weights_load(scheme: str) -> None:
    torch.manual_seed(0)
    source, target = (
        VisionTransformer(7, (32, 32), 8, **TINY).eval(),
        VisionTransformer(2, (32, 32), 8, clinical_features=1, **TINY).eval(),
    )
    state = source.state_dict()
    kept = load_vit_weights(target, state if scheme == "timm" else as_torchvision(state))
    assert {k.split(".")[0] for k in kept} == {"head", "clinical"}
    assert all(torch.equal(target.state_dict()[k], v) for k, v in state.items() if k not in kept)


def test_weights_are_fitted_to_other_grids_channels_and_to_depth() -> None:
    torch.manual_seed(0)
    source = VisionTransformer(2, (32, 32), 8, **TINY).eval()
    flat, deep = (
        VisionTransformer(2, (32, 64), 8, input_channels=5, **TINY).eval(),
        VisionTransformer(2, (4, 32, 32), (4, 8, 8), **TINY).eval(),
    )
    load_vit_weights(flat, source.state_dict())
    load_vit_weights(deep, source.state_dict())
    constant = torch.full((1, 1, 32, 32), 0.3)
    with torch.no_grad():
        patches = source.patch_embed(constant.expand(1, 3, 32, 32))
        assert torch.allclose(flat.patch_embed(constant.expand(1, 5, 32, 32)), patches, atol=1e-5)
        volume = constant[:, :, None].expand(1, 3, 4, 32, 32)
        assert torch.allclose(deep(volume), source(constant.expand(1, 3, 32, 32)), atol=1e-4)
    assert flat.pos_embed.shape == (1, 1 + 4 * 8, 24)


def test_weights_of_another_depth_are_refused() -> None:
    with pytest.raises(InputRefused, match=r"do not fit the transformer: 12 parameters missing"):
        load_vit_weights(
            VisionTransformer(2, (16, 16), 8, width=24, depth=3, heads=3),
            VisionTransformer(2, (16, 16), 8, **TINY).state_dict(),
        )
