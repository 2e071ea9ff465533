"""From a cohort to a Model: prepare the patients, check that they may be trained on, train, keep the best
network with its provenance.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ichnos.cohort import SIMULATED_ONLY, Cohort
from ichnos.evidence.leakage import TrainingImage, write_training
from ichnos.files import atomic_file
from ichnos.formats import bids
from ichnos.learning.loop.checkpoints import CHECKPOINT
from ichnos.learning.loop.precision import precision_note
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.segmentation.batches import batch_source, close
from ichnos.learning.segmentation.cases import TrainingCase, cases_fingerprint
from ichnos.learning.segmentation.fine_tuning import (
    keep_refinement,
    model_called,
    network_for_targets,
    refuse_small_patch,
    weights_from,
)
from ichnos.learning.segmentation.objective import SegmentationSettings, train_segmentation
from ichnos.learning.segmentation.planning import planned_network
from ichnos.learning.segmentation.preparation import usable_cases
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.validation import Validation, Validator, history, perfect_on_scans
from ichnos.models import Manifest, Model, NetworkSpec, Preprocessing, Provenance, load_model, save_model

SETTINGS_FILE = "settings.json"  # of a training, in its folder: `--config` takes it


def train_on_cohort(
    cohort: Cohort, out: Path, settings: TrainSettings, *, work: Path, resources: Resources = ON_CPU
) -> Model:
    """Train on the split `train`, choose the best step on the split `validation`, write a Model to `out`.

    `work` keeps patients, checkpoints, validations and pictures of the worst cases; the same call resumes.
    """
    cases = usable_cases(cohort, settings, work, resources)
    plan = resolved_settings(settings, cases)
    batches = batch_source(settings, cases, resources)
    validate = validator_of(settings, cases, work, resources)
    _keep_settings(settings, work, resources)
    start = _initial_weights(settings, plan)
    try:
        network = train_segmentation(
            plan, batches, work, initial=start, validate=validate, resources=resources
        )
    finally:
        close(batches)
    targets = validate.points(network, settings.targets)
    if resources.team.leads:
        write_training(_images(cases), work / "training.csv")
        manifest = manifest_of(settings, plan, cases, work, resources, name=out.name)
        limits = (*manifest.limits, *_origin(cohort, settings))
        provenance = _beside_perfect(manifest.provenance, cohort, settings, resources)
        changes = {"targets": targets, "limits": limits, "provenance": provenance}
        _save(network, manifest.model_copy(update=changes), out, settings, resources)
    resources.team.wait()
    return load_model(out)


def _beside_perfect(
    provenance: Provenance, cohort: Cohort, settings: TrainSettings, resources: Resources
) -> Provenance:
    """Set beside each target's Dice, which is on the network's voxels, what these allow on the scans' own."""
    spacing_mm = settings.preprocessing.spacing_mm
    perfect = perfect_on_scans(cohort, settings.targets, spacing_mm, resources.pipelines)
    beside = {f"dice_{target}_on_scans_if_perfect": value for target, value in perfect.items()}
    return provenance.model_copy(update={"validation": provenance.validation | beside})


def _origin(cohort: Cohort, settings: TrainSettings) -> tuple[str, ...]:
    """Return the limit of weights that have seen simulated patients alone, at their start too."""
    before = model_called(settings.start).manifest.limits if settings.start else (SIMULATED_ONLY,)
    return (SIMULATED_ONLY,) if bids.is_simulated(cohort) and SIMULATED_ONLY in before else ()


def _images(cases: Sequence[TrainingCase]) -> list[TrainingImage]:
    return [TrainingImage(f"sub-{c.id}", c.id, c.centre, c.split, (), c.voxels_sha256) for c in cases]


def _save(
    network: torch.nn.Module, manifest: Manifest, out: Path, settings: TrainSettings, resources: Resources
) -> None:
    """Write the Model, with the refinement of the one it started from where it can use it."""
    model = save_model(out, network, manifest)
    if settings.start and (warning := keep_refinement(settings.start, model)):
        resources.warn(warning)


def _keep_settings(settings: TrainSettings, work: Path, resources: Resources) -> None:
    """Write the settings of a new training; those of one that is resumed stay as they are."""
    if resources.team.leads and not (work / CHECKPOINT).is_file():
        work.mkdir(parents=True, exist_ok=True)
        with atomic_file(work / SETTINGS_FILE) as temporary:
            temporary.write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _initial_weights(
    settings: TrainSettings, resolved: SegmentationSettings
) -> dict[str, torch.Tensor] | None:
    if not settings.start:
        return None
    model, seed = model_called(settings.start), settings.loop.seed
    return weights_from(model, resolved.network, settings.targets, seed=seed)


def resolved_settings(settings: TrainSettings, cases: Sequence[TrainingCase]) -> SegmentationSettings:
    """Return a training as it runs: with its network, and a fingerprint of the data."""
    return SegmentationSettings(
        network=segmentation_network(settings),
        preprocessing=Preprocessing(**settings.preprocessing.model_dump()),
        targets=settings.targets,
        loop=settings.loop.for_examples(sum(case.split == "train" for case in cases)),
        objective=settings.objective,
        validate_on=settings.validate_on,
        data=_data_fingerprint(settings, cases),
    )


def segmentation_network(settings: TrainSettings) -> NetworkSpec:
    """Return the network of the model that a training starts from, or the one that is planned for it."""
    how, architecture = settings.preprocessing, settings.architecture
    if settings.start:
        parent = model_called(settings.start)
        refuse_small_patch(parent, how.patch)
        return network_for_targets(parent, settings.targets, deep_supervision=architecture.deep_supervision)
    return planned_network(
        architecture.network,
        channels=len(how.windows_hu),
        targets=len(settings.targets),
        patch=how.patch,
        spacing_mm=how.spacing_mm,
        width=architecture.width,
        deep_supervision=architecture.deep_supervision,
    )


def _data_fingerprint(settings: TrainSettings, cases: Sequence[TrainingCase]) -> str:
    """Return a hash of the cases, of how patches are sampled, and of the weights at the start."""
    sampling = settings.sampling.model_dump_json(exclude={"augmentation"})
    content = f"{cases_fingerprint(cases)} {sampling} {asdict(settings.sampling.augmentation)}"
    return hashlib.sha256((content + "".join(_parents(settings)[-1:])).encode()).hexdigest()


def validator_of(
    settings: TrainSettings, cases: Sequence[TrainingCase], out: Path, resources: Resources
) -> Validator:
    """Return the validation on the patients that are set aside."""
    held = spread([case for case in cases if case.split == "validation"], settings.validate_on)
    return Validator(
        held,
        settings.names,
        settings.preprocessing,
        out,
        device=resources.device,
        flat=settings.flat,
        team=resources.team,
    )


def spread(held: Sequence[TrainingCase], count: int) -> list[TrainingCase]:
    """Return so many of the cases, evenly spread over them; all for a count of 0.

    >>> spread(list("abcdefg"), 3)  # any sequence
    ['a', 'd', 'g']
    """
    if not 0 < count < len(held):
        return list(held)
    return (
        [held[round(at)] for at in np.linspace(0, len(held) - 1, count)]
        if count > 1
        else [held[len(held) // 2]]
    )


def manifest_of(
    settings: TrainSettings,
    resolved: SegmentationSettings,
    cases: Sequence[TrainingCase],
    work: Path,
    resources: Resources,
    *,
    name: str,
) -> Manifest:
    """Return the manifest of the trained Model, at the best step that the folder's validations found."""
    best = max(history(work), key=lambda row: row.score)
    return Manifest(
        name=name,
        version="1",
        limits=_limits(settings, cases, best),
        network=_for_reading(resolved.network),
        preprocessing=resolved.preprocessing,
        targets=settings.targets,
        provenance=_provenance(settings, cases, best, work, resources),
    )


def _provenance(
    settings: TrainSettings, cases: Sequence[TrainingCase], best: Validation, work: Path, resources: Resources
) -> Provenance:
    hardware = "; ".join(part for part in (_hardware(resources), precision_note(work)) if part)
    return Provenance.of_today(
        command=resources.command,
        seeds=(settings.loop.seed,),
        steps=best.step,
        data={"cases (patients, masks, grid)": cases_fingerprint(cases)},
        parents=_parents(settings),
        hardware=hardware,
        validation=_measures(best),
    )


def _for_reading(network: NetworkSpec) -> NetworkSpec:
    """Return the network without deep supervision, which is for training alone; the weights are the same."""
    if "deep_supervision" not in network.arguments:
        return network
    return NetworkSpec(name=network.name, arguments=network.arguments | {"deep_supervision": False})


def _measures(best: Validation) -> dict[str, float]:
    dice = {f"dice_{target}": value for target, value in best.dice.items()}
    return dice | {f"false_ml_{target}": value for target, value in best.false_ml.items()}


def _limits(settings: TrainSettings, cases: Sequence[TrainingCase], best: Validation) -> tuple[str, ...]:
    trained_on, share = sum(case.split == "train" for case in cases), settings.sampling.simulated_share
    simulated = f", {share:.0%} of batches from simulated patients" if share else ""
    return (
        (
            f"Trained on {trained_on} patients{simulated}; checked on {best.patients} others of the same"
            " cohort, who chose the best step (by Dice at 0.5) and the operating points: its Dice there is"
            " slightly optimistic."
        ),
        "Its probabilities have not been calibrated.",
        "Patients, scanners and diseases that this cohort does not hold were never seen.",
    )


def _parents(settings: TrainSettings) -> tuple[str, ...]:
    """Return the weights that the training starts from, and those before them."""
    if not settings.start:
        return ()
    earlier = model_called(settings.start).manifest
    return (*earlier.provenance.parents, earlier.weights_sha256)


def _hardware(resources: Resources) -> str:
    cores = f"{torch.get_num_threads()} CPU core(s), {platform.machine()}"
    each, size = "1 GPU" if resources.device != "cpu" else cores, resources.team.size
    return each if size == 1 else f"{size} processes, each {each}"
