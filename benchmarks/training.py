"""A training step of our loop and of nnU-Net's own trainer: the same network, patch and batch, on one thread,
one after the other.

Seconds are processor time per step (data, augmentation, network, loss, optimiser), which a busy machine
disturbs less than the clock does; memory is the peak of a process of its own. python benchmarks/training.py
[FOLDER]; a folder that is given is kept and resumed.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ichnos.cohort import Patient
from ichnos.formats import bids
from ichnos.formats.bids import TRUSTED_PIPELINES
from ichnos.learning.loop.resources import Resources
from ichnos.learning.nnunet.engine import (
    job_of,
    network_spec,
    preprocessing_of,
    run_child,
)
from ichnos.learning.nnunet.raw_dataset import export
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.volume import Volume
from run import table

PATCH, BATCH, WIDTH, STEPS = (64, 64, 64), 2, 16, 5
PLAN = NnunetSettings(
    targets=target_specs("ICH"),
    width=WIDTH,
    batch=BATCH,
    patch=",".join(map(str, PATCH)),
    epochs=1,
    iterations=STEPS,
)


def write_cohort(root: Path) -> None:
    """Four round heads of 2 mm with a clot."""
    people = []
    for number, split in enumerate(("train", "train", "train", "validation")):
        rng = np.random.default_rng(number)
        x, y, z = (np.indices((80, 88, 72)) - np.array([40, 44, 36])[:, None, None, None]) * 2.0
        radius = np.sqrt((x / 66) ** 2 + (y / 74) ** 2 + (z / 60) ** 2)
        hu = np.where(radius < 1, 32.0, np.where(radius < 1.1, 900.0, -1000.0))
        clot = (x - 25) ** 2 + (y - 10) ** 2 + z**2 < 18.0**2
        hu[clot] = 65
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        patient = Patient(f"{number}", "A", split)  # type: ignore[arg-type]
        bids.write_exam(
            root, patient.id, "ct", Volume((hu + rng.normal(0, 4, hu.shape)).astype(np.int16), affine)
        )
        bids.write_derivative(
            root,
            patient.id,
            Volume(clot.astype(np.uint8), affine),
            pipeline="manual",
            label="ICH",
            kind="mask",
        )
        people.append(patient)
    bids.write_cohort(people, root, name="round heads")


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def by_nnunet(home: Path) -> dict[str, float]:
    """nnU-Net's trainer as it trains: its loader and augmentation, its step."""
    from ichnos.learning.nnunet import child as nnunet_child
    from ichnos.networks import nnunet as adapter

    adapter.prepare()
    job = json.loads((home / "train.json").read_text())
    plans = json.loads((Path(job["preprocessed"]) / "plans.json").read_text())
    trainer = nnunet_child.trainer_for(plans | {"continue_training": False}, job)
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.train()
    times = []
    for _ in range(STEPS):
        trainer.train_step(next(trainer.dataloader_train))
        times.append(time.process_time())
    return {"seconds": float(np.median(np.diff(times))), "MiB": peak_mib()}


def by_ichnos(home: Path, precision: str) -> dict[str, float]:
    """Our loop with nnU-Net's planned network, its patch, batch and deep supervision."""
    from ichnos.learning.loop.resources import Resources
    from ichnos.learning.loop.settings import LoopSettings
    from ichnos.learning.segmentation.batches import CohortBatches
    from ichnos.learning.segmentation.cases import CaseGrid, prepare_cases
    from ichnos.learning.segmentation.objective import SegmentationSettings, train_segmentation
    from ichnos.learning.segmentation.settings import Augmentation
    from ichnos.models import NetworkSpec

    folder = home / "nnUNet_preprocessed" / "Dataset001_Cohort"
    plans = json.loads((folder / "plans.json").read_text())
    how = preprocessing_of(plans, PLAN.configuration)
    spec, _ = network_spec(plans, PLAN, classes=1)
    spec = NetworkSpec(name=spec.name, arguments=spec.arguments | {"deep_supervision": True})
    cases = prepare_cases(
        bids.read_cohort(home / "cohort").of_split("train"),
        CaseGrid(("ICH",), how.spacing_mm),
        home / "cases",
    )
    batches = CohortBatches(cases, ("ICH",), how, size=BATCH, augmentation=Augmentation())
    loop = LoopSettings(steps=STEPS, precision=precision, validations=0)  # type: ignore[arg-type]
    settings = SegmentationSettings(network=spec, preprocessing=how, targets=PLAN.targets, loop=loop)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        timed = Resources(checkpoint_every_s=1e9, report=lambda progress: times.append(time.process_time()))
        train_segmentation(settings, batches, Path(out), resources=timed)
    return {"seconds": float(np.median(np.diff(times))), "MiB": peak_mib()}


def isolated(engine: str, home: Path) -> dict[str, float]:
    folders = {name: str(home / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment = {
        **os.environ,
        **folders,
        "nnUNet_n_proc_DA": "0",
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, engine, str(home)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measured(home: Path) -> dict[str, dict[str, float]]:
    """Return what each engine took; a folder that holds some of it already is resumed."""
    kept = home / "measured.json"
    found: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.is_file() else {}
    if not (home / "train.json").is_file():
        write_cohort(home / "cohort")
        dataset = export(bids.read_cohort(home / "cohort"), PLAN, home, TRUSTED_PIPELINES)
        job = job_of(PLAN, home, dataset, Resources())
        run_child(job | {"do": "plan"}, home, quiet=True)
        (home / "train.json").write_text(json.dumps(job | {"do": "train"}))
    for engine in ("nnunet", "ichnos fp32", "ichnos bf16"):
        if engine not in found:
            found[engine] = isolated(engine, home)
            kept.write_text(json.dumps(found))
    return found


def main(home: Path) -> list[dict[str, object]]:
    """Rows: engine, processor seconds per step, steps per second, times nnU-Net's, MiB, its share."""
    found = measured(home)
    theirs = found["nnunet"]
    rows: list[dict[str, object]] = []
    for engine, own in found.items():
        row: dict[str, object] = {
            "name": f"{engine}, batch {BATCH} of {' x '.join(map(str, PATCH))}",
            "seconds": own["seconds"],
        }
        row |= {
            "steps per second": 1 / own["seconds"],
            "x nnU-Net's speed": theirs["seconds"] / own["seconds"],
        }
        rows.append(row | {"MiB": own["MiB"], "x nnU-Net's memory": own["MiB"] / theirs["MiB"]})
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) < 3:
        with tempfile.TemporaryDirectory() as folder:
            print(table(main(Path(sys.argv[1]) if len(sys.argv) == 2 else Path(folder))))
    else:
        engine, _, precision = sys.argv[1].partition(" ")
        home = Path(sys.argv[2])
        print(json.dumps(by_nnunet(home) if engine == "nnunet" else by_ichnos(home, precision)))
