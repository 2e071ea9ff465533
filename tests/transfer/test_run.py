"""`ichnos transfer` by several processes and on a dask scheduler gives what one process gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from builders.painted import painted, posed
from ichnos.cli.main import run
from ichnos.formats import bids, nifti
from ichnos.volume import Volume, sphere


def _cohort(root: Path) -> Path:
    ct = painted("ct", noise=5.0).resampled((2.0, 2.0, 5.0), fill=-1000.0)
    flair, truth = posed(painted("flair", seed=1), (6, -4, 5), (4, 2, 8))
    ball = sphere(radius_mm=9, spacing_mm=1.0, centre_mm=(-26, -8, 28))
    drawn = Volume(ball.array, truth.matrix @ ball.affine).on_grid(flair, interpolation="nearest")
    for who in ("1", "2"):
        bids.write_exam(root, who, "ct", ct.astype(np.int16))
        bids.write_exam(
            root, who, "flair", flair if who == "1" else flair.with_array(np.zeros_like(flair.array))
        )
        bids.write_derivative(
            root, who, drawn, pipeline="manual", label="leukoaraiosis", kind="mask", exam="flair"
        )
    (root / "participants.tsv").write_text("participant_id\tcentre\tsplit\nsub-1\tA\ttrain\nsub-2\tA\ttest\n")
    return root


def _transferred(
    root: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[dict[str, object], np.ndarray]:
    code = run(["transfer", str(root), "--targets", "leukoaraiosis", "--json", *options])
    told = json.loads(capsys.readouterr().out)
    assert code == 2  # the second patient's FLAIR is empty
    assert [f["id"] for f in told["failures"]] == ["2-leukoaraiosis"]
    assert "every voxel" in told["failures"][0]["why"]
    target = bids.derivative_path(root, "1", pipeline="transfer", label="leukoaraiosis", kind="mask")
    return told["pairs"][0], nifti.load(target).array


def test_a_drawn_mask_comes_onto_the_ct_and_an_empty_exam_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row, mask = _transferred(_cohort(tmp_path), capsys)
    assert row["verdict"] == "pass", row["causes"]
    expected = sphere(radius_mm=9, spacing_mm=1.0, centre_mm=(-26, -8, 28))
    true = (
        expected.on_grid(nifti.load(bids.exam_path(tmp_path, "1", "ct")), interpolation="nearest").array > 0
    )
    assert 2 * float((true & (mask > 0)).sum()) / float(true.sum() + (mask > 0).sum()) > 0.8
    assert (tmp_path / "derivatives/transfer/sheets/1-leukoaraiosis.png").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_processes_and_a_scheduler_give_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distributed = pytest.importorskip("distributed")
    alone = _transferred(_cohort(tmp_path / "alone"), capsys)
    several = _transferred(_cohort(tmp_path / "several"), capsys, "--workers", "2")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        far = _transferred(_cohort(tmp_path / "far"), capsys, "--scheduler", cluster.scheduler_address)
    for row, mask in (several, far):
        assert np.array_equal(mask, alone[1])
        assert row == alone[0]
