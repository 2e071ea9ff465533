"""k-fold training: every patient is predicted by a network that never saw it; one Model averages all."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import ichnos
from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti
from ichnos.inference import Predictor
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.training import train_on_cohort
from ichnos.models import Manifest, Model, NetworkSpec, TargetSpec, load_model, save_model
from ichnos.networks.average import MeanEnsemble
from ichnos.scan import Scan
from ichnos.targets import TARGETS, mirrored_channels
from ichnos.volume import Volume

OUT_OF_FOLD = "out-of-fold"  # the pipeline under derivatives/ that holds these predictions


Settings = TrainSettings | NnunetSettings
_TrainOn = Callable[..., Model]  # (cohort, out, settings, *, work, resources) -> what was trained


def train_folds(
    cohort: Cohort,
    out: Path,
    settings: Settings,
    folds: int,
    *,
    work: Path,
    resources: Resources = ON_CPU,
    mirrored: bool = False,
    engine: _TrainOn = train_on_cohort,
) -> Model:
    """Train one network per fold of the splits `train` and `validation`; write their average to `out`.

    Each patient's masks by the network that never saw the patient are written into the cohort, as the
    pipeline `out-of-fold`. `mirrored` also reads the mirror image of every tile, left and right exchanged.
    """
    root, models = _root(cohort), []
    shared = replace(resources, cases=resources.cases or work / "cases")
    seed = settings.seed if isinstance(settings, NnunetSettings) else settings.loop.seed
    for k, part in enumerate(person_folds(cohort, folds, seed=seed)):
        resources.warn(f"fold {k + 1} of {folds}: {len(part)} patients are held out")
        train = partial(engine, held_out(cohort, part), settings=settings, resources=shared)
        models.append(_train_fold(train, cohort, part, work / f"fold-{k}", shared))
    resources.team.wait()
    if resources.team.leads:
        bids.write_pipeline(root, OUT_OF_FOLD)
        average_models(models, out, mirrored=mirrored, command=resources.command)
    resources.team.wait()
    return load_model(out)


def _root(cohort: Cohort) -> Path:
    if cohort.root is None:
        raise InputRefused("the cohort has no folder to write out-of-fold masks into; give one on disk")
    return cohort.root


def _train_fold(
    train: Callable[..., Model], cohort: Cohort, part: frozenset[str], folder: Path, resources: Resources
) -> Model:
    """Train the network of one fold, and let it read the patients whom it has not seen."""
    model = train(out=folder / "model", work=folder)
    if resources.team.leads:
        unseen = [p for p in cohort if p.id in part and "ct" in p.exams]
        _predict(unseen, model, _root(cohort), resources.device)
    return model


def person_folds(cohort: Cohort, folds: int, *, seed: int) -> tuple[frozenset[str], ...]:
    """Divide the patients of the splits train and validation; all exams of a person fall into one fold.

    >>> people = [Patient(str(k), "A", "train", facts={"person": k // 2}) for k in range(8)]
    >>> [len(part) for part in person_folds(Cohort(tuple(people)), 2, seed=0)]
    [4, 4]
    """
    persons: dict[str, list[str]] = {}
    for patient in cohort.of_split("train", "validation"):
        persons.setdefault(str(patient.facts.get("person", f"sub-{patient.id}")), []).append(patient.id)
    if not 2 <= folds <= len(persons):
        raise UsageError(f"--folds {folds}: give 2 to {len(persons)}, the number of persons to train on")
    order = np.random.default_rng([seed, folds]).permutation(sorted(persons))
    parts: list[set[str]] = [set() for _ in range(folds)]
    for number, person in enumerate(order):
        parts[number % folds] |= set(persons[person])
    return tuple(frozenset(part) for part in parts)


def held_out(cohort: Cohort, part: frozenset[str]) -> Cohort:
    """Return the cohort with one fold as its validation patients and all other folds as training patients.

    >>> pair = Cohort((Patient("01", split="train"), Patient("02", split="validation")))
    >>> [(patient.id, patient.split) for patient in held_out(pair, frozenset({"01"}))]
    [('01', 'validation'), ('02', 'train')]
    """

    def split_of(patient: Patient) -> Patient:
        if patient.split not in ("train", "validation"):
            return patient
        return replace(patient, split="validation" if patient.id in part else "train")

    return replace(cohort, patients=tuple(split_of(patient) for patient in cohort))


def _predict(patients: Sequence[Patient], model: Model, root: Path, device: str) -> None:
    """Write the masks of patients whom a model has not seen, as label maps of the cohort."""
    predictor = Predictor(model, device=device, threads=1, backend="torch")
    for patient in patients:
        opened = nifti.open_nifti(patient.exam("ct"))
        prediction = predictor(Scan(opened.volume, opened.acquisition))
        masks = {t.name: prediction.mask(t.name) for t in model.manifest.targets if t.kind == "mask"}
        for label, volume in as_label_maps(masks).items():
            bids.write_derivative(root, patient.id, volume, pipeline=OUT_OF_FOLD, label=label, kind="dseg")


def as_label_maps(masks: dict[str, Volume]) -> dict[str, Volume]:
    """Return masks as the label maps of a cohort; where two of a map overlap, the earlier target stays.

    >>> one = Volume(np.ones((1, 1, 2), bool), np.eye(4))
    >>> maps = as_label_maps({"ICH": one.with_array(np.array([[[True, False]]])), "IVH": one})
    >>> maps["haematoma"].array.tolist()
    [[[1, 2]]]
    """
    maps: dict[str, Volume] = {}
    for name, mask in masks.items():
        target = TARGETS[name]
        if target.label_map not in maps:
            maps[target.label_map] = mask.with_array(np.zeros(mask.shape, np.uint8))
        held = maps[target.label_map].array
        maps[target.label_map] = mask.with_array(
            np.where((held == 0) & mask.array, np.uint8(target.code), held).astype(np.uint8)
        )
    return maps


def average_models(models: Sequence[Model], out: Path, *, mirrored: bool, command: str) -> Model:
    """Write models of one shape as one Model that averages their probabilities."""
    first = models[0].manifest
    if any(m.manifest.preprocessing != first.preprocessing for m in models):
        raise InputRefused("the folds see scans in different ways, so their networks cannot be averaged")
    specs = first.targets
    arguments: dict[str, Any] = {
        "member": first.network.model_dump(),
        "members": len(models),
        "coordinates": [k for k, spec in enumerate(specs) if spec.kind == "coordinate"],
        "mirrored": mirrored_channels([spec.name for spec in specs]) if mirrored else None,
        "softmax": first.activation == "softmax",
    }
    network = MeanEnsemble(**arguments)
    for member, model in zip(network.members, models, strict=True):
        member.load_state_dict(model.network().state_dict())
    spec = NetworkSpec(name="mean_ensemble", arguments=arguments)
    return save_model(out, network.eval(), _average_manifest(models, out.name, spec, command))


def _average_manifest(models: Sequence[Model], name: str, spec: NetworkSpec, command: str) -> Manifest:
    first, known = models[0].manifest, [m.manifest.provenance.validation for m in models]
    names = sorted({key for row in known for key in row})
    validation = {key: float(np.mean([row[key] for row in known if key in row])) for key in names}
    cuts = np.mean([[t.threshold for t in m.manifest.targets] for m in models], axis=0).round(3)
    targets: tuple[TargetSpec, ...] = tuple(
        target.model_copy(update={"threshold": float(cut)})
        for target, cut in zip(first.targets, cuts, strict=True)
    )
    provenance = first.provenance.model_copy(
        update={
            "code_version": ichnos.__version__,
            "command": command,
            "validation": validation,
            "steps": max(m.manifest.provenance.steps for m in models),
            "trained": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
    )
    limits = (
        f"The mean of {len(models)} networks, each trained without one fold of the patients; its figures are"
        " means of theirs, each on the fold that it was not trained on. The first one's:"
        f" {first.limits[0]}",
        *first.limits[1:],
    )
    update = {"name": name, "network": spec, "targets": targets, "limits": limits, "provenance": provenance}
    return first.model_copy(update={**update, "weights_sha256": ""})
