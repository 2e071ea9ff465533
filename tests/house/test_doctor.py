"""The doctor finds what works, and what does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata

import numpy as np
import pytest

from ichnos.cli.installation import doctor, selftest
from ichnos.cli.main import run
from ichnos.volume import Volume


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the engines out: they need seconds each and have a test of their own."""
    monkeypatch.setattr(doctor, "_ENGINES", {})


def test_a_healthy_installation_leaves_with_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    assert run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] is True
    assert [c["name"] for c in told["checks"]] == [
        "geometry",
        "NIfTI",
        "DICOM codecs",
        "DICOM SEG on tilted slices",
    ]
    assert all(c["passed"] for c in told["checks"])
    assert next(p for p in told["parts"] if p["name"] == "core")["found"]["numpy"] == np.__version__


def test_the_page_for_people_names_every_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    assert run(["doctor"]) == 0
    told = capsys.readouterr().out
    for extra, adds in doctor.EXTRAS.items():
        assert extra in told
        assert adds.split(";")[0] in told
    assert "FAILED" not in told


def test_neither_torch_nor_the_report_is_loaded_to_look_at_them() -> None:
    code = (
        "from ichnos.cli.installation import doctor; import sys\n"
        "doctor.installed_parts(), doctor.installed_weights(), doctor.installed_printer()\n"
        "print(sorted({'torch', 'jinja2', 'matplotlib', 'highdicom'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", "each costs seconds, and the doctor is to be quick"


def test_every_extra_of_the_package_is_explained() -> None:
    extras = set(metadata.metadata("ichnos").get_all("Provides-Extra") or []) - {"all", "dev", "docs"}
    assert extras == set(doctor.EXTRAS)


def test_what_is_missing_is_named_with_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    real = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda library: None if library in ("dipy", "nnunetv2") else real(library)
    )
    assert run(["doctor"]) == 0  # an extra that is not there is no fault
    told = capsys.readouterr().out
    assert 'without dipy: pip install "ichnos[diffusion]"' in told
    assert "pip install --no-deps nnunetv2" in told
    monkeypatch.setattr(doctor, "_version", lambda library: None if library == "pydicom" else real(library))
    assert run(["doctor"]) == 1
    assert "BROKEN, without pydicom" in capsys.readouterr().out


def test_a_broken_part_is_found_and_leaves_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    right: Callable[..., Volume] = Volume.reoriented
    monkeypatch.setattr(
        Volume,
        "reoriented",
        lambda self, code="RAS": Volume(right(self, code).array[::-1], right(self, code).affine),
    )
    assert run(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "FAILED geometry" in told
    assert "the ball" in told


def test_an_engine_that_crashes_is_only_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run

    def crashing(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        code = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
        return real([sys.executable, "-c", code], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(selftest.subprocess, "run", crashing)
    check = selftest._timed("torch", lambda: selftest._apart("torch"), lambda name: None)
    assert not check.passed
    assert "signal 4" in check.text


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_engines_are_tried_for_real(engine: str) -> None:
    pytest.importorskip(engine)
    assert "computes rightly" in selftest._apart(engine)
