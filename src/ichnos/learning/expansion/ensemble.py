"""A classifier of expansion as a Model folder: the networks of all folds, their standardisation and the
calibration in one file.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import torch

import ichnos
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.recalibration import Recalibrator
from ichnos.learning.expansion.classifier import Classifier, Recipe, Standard
from ichnos.learning.expansion.crops import (
    PUBLISHED_SPACING_MM,
    REGION_SPACING_MM,
    REGION_WINDOWS_HU,
    WINDOW_90_45_HU,
)
from ichnos.models import (
    Manifest,
    Model,
    NetworkSpec,
    Preprocessing,
    Provenance,
    TargetSpec,
    load_model,
    save_model,
)
from ichnos.networks.ensemble import CalibratedEnsemble

TARGET = TargetSpec(name="expansion", kind="patient", group="expansion")
_LIMITS = {
    False: (
        "Sees three slices of a tight crop around the haematoma (learning.rois.published_crops): not how"
        " large it is."
    ),
    True: (
        "Sees a region of fixed size in mm with HU windows, ICH and IVH as channels (learning.rois.region):"
        " an outline must be given."
    ),
}


def save_classifier(
    trained: Classifier,
    recipe: Recipe,
    folder: Path,
    *,
    data: dict[str, str],
    validation: dict[str, float],
    command: str,
    device: str = "cpu",
) -> Model:
    """Write an ensemble as a Model folder; who the patients were is not in it."""
    count, features = len(trained.networks), trained.standards[0].mean.size
    network = CalibratedEnsemble(recipe.network.model_dump(), count, features)
    for member, own in zip(network.members, trained.networks, strict=True):
        member.load_state_dict(own.state_dict())
    network.mean.copy_(torch.from_numpy(np.stack([s.mean for s in trained.standards])))
    network.spread.copy_(torch.from_numpy(np.stack([s.spread for s in trained.standards])))
    network.platt.copy_(torch.from_numpy(np.asarray(trained.recalibrator.knots, float)))
    arguments = {"member": recipe.network.model_dump(), "members": count, "features": features}
    manifest = Manifest(
        name=folder.name,
        version="1",
        limits=(
            _LIMITS[_in_space(recipe)],
            (
                f"{count} networks on folds of {trained.recalibrator.n} patients (arm: {recipe.named()}),"
                " recalibrated on the fold that each one was not trained on."
            ),
            "Outlines were drawn or true; with a network's outlines errors add up.",
        ),
        network=NetworkSpec(name="calibrated_ensemble", arguments=arguments),
        preprocessing=_preprocessing(recipe),
        targets=(TARGET,),
        provenance=Provenance(
            code_version=ichnos.__version__,
            command=command,
            seeds=(recipe.seed,),
            steps=recipe.steps,
            data=data,
            hardware="1 GPU" if device != "cpu" else "CPU",
            trained=datetime.datetime.now(datetime.UTC).date().isoformat(),
            validation=validation,
        ),
    )
    return save_model(folder, network.eval(), manifest)


def load_classifier(folder: str | Path, *, device: str = "cpu") -> Classifier:
    """Load a Model folder as a classifier that gives calibrated probabilities; its out-of-fold scores stay
    with whoever trained it.
    """
    model = load_model(folder)
    network = model.network(device=device)
    if not isinstance(network, CalibratedEnsemble):
        raise InputRefused(
            f"{folder} holds a {model.manifest.network.name}; a classifier of patients (calibrated_ensemble)"
            " is expected"
        )
    standards = [
        Standard(mean.numpy(), spread.numpy())
        for mean, spread in zip(network.mean.cpu(), network.spread.cpu(), strict=True)
    ]
    line = Recalibrator("platt", network.platt.cpu().numpy(), "out-of-fold training patients", 0)
    return Classifier(tuple(network.members), tuple(standards), line, {})


def _in_space(recipe: Recipe) -> bool:
    return len(recipe.network.arguments["image_size"]) == 3


def _preprocessing(recipe: Recipe) -> Preprocessing:
    size = recipe.network.arguments["image_size"]
    if _in_space(recipe):
        return Preprocessing(
            spacing_mm=REGION_SPACING_MM, windows_hu=REGION_WINDOWS_HU, patch=(size[0], size[1], size[2])
        )
    return Preprocessing(
        spacing_mm=PUBLISHED_SPACING_MM, windows_hu=(WINDOW_90_45_HU,), patch=(size[0], size[1], 1)
    )
