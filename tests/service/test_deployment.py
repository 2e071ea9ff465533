"""The systemd unit and the container file: what they name exists, and no registry is prescribed."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from ichnos.cli.serve import serve_command
from ichnos.cli.verbs import VERBS
from ichnos.service.run import DRAIN_S
from ichnos.service.settings import NodeSettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "ichnos.service")
    return parser


def test_the_unit_waits_for_the_drain_and_keeps_the_node_in_its_place() -> None:
    service = unit()["Service"]
    assert float(service["TimeoutStopSec"]) > DRAIN_S
    assert service["KillMode"] == "mixed"
    assert service["ProtectSystem"] == "strict"
    assert service["StateDirectory"] == "ichnos"
    assert "--check" in service["ExecStartPre"]
    assert serve_command.__doc__


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "ichnos.service").read_text().replace("/usr/local/bin/ichnos", "/bin/true")
    file = tmp_path / "ichnos.service"
    file.write_text(re.sub(r"^(User|Group)=.*\n", "", text, flags=re.M))
    ended = subprocess.run(
        ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False
    )
    assert "ichnos.service:" not in ended.stderr, ended.stderr


def test_the_container_names_what_exists_and_no_registry() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    code = [line for line in lines if not line.startswith("#")]
    assert [line for line in code if line.startswith("FROM")] == ["FROM ${BASE}"]
    assert not any(re.search(r"docker\.io|quay\.io|ghcr\.io|pypi|https?://(?!127)", line) for line in code)
    for line in code:
        if line.startswith("COPY"):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line
    (extras,) = re.findall(r"/build\[(.*?)\]", "\n".join(code))
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)
    assert {extra for _, extra in VERBS["serve"].needs} <= set(extras.split(",")), "the node could not start"


def test_the_container_opens_the_ports_that_the_node_listens_on() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    settings = NodeSettings()
    assert f"EXPOSE {settings.receiver.port} {settings.web.port}" in text
    assert f"{settings.web.port}/readyz" in text
