"""The settings of `convert` and `inspect`: a file, flags, what is saved; and `python -m ichnos`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from ichnos.cli.main import run
from ichnos.formats import nifti
from ichnos.volume import Volume


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a ball of soft tissue, in a shell of bone, in air, as NIfTI."""
    x, y, z = np.indices((40, 40, 12)) - np.array([20, 20, 6]).reshape(3, 1, 1, 1)
    radius = np.sqrt((x / 18) ** 2 + (y / 18) ** 2 + (z / 6) ** 2)
    ball = np.select([radius < 0.8, radius < 1], [35.0, 900.0], -1000.0)
    file = tmp_path_factory.mktemp("scan") / "head.nii.gz"
    nifti.save(Volume(ball.astype(np.int16), np.diag([4.0, 4.0, 12.0, 1.0])), file)
    return file


@pytest.mark.parametrize(
    ("verb", "names"), [("convert", ("keep_names", "workers", "limits")), ("inspect", ("series", "limits"))]
)
def test_a_settings_file_can_be_printed(
    verb: str, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", verb]) == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    assert set(names) <= set(tree)
    assert tree["limits"]["voxels"] > 0


def test_what_was_converted_can_be_converted_again_with_its_settings(scan: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    assert run(["convert", str(scan), "-o", str(first), "--keep-names", "--json"]) == 0
    saved = first / "settings.yaml"
    tree = yaml.safe_load(saved.read_text())
    assert tree["keep_names"] is True
    assert "workers" not in tree, "how it was computed is not what was computed"
    assert run(["convert", str(scan), "-o", str(again), "--config", str(saved), "--json"]) == 0
    one, two = (sorted(p.name for p in folder.glob("*_ct.*")) for folder in (first, again))
    assert one == two
    assert one


def test_a_flag_overrules_the_file(scan: Path, tmp_path: Path) -> None:
    file = tmp_path / "convert.yaml"
    file.write_text("keep_names: true\n")
    out = tmp_path / "out"
    assert (
        run(["convert", str(scan), "-o", str(out), "--config", str(file), "--no-keep-names", "--json"]) == 0
    )
    assert yaml.safe_load((out / "settings.yaml").read_text())["keep_names"] is False


def test_a_limit_is_a_setting_and_its_refusal_names_it(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(scan), "--set", "limits.voxels=100"]) == 2
    assert "`voxels`" in capsys.readouterr().err
    file = tmp_path / "inspect.yaml"
    file.write_text("limits: {voxels: 100}\n")
    assert run(["inspect", str(scan), "--config", str(file)]) == 2
    assert run(["inspect", str(scan), "--json"]) in (0, 2)


def test_inspecting_with_the_limits_it_was_given_opens_with_them_too(
    scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(scan), "--json", "--set", "limits.voxels=20000"]) in (0, 2)
    found = json.loads(capsys.readouterr().out)
    assert found["refusal"] is None
    assert found["grid"]["shape"] == [40, 40, 12]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "limit.voxels=1"], "there is no setting limit"),
        (["--set", "limits.voxel=1"], "did you mean voxels"),
        (["--set", "limits.voxels=0"], "more than 0"),
        (["--config", "missing.yaml"], "missing.yaml does not exist"),
    ],
)
def test_a_wrong_setting_is_named(
    words: list[str], message: str, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(scan), *words]) == 3
    assert message in capsys.readouterr().err


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ichnos", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ichnos ")
