"""The wheel alone, with the core's libraries and no extra: every verb works or names what to install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from ichnos.cli.verbs import VERBS
from ichnos.formats import nifti
from ichnos.volume import Volume

pytest.importorskip("hatchling")
REPOSITORY = Path(__file__).resolve().parents[2]
_NAME = re.compile(r"^([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?")


def core_names(found: metadata.Distribution) -> list[str]:
    """Return the names of what a distribution needs without any extra."""
    lines = [line.partition(";") for line in found.requires or []]
    matches = [_NAME.match(needed.strip()) for needed, _, marker in lines if "extra" not in marker]
    return [match.group(1) for match in matches if match is not None]


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
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it, and the core's libraries alone, into a fresh environment."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    venv.create(folder / "env", symlinks=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    wheel = folder / done.stdout.split()[-1]
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True)
    (information,) = site.glob("ichnos-*.dist-info")
    seen: set[str] = set()
    for name in core_names(metadata.Distribution.at(information)):
        for distribution in required(name, seen):
            link(distribution, site)
    return folder / "env" / "bin" / "python"


def called(python: Path, *words: str, code: str = "from ichnos.cli import main; main()") -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run(
        [str(python), "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
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
