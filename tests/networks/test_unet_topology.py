"""U-Net: what its arguments build, what it refuses, and how its outputs follow its inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from builders.ball_phantom import seeded
from ichnos.errors import InputRefused, UsageError
from ichnos.networks.unet import (
    NearestUpsample,
    ResidualBlock,
    ResidualUNet,
    Topology,
    init_convolutions,
    is_published_alias,
)

ONE_BLOCK: dict[str, Any] = {"n_conv_per_stage": 1, "n_conv_per_stage_decoder": 1}


def _network(**changed: Any) -> ResidualUNet:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"dim": 2, "features_per_stage": [3, 5, 6], "strides": [1, 2, 2]} | ONE_BLOCK
    return ResidualUNet(2, 4, **arguments | changed).eval()


def _image(*sizes: int, batch: int = 1) -> Tensor:
    return torch.randn((batch, 2, *sizes), generator=seeded(1))


@given(st.integers(2, 5), st.integers(2, 5), st.integers(1, 2))
@settings(max_examples=12)
def test_logits_have_the_size_of_the_image(wide: int, high: int, batch: int) -> None:
    image = _image(4 * wide, 4 * high, batch=batch)
    assert _network()(image).shape == (batch, 4, 4 * wide, 4 * high)


@pytest.mark.parametrize("full_resolution_skip", [True, False])
def test_deep_supervision_returns_every_resolution_finest_first(full_resolution_skip: bool) -> None:
    network = _network(deep_supervision=True, full_resolution_skip=full_resolution_skip)
    outputs = network(_image(16, 24))
    assert [tuple(logits.shape) for logits in outputs] == [(1, 4, 16, 24), (1, 4, 8, 12)]


def test_deep_supervision_can_be_switched_off_without_another_answer() -> None:
    network = _network(deep_supervision=True)
    finest = network(_image(16, 16))[0]
    network.decoder.deep_supervision = False
    assert torch.equal(network(_image(16, 16)), finest)


def test_scans_of_a_batch_do_not_touch_each_other() -> None:
    network = _network()
    both = _image(16, 16, batch=2)
    alone = torch.cat([network(both[:1]), network(both[1:])])
    assert torch.allclose(network(both), alone, atol=1e-5)


def test_strides_may_differ_from_axis_to_axis() -> None:
    network = _network(dim=3, strides=[1, [2, 2, 1], [2, 2, 2]], kernel_sizes=[[3, 3, 1], 3, 3])
    assert network(_image(8, 8, 4)).shape == (1, 4, 8, 8, 4)


@pytest.mark.parametrize("sizes", [(16, 18), (14, 16), (16, 16, 16)])
def test_sizes_that_strides_do_not_divide_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(InputRefused, match=r"sizes divisible by \[4, 4\]: pad the image"):
        _network()(_image(*sizes))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 4}, "a U-Net has 2 or 3 spatial axes"),
        ({"kernel_sizes": 4}, "holds an even number"),
        ({"strides": [1, 2]}, "asks for 3 stages of 2 axes"),
        ({"strides": [1, 2, [2, 2, 2]]}, "asks for 3 stages of 2 axes"),
        ({"n_conv_per_stage": [1, 1]}, "expected 3 numbers of at least 1"),
        ({"n_conv_per_stage": [1, 0, 1]}, "expected 3 numbers of at least 1"),
        ({"n_conv_per_stage_decoder": [1, 1, 1]}, "expected 2 numbers of at least 1"),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _network(**changed)


@given(st.integers(2, 6))
@settings(max_examples=5)
def test_the_deeper_half_has_one_block_per_stage(stages: int) -> None:
    topology = Topology.of(3, [4] * stages, 3, [1] + [2] * (stages - 1), 3, 3)
    shallow = -(-stages // 2)
    assert topology.blocks == (3,) * shallow + (1,) * (stages - shallow)
    assert topology.decoder_blocks[-1] in (1, 3)
    assert len(topology.decoder_blocks) == stages - 1


def test_more_blocks_mean_more_weights() -> None:
    sizes = [sum(p.numel() for p in _network(n_conv_per_stage=n).parameters()) for n in (1, 2, 3)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_nearest_upsampling_commutes_with_its_convolution() -> None:
    torch.manual_seed(0)
    layer = NearestUpsample(2, 3, 2, [2, 2])
    image = torch.randn(1, 3, 4, 4, generator=seeded(0))
    enlarged = nn.functional.interpolate(image, scale_factor=2.0, mode="nearest")
    assert torch.allclose(layer(image), layer.conv(enlarged), atol=1e-6)


def test_a_residual_block_of_zero_weights_is_its_shortcut() -> None:
    block = ResidualBlock(2, 3, 3, [3, 3], 1)
    for layer in (block.conv1, block.conv2):
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    image = torch.randn(1, 3, 6, 6, generator=seeded(2))
    assert torch.allclose(block(image), nn.functional.leaky_relu(block.conv3(image), 0.01), atol=1e-6)


def test_convolutions_are_drawn_by_the_seed_and_biases_are_zero() -> None:
    layers = [nn.Conv3d(2, 8, 3) for _ in range(2)]
    for layer in layers:
        torch.manual_seed(5)
        init_convolutions(layer)
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert layers[0].bias is not None
    assert not bool(layers[0].bias.any())
    spread = float(layers[0].weight.detach().std())
    assert spread == pytest.approx((2 / (1 + 0.01**2) / (2 * 27)) ** 0.5, rel=0.2)


def test_published_names_that_repeat_a_tensor_are_known() -> None:
    assert is_published_alias("decoder.encoder.stages.0.conv.weight")
    assert is_published_alias("encoder.stages.0.conv.all_modules.0.weight")
    assert not is_published_alias("decoder.stages.0.conv.weight")


def test_a_state_dict_with_published_aliases_still_loads() -> None:
    network, other = _network(), _network()
    nn.init.ones_(next(iter(other.parameters())))
    state = dict(network.state_dict())
    aliases = {f"decoder.{key}": value for key, value in state.items() if key.startswith("encoder.")}
    other.load_state_dict(state | aliases)
    assert torch.equal(other(_image(16, 16)), network(_image(16, 16)))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_feature_maps_are_counted_as_the_network_makes_them(blocks: int, deep_supervision: bool) -> None:
    network = _network(n_conv_per_stage=blocks, deep_supervision=deep_supervision)
    counted: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, output: counted.append(output.numel()))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and "upsample" not in name and "seg_layers" not in name
    ]
    network(_image(16, 16))
    for hook in hooks:
        hook.remove()
    estimate = network.compute_conv_feature_map_size([16, 16])
    assert sum(counted) <= estimate <= 1.5 * sum(counted)
