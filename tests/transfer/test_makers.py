"""Pairs that cannot be right: each is refused by name or judged to fail, and nothing is written where
training would look for it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from builders.painted import anatomy, painted, posed
from ichnos.cli.main import run
from ichnos.formats import bids, nifti
from ichnos.registration import Displacement, Transform
from ichnos.transfer.makers import TransferOptions, given_mask
from ichnos.transfer.pairs import on_file_grid
from ichnos.volume import Volume, sphere


@lru_cache(maxsize=1)
def _ct() -> Volume:
    return painted("ct", noise=5.0).resampled((2.0, 2.0, 5.0), fill=-1000.0).astype(np.int16)


@lru_cache(maxsize=1)
def _flair() -> Volume:
    return posed(painted("flair", seed=1).resampled((2.0, 2.0, 4.0)), (6, -4, 5), (4, 2, 8))[0]


def _cohort(root: Path, exam: str, partner: Volume, *, ct: Volume | None = None) -> Path:
    """Write one patient whose masks are all drawn, so that only the pair can be at fault."""
    ball = sphere(radius_mm=9, spacing_mm=1.0, centre_mm=(-26, -8, 28))
    for name, image, label, kind in (
        ("ct", ct or _ct(), "haematoma", "dseg"),
        (exam, partner, "leukoaraiosis", "mask"),
    ):
        bids.write_exam(root, "1", name, image)  # type: ignore[arg-type]
        grid = image if image.array.ndim == 3 else image.with_array(image.array[..., 0])
        drawn = ball.on_grid(grid, interpolation="nearest")
        bids.write_derivative(root, "1", drawn, pipeline="manual", label=label, kind=kind, exam=name)  # type: ignore[arg-type]
    (root / "participants.tsv").write_text("participant_id\tcentre\tsplit\nsub-1\tA\ttrain\n")
    return root


def _told(root: Path, target: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    run(["transfer", str(root), "--targets", target, "--json"])
    told: dict[str, object] = json.loads(capsys.readouterr().out)
    assert not list((root / "derivatives" / "transfer").rglob("sub-*/**/*.nii.gz")), (
        "a bad pair was written as if it were good"
    )
    return told


def _refused(root: Path, target: str, capsys: pytest.CaptureFixture[str]) -> str:
    (failure,) = _told(root, target, capsys)["failures"]  # type: ignore[misc]
    return str(failure["why"])


def test_mri_of_another_patient_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = anatomy()
    x, y, z = np.moveaxis(own.world(np.indices(own.shape).transpose(1, 2, 3, 0)), -1, 0)
    field = np.stack(
        [0.06 * x + 5 * np.sin(z / 25), 5 * np.cos(x / 30 + z / 40) - 0.05 * y, 5 * np.sin(y / 24)], axis=-1
    )
    other = Transform.of(Displacement(Volume(field.astype(np.float32), own.affine))).pull(
        own, own, interpolation="nearest"
    )
    flair = painted("flair", seed=1, tissue=other).resampled((2.0, 2.0, 4.0))
    told = _told(_cohort(tmp_path, "flair", flair), "leukoaraiosis", capsys)
    (row,) = told["pairs"]  # type: ignore[misc]
    assert row["verdict"] == "refuse"
    assert "another patient" in row["causes"]


def test_a_flair_of_two_slices_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = Volume(_flair().array[:, :, 20:22], _flair().affine)
    assert "2 slices" in _refused(_cohort(tmp_path, "flair", two), "leukoaraiosis", capsys)


def test_swapped_exams_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    why = _refused(_cohort(tmp_path, "flair", _ct(), ct=_flair().astype(np.int16)), "leukoaraiosis", capsys)
    assert "does not look like a CT" in why
    again = _refused(_cohort(tmp_path / "both", "flair", _ct()), "leukoaraiosis", capsys)
    assert "are the exams swapped?" in again


def test_a_follow_up_that_is_an_mri_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not look like a CT" in _refused(
        _cohort(tmp_path, "followup", _flair().astype(np.int16)), "expansion", capsys
    )


def test_diffusion_without_its_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dwi = _flair().with_array(np.repeat(_flair().array[..., None], 3, axis=3).astype(np.float32))
    root = _cohort(tmp_path, "diffusion", dwi)
    path = bids.exam_path(root, "1", "diffusion")
    stem = str(path).removesuffix(".nii.gz")
    Path(stem + ".bval").write_text("0 1000 1000\n")
    assert "dwi.bvec beside it" in _refused(root, "tract", capsys)
    assert nifti.load(path).array.shape[3] == 3


def test_masks_of_a_sheared_ct_meet_it_and_come_back(tmp_path: Path) -> None:
    shear = np.eye(4)
    shear[1, 2] = 0.3  # 17 degrees
    tilted = Volume(_ct().array, shear @ _ct().affine)
    root = _cohort(tmp_path, "flair", _flair(), ct=tilted)
    opened = nifti.open_nifti(bids.exam_path(root, "1", "ct")).volume
    assert not opened.same_grid(tilted)
    patient = bids.read_cohort(root).patients[0]
    drawn = given_mask(patient, "haematoma", "ct", TransferOptions(str(root)))
    assert drawn is not None
    assert drawn.same_grid(opened)
    written = nifti.load(bids.derivative_path(root, "1", pipeline="manual", label="haematoma", kind="dseg"))
    back = on_file_grid(drawn, tilted, "dseg")
    assert back.same_grid(tilted)
    assert (
        2 * float((back.array & written.array).sum()) / float(back.array.sum() + written.array.sum()) > 0.85
    )
