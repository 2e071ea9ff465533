"""The same cohort through the real nnU-Net v2: planned, preprocessed, trained and validated by it, brought
back as a Model of ours.

nnU-Net runs in a process of its own. What it decided (voxel size, clipping, standardisation, patch, network)
is written into model.json, so that `inference` reads scans with its weights; see docs/training.md for the
small ways in which that differs from its own predictor.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos import networks
from ichnos.cohort import SIMULATED_ONLY, Cohort
from ichnos.errors import IchnosError, UsageError, require
from ichnos.files import atomic_file
from ichnos.formats import bids
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.nnunet.plans import plans_of
from ichnos.learning.nnunet.raw_dataset import (
    NUMBER,
    export,
    overlapping,
    preprocessed_folder,
    raw_folder,
)
from ichnos.learning.nnunet.settings import PLANNERS, NnunetSettings
from ichnos.models import Manifest, Model, NetworkSpec, Preprocessing, Provenance, save_model
from ichnos.targets import mirrored

# settings that the child takes as they are
_AS_SET = (
    "configuration",
    "planner",
    "network",
    "width",
    "mirrored",
    "epochs",
    "iterations",
    "threads",
    "workers",
    "seed",
)
_OF_AN_EPOCH = re.compile(r"(Epoch|train_loss|val_loss|Pseudo dice|Mean Validation)")


def train_nnunet(
    cohort: Cohort,
    out: Path,
    settings: NnunetSettings,
    *,
    work: Path,
    resources: Resources = ON_CPU,
    quiet: bool = True,
) -> Model:
    """Export the cohort, let nnU-Net plan, train and validate, and write what came of it as a Model.

    Patients who lack one of the targets are left out: nnU-Net knows no partial labels. `work` keeps its three
    folders and its log; the same call resumes.
    """
    require("nnunetv2", extra="nnunet", purpose="training with nnU-Net")
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    dataset = export(cohort, settings, work, resources.pipelines)
    job, planned = job_of(settings, work, dataset, resources), dataset | _planned_by(settings)
    child = partial(run_child, work=work, quiet=quiet)
    _once(work / "planned.json", planned, partial(child, job | {"do": "plan"}))
    # checkpoints of another cohort or another job are not resumed
    old = partial(shutil.rmtree, work / "nnUNet_results", ignore_errors=True)
    _once(work / "begun.json", [dataset, job], old)
    _once(work / "finished.json", [dataset, job], partial(child, job | {"do": "train"}))
    origin = (SIMULATED_ONLY,) if bids.is_simulated(cohort) else ()
    return import_nnunet(out, settings, work, resources, origin=origin)


def _once(file: Path, content: Any, action: Callable[[], None]) -> None:
    """Act unless the file says that it was done for the same content; then write the file."""
    content = json.loads(json.dumps(content))
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == content:
        return
    action()
    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _planned_by(settings: NnunetSettings) -> dict[str, Any]:
    return {
        key: getattr(settings, key)
        for key in ("network", "configuration", "memory_gb", "width", "batch", "patch", "spacing")
    }


def job_of(
    settings: NnunetSettings, work: Path, dataset: dict[str, Any], resources: Resources
) -> dict[str, Any]:
    """Return what the child is told, in plain data; "do" is added by who starts it."""
    flat = settings.configuration == "2d"
    patch = _three(settings.patch, int)
    as_set = {name: getattr(settings, name) for name in _AS_SET}
    return as_set | {
        "number": NUMBER,
        "memory_gb": settings.memory_gb or None,
        "batch_size": settings.batch or None,
        "patch_size": patch[1:] if patch and flat else patch,
        "spacing_mm": _three(settings.spacing, float),
        "device": resources.device,
        "learning_rate": settings.learning_rate or None,
        "sided": any(mirrored(name) != name for name in dataset["labels"]),
        "splits": str(raw_folder(work) / "splits_final.json"),
        "preprocessed": str(preprocessed_folder(work)),
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
    file, log = work / f"{job['do']}.json", work / "nnunet.log"
    file.write_text(json.dumps(job, indent=2), encoding="utf-8")
    # -P: a file called torch.py in the working directory is not imported
    command = [sys.executable, "-P", "-m", "ichnos.learning.nnunet.child", str(file)]
    last = ""
    with (
        log.open("a", encoding="utf-8") as written,
        subprocess.Popen(
            command, env=_environment(job, work), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child,
    ):
        assert child.stdout is not None
        for line in child.stdout:
            written.write(line)
            last = line.strip() or last
            if not quiet and _OF_AN_EPOCH.search(line):
                sys.stderr.write(line)
    if child.returncode != 0:
        raise IchnosError(f"nnU-Net could not {job['do']} ({last[:200]}); all it said is in {log}")


def _environment(job: dict[str, Any], work: Path) -> dict[str, str]:
    """Return this process's environment with nnU-Net's folders and the processes that it may start."""
    folders = {name: str(work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    # nnU-Net plans with one process, and augments with as many as the settings say.
    processes = {
        "nnUNet_n_proc_DA": "1" if job["do"] == "plan" else str(job["workers"]),
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f",
    }
    return {**os.environ, **folders, **processes, "OMP_NUM_THREADS": str(job["threads"])}


def import_nnunet(
    out: Path,
    settings: NnunetSettings,
    work: Path,
    resources: Resources = ON_CPU,
    *,
    origin: tuple[str, ...] = (),
) -> Model:
    """Write the trained network of a work folder as a Model; `origin` are further limits of it."""
    plans = json.loads((preprocessed_folder(work) / "plans.json").read_text())
    dataset = json.loads((work / "exported.json").read_text())
    regions = overlapping(dataset["labels"])
    spec, prefix = network_spec(plans, settings, classes=len(settings.targets) + (0 if regions else 1))
    weights = torch.load(work / "weights.pt", map_location="cpu", weights_only=True)
    network = networks.build(spec.name, **spec.arguments)
    network.load_state_dict({f"{prefix}{name}": tensor for name, tensor in weights.items()})
    manifest = Manifest(
        name=out.name,
        version="1",
        limits=(*_limits(len(dataset["patients"])), *origin),
        network=spec,
        preprocessing=preprocessing_of(plans, settings.configuration),
        targets=settings.targets,
        activation="sigmoid" if regions else "softmax",
        provenance=_provenance(settings, work, dataset["data"], resources),
    )
    return save_model(out, network, manifest)


def _limits(patients: int) -> tuple[str, ...]:
    return (
        f"Trained by nnU-Net on the train split of {patients} patients and validated by it on the others.",
        "Its probabilities have not been calibrated.",
        "Patients, scanners and diseases that this cohort does not hold were never seen.",
    )


def _provenance(settings: NnunetSettings, work: Path, data: str, resources: Resources) -> Provenance:
    dice = _dice(json.loads((work / "summary.json").read_text())["mean"])
    measured = zip(settings.targets, dice, strict=True)
    return Provenance.of_today(
        command=resources.command,
        seeds=(settings.seed,),
        steps=json.loads((work / "trained.json").read_text())["steps"],
        data={"cases (patients, masks)": data},
        hardware="1 GPU" if resources.device != "cpu" else f"{settings.threads} CPU core(s)",
        validation={f"dice_{target.name}": value for target, value in measured if np.isfinite(value)},
    )


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
