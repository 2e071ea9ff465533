"""The same cohort through the real nnU-Net v2: planned, preprocessed, trained and validated by it, brought
back as a Model of ours.

nnU-Net runs in a process of its own. What it decided (voxel size, clipping, standardisation, patch, network)
is written into model.json, so that `inference` reads scans with its weights; see docs/training.md for the
small ways in which that differs from its own predictor.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import ichnos
from ichnos import networks
from ichnos.cohort import Cohort, Patient
from ichnos.errors import IchnosError, InputRefused, UsageError, require
from ichnos.files import atomic_file
from ichnos.formats import nifti, nnunet
from ichnos.learning.loop.resources import Resources
from ichnos.learning.nnunet.plans import plans_of
from ichnos.learning.nnunet.settings import PLANNERS, NnunetSettings
from ichnos.learning.segmentation.cases import check_splits
from ichnos.learning.segmentation.target_files import target_degree, target_file
from ichnos.models import Manifest, Model, NetworkSpec, Preprocessing, Provenance, save_model
from ichnos.models.store import sha256
from ichnos.targets import mirrored

_NUMBER, _NAME = 1, "Cohort"


def train_nnunet(
    cohort: Cohort,
    out: Path,
    settings: NnunetSettings,
    *,
    work: Path,
    resources: Resources | None = None,
    quiet: bool = True,
) -> Model:
    """Export the cohort, let nnU-Net plan, train and validate, and write what came of it as a Model; a cut
    training goes on.

    Patients who lack one of the targets are left out: nnU-Net knows no partial labels. `work` keeps its three
    folders and its log.
    """
    resources = resources or Resources()
    require("nnunetv2", extra="nnunet", purpose="training with nnU-Net")
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    dataset = export(cohort, settings, work, resources.pipelines)
    job = job_of(settings, work, dataset, resources)
    planned, begun, finished = (work / name for name in ("planned.json", "begun.json", "finished.json"))
    if not _noted(planned, dataset | _planned_by(settings)):
        run_child(job | {"do": "plan"}, work, quiet=quiet)
        _note(planned, dataset | _planned_by(settings))
    if not _noted(begun, [dataset, job]):  # checkpoints of another cohort or another job are not gone on with
        shutil.rmtree(work / "nnUNet_results", ignore_errors=True)
        _note(begun, [dataset, job])
    if not _noted(finished, [dataset, job]):
        run_child(job | {"do": "train"}, work, quiet=quiet)
        _note(finished, [dataset, job])
    return import_nnunet(out, settings, work, resources)


def _noted(file: Path, content: Any) -> bool:
    """Return whether a stage's file holds exactly this."""
    return file.is_file() and file.read_text(encoding="utf-8") == json.dumps(content)


def _note(file: Path, content: Any) -> None:
    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _planned_by(settings: NnunetSettings) -> dict[str, Any]:
    return {
        key: getattr(settings, key)
        for key in ("network", "configuration", "memory_gb", "width", "batch", "patch", "spacing")
    }


# ---- the cohort as nnU-Net's raw dataset
# -----------------------------------------------------------------------------


def export(cohort: Cohort, settings: NnunetSettings, work: Path, pipelines: Sequence[str]) -> dict[str, Any]:
    """Write the raw dataset, scans in RAS; return its labels, and a hash of all that went into it.

    Targets that overlap are trained as regions (each its own sigmoid), the others as labels (softmax), as
    nnU-Net does.
    """
    check_splits(cohort)
    people = cohort.of_split("train", "validation").with_exams("ct")
    names = [target.name for target in settings.targets]
    found = [(p, [target_file(cohort, p, name, pipelines) for name in names]) for p in people]
    whole = [
        (p, [f for f in files if f is not None]) for p, files in found if all(f is not None for f in files)
    ]
    for split in ("train", "validation"):
        if not any(p.split == split for p, _ in whole):
            raise InputRefused(
                f"no patient of the split '{split}' has all of {', '.join(names)} drawn, and nnU-Net needs"
                " every target in every patient; train with our engine, which knows partial labels, or with"
                " fewer targets"
            )
    told = [
        [p.id, p.split, sha256(p.exam("ct")), [[sha256(f), list(v)] for f, v in files]] for p, files in whole
    ]
    digest = hashlib.sha256(json.dumps([told, names]).encode()).hexdigest()
    folder = nnunet.dataset_folder(work / "nnUNet_raw", _NUMBER, _NAME)
    kept = work / "exported.json"
    if kept.is_file() and json.loads(kept.read_text(encoding="utf-8"))["data"] == digest:
        content: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return content
    codes = _write_cases(folder, whole)
    content = {"data": digest, "labels": _labels(names, codes), "patients": [p.id for p, _ in whole]}
    _write_dataset(folder, content["labels"], whole)
    with atomic_file(kept) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    return content


def _write_cases(
    folder: Path, whole: Sequence[tuple[Patient, list[tuple[Path, tuple[int, ...]]]]]
) -> dict[int, tuple[int, ...]]:
    """Write scans with label maps in which each combination of targets that occurs has a number; return
    number -> targets' channels.
    """
    bits: set[int] = set()
    packed = []
    for patient, files in whole:
        ct = nifti.open_nifti(patient.exam("ct")).volume
        combined = np.zeros(ct.shape, np.int64)
        for channel, (file, values) in enumerate(files):
            combined |= (target_degree(file, values, ct) >= 0.5).astype(np.int64) << channel
        bits |= set(np.unique(combined).tolist()) - {0}
        packed.append((patient, ct, combined))
    order = sorted(bits, key=lambda code: (code.bit_count(), code))
    number = {code: k for k, code in enumerate(order, start=1)}
    for patient, ct, combined in packed:
        labels: npt.NDArray[np.uint8] = np.vectorize(lambda code: number.get(code, 0), otypes=[np.uint8])(
            combined
        )
        nnunet.add_case(
            folder,
            patient.id,
            ct.reoriented("RAS"),
            ct.with_array(labels).reoriented("RAS"),
            split=patient.split,
        )
    return {k: tuple(c for c in range(code.bit_length()) if code >> c & 1) for code, k in number.items()}


def _labels(names: Sequence[str], codes: dict[int, tuple[int, ...]]) -> dict[str, list[int]]:
    """Return for each target the numbers in which it takes part."""
    return {
        name: [k for k, channels in codes.items() if channel in channels]
        for channel, name in enumerate(names)
    }


def _write_dataset(folder: Path, labels: dict[str, list[int]], whole: Sequence[tuple[Patient, Any]]) -> None:
    empty = [name for name, numbers in labels.items() if not numbers]
    if empty:
        raise InputRefused(
            f"the target {empty[0]} is drawn in no voxel of any patient, so there is nothing to learn of it"
        )
    regions = _overlapping(labels)
    content: dict[str, Any] = {
        "channel_names": {"0": "CT"},
        "labels": {
            "background": 0,
            **(labels if regions else {name: numbers[0] for name, numbers in labels.items()}),
        },
        "numTraining": len(whole),
        "file_ending": ".nii.gz",
    }
    if regions:
        content["regions_class_order"] = list(range(1, len(labels) + 1))
    split = {
        part: sorted(p.id for p, _ in whole if p.split == name)
        for part, name in (("train", "train"), ("val", "validation"))
    }
    for name, value in (("dataset.json", content), ("splits_final.json", [split])):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(json.dumps(value, indent=2), encoding="utf-8")


def _overlapping(labels: dict[str, list[int]]) -> bool:
    return any(len(numbers) > 1 for numbers in labels.values())


# ---- nnU-Net in its own process
# ----------------------------------------------------------------------------------------


def job_of(
    settings: NnunetSettings, work: Path, dataset: dict[str, Any], resources: Resources
) -> dict[str, Any]:
    """Return what the child is told, in plain data; "do" is added by who starts it."""
    sided = any(mirrored(name) != name for name in dataset["labels"])
    flat = settings.configuration == "2d"
    patch, spacing = _three(settings.patch, int), _three(settings.spacing, float)
    return {
        "number": _NUMBER,
        "configuration": settings.configuration,
        "planner": settings.planner,
        "network": settings.network,
        "memory_gb": settings.memory_gb or None,
        "width": settings.width,
        "batch_size": settings.batch or None,
        "patch_size": patch[1:] if patch and flat else patch,
        "spacing_mm": spacing,
        "mirrored": settings.mirrored,
        "epochs": settings.epochs,
        "iterations": settings.iterations,
        "device": resources.device,
        "threads": settings.threads,
        "workers": settings.workers,
        "learning_rate": settings.learning_rate or None,
        "seed": settings.seed,
        "sided": sided,
        "splits": str(nnunet.dataset_folder(work / "nnUNet_raw", _NUMBER, _NAME) / "splits_final.json"),
        "preprocessed": str(work / "nnUNet_preprocessed" / f"Dataset{_NUMBER:03d}_{_NAME}"),
        "out": str(work),
    }


def _three(text: str, kind: Callable[[str], Any]) -> list[Any] | None:
    """Return x,y,z as nnU-Net's z, y, x; None where nothing is given."""
    try:
        values = [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        values = [0]
    if text and (len(values) != 3 or min(values) <= 0):
        raise UsageError(
            f"{text!r} was given for nnU-Net's patch or spacing; give three positive numbers, as 64,64,16"
        )
    return values[::-1] or None


def run_child(job: dict[str, Any], work: Path, *, quiet: bool) -> None:
    """Run a job in a child whose environment holds nnU-Net's folders; its words go to nnunet.log, those of
    each epoch also to stderr.
    """
    file = work / f"{job['do']}.json"
    file.write_text(json.dumps(job, indent=2), encoding="utf-8")
    folders = {name: str(work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    # nnU-Net plans with one process, and augments with as many as the settings say.
    processes = {
        "nnUNet_n_proc_DA": "1" if job["do"] == "plan" else str(job["workers"]),
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f",
    }
    environment = {**os.environ, **folders, **processes, "OMP_NUM_THREADS": str(job["threads"])}
    # -P: a file called torch.py in the working directory is not imported
    command = [sys.executable, "-P", "-m", "ichnos.learning.nnunet.child", str(file)]
    log = work / "nnunet.log"
    with (
        log.open("a", encoding="utf-8") as written,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child,
    ):
        assert child.stdout is not None
        last = ""
        for line in child.stdout:
            written.write(line)
            last = line.strip() or last
            if not quiet and re.search(r"(Epoch|train_loss|val_loss|Pseudo dice|Mean Validation)", line):
                sys.stderr.write(line)
    if child.returncode != 0:
        raise IchnosError(f"nnU-Net could not {job['do']} ({last[:200]}); all it said is in {log}")


# ---- back as a Model
# ------------------------------------------------------------------------------------------


def import_nnunet(
    out: Path, settings: NnunetSettings, work: Path, resources: Resources | None = None
) -> Model:
    """Write the trained network of a work folder as a Model."""
    resources = resources or Resources()
    folder = work / "nnUNet_preprocessed" / f"Dataset{_NUMBER:03d}_{_NAME}"
    plans, trained, dataset = (
        json.loads(f.read_text())
        for f in (folder / "plans.json", work / "trained.json", work / "exported.json")
    )
    regions = _overlapping(dataset["labels"])
    spec, prefix = network_spec(plans, settings, classes=len(settings.targets) + (0 if regions else 1))
    weights = torch.load(work / "weights.pt", map_location="cpu", weights_only=True)
    network = networks.build(spec.name, **spec.arguments)
    network.load_state_dict({f"{prefix}{name}": tensor for name, tensor in weights.items()})
    dice = _dice(json.loads((work / "summary.json").read_text())["mean"])
    manifest = Manifest(
        name=out.name,
        version="1",
        limits=(
            (
                f"Trained by nnU-Net on the train split of {len(dataset['patients'])} patients and validated"
                " by it on the others."
            ),
            "Its probabilities have not been calibrated.",
            "Patients, scanners and diseases that this cohort does not hold were never seen.",
        ),
        network=spec,
        preprocessing=preprocessing_of(plans, settings.configuration),
        targets=settings.targets,
        activation="sigmoid" if regions else "softmax",
        provenance=Provenance(
            code_version=ichnos.__version__,
            command=resources.command,
            seeds=(settings.seed,),
            steps=trained["steps"],
            data={"cases (patients, masks)": dataset["data"]},
            hardware="1 GPU" if resources.device != "cpu" else f"{settings.threads} CPU core(s)",
            trained=datetime.datetime.now(datetime.UTC).date().isoformat(),
            validation={
                f"dice_{t.name}": value
                for t, value in zip(settings.targets, dice, strict=True)
                if np.isfinite(value)
            },
        ),
    )
    return save_model(out, network, manifest)


def _dice(means: dict[str, dict[str, float]]) -> list[float]:
    """Return the mean Dice per label or region, in nnU-Net's order."""
    return [float(row["Dice"]) for row in means.values()]


def preprocessing_of(plans: dict[str, Any], configuration: str) -> Preprocessing:
    """Return what nnU-Net decided about voxel size, HU and patch, in our terms."""
    return plans_of(plans, configuration, source="plans.json").preprocessing(configuration)


def network_spec(plans: dict[str, Any], settings: NnunetSettings, *, classes: int) -> tuple[NetworkSpec, str]:
    """Return the call that rebuilds the network, and what its weights' names begin with."""
    architecture = plans["configurations"][settings.configuration]["architecture"]
    arguments: dict[str, Any] = {"input_channels": 1, "num_classes": classes}
    if settings.network not in PLANNERS:
        return (
            NetworkSpec(
                name=settings.network,
                arguments=arguments | architecture["arch_kwargs"] | {"deep_supervision": False},
            ),
            "",
        )
    arguments |= {
        "dim": 2 if settings.configuration == "2d" else 3,
        "network_class_name": architecture["network_class_name"],
        "arch_kwargs": architecture["arch_kwargs"],
        "requires_import": architecture["_kw_requires_import"],
    }
    return NetworkSpec(name="planned", arguments=arguments), "network."
