"""Result folders of nnU-Net v2 and of U-Mamba's fork of it as Models of ours: their weights, read as they
preprocess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import ichnos
from ichnos import networks
from ichnos.errors import InputRefused, UsageError
from ichnos.learning.nnunet.engine import preprocessing_of
from ichnos.models import Manifest, Model, NetworkSpec, Preprocessing, Provenance, TargetSpec, save_model
from ichnos.models.store import sha256
from ichnos.networks.checkpoints import load_checkpoint, read_weights
from ichnos.targets import TARGETS

_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")


def import_result_folder(
    folder: Path, out: Path, *, names: Mapping[str, str] | None = None, fold: str = "0"
) -> Model:
    """Write the network of a folder like nnUNetTrainer__nnUNetPlans__3d_fullres as a Model; one fold, never
    an ensemble.

    `names` says which label of theirs is which target of ours ({"hematoma": "ICH"}); labels with our own
    names need no word.
    """
    folder = folder.resolve()
    plans, dataset = (_json(folder / name) for name in ("plans.json", "dataset.json"))
    configuration = folder.name.rsplit("__", 1)[-1]
    if configuration not in plans.get("configurations", {}):
        raise UsageError(
            f"{folder.name} does not end in __ and a configuration of its plans"
            f" ({', '.join(plans.get('configurations', {}))})"
        )
    checkpoint = next((f for name in _CHECKPOINTS if (f := folder / f"fold_{fold}" / name).is_file()), None)
    if checkpoint is None:
        raise InputRefused(
            f"{folder / f'fold_{fold}'} holds no {' or '.join(_CHECKPOINTS)}; name another fold"
        )
    chosen = _resolved(plans, configuration)
    _check_input(folder, chosen, dataset)
    targets, regions = _targets(dataset["labels"], names or {})
    network, spec = _network(checkpoint, chosen, classes=len(targets) + (not regions))
    preprocessing: Preprocessing = preprocessing_of(
        {**plans, "configurations": {configuration: chosen}}, configuration
    )
    manifest = Manifest(
        name=out.name,
        version="1",
        limits=(
            f"Trained elsewhere by {folder.name.split('__')[0]}; who its patients were, its makers must say.",
            "One fold of it, without mirroring: its own predictor may differ a little.",
            "Its probabilities have not been calibrated.",
        ),
        network=spec,
        preprocessing=preprocessing,
        targets=targets,
        activation="sigmoid" if regions else "softmax",
        provenance=Provenance(
            code_version=ichnos.__version__,
            command=f"ichnos models import {folder.name}",
            seeds=(),
            steps=0,
            data={f"fold_{fold}/{checkpoint.name}": sha256(checkpoint)},
            hardware="not known",
            trained="not known",
        ),
    )
    return save_model(out, network, manifest)


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputRefused(f"{file.parent} is no result folder of nnU-Net: it has no {file.name}")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _resolved(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with what it inherits from others."""
    chosen = dict(plans["configurations"][name])
    while "inherits_from" in chosen:
        chosen = {**plans["configurations"][chosen.pop("inherits_from")], **chosen}
    return chosen


def _check_input(folder: Path, chosen: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    channels = dataset.get("channel_names") or dataset.get("modality") or {}
    schemes = chosen.get("normalization_schemes", [])
    if len(channels) != 1 or schemes != ["CTNormalization"]:
        raise InputRefused(
            f"{folder} takes {len(channels)} channel(s) normalised as {', '.join(schemes)}; one CT channel"
            " with CTNormalization is expected"
        )


def _targets(labels: Mapping[str, Any], names: Mapping[str, str]) -> tuple[tuple[TargetSpec, ...], bool]:
    """Return the targets in the order of the network's channels, and whether they are regions (each with
    its own sigmoid).
    """
    unknown = sorted(set(names) - set(labels))
    if unknown:
        raise UsageError(f"the model has no label {', '.join(unknown)}; its labels are {', '.join(labels)}")
    foreground = [name for name in labels if name not in ("background", "ignore")]
    regions = any(isinstance(labels[name], list) for name in foreground)
    ordered = foreground if regions else sorted(foreground, key=lambda name: int(labels[name]))
    own = {name.lower(): name for name, target in TARGETS.items() if target.label_map}
    found = [names.get(name, own.get(name.lower(), name)) for name in ordered]
    return tuple(_spec(name) for name in found), regions


def _spec(name: str) -> TargetSpec:
    return TargetSpec(name=name, group=TARGETS[name].group if name in TARGETS else "anatomy")


def _network(
    checkpoint: Path, chosen: Mapping[str, Any], *, classes: int
) -> tuple[torch.nn.Module, NetworkSpec]:
    """Rebuild U-Mamba's network from its checkpoint, or nnU-Net's own from its plans."""
    architecture = chosen.get("architecture")
    state = read_weights(checkpoint)
    if (
        architecture is None
        or any("mamba" in name for name in state)
        or architecture["network_class_name"].startswith("ichnos.")
    ):
        loaded = load_checkpoint(checkpoint)
        return loaded.network, NetworkSpec(name=loaded.name, arguments=loaded.arguments)
    arguments: dict[str, Any] = {
        "input_channels": 1,
        "num_classes": classes,
        "dim": len(chosen["patch_size"]),
        "network_class_name": architecture["network_class_name"],
        "arch_kwargs": architecture["arch_kwargs"],
        "requires_import": architecture["_kw_requires_import"],
    }
    network = networks.build("planned", **arguments)
    try:
        network.load_state_dict({f"network.{name}": tensor for name, tensor in state.items()})
    except RuntimeError as error:
        raise InputRefused(
            f"{checkpoint} does not fit the network that its plans describe: {str(error).splitlines()[0]}"
        ) from None
    return network.eval(), NetworkSpec(name="planned", arguments=arguments)
