"""Several processes train one network: all end with the same weights, the leader alone writes, a fault of
one stops all.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import os, sys
from pathlib import Path
import torch, torch.distributed as dist
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from learning.test_segmentation import SETTINGS, batch_at
from ichnos.learning.loop.settings import changed
from ichnos.learning.segmentation.objective import Batch, train_segmentation
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.team import Team

mode, out = sys.argv[3], Path(sys.argv[1])
dist.init_process_group("gloo")
team = Team(dist.get_rank(), dist.get_world_size())
same = lambda number: batch_at(number // team.size)

def poisoned(number):
    batch = same(number)
    return Batch(batch.image * float("nan"), batch.truth, batch.known) if number == 7 else batch

settings = changed(SETTINGS, {"steps": 6, "validations": 2})
source = {"same": same, "apart": batch_at, "poisoned": poisoned}[mode]
folder = out if team.leads else out.with_name(out.name)
try:
    validate = lambda network, step: float(step)
    network = train_segmentation(settings, source, folder, validate=validate, resources=Resources(team=team))
    torch.save(network.state_dict(), out / f"rank-{team.rank}.pt")
except Exception as error:
    (out / f"error-{team.rank}.txt").write_text(str(error))
dist.destroy_process_group()
"""


def together(out: Path, mode: str) -> None:
    out.mkdir()
    run_two(SCRIPT, [str(out), str(Path(__file__).resolve().parents[1]), mode])


def run_two(script: str, arguments: list[str], *, wait_s: float = 280) -> None:
    """Run a script in two processes that know of each other, as torchrun starts them; leave none behind."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", script, *arguments]
    children = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    try:
        assert [child.wait(timeout=wait_s) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    from ichnos.learning.loop.settings import changed
    from ichnos.learning.segmentation.objective import train_segmentation
    from learning.test_segmentation import SETTINGS, batch_at

    together(tmp_path / "same", "same")
    together(tmp_path / "apart", "apart")
    first, second = (
        torch.load(tmp_path / "same" / f"rank-{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = train_segmentation(changed(SETTINGS, {"steps": 6}), batch_at, tmp_path / "alone").state_dict()
    assert all(torch.allclose(first[name], alone[name], atol=1e-5) for name in first), (
        "two equal batches have the gradient of one"
    )
    left, right = (torch.load(tmp_path / "apart" / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert any(not torch.allclose(left[name], first[name], atol=1e-5) for name in left)


@pytest.mark.slow
def test_a_fault_of_one_stops_both(tmp_path: Path) -> None:
    together(tmp_path / "bad", "poisoned")
    said = [(tmp_path / "bad" / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert all("not finite at step 3" in text for text in said)


PREPARE = """
import datetime, sys, time
from pathlib import Path
import torch.distributed as dist
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))  # shorter than the slower share
sys.path.insert(0, sys.argv[2])
from ichnos.formats import bids
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.team import Team
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.training import train_on_cohort

out = Path(sys.argv[1])
team = Team(dist.get_rank(), dist.get_world_size())
asked = []

def prepared(patient):
    asked.append(patient)
    if team.rank == 1 and len(asked) == 3:
        time.sleep(75)

settings = TrainSettings(targets="ICH").changed(
    spacing_mm=(20, 20, 20), patch=(8, 8, 8), width=4, batch=1, steps=2, validations=1, validate_on=3
)
resources = Resources(team=team, prepared=prepared)
cohort = bids.read_cohort(out / "cohort")
train_on_cohort(cohort, out / "model", settings, work=out / "work", resources=resources)
(out / f"asked-{team.rank}.txt").write_text(str(len(asked)))
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_1103_patients_are_trained_on_by_two_processes_that_time_out_after_a_minute(tmp_path: Path) -> None:
    """One of them prepares for longer than a collective may wait; the other waits through files instead."""
    import numpy as np

    from ichnos.cohort import Patient
    from ichnos.formats import bids
    from ichnos.models import load_model
    from ichnos.volume import Volume

    affine, people = np.diag([20.0, 20.0, 20.0, 1.0]), []
    for number in range(1103):
        split = "validation" if number % 10 == 0 else "train"
        patient = Patient(f"{number:04d}", "A", split)  # type: ignore[arg-type]
        ct = np.random.default_rng(number).integers(-1000, 1500, (8, 8, 8)).astype(np.int16)
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[3:5, 3:5, 3:5] = 1
        bids.write_exam(tmp_path / "cohort", patient.id, "ct", Volume(ct, affine))
        bids.write_derivative(
            tmp_path / "cohort",
            patient.id,
            Volume(mask, affine),
            pipeline="manual",
            label="ICH",
            kind="mask",
        )
        people.append(patient)
    bids.write_cohort(people, tmp_path / "cohort", name="headers")
    run_two(PREPARE, [str(tmp_path), str(Path(__file__).resolve().parents[1])], wait_s=1500)
    shares = [int((tmp_path / f"asked-{rank}.txt").read_text()) for rank in range(2)]
    assert sum(shares) == 1103
    assert abs(shares[0] - shares[1]) <= 1
    assert load_model(tmp_path / "model").manifest.provenance.steps == 2
