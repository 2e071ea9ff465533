"""Mamba, U-Mamba and its plain twin: published outputs, names and rules, at the stored configurations and
beyond them.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ichnos.errors import InputRefused, UsageError
from ichnos.networks.mamba import Mamba
from ichnos.networks.selective_scan import sequential_scan
from ichnos.networks.umamba import MambaLayer, UMambaBot, UMambaEnc
from ichnos.networks.unet import IdentityBlock, ResidualUNet

TWO_D: dict[str, Any] = {"dim": 2, "features_per_stage": [4, 8, 16], "strides": [1, 2, 2]}


def published(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    stored = torch.load(path, weights_only=True)
    config = {k: v for k, v in stored["config"].items() if k not in ("net", "shape", "n_stages")}
    shape = stored["config"]["shape"]
    if stored["config"]["net"].startswith("UMambaBot"):
        network: nn.Module = UMambaBot(shape[1], **config)
    else:
        network = UMambaEnc(shape[1], input_size=shape[2:], **config)
    network.load_state_dict(stored["state_dict"])
    return network, stored


def published_loss(outputs: list[Tensor]) -> Tensor:
    """The loss whose gradients are stored: mean of output times standard normal numbers of seed 5000,
    5001, ...
    """
    noise = [
        torch.from_numpy(np.random.default_rng(5000 + j).standard_normal(tuple(o.shape)))
        for j, o in enumerate(outputs)
    ]
    return torch.stack([(o * g.to(o.dtype)).mean() for o, g in zip(outputs, noise, strict=True)]).sum()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def test_mamba_is_the_published_one(shared: Path) -> None:
    stored = torch.load(shared / "parity" / "mamba_d24.pt", weights_only=True)
    block = Mamba(**stored["config"])
    block.load_state_dict(stored["state_dict"])
    assert sorted(block.state_dict()) == sorted(stored["state_dict"])
    with torch.no_grad():
        assert (block(stored["input"]) - stored["output"]).abs().max() < 5e-6
    image = stored["input"].clone().requires_grad_()
    published_loss([block(image)]).backward()
    assert relative(image.grad, stored["input_grad"]) < 1e-5
    assert max(relative(p.grad, stored["param_grads"][key]) for key, p in block.named_parameters()) < 1e-5
    with torch.no_grad():
        assert (block.double()(stored["input"].double()) - stored["output_fp64"]).abs().max() < 1e-8


@pytest.mark.parametrize("name", ["umamba_bot_3d", "umamba_enc_2d_odd"])
def test_umamba_is_the_published_one(shared: Path, name: str) -> None:
    network, stored = published(shared / "parity" / f"{name}.pt")
    assert [key for key, _ in network.named_parameters()] == stored["param_order"]
    with torch.no_grad():
        outputs = network.double()(stored["input"].double())
    assert [(o - e).abs().max() < 1e-8 for o, e in zip(outputs, stored["outputs_fp64"], strict=True)] == [
        True
    ] * len(outputs)


@pytest.mark.parametrize("name", ["umamba_bot_3d", "umamba_enc_2d_odd"])
def test_gradients_are_the_published_ones(shared: Path, name: str) -> None:
    """The stored gradients are float32, and off by up to 3e-3 themselves: ours in float64, which is exact,
    differs from them by as much.
    """
    network, stored = published(shared / "parity" / f"{name}.pt")
    image = stored["input"].double().requires_grad_()
    loss = published_loss(network.double()(image))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(stored["loss"], abs=4e-6)
    assert relative(image.grad, stored["input_grad"]) < 5e-3
    largest = max(stored["grad_norms"].values())
    errors = {
        key: abs(float(p.grad.norm()) - stored["grad_norms"][key]) / largest
        for key, p in network.named_parameters()
    }
    assert max(errors.values()) < 5e-4, errors


@pytest.mark.parametrize("dim", [2, 3])
def test_gradients_are_exact(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    size = (8,) * dim
    network = UMambaEnc(
        1, 2, input_size=size, dim=dim, features_per_stage=[4, 8], strides=[1, 2], deep_supervision=True
    ).double()
    image = torch.randn(1, 1, *size, dtype=torch.float64, requires_grad=True)
    wanted = [image, *network.parameters()]
    ours = torch.autograd.grad(published_loss(network(image)), wanted)
    monkeypatch.setattr("ichnos.networks.mamba.selective_scan", sequential_scan)
    expected = torch.autograd.grad(published_loss(network(image)), wanted)
    scale = max(float(e.abs().max()) for e in expected)
    assert max(float((o - e).abs().max()) for o, e in zip(ours, expected, strict=True)) < 1e-10 * scale


@pytest.mark.parametrize(
    ("stages", "encoder", "decoder"),
    [
        (2, [2, 1], [2]),
        (3, [2, 2, 1], [2, 2]),
        (4, [2, 2, 1, 1], [2, 2, 1]),
        (6, [2] * 3 + [1] * 3, [2] * 3 + [1] * 2),
        (7, [2] * 4 + [1] * 3, [2] * 4 + [1] * 2),
    ],
)
def test_deeper_half_has_single_blocks(stages: int, encoder: list[int], decoder: list[int]) -> None:
    network = ResidualUNet(1, 2, dim=2, features_per_stage=[4] * stages, strides=[1] + [2] * (stages - 1))
    assert [len(stage) for stage in network.encoder.stages] == encoder
    assert [len(stage) for stage in network.decoder.stages] == decoder
    assert len(network.encoder.stem) == 2
    assert (
        sum(isinstance(m, IdentityBlock) for m in network.modules())
        == sum(encoder) + sum(decoder) + 2 - stages - (stages - 1) - 1
    )


@pytest.mark.parametrize(
    ("stages", "with_mamba"), [(2, [1]), (3, [0, 2]), (4, [1, 3]), (5, [0, 2, 4]), (6, [1, 3, 5])]
)
def test_two_dimensional_encoder_mixes_every_other_stage(stages: int, with_mamba: list[int]) -> None:
    strides = [1] + [2] * (stages - 1)
    network = UMambaEnc(1, 2, input_size=(64, 64), dim=2, features_per_stage=[4] * stages, strides=strides)
    assert [
        s for s, layer in enumerate(network.encoder.mamba_layers) if isinstance(layer, MambaLayer)
    ] == with_mamba


def test_three_dimensional_encoder_mixes_every_stage() -> None:
    network = UMambaEnc(
        1, 2, input_size=(8, 16, 16), features_per_stage=[4, 8, 16], strides=[1, 2, [1, 2, 2]]
    )
    assert all(isinstance(layer, MambaLayer) for layer in network.encoder.mamba_layers)
    assert network(torch.zeros(1, 1, 8, 16, 16)).shape == (1, 2, 8, 16, 16)


def test_channels_are_tokens_where_voxels_do_not_outnumber_them() -> None:
    network = UMambaEnc(1, 2, input_size=(8, 8, 8), features_per_stage=[4, 64, 65], strides=[1, 2, 2])
    layers = [(layer.channels_as_tokens, layer.width) for layer in network.encoder.mamba_layers]
    assert layers == [(False, 4), (True, 64), (True, 8)]
    with pytest.raises(InputRefused, match="made for 64"):
        network(torch.zeros(1, 1, 16, 8, 8))


def test_last_decoder_stage_has_its_skip_in_3d_and_on_request() -> None:
    published_2d, repaired = UMambaBot(1, 2, **TWO_D), UMambaBot(1, 2, **TWO_D, full_resolution_skip=True)
    three_d = UMambaBot(1, 2, features_per_stage=[4, 8, 16], strides=[1, 2, 2])
    widths = [n.decoder.stages[-1][0].conv1.in_channels for n in (published_2d, repaired, three_d)]
    assert widths == [4, 8, 8]
    assert repaired(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 8, 8)


def test_twins_differ_by_the_mamba_layers_alone() -> None:
    plain = set(ResidualUNet(1, 2, **TWO_D, full_resolution_skip=False).state_dict())
    bot, enc = (
        UMambaBot(1, 2, **TWO_D).state_dict(),
        UMambaEnc(1, 2, input_size=(16, 16), **TWO_D).state_dict(),
    )
    assert plain < set(bot)
    assert {k for k in bot if ".norm." in k or ".mamba." in k} >= set(bot) - plain
    assert all("mamba_layers" in k for k in set(enc) - plain)


def test_residual_adds_the_input() -> None:
    torch.manual_seed(0)
    plain, residual, x = MambaLayer(6), MambaLayer(6, residual=True), torch.randn(2, 6, 3, 4)
    residual.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.allclose(residual(x), plain(x) + x)


def test_tokens_are_voxels_in_row_major_order() -> None:
    """The layer is causal: a voxel changes itself and what comes after it, in row-major order."""
    torch.manual_seed(0)
    layer, x = MambaLayer(6), torch.randn(1, 6, 3, 4, 5)
    changed = x.clone()
    changed[0, 0, 1, 2, 3] += 1.0
    with torch.no_grad():
        difference = (layer(changed) - layer(x)).abs().amax(dim=1).flatten()
    position = (1 * 4 + 2) * 5 + 3
    assert difference[:position].max() == 0
    assert difference[position : position + 3].min() > 0


@pytest.mark.parametrize("supervised", [True, False])
def test_outputs_run_from_full_to_coarse(supervised: bool) -> None:
    network = UMambaBot(2, 3, **TWO_D, deep_supervision=supervised).eval()
    image = torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        outputs = network(image)
        network.decoder.deep_supervision = not supervised
        other = network(image)
    full, several = (outputs[0], outputs) if supervised else (outputs, other)
    assert [tuple(o.shape[2:]) for o in several] == [(16, 16), (8, 8)]
    assert torch.equal(several[0], full)


def test_initial_values_are_the_published_ones() -> None:
    torch.manual_seed(0)
    network = UMambaBot(1, 2, dim=2, features_per_stage=[32, 64, 256], strides=[1, 2, 2])
    weight = network.encoder.stages[2][0].conv2.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (1 + 0.01**2) / (256 * 9)) ** 0.5, rel=0.02)
    assert all(float(m.bias.detach().abs().max()) == 0 for m in network.modules() if isinstance(m, nn.Conv2d))
    mamba = network.mamba_layer.mamba
    assert float(mamba.conv1d.bias.detach().abs().max()) > 0
    steps = torch.nn.functional.softplus(mamba.dt_proj.bias.detach())
    assert 1e-3 <= float(steps.min()) < 2e-3
    assert 0.05 < float(steps.max()) <= 0.1
    assert float(steps.log().mean()) == pytest.approx(
        (torch.tensor(1e-3).log() + torch.tensor(0.1).log()).item() / 2, rel=0.05
    )
    assert torch.allclose(mamba.A_log[0].exp(), torch.arange(1.0, 17.0))
    assert float(mamba.dt_proj.weight.detach().abs().max()) <= 16**-0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["bot", "enc"])
def test_two_hundred_mixed_precision_steps_stay_finite(dtype: torch.dtype, kind: str) -> None:
    torch.manual_seed(0)
    size, topology = (
        (8, 8),
        {"dim": 2, "features_per_stage": [8, 16], "strides": [1, 2], "n_conv_per_stage": 1},
    )
    network: nn.Module = (
        UMambaBot(1, 2, **topology) if kind == "bot" else UMambaEnc(1, 2, input_size=size, **topology)
    )
    optimizer = torch.optim.SGD(
        network.parameters(), lr=1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5
    )
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    losses = []
    for _ in range(200):
        image = torch.randn(2, 1, *size) * 3
        with torch.autocast("cpu", dtype=dtype):
            logits = network(image)
            loss = nn.functional.cross_entropy(logits, (image[:, 0] > 0).long())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss.detach()))
    assert all(torch.isfinite(p).all() for p in network.parameters())
    assert torch.tensor(losses).isfinite().all()
    assert sum(losses[-20:]) < sum(losses[:20])


def test_mamba_layer_ignores_autocast() -> None:
    torch.manual_seed(0)
    layer, x = MambaLayer(8), torch.randn(1, 8, 6, 6)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(x)
    with torch.no_grad():
        assert torch.equal(inside, layer(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 4}, "dim is 4"),
        ({"kernel_sizes": 2}, "even number"),
        ({"strides": [1, 2]}, "3 stages of 2 axes"),
        ({"n_conv_per_stage": [1, 2]}, "3 numbers"),
        ({"n_conv_per_stage_decoder": 0}, "at least 1"),
    ],
)
def test_wrong_topology_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ResidualUNet(1, 2, **(TWO_D | arguments))


@pytest.mark.parametrize("shape", [(1, 1, 15, 16), (1, 1, 16, 16, 16)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputRefused, match="pad the image"):
        ResidualUNet(1, 2, **TWO_D)(torch.zeros(shape))


def test_feature_map_count_is_what_the_convolutions_produce() -> None:
    network = ResidualUNet(
        1, 3, features_per_stage=[4, 8, 16], strides=[1, 2, [1, 2, 2]], deep_supervision=True
    )
    counted = []
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(lambda _m, _i, out: counted.append(out.numel()))
    with torch.no_grad():
        network(torch.zeros(1, 1, 8, 16, 16))
    upsampled = [f * v for f, v in ((8, 8 * 16 * 16 // 8), (4, 8 * 16 * 16))]
    before = [f * v for f, v in ((8, 8 * 16 * 16 // 32), (4, 8 * 16 * 16 // 8))]
    # the 1x1 convolution of a decoder stage runs before upsampling here; the count is of maps after it, as
    # the planner means it
    assert network.compute_conv_feature_map_size((8, 16, 16)) == sum(counted) + sum(upsampled) - sum(before)


def test_upsampling_before_or_after_the_convolution_is_the_same() -> None:
    torch.manual_seed(0)
    layer = ResidualUNet(1, 2, **TWO_D).decoder.upsample_layers[0].double()
    x = torch.randn(1, 16, 4, 4, dtype=torch.float64)
    up = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    with torch.no_grad():
        assert torch.allclose(layer(x), layer.conv(up), atol=1e-14)


@pytest.mark.parametrize(("dim", "stages"), list(itertools.product((2, 3), (2, 3, 4))))
def test_every_depth_builds_and_trains(dim: int, stages: int) -> None:
    size = (16,) * dim
    network = UMambaEnc(
        1,
        2,
        input_size=size,
        dim=dim,
        features_per_stage=[4] * stages,
        strides=[1] + [2] * (stages - 1),
        mamba_residual=True,
    )
    network(torch.randn(1, 1, *size)).square().mean().backward()
    assert all(p.grad is not None for key, p in network.named_parameters() if "seg_layers" not in key)
