"""What is distributed: source and wheel pass `twine check`; the wheel alone, with the core's libraries and
no extra, works or names what to install; with the demo's extras it reads the demo's scan.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import ichnos
from ichnos.cli.verbs import VERBS
from ichnos.formats import nifti
from ichnos.volume import Volume

pytest.importorskip("hatchling")
pytest.importorskip("twine")
REPOSITORY = Path(__file__).resolve().parents[2]
_NAME = re.compile(r"^([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?")


def core_names(found: metadata.Distribution, *extras: str) -> list[str]:
    """Return the names of what a distribution needs, without any extra or with some."""
    names: list[str] = []
    for needed, _, marker in (line.partition(";") for line in found.requires or []):
        wanted = "extra" not in marker or any(f"'{extra}'" in marker for extra in extras)
        match = _NAME.match(needed.strip()) if wanted else None
        if match is not None and match.group(1) == found.name:
            names += core_names(found, *(match.group(2) or "").split(","))
        elif match is not None:
            names.append(match.group(1))
    return names


def required(name: str, seen: set[str]) -> Iterator[metadata.Distribution]:
    """Yield an installed distribution and those that it needs."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return
    seen.add(key)
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:  # for another platform
        return
    yield found
    for needed in core_names(found):
        yield from required(needed, seen)


def link(distribution: metadata.Distribution, site: Path) -> None:
    """Put an installed distribution into another environment, as links to its files."""
    for top in {file.parts[0] for file in distribution.files or [] if ".." not in file.parts}:
        target = Path(str(distribution.locate_file(top)))
        if target.exists() and not (site / top).exists() and top != "__pycache__":
            (site / top).symlink_to(target)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build source distribution and wheel; return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    build = "import sys; from hatchling.build import *; build_sdist(sys.argv[1]); build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=REPOSITORY, capture_output=True, check=True
    )
    return folder


def installed(wheel: Path, folder: Path, *extras: str) -> Path:
    """Install a wheel and what it needs into a fresh environment; return its Python."""
    venv.create(folder / "env", symlinks=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True)
    (information,) = site.glob("ichnos-*.dist-info")
    seen: set[str] = set()
    for name in core_names(metadata.Distribution.at(information), *extras):
        for distribution in required(name, seen):
            link(distribution, site)
    return folder / "env" / "bin" / "python"


@pytest.fixture(scope="module")
def python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, and the core's libraries alone, into a fresh environment."""
    (wheel,) = built.glob("*.whl")
    return installed(wheel, tmp_path_factory.mktemp("wheel"))


def called(
    python: Path, *words: str, code: str = "from ichnos.cli import main; main()", seconds: float = 120
) -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run(
        [str(python), "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=seconds,
    )
    return done.returncode, done.stdout + done.stderr


ARGUMENTS = {
    "inspect": ["{scan}"],
    "convert": ["{scan}", "-o", "{out}"],
    "read": ["{scan}", "-o", "{out}"],
    "evaluate": ["{scan}", "{scan}", "-o", "{out}"],
    "simulate": ["{out}", "--patients", "1"],
    "transfer": ["{out}"],
    "train": ["haematoma", "{out}", "-o", "{out}"],
    "fit": ["default"],
    "stress": ["default", "-o", "{out}"],
    "synthesize": ["{out}", "-o", "{out}"],
    "study": ["ryu2025", "-o", "{out}", "--smoke"],
    "models": ["list"],
    "pair": ["{out}", "-o", "{out}"],
    "audit": ["{out}", "--readings", "{out}", "-o", "{out}"],
    "adapt": ["default", "--audit", "{out}", "-o", "{out}"],
    "pool": ["{out}", "{out}", "-o", "{out}"],
    "config": ["convert"],
    "doctor": [],
}


def test_source_and_wheel_are_of_one_version_and_pass_twine_check(built: Path) -> None:
    names = sorted(path.name for path in built.iterdir())
    assert names == [f"ichnos-{ichnos.__version__}-py3-none-any.whl", f"ichnos-{ichnos.__version__}.tar.gz"]
    check = [
        sys.executable,
        "-m",
        "twine",
        "--no-color",
        "check",
        "--strict",
        *(str(built / n) for n in names),
    ]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout + done.stderr


def test_the_source_distribution_gives_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (source,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    shutil.unpack_archive(source, tmp_path, filter="data")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    unpacked = tmp_path / source.name.removesuffix(".tar.gz")
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=unpacked, capture_output=True, check=True
    )
    assert contents(tmp_path / wheel.name) == contents(wheel)


def contents(wheel: Path) -> dict[str, int]:
    """Return what is in a wheel: the checksum of every file by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {member.filename: member.CRC for member in archive.infolist()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_with_the_demo_s_extras_reads_the_demo_s_scan(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    python = installed(wheel, tmp_path, "simulation", "acceleration", "report")
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import demo, ichnos;"
        " demo.OUT = pathlib.Path(sys.argv[2]); print(ichnos.__file__); sys.exit(demo.main())"
    )
    status, said = called(python, str(REPOSITORY / "tools"), str(tmp_path / "out"), code=code, seconds=800)
    assert status == 0, said
    assert str(tmp_path / "env") in said
    (record,) = (tmp_path / "out" / "reading").glob("*/reading.json")
    reading = json.loads(record.read_text(encoding="utf-8"))
    assert (reading["status"], reading["provenance"]["code_version"]) == ("read", ichnos.__version__)


def test_without_extras_there_is_no_torch(python: Path) -> None:
    code, said = called(python, code="import ichnos, sys; print(ichnos.__version__); import torch")
    assert code == 1
    assert "No module named 'torch'" in said


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_its_help_and_works_or_names_the_extra(
    python: Path, verb: str, tmp_path: Path
) -> None:
    assert called(python, *verb.split(), "-h")[0] == 0
    scan, out = tmp_path / "scan.nii.gz", tmp_path / "out"
    nifti.save(Volume(np.zeros((8, 8, 8), np.int16), np.eye(4)), scan)
    words = [word.format(scan=scan, out=out) for word in ARGUMENTS.get(verb, [])]
    code, said = called(python, *verb.split(), *words)
    assert "Traceback" not in said
    if VERBS[verb].needs:
        assert code == 3
        assert re.search(r'^ichnos: .* pip install "ichnos\[[a-z,]+\]"$', said, flags=re.MULTILINE), said
        assert len(said.strip().splitlines()) == 1
        assert not out.exists()
    else:
        assert code in (0, 2, 3), said


def test_reading_in_python_names_the_extra(python: Path) -> None:
    code, said = called(python, code="import ichnos; ichnos.read('x.nii.gz')")
    assert code == 1
    assert said.strip().endswith('pip install "ichnos[learning,report]"')
    assert called(python, code="import ichnos; print(ichnos.open, ichnos.Volume)")[0] == 0
