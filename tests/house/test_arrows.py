"""Imports follow the arrows of docs/architecture.md, and the rule that says so can fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter")
REPOSITORY = Path(__file__).resolve().parents[2]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the contract of a folder's pyproject.toml on the folder's own src."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(
        REPOSITORY / "src",
        tmp_path / "src",
        ignore=shutil.ignore_patterns("__pycache__", "*.npz", "*.safetensors"),
    )
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_no_import_goes_against_the_arrows() -> None:
    told = lint(REPOSITORY)
    assert told.returncode == 0, told.stdout
    assert "1 kept, 0 broken" in told.stdout


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("volume", "formats.nifti"),
        ("formats/nifti", "cli.main"),
        ("evidence/metrics/overlap", "learning"),
        ("errors", "runs"),
    ],
)
def test_an_import_against_an_arrow_is_found(copy: Path, lower: str, upper: str) -> None:
    module = copy / "src" / "ichnos" / f"{lower}.py"
    module.write_text(module.read_text() + f"\n\ndef against() -> None:\n    import ichnos.{upper}  # noqa\n")
    told = lint(copy)
    assert told.returncode == 1
    assert f"ichnos.{lower.replace('/', '.')} -> ichnos.{upper}" in told.stdout


def test_every_room_has_its_place_in_the_contract() -> None:
    import tomllib

    contract = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ][0]
    placed = {
        name.strip().removeprefix("ichnos.") for layer in contract["layers"] for name in layer.split("|")
    }
    package = REPOSITORY / "src" / "ichnos"
    rooms = {path.stem for path in package.glob("*.py") if path.stem not in ("__init__", "__main__")}
    rooms |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert rooms == placed


def test_the_core_is_light() -> None:
    """`import ichnos` needs neither torch nor half a second of processor time."""
    code = (
        "import time; began = time.process_time(); import ichnos; spent = time.process_time() - began\nimport"
        " sys; print(spent, [m for m in ('torch', 'pydicom', 'nibabel', 'scipy', 'SimpleITK') if m in"
        " sys.modules])"
    )
    spent, loaded = min(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(
            " ", 1
        )
        for _ in range(3)
    )
    assert loaded.strip() == "[]"
    assert float(spent) < 0.5
