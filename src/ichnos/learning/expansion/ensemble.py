"""Ensembles of classifiers: a network per fold, calibrated on out-of-fold scores, and stored as a Model."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.recalibration import Recalibrator, fit_recalibrator
from ichnos.inference.crops import PUBLISHED_SPACING_MM, REGION_SPACING_MM, REGION_WINDOWS_HU, WINDOW_90_45_HU
from ichnos.learning.expansion.classifier import LEAST_EACH, Standard, patient_scores, train_classifier
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.settings import ClassifierSettings
from ichnos.learning.loop.resources import ON_CPU, Resources
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

EXPANSION_TARGET = TargetSpec(name="expansion", kind="patient", group="expansion")
_LIMITS = {
    False: (
        "Sees three slices of a tight crop around the haematoma (inference.crops.published_crops),"
        " not its size."
    ),
    True: (
        "Sees a region of fixed size in mm with HU windows, ICH and IVH as channels"
        " (inference.crops.haematoma_region): an outline must be given."
    ),
}


@dataclass(frozen=True, eq=False)
class Classifier:
    """Networks of several folds and the map from their mean log odds to a probability at the true
    prevalence.
    """

    networks: tuple[nn.Module, ...]
    standards: tuple[Standard, ...]
    recalibrator: Recalibrator
    # log odds of each training patient, from the networks that never saw the patient
    out_of_fold: dict[str, float]

    @classmethod
    def of(
        cls,
        members: Sequence[tuple[nn.Module, Standard]],
        train: Sequence[ImageExample],
        held: dict[str, float],
    ) -> Classifier:
        """Return the networks of all folds, recalibrated on their out-of-fold log odds."""
        truth = {e.patient: e.outcome for e in train}
        recalibrator = fit_recalibrator(
            [truth[p] for p in held],
            list(held.values()),
            method="platt",
            fitted_on="out-of-fold training patients",
        )
        networks, standards = zip(*members, strict=True)
        return cls(networks, standards, recalibrator, held)

    def __call__(self, examples: Sequence[ImageExample], *, device: str = "cpu") -> dict[str, float]:
        """Return each patient's calibrated probability of expansion."""
        raw = self.log_odds(examples, device=device)
        return dict(zip(raw, self.recalibrator(list(raw.values())).tolist(), strict=True))

    def log_odds(self, examples: Sequence[ImageExample], *, device: str = "cpu") -> dict[str, float]:
        """Return the mean log odds of the networks, before recalibration."""
        each = [
            patient_scores(n, s, examples, device=device)
            for n, s in zip(self.networks, self.standards, strict=True)
        ]
        return {
            patient: float(np.mean([_log_odds(scores[patient]) for scores in each])) for patient in each[0]
        }


# (fold, its training examples) -> images of the arm "synthesis", from these patients alone
Synthesise = Callable[[int, Sequence[ImageExample]], Sequence[ImageExample]]


def nothing_synthetic(fold: int, inside: Sequence[ImageExample]) -> Sequence[ImageExample]:
    """Return no images, for the arms without synthetic ones.

    >>> nothing_synthetic(0, [])
    ()
    """
    return ()


def train_ensemble(
    train: Sequence[ImageExample],
    settings: ClassifierSettings,
    out: Path,
    *,
    folds: int = 3,
    synthetic: Synthesise = nothing_synthetic,
    resources: Resources = ON_CPU,
) -> Classifier:
    """Train one network per fold, recalibrate on the out-of-fold scores, and write `classifier.json`."""
    each = replace(resources, seconds=resources.seconds / folds)
    members: list[tuple[nn.Module, Standard]] = []
    held: dict[str, float] = {}
    for k, part in enumerate(fold_patients(train, folds, seed=settings.loop.seed)):
        inside, outside = [e for e in train if e.patient not in part], [e for e in train if e.patient in part]
        extra = list(synthetic(k, inside))
        images = f"{len(inside)} images and {len(extra)} synthetic ones"
        resources.warn(f"{settings.named()}: fold {k + 1} of {folds}, {images}")
        own, folder = [*inside, *extra], out / f"fold-{k}"
        members.append(train_classifier(own, settings, folder, validation=outside, resources=each))
        scores = patient_scores(*members[-1], outside, device=resources.device)
        held |= {patient: _log_odds(risk) for patient, risk in scores.items()}
    trained = Classifier.of(members, train, held)
    _write_scores(trained, settings, out / "classifier.json")
    return trained


def _write_scores(trained: Classifier, settings: ClassifierSettings, file: Path) -> None:
    content = {
        "settings": settings.model_dump(mode="json"),
        "platt": trained.recalibrator.knots.tolist(),
        "out_of_fold": trained.out_of_fold,
    }
    file.write_text(json.dumps(content, indent=1) + "\n")


def fold_patients(examples: Sequence[ImageExample], folds: int, *, seed: int) -> tuple[frozenset[str], ...]:
    """Divide patients into folds with about the same share of expanded ones; refuses where a fold's rest
    would hold one class only.

    >>> made = [ImageExample(str(k), np.zeros((1, 2, 2), np.float32), k % 2) for k in range(8)]
    >>> [len(part) for part in fold_patients(made, 2, seed=0)]
    [4, 4]
    """
    outcome = {e.patient: e.outcome for e in examples}
    # so many are left when a fold is away
    least = next(n for n in itertools.count(1) if n - math.ceil(n / folds) >= LEAST_EACH)
    rng = np.random.default_rng([seed, folds])
    parts: list[set[str]] = [set() for _ in range(folds)]
    for value in (1.0, 0.0):
        group = sorted(p for p, o in outcome.items() if o == value)
        if len(group) < least:
            raise InputRefused(
                f"{len(group)} patients {'expanded' if value else 'did not expand'}; {folds} folds need at"
                f" least {least} of each class"
            )
        for k, at in enumerate(rng.permutation(len(group))):
            parts[k % folds].add(group[at])
    return tuple(frozenset(part) for part in parts)


def _log_odds(p: float) -> float:
    kept = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(kept / (1 - kept))


def save_classifier(
    trained: Classifier,
    settings: ClassifierSettings,
    folder: Path,
    *,
    data: dict[str, str],
    validation: dict[str, float],
    feature_names: Sequence[str] = (),
    limits: Sequence[str] = ("Trained on given outlines; with a network's outlines errors add up.",),
    resources: Resources = ON_CPU,
) -> Model:
    """Write an ensemble as a Model folder; it holds nothing of single patients.

    `limits` say on whom and on whose outlines it was trained.
    """
    provenance = Provenance.of_today(
        command=resources.command,
        seeds=(settings.loop.seed,),
        steps=settings.loop.steps,
        data=data,
        hardware="1 GPU" if resources.device != "cpu" else "CPU",
        validation=validation,
    )
    spec = _network_of(trained, settings, feature_names)
    every = (*limits, *_limits(trained, settings))
    manifest = _manifest(folder.name, every, settings, spec, provenance)
    return save_model(folder, _with_weights(trained, spec), manifest)


def _manifest(
    name: str,
    limits: tuple[str, ...],
    settings: ClassifierSettings,
    spec: NetworkSpec,
    provenance: Provenance,
) -> Manifest:
    return Manifest(
        name=name,
        version="1",
        limits=limits,
        network=spec,
        preprocessing=_preprocessing(settings),
        targets=(EXPANSION_TARGET,),
        provenance=provenance,
    )


def _limits(trained: Classifier, settings: ClassifierSettings) -> tuple[str, ...]:
    return (
        _LIMITS[_in_space(settings)],
        (
            f"{len(trained.networks)} networks on folds of {trained.recalibrator.n} patients"
            f" (arm: {settings.named()}), recalibrated on the fold that each one was not trained on."
        ),
    )


def _network_of(
    trained: Classifier, settings: ClassifierSettings, feature_names: Sequence[str]
) -> NetworkSpec:
    arguments = {
        "member": settings.network.model_dump(),
        "members": len(trained.networks),
        "features": trained.standards[0].mean.size,
    }
    if feature_names:
        arguments["feature_names"] = list(feature_names)
    return NetworkSpec(name="calibrated_ensemble", arguments=arguments)


def _with_weights(trained: Classifier, spec: NetworkSpec) -> CalibratedEnsemble:
    """Return the ensemble as one network, with what the members and their calibration have learnt."""
    network = CalibratedEnsemble(**spec.arguments)
    for member, own in zip(network.members, trained.networks, strict=True):
        member.load_state_dict(own.state_dict())
    network.mean.copy_(torch.from_numpy(np.stack([s.mean for s in trained.standards])))
    network.spread.copy_(torch.from_numpy(np.stack([s.spread for s in trained.standards])))
    network.platt.copy_(torch.from_numpy(np.asarray(trained.recalibrator.knots, float)))
    return network.eval()


def load_classifier(folder: str | Path, *, device: str = "cpu") -> Classifier:
    """Load a Model folder as a classifier of calibrated probabilities, without its out-of-fold scores."""
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


def _in_space(settings: ClassifierSettings) -> bool:
    return len(settings.network.arguments["image_size"]) == 3


def _preprocessing(settings: ClassifierSettings) -> Preprocessing:
    size = settings.network.arguments["image_size"]
    if _in_space(settings):
        return Preprocessing(
            spacing_mm=REGION_SPACING_MM, windows_hu=REGION_WINDOWS_HU, patch=(size[0], size[1], size[2])
        )
    return Preprocessing(
        spacing_mm=PUBLISHED_SPACING_MM, windows_hu=(WINDOW_90_45_HU,), patch=(size[0], size[1], 1)
    )
