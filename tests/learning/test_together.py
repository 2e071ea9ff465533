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
    network = train_segmentation(settings, source, folder, team=team, validate=validate)
    torch.save(network.state_dict(), out / f"rank-{team.rank}.pt")
except Exception as error:
    (out / f"error-{team.rank}.txt").write_text(str(error))
dist.destroy_process_group()
"""


def together(out: Path, mode: str) -> None:
    out.mkdir()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    tests = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", SCRIPT, str(out), tests, mode]
    children = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    assert [child.wait(timeout=280) for child in children] == [0, 0]


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
