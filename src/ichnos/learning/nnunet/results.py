"""Result folders of nnU-Net v2 and of U-Mamba's fork of it as Models of ours: their weights, read as they
preprocess.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import ichnos
from ichnos import networks
from ichnos.errors import IchnosError, InputRefused, UsageError
from ichnos.learning.nnunet.plans import Dataset, Plans, dataset_of, plans_of, read_object
from ichnos.models import Manifest, Model, NetworkSpec, Provenance, TargetSpec, save_model
from ichnos.models.store import sha256
from ichnos.networks.checkpoints import load_checkpoint, read_weights
from ichnos.targets import TARGETS

_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")


def import_result_folder(
    folder: Path, out: Path, *, names: Mapping[str, str] | None = None, fold: str = "0"
) -> Model:
    """Write the network of a folder like nnUNetTrainer__nnUNetPlans__3d_fullres as a Model, of one fold.

    `names` says which label of theirs is which target of ours ({"hematoma": "ICH"}), where names differ.
    """
    folder = folder.resolve()
    content = read_object(folder / "plans.json")
    dataset = dataset_of(read_object(folder / "dataset.json"), source="dataset.json")
    configuration, checkpoint = _configuration(folder, content), _checkpoint(folder / f"fold_{fold}")
    plans = plans_of(content, configuration, source="plans.json")
    _check_input(folder, plans, dataset)
    targets, regions = _targets(dataset.labels, names or {})
    network, spec = _network(checkpoint, plans, classes=len(targets) + (not regions))
    manifest = Manifest(
        name=out.name,
        version="1",
        limits=_limits(folder),
        network=spec,
        preprocessing=plans.preprocessing(configuration),
        targets=targets,
        activation="sigmoid" if regions else "softmax",
        provenance=_provenance(folder, checkpoint),
    )
    return save_model(out, network, manifest)


def _configuration(folder: Path, content: Mapping[str, Any]) -> str:
    """Return the configuration of the plans that the folder's name ends in."""
    configuration, known = folder.name.rsplit("__", 1)[-1], content.get("configurations")
    if not isinstance(known, Mapping) or configuration not in known:
        raise UsageError(
            f"{folder.name} does not end in __ and a configuration of its plans ({', '.join(known or {})})"
        )
    return configuration


def _checkpoint(fold: Path) -> Path:
    checkpoint = next((file for name in _CHECKPOINTS if (file := fold / name).is_file()), None)
    if checkpoint is None:
        raise InputRefused(f"{fold} holds no {' or '.join(_CHECKPOINTS)}; name another fold")
    return checkpoint


def _limits(folder: Path) -> tuple[str, ...]:
    return (
        f"Trained elsewhere by {folder.name.split('__')[0]};"
        " for its training data, see the original authors.",
        "One fold of it, without mirroring: its own predictor may differ a little.",
        "Its probabilities have not been calibrated.",
    )


def _provenance(folder: Path, checkpoint: Path) -> Provenance:
    return Provenance(
        code_version=ichnos.__version__,
        command=f"ichnos models import {folder.name}",
        seeds=(),
        steps=0,
        data={f"{checkpoint.parent.name}/{checkpoint.name}": sha256(checkpoint)},
        hardware="not known",
        trained="not known",
    )


def _check_input(folder: Path, plans: Plans, dataset: Dataset) -> None:
    schemes = plans.configuration.normalization_schemes
    if len(dataset.channel_names) != 1 or schemes != ["CTNormalization"]:
        raise InputRefused(
            f"{folder} takes {len(dataset.channel_names)} channel(s) normalised as {', '.join(schemes)}; one"
            " CT channel with CTNormalization is expected"
        )


def _targets(
    labels: Mapping[str, int | list[int]], names: Mapping[str, str]
) -> tuple[tuple[TargetSpec, ...], bool]:
    """Return the targets in the order of the output channels, and whether they are regions (sigmoid)."""
    unknown = sorted(set(names) - set(labels))
    if unknown:
        raise UsageError(f"the model has no label {', '.join(unknown)}; its labels are {', '.join(labels)}")
    foreground = [name for name in labels if name not in ("background", "ignore")]
    regions = any(isinstance(labels[name], list) for name in foreground)
    ordered = foreground if regions else sorted(foreground, key=lambda name: _number(labels[name]))
    own = {name.lower(): name for name, target in TARGETS.items() if target.label_map}
    ours = [names.get(name, own.get(name.lower(), name)) for name in ordered]
    return tuple(_spec(name) for name in ours), regions


def _number(label: int | list[int]) -> int:
    return label if isinstance(label, int) else label[0]


def _spec(name: str) -> TargetSpec:
    return TargetSpec(name=name, group=TARGETS[name].group if name in TARGETS else "anatomy")


def _network(checkpoint: Path, plans: Plans, *, classes: int) -> tuple[torch.nn.Module, NetworkSpec]:
    """Rebuild U-Mamba's network from its checkpoint, or nnU-Net's own from its plans."""
    architecture = plans.configuration.architecture
    state = read_weights(checkpoint)
    if (
        architecture is None
        or any("mamba" in name for name in state)
        or architecture.network_class_name.startswith("ichnos.")
    ):
        loaded = load_checkpoint(checkpoint)
        return loaded.network, NetworkSpec(name=loaded.name, arguments=loaded.arguments)
    arguments: dict[str, Any] = {
        "input_channels": 1,
        "num_classes": classes,
        "dim": len(plans.configuration.patch_size),
        "network_class_name": architecture.network_class_name,
        "arch_kwargs": architecture.arch_kwargs,
        "requires_import": architecture.requires_import,
    }
    _check_fits(arguments, {f"network.{name}": tensor for name, tensor in state.items()}, checkpoint)
    network = networks.build("planned", **arguments)
    network.load_state_dict({f"network.{name}": tensor for name, tensor in state.items()})
    return network.eval(), NetworkSpec(name="planned", arguments=arguments)


def _check_fits(arguments: dict[str, Any], state: Mapping[str, torch.Tensor], checkpoint: Path) -> None:
    """Refuse plans whose network cannot be built or has other weights; no memory is taken for it."""
    try:
        with torch.device("meta"):
            expected = networks.build("planned", **arguments).state_dict()
    except IchnosError:
        raise
    except Exception as error:  # whatever the foreign constructor does not expect
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise InputRefused(f"plans.json describes a network that cannot be built: {reason}") from None
    other = [name for name in expected if name not in state or state[name].shape != expected[name].shape]
    if other or len(expected) != len(state):
        which = other or sorted(set(state) - set(expected))
        raise InputRefused(
            f"{checkpoint} does not fit the network that its plans describe: {len(which)} weights differ,"
            f" such as {which[0].removeprefix('network.')}"
        )
