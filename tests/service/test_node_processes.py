"""All parts of a node as processes: they come up, one that dies comes back, SIGTERM ends them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from service.test_orthanc import free_port


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    web = free_port()
    settings = {"home": str(tmp_path / "node"), "receiver": {"port": free_port()}, "web": {"port": web}}
    file = tmp_path / "node.yaml"
    file.write_text(yaml.safe_dump(settings))
    code = "import sys; from ichnos.cli.main import run; sys.exit(run(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--config", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=dict(os.environ),
    )
    with process:  # closes its pipe, and waits
        yield process, web
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def healthy(port: int, within_s: float) -> bool:
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
                return bool(answer.read() == b"ok\n")
        except OSError:
            time.sleep(0.1)
    return False


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [c for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]


@pytest.mark.slow
def test_the_node_greets_comes_up_heals_and_ends(running: tuple[subprocess.Popen[str], int]) -> None:
    process, port = running
    assert process.stdout is not None
    greeting = [process.stdout.readline() for _ in range(4)]
    assert str(port) in greeting[0]
    assert "admin / " in greeting[3]
    assert healthy(port, 90)
    before = children(process)
    assert len(before) == 6  # two receivers share the port
    for child in before:
        child.kill()  # all at once
    assert healthy(port, 90)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not any(child.is_running() for child in before)


@pytest.mark.slow
def test_parts_do_not_outlive_a_killed_parent(running: tuple[subprocess.Popen[str], int]) -> None:
    process, port = running
    assert healthy(port, 90)
    parts = children(process)
    assert len(parts) == 6
    process.kill()
    _, alive = psutil.wait_procs(parts, timeout=60)
    assert alive == []  # else their ports would stay taken
