"""Checkpoints of the original programs: read without running code from them, rebuilt as our networks, saved
as safetensors.

U-Mamba's nnU-Net fork and nnU-Net itself write pickles with weights, plans and logs; diffusion U-KAN writes a
bare state dict. Widths, kernels, blocks, classes and channels follow from the shapes of the weights. Strides
and patch size do not: they come from the plans inside the file, or from the caller.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ichnos.errors import InputRefused, UsageError, require
from ichnos.networks import build

State = Mapping[str, Tensor]
# what a file that is no checkpoint, or a damaged one, raises in torch
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, and the plain data that builds it again: `build(name, **arguments)`."""

    network: nn.Module
    name: str
    arguments: dict[str, Any]


def load_checkpoint(
    path: Path, *, name: str | None = None, arguments: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Read a checkpoint of U-Mamba, nnU-Net's residual U-Net in U-Mamba's fork, or diffusion U-KAN.

    What the file does not say, the caller does in `arguments` (for a U-Net without plans: `strides`, and for
    U-MambaEnc `input_size`); what the caller says overrules the file. Only tensors and plain data are
    unpickled.
    """
    content = read_plain(Path(path))
    state = _weights(content, Path(path))
    name = name or _network_name(state, Path(path))
    if name == "diffusion_ukan":
        complete = _ukan_arguments(state) | dict(arguments or {})
    else:
        complete = _unet_arguments(name, state) | _planned(content, name) | dict(arguments or {})
        needed = ("strides", "input_size") if name == "umamba_enc" else ("strides",)
        if missing := [argument for argument in needed if argument not in complete]:
            raise UsageError(
                f"{path} holds the weights of {name} but no plans, which would give {missing}: pass them in"
                " arguments"
            )
    network = build(name, **complete)
    load_weights(network, state, source=str(path))
    return Checkpoint(network.eval(), name, complete)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name, of whatever network they are."""
    return _weights(read_plain(Path(path)), Path(path))


def load_weights(network: nn.Module, state: State, *, source: str) -> None:
    """Load a state dict whose names and shapes must match; otherwise say how they differ."""
    expected = network.state_dict()
    known = _without_aliases(state)
    missing, unknown = sorted(set(expected) - set(known)), sorted(set(known) - set(expected))
    reshaped = [
        f"{k} is {tuple(known[k].shape)}, not {tuple(v.shape)}"
        for k, v in expected.items()
        if k in known and known[k].shape != v.shape
    ]
    if missing or unknown or reshaped:
        raise InputRefused(
            f"{source} does not fit {type(network).__name__}: {len(missing)} names missing{_some(missing)},"
            f" {len(unknown)} unknown{_some(unknown)}, {len(reshaped)} of another shape{_some(reshaped)};"
            " were the network's arguments those it was trained with?"
        )
    network.load_state_dict(known)


def save_safetensors(checkpoint: Checkpoint, path: Path) -> Path:
    """Write weights as safetensors, with the network's name and arguments in the header."""
    safetensors = require("safetensors.torch", extra="learning", purpose="saving weights")
    weights = {k: v.detach().cpu().contiguous() for k, v in checkpoint.network.state_dict().items()}
    header = {"network": checkpoint.name, "arguments": json.dumps(checkpoint.arguments)}
    safetensors.save_file(weights, str(path), metadata=header)
    return path


def load_safetensors(path: Path) -> Checkpoint:
    """Read back what `save_safetensors` wrote."""
    safetensors = require("safetensors", extra="learning", purpose="reading weights")
    with safetensors.safe_open(str(path), framework="pt") as file:
        header = file.metadata() or {}
        if "network" not in header:
            raise InputRefused(
                f"{path} does not name its network in its header; it was not written by save_safetensors"
            )
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    arguments = json.loads(header["arguments"])
    network = build(header["network"], **arguments)
    load_weights(network, state, source=str(path))
    return Checkpoint(network.eval(), header["network"], arguments)


# --- reading
# ------------------------------------------------------------------------------------------


def read_plain(path: Path) -> Any:
    """Read a file that torch saved; tensors and plain data only, so that no code of the file runs."""
    if not path.is_file():
        raise InputRefused(f"{path} is not a file; expected a checkpoint (.pth, .pt)")
    with torch.serialization.safe_globals(_plain_classes()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of pickle protocols that it then reads or refuses
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            thing = named.group(1) if named else "something that is not plain data"
            raise InputRefused(
                f"{path} holds {thing}; only tensors and plain data are read from a checkpoint, since a"
                " pickle can run code"
            ) from None
        except _UNREADABLE as error:
            reason = (str(error).splitlines() or [""])[0][:160]
            raise InputRefused(
                f"{path} cannot be read as a checkpoint: {type(error).__name__}: {reason}"
            ) from None


def _plain_classes() -> list[Any]:
    """Return what of numpy may be unpickled: nnU-Net's logs hold its scalars."""
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    numbers = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    return [scalar, np.dtype, np.ndarray, reconstruct, *numbers, (scalar, "numpy.core.multiarray.scalar")]


def _weights(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("network_weights", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(v, Tensor) for v in content.values())
    ):
        raise InputRefused(
            f"{path} holds no weights: expected a state dict, alone or under network_weights, state_dict or"
            " model"
        )
    prefixes = ("module.", "_orig_mod.")  # left by DataParallel and by torch.compile
    return {re.sub(rf"^({'|'.join(map(re.escape, prefixes))})+", "", str(k)): v for k, v in content.items()}


def _without_aliases(state: State) -> dict[str, Tensor]:
    from ichnos.networks.unet import is_published_alias

    return {k: v for k, v in state.items() if not is_published_alias(k)}


def _some(items: list[str]) -> str:
    return f" ({', '.join(items[:3])}{', ...' if len(items) > 3 else ''})" if items else ""


def _network_name(state: State, path: Path) -> str:
    if "time_embedding.timembedding.0.weight" in state:
        return "diffusion_ukan"
    if "encoder.stem.0.conv1.weight" in state:
        if any(k.startswith("mamba_layer.") for k in state):
            return "umamba_bot"
        return "umamba_enc" if any(k.startswith("encoder.mamba_layers.") for k in state) else "unet"
    raise InputRefused(
        f"{path} holds weights of a network that is not known here (first names:"
        f" {', '.join(list(state)[:3])}); pass name and arguments"
    )


# --- arguments from shapes and plans
# ------------------------------------------------------------------------------------------


def _count(state: State, pattern: str) -> int:
    """How many different numbers stand where `pattern` has its group."""
    return len({m.group(1) for k in state if (m := re.match(pattern, k))})


def _unet_arguments(name: str, state: State) -> dict[str, Any]:
    stem = state["encoder.stem.0.conv1.weight"]
    stages = _count(state, r"encoder\.stages\.(\d+)\.")
    firsts = [state[f"encoder.stages.{s}.0.conv1.weight"] for s in range(stages)]
    last = state[f"decoder.stages.{stages - 2}.0.conv1.weight"]
    arguments: dict[str, Any] = {
        "input_channels": stem.shape[1],
        "num_classes": state[f"decoder.seg_layers.{stages - 2}.weight"].shape[0],
        "dim": stem.dim() - 2,
        "features_per_stage": [w.shape[0] for w in firsts],
        "kernel_sizes": [list(w.shape[2:]) for w in firsts],
        "n_conv_per_stage": [_count(state, rf"encoder\.stages\.{s}\.(\d+)\.") for s in range(stages)],
        "n_conv_per_stage_decoder": [
            _count(state, rf"decoder\.stages\.{s}\.(\d+)\.") for s in range(stages - 1)
        ],
    }
    if name == "unet" or arguments["dim"] == 2:
        arguments["full_resolution_skip"] = last.shape[1] == 2 * last.shape[0]
    return arguments


def _planned(content: Any, name: str) -> dict[str, Any]:
    """Strides and patch size from the plans in an nnU-Net checkpoint, in the format of nnU-Net 2.0 to 2.3
    or of later ones.
    """
    init = content.get("init_args") if isinstance(content, Mapping) else None
    if not isinstance(init, Mapping) or not isinstance(init.get("plans"), Mapping):
        return {}
    chosen = _inherited(init["plans"].get("configurations"), init.get("configuration"))
    architecture = chosen.get("architecture", {}).get("arch_kwargs", {})
    strides = architecture.get("strides", chosen.get("pool_op_kernel_sizes"))
    planned: dict[str, Any] = {} if strides is None else {"strides": [[int(i) for i in s] for s in strides]}
    if name == "umamba_enc" and "patch_size" in chosen:
        planned["input_size"] = [int(n) for n in chosen["patch_size"]]
    return planned


def _inherited(configurations: Any, name: Any) -> dict[str, Any]:
    """Return a configuration of the plans with what it inherits from others."""
    chosen: dict[str, Any] = {"inherits_from": name}
    seen: set[str] = set()
    while "inherits_from" in chosen:
        parent = str(chosen.pop("inherits_from"))
        held = configurations.get(parent) if isinstance(configurations, Mapping) else None
        if parent in seen or not isinstance(held, Mapping):
            raise InputRefused(f"the plans inside the checkpoint are broken at the configuration {parent!r}")
        seen.add(parent)
        chosen = {**held, **chosen}
    return chosen


def _ukan_arguments(state: State) -> dict[str, Any]:
    table, ch = state["time_embedding.timembedding.0.weight"], state["head.weight"].shape[0]
    in_channels = state["tail.2.weight"].shape[0]
    widths: list[list[int]] = [[]]
    for index in range(_count(state, r"downblocks\.(\d+)\.")):
        if f"downblocks.{index}.main.weight" in state:
            widths.append([])
        else:
            widths[-1].append(state[f"downblocks.{index}.block1.2.weight"].shape[0])
    features = state.get("condition_embedding.layers.0.weight")
    return {
        "T": table.shape[0],
        "ch": ch,
        "ch_mult": [level[0] // ch for level in widths],
        "num_res_blocks": len(widths[0]),
        "embed_dims": [
            state["patch_embed3.proj.weight"].shape[1],
            *(state[f"patch_embed{i}.proj.weight"].shape[0] for i in (3, 4)),
        ],
        "tdim": state["time_embedding.timembedding.1.weight"].shape[0],
        "in_channels": in_channels,
        "condition_channels": state["head.weight"].shape[1] - in_channels,
        "condition_features": 0 if features is None else features.shape[1],
    }


# --- standard vision transformers
# ------------------------------------------------------------------------------------------

# torchvision's names -> timm's, which are ours
_TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_1|0)\.", r"blocks.\1.mlp.fc1."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_2|3)\.", r"blocks.\1.mlp.fc2."),
    (r"^heads\.(?:head\.)?", "head."),
)


def load_vit_weights(network: nn.Module, state: State) -> list[str]:
    """Start a `VisionTransformer` from standard ViT weights (timm's or torchvision's names); return the
    parameters that stay as they were.

    Positions are interpolated to the network's patch grid, colour filters averaged over other numbers of
    channels and, in 3-D, spread evenly through the depth of a patch. The head and the clinical tokens are
    kept from the weights only where they fit.
    """
    renamed, own = _as_timm_names(state), network.state_dict()
    if (key := "pos_embed") in renamed:
        grid: tuple[int, ...] = network.patch_grid  # type: ignore[assignment]
        renamed[key] = _resized_positions(renamed[key], own[key].shape, grid)
    if (key := "patch_embed.proj.weight") in renamed:
        renamed[key] = _adapted_filters(renamed[key], own[key].shape)
    fitting = {k: v for k, v in renamed.items() if k in own and own[k].shape == v.shape}
    kept = sorted(set(own) - set(fitting))
    if unfit := [k for k in kept if not k.startswith(("head.", "clinical."))]:
        raise InputRefused(
            f"these weights do not fit the transformer: {len(unfit)} parameters missing or of another"
            f" shape{_some(unfit)}"
        )
    network.load_state_dict({**own, **fitting})
    return kept


def _as_timm_names(state: State) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for pattern, ours in _TORCHVISION:
            key = re.sub(pattern, ours, key)
        renamed[key] = value
    return renamed


def _resized_positions(positions: Tensor, shape: torch.Size, grid: tuple[int, ...]) -> Tensor:
    """(1, 1 + l, m) on a square grid -> (1, 1 + l', m) on `grid`; a third axis repeats them."""
    if positions.shape == shape:
        return positions
    side = round((positions.shape[1] - 1) ** 0.5)
    image = positions[:, 1:].transpose(1, 2).unflatten(-1, (side, side))  # 1 m y x
    image = F.interpolate(image, size=grid[-2:], mode="bicubic", align_corners=False)
    if len(grid) == 3:
        image = image.unsqueeze(2).expand(-1, -1, grid[0], -1, -1)
    return torch.cat([positions[:, :1], image.flatten(2).transpose(1, 2)], dim=1)


def _adapted_filters(filters: Tensor, shape: torch.Size) -> Tensor:
    """(m, 3, y, x) -> (m, c, y, x) or (m, c, z, y, x), such that a constant image is seen as before."""
    if filters.shape[1] != shape[1]:
        filters = filters.mean(dim=1, keepdim=True).expand(-1, shape[1], *filters.shape[2:]) * (
            filters.shape[1] / shape[1]
        )
    if len(shape) == 5:
        filters = filters.unsqueeze(2).expand(-1, -1, shape[2], -1, -1) / shape[2]
    return filters.contiguous()
