"""Fine-tuning: start from another network's trunk, and from its output layers for the targets that both
have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from ichnos import networks
from ichnos.errors import InputRefused, UsageError
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.models import (
    Model,
    NetworkSpec,
    Preprocessing,
    TargetSpec,
    default_model,
    load_model,
    save_model,
)
from ichnos.models.store import REFINEMENT

SHIPPED_NAME = "default"  # the weights that come with ichnos
_FINE_TUNING_RATE = 8e-4  # learning rate of a training that starts from weights


def model_called(name: str) -> Model:
    """Return the model to start from: a folder, or the model that ships."""
    return default_model() if name == SHIPPED_NAME else load_model(Path(name))


def preprocessing_of_start(model: Model) -> Preprocessing:
    """Return the preprocessing of a training that starts from a model: the model's own."""
    how = model.manifest.preprocessing
    if how.z_score or how.axes != "xyz" or how.patch[2] == 1:
        raise InputRefused(
            f"{model.folder}: a training can start from networks that see HU windows in three dimensions, as"
            " `ichnos train` writes them; this one was imported or sees slices"
        )
    return how


def starting_from(settings: TrainSettings, start: str) -> TrainSettings:
    """Return the settings with the network and the input of a model whose weights a training starts from."""
    model = model_called(start)
    how = preprocessing_of_start(model)
    return settings.changed(
        network=model.manifest.network.name,
        spacing_mm=how.spacing_mm,
        patch=how.patch,
        windows_hu=how.windows_hu,
        learning_rate=_FINE_TUNING_RATE,
        start=start,
    )


def network_for_targets(
    model: Model, targets: Sequence[TargetSpec], *, deep_supervision: bool
) -> NetworkSpec:
    """Return a network of the model's shape for other targets."""
    spec = model.manifest.network
    changed = {"num_classes": len(targets)} | (
        {"deep_supervision": deep_supervision} if spec.name != "unetr" else {}
    )
    return NetworkSpec(name=spec.name, arguments=dict(spec.arguments) | changed)


def refuse_small_patch(model: Model, patch: Sequence[int]) -> None:
    """Refuse a patch of which the deepest level of the model's network would keep a single voxel."""
    strides = model.manifest.network.arguments.get("strides", ())
    levels = [stride if isinstance(stride, (list, tuple)) else [stride] * len(patch) for stride in strides]
    totals = [math.prod(axis) for axis in zip(*levels, strict=True)]
    if totals and all(side <= total for side, total in zip(patch, totals, strict=False)):
        asked, least = (" x ".join(map(str, sides)) for sides in (patch, totals))
        raise UsageError(
            f"a patch of {asked} voxels is too small: {model.folder.name}'s network makes one voxel of each"
            f" {least}, and needs two of them at least. Give a larger patch, or leave it out"
        )


def weights_from(
    model: Model, spec: NetworkSpec, targets: Sequence[TargetSpec], *, seed: int
) -> dict[str, torch.Tensor]:
    """Return initial weights: the model's where both have them, the seed's for targets that are new."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = networks.build(spec.name, **spec.arguments).state_dict()
        wider = networks.build(spec.name, **spec.arguments | {"num_classes": len(targets) + 1}).state_dict()
    known = [target.name for target in model.manifest.targets]
    for name, old in model.network().state_dict().items():
        if name not in weights or weights[name].shape[1:] != old.shape[1:]:
            raise InputRefused(
                f"{model.folder}: its {name} does not fit a network for {len(targets)} target(s)"
            )
        if weights[name].shape == wider[name].shape:
            weights[name] = old
            continue
        for row, target in enumerate(targets):  # of the layers that answer, one per target
            if target.name in known:
                weights[name][row] = old[known.index(target.name)]
    return weights


def keep_refinement(start: str, model: Model) -> str:
    """Give a fine-tuned model its parent's refinement where it can use it; return what a user should know.

    A refinement corrects the first network's output for all of its targets, so a model with fewer of them
    cannot use it.
    """
    parent = model_called(start)
    refinement, name = parent.refinement(), parent.manifest.name
    if refinement is None:
        return ""
    own = {target.name for target in model.manifest.targets}
    if missing := [t.name for t in refinement.manifest.targets if t.name not in own]:
        return (
            f"{name} reads with a refinement, which needs {', '.join(missing)} too, so {model.folder.name}"
            " reads without one: its masks are coarser. Train on all of these targets to keep it"
        )
    limit = f"Trained on the output of {name}, and kept for a network that was fine-tuned from it."
    limits = (*refinement.manifest.limits, limit)
    update = {"refines": model.manifest.weights_sha256, "limits": limits}
    manifest = refinement.manifest.model_copy(update=update)
    save_model(model.folder / REFINEMENT, refinement.network(), manifest)
    return (
        f"the refinement of {name} was kept; it was trained on that network's output. Compare both on your"
        " validation patients: ichnos evaluate --model"
    )
