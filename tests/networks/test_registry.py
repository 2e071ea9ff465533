"""Plain data builds networks; numbers that are none are caught where they arise."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from ichnos.errors import UsageError
from ichnos.networks import build, names
from ichnos.networks.finite import NotFinite, finite_layers, require_finite

TOPOLOGY: dict[str, Any] = {
    "input_channels": 1,
    "num_classes": 2,
    "dim": 2,
    "features_per_stage": [4, 8],
    "strides": [1, 2],
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "unet": TOPOLOGY,
    "umamba_bot": TOPOLOGY,
    "umamba_enc": TOPOLOGY | {"input_size": [16, 16]},
    "diffusion_ukan": {
        "T": 5,
        "ch": 32,
        "ch_mult": [1],
        "num_res_blocks": 1,
        "embed_dims": [32, 32, 32],
        "tdim": 16,
    },
    "planned": {
        "input_channels": 1,
        "num_classes": 2,
        "dim": 2,
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [3, 3],
            "strides": [1, 2],
            "n_conv_per_stage": 1,
            "n_conv_per_stage_decoder": 1,
        },
        "requires_import": ["conv_op"],
    },
    "vit": {"image_size": [16, 16], "patch_size": [8, 8], "width": 24, "depth": 1, "heads": 3},
    "calibrated_ensemble": {
        "member": {
            "name": "vit",
            "arguments": {"image_size": [16, 16], "patch_size": [8, 8], "width": 24, "depth": 1, "heads": 3},
        },
        "members": 2,
        "features": 3,
    },
    "mean_ensemble": {"member": {"name": "unet", "arguments": TOPOLOGY}, "members": 2},
    "affine_warp": {"input_channels": 2, "features_per_stage": [4, 8]},
    "unetr": {
        "input_channels": 1,
        "num_classes": 2,
        "input_size": [16, 16, 16],
        "features": 4,
        "width": 24,
        "heads": 2,
    },
    "refiner": {
        "input_channels": 5,
        "num_classes": 2,
        "first_logits": 1,
        "logit_unit": 4.0,
        "features_per_stage": [4, 8],
        "kernel_sizes": [[3, 3, 1], 3],
        "strides": [1, [2, 2, 1]],
    },
}


def test_every_name_has_an_example_here() -> None:
    assert names() == sorted(ARGUMENTS)


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_arguments_survive_json_and_rebuild_the_same_network(name: str) -> None:
    if name == "planned":
        pytest.importorskip("dynamic_network_architectures")
    first = build(name, **ARGUMENTS[name])
    second = build(name, **json.loads(json.dumps(ARGUMENTS[name])))
    second.load_state_dict(first.state_dict())
    assert {k: v.shape for k, v in first.state_dict().items()} == {
        k: v.shape for k, v in second.state_dict().items()
    }


def test_wrong_calls_are_named() -> None:
    with pytest.raises(
        UsageError,
        match="no network called 'resnet'; there are affine_warp, calibrated_ensemble, diffusion_ukan",
    ):
        build("resnet")
    with pytest.raises(UsageError, match=r"unknown here: \['width'\], missing: \['strides'\]"):
        build("unet", input_channels=1, num_classes=2, features_per_stage=[4, 8], width=3)


def test_the_layer_that_makes_a_nan_is_named() -> None:
    network = build("unet", **TOPOLOGY)
    with finite_layers(network):
        assert network(torch.zeros(1, 1, 8, 8)).isfinite().all()
    with torch.no_grad():
        network.encoder.stages[1][0].conv2.weight[0] = float("inf")
    with (
        finite_layers(network),
        pytest.raises(NotFinite, match=r"the output of encoder.stages.1.0.conv2 \(Conv2d\) holds"),
    ):
        network(torch.ones(1, 1, 8, 8))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_loss_that_is_nan_is_refused() -> None:
    with pytest.raises(NotFinite, match="the loss holds 1 of 1 values"):
        require_finite(nn.functional.mse_loss(torch.tensor([float("nan")]), torch.zeros(1)), name="the loss")
