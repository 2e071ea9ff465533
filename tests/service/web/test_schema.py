"""schemathesis against a node of its own: no answer that the API's own description does not allow.

It uses what the node has told it: it would switch off the destination that other tests send to.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.web.living import living_node

pytest.importorskip("schemathesis", reason="schemathesis is not installed")
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "response_headers_conformance", "ignored_auth",
)  # fmt: skip
# It may neither export whole cohorts nor connect to hosts that it makes up.
LEFT_OUT = ("/api/v1/exports", "/api/v1/destinations/{name}/test")


@pytest.mark.timeout(600)
def test_the_api_answers_as_its_description_says(tmp_path: Path) -> None:
    with living_node(tmp_path / "node") as living:
        token = living.token("schemathesis", "admin", "read", "act", "admin")
        done = _attack(living.url, token, tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def _attack(url: str, token: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", f"{url}/openapi.json", "--max-time", "30"]
    command += ["--header", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS)]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "8", "--seed", "1"]
    command += ["--suppress-health-check", "all", "--no-color", "--request-timeout", "20"]
    command += ["--exclude-method", "DELETE"]  # without anything left there is less to find
    for path in LEFT_OUT:
        command += ["--exclude-path", path]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=folder)
