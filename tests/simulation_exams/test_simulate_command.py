"""The command itself, in processes of its own: killed and resumed, other heads, tilted DICOM series."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.small_patient import small_patient
from ichnos.cli.main import run
from ichnos.formats import bids, bids_check, nifti, open_scan
from ichnos.quality import judge
from ichnos.simulation.exams.ct import simulate_ct
from ichnos.simulation.exams.dicom_export import export_ct
from ichnos.simulation.exams.scanners import SCANNERS, CtProtocol
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.heads.store import kept
from ichnos.volume import volume_ml

COARSE = ["--exams", "ct", "--voxel-mm", "3", "--json"]


def started(arguments: list[str], cache: Path) -> subprocess.Popen[bytes]:
    """Start the command in a process group of its own."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    code = "from ichnos.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "simulate", *arguments], env=environment, start_new_session=True
    )


def written(root: Path, pattern: str) -> list[Path]:
    """Return files of a name, looking on when folders move away meanwhile."""
    try:
        return list(root.rglob(pattern))
    except FileNotFoundError:
        return []


def hashes(root: Path) -> dict[str, str]:
    files = [p for p in root.rglob("*") if p.is_file() and ".ichnos" not in p.parts]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_files_and_other_settings_are_refused(tmp_path: Path) -> None:
    settings = ["--patients", "3", "--seed", "5", *COARSE]
    assert started([str(tmp_path / "whole"), *settings], tmp_path).wait(300) == 0
    out = tmp_path / "killed"
    process = started([str(out), *settings], tmp_path)
    while process.poll() is None and not written(out, "sub-001*_ct.nii.gz"):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert not (out / "participants.tsv").exists()
    assert started([str(out), *settings], tmp_path).wait(300) == 0
    assert hashes(out) == hashes(tmp_path / "whole")
    assert run(["simulate", str(out), "--patients", "3", "--seed", "6", *COARSE]) == 3
    assert hashes(out) == hashes(tmp_path / "whole")


@pytest.mark.slow
def test_patients_of_other_heads_end_to_end(shared: Path, tmp_path: Path) -> None:
    heads = shared / "data" / "heads"
    out = tmp_path / "out"
    assert started([str(out), "--patients", "2", "--anatomy", str(heads), *COARSE], tmp_path).wait(500) == 0
    assert not [p for p in bids_check.validate(out) if p.level == "error"]
    rows = bids.read_participants(out / "derivatives" / "truth")
    assert all(str(row["source"]).startswith("training_seg") for row in rows)
    for row in rows:
        brain = nifti.load(
            bids.derivative_path(out, row["participant_id"], pipeline="truth", label="brain", kind="dseg")
        )
        assert 1000 < volume_ml(brain) < 1800


def test_a_tilted_gantry_writes_a_sheared_series_that_is_read_back_straight(tmp_path: Path) -> None:
    patient, scanner = small_patient(), SCANNERS["siemens"]
    protocol = CtProtocol(scanner, scanner.brain, pose_deg=(-12, 2, 3), tilt_deg=-14.0)
    made, straight = (
        simulate_ct(patient, protocol, generator=torch.Generator().manual_seed(1), sheared=s)
        for s in (True, False)
    )
    x, y, step = (made.volume.affine[:3, axis] for axis in range(3))
    assert np.allclose(step[:2], 0)
    assert abs(np.cross(x, y) @ step) / np.linalg.norm(np.cross(x, y)) == pytest.approx(protocol.step_mm)
    export_ct(made, tmp_path, patient_id="001", exam="ct", latent=patient.latent)
    scan = open_scan(tmp_path)
    assert scan.acquisition.tilt_deg == pytest.approx(-14, abs=0.1)
    assert judge(scan).level != "refuse"
    inside = np.s_[120:390, 120:390, 4:-4]
    read = np.asarray(scan.volume.on_grid(straight.volume).array, np.float32)[inside]
    assert np.median(np.abs(read - straight.volume.array[inside])) < 8  # noise of other pixels, no more


def test_a_kept_head_is_the_head_and_damage_or_a_closed_folder_is_no_error(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> SourceHead:
        calls.append(1)
        codes = torch.arange(27, dtype=torch.uint8).reshape(3, 3, 3)
        return SourceHead(
            "small", codes, np.eye(4), torch.ones(2, 2, 2, 2), 2 * np.eye(4), torch.zeros(3, 2, 2, 2)
        )

    first, again = (kept(tmp_path, "small", b"1", make) for _ in range(2))
    assert len(calls) == 1
    assert torch.equal(first.codes, again.codes)
    assert again.codes.dtype == torch.uint8
    kept(tmp_path, "small", b"2", make)  # other contents, another head
    assert len(calls) == 2
    for path in tmp_path.glob("head-*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    kept(tmp_path, "small", b"1", make)
    assert len(calls) == 3
    (tmp_path / "file").write_text("no folder")
    assert torch.equal(kept(tmp_path / "file", "small", b"1", make).codes, first.codes)
