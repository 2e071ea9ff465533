"""Our networks inside nnU-Net v2 (2.8), through its own doors: an architecture in the plans, or a trainer
found by its name.

Architecture: `with_network(plans, "umamba_enc")` returns plans that nnU-Net's own trainer and predictor build
our network from. Trainer: put `extension_folder()` into the environment variable nnUNet_extTrainer and ask
for nnUNetTrainerUMambaEnc, nnUNetTrainerUMambaBot or nnUNetTrainerIchnosUNet. Call `prepare()` before nnU-Net
is imported.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ichnos.errors import UsageError, require
from ichnos.networks import build, network_class

NETWORKS = ("unet", "umamba_bot", "umamba_enc")
_PRIMUS = "nnunetv2.training.nnUNetTrainer.primus.primus_trainers"


def prepare() -> None:
    """Make nnU-Net importable beside a CPU build of torch; do nothing where nothing is missing.

    nnU-Net looks for a trainer in all of its own modules, and one of them (Primus) needs timm, which needs
    torchvision. Without timm that module is replaced by an empty one; with a torchvision made for another
    torch, its two missing operators are declared.
    """
    require("nnunetv2", extra="nnunet", purpose="training with nnU-Net")
    if importlib.util.find_spec("timm") is None:
        sys.modules.setdefault(_PRIMUS, ModuleType(_PRIMUS))
    elif not hasattr(torch.ops.torchvision, "nms") and "torchvision" not in sys.modules:
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )


def extension_folder() -> Path:
    """Folder with our trainers, for the environment variable nnUNet_extTrainer."""
    return Path(__file__).parent / "extension"


def network_arguments(name: str, planned: Mapping[str, Any], patch_size: list[int]) -> dict[str, Any]:
    """Translate `arch_kwargs` of nnU-Net's plain or residual U-Net into arguments of ours; channels and
    classes are left to nnU-Net.
    """
    if name not in NETWORKS:
        raise UsageError(
            f"{name} is not a segmentation network of nnU-Net's shape; there are {', '.join(NETWORKS)}"
        )
    blocks = planned.get("n_conv_per_stage", planned.get("n_blocks_per_stage", 2))
    arguments: dict[str, Any] = {
        "dim": len(patch_size),
        "features_per_stage": list(planned["features_per_stage"]),
        "kernel_sizes": planned["kernel_sizes"],
        "strides": planned["strides"],
        "n_conv_per_stage": blocks,
        "n_conv_per_stage_decoder": planned["n_conv_per_stage_decoder"],
    }
    return arguments | ({"input_size": [int(n) for n in patch_size]} if name == "umamba_enc" else {})


def with_network(plans: Mapping[str, Any], name: str, **arguments: Any) -> dict[str, Any]:
    """Return plans whose every configuration builds our network `name`; `arguments` overrule what follows
    from the plans.
    """
    changed = copy.deepcopy(dict(plans))
    for configuration in changed["configurations"].values():
        if "architecture" in configuration:
            planned = configuration["architecture"]["arch_kwargs"]
            made_by = network_class(name)
            configuration["architecture"] = {
                "network_class_name": f"{made_by.__module__}.{made_by.__qualname__}",
                "arch_kwargs": network_arguments(name, planned, configuration["patch_size"]) | arguments,
                "_kw_requires_import": [],
            }
    return changed


def network_from_plans(
    name: str,
    configuration: Any,
    input_channels: int,
    num_classes: int,
    deep_supervision: bool,
    **arguments: Any,
) -> nn.Module:
    """Build our network `name` for a ConfigurationManager of nnU-Net, as its trainers'
    `build_network_architecture` does.
    """
    planned = network_arguments(name, configuration.network_arch_init_kwargs, configuration.patch_size)
    complete = planned | arguments | {"input_channels": input_channels, "num_classes": num_classes}
    return build(name, **complete, deep_supervision=deep_supervision)
