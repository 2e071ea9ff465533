"""schemathesis against the running node: no answer that the API's own description does not allow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.web.living import Living

pytest.importorskip("schemathesis", reason="schemathesis is not installed")
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "response_headers_conformance", "ignored_auth",
)  # fmt: skip
# What it may not do to the node that the other tests share: export whole cohorts, and connect to hosts that
# it makes up.
LEFT_OUT = ("/api/v1/exports", "/api/v1/destinations/{name}/test")


@pytest.mark.timeout(600)
def test_the_api_answers_as_its_description_says(living: Living, tmp_path: Path) -> None:
    token = living.token("schemathesis", "admin", "read", "act", "admin")
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", f"{living.url}/openapi.json", "--max-time", "30"]
    command += ["--header", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS)]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "8", "--seed", "1"]
    command += ["--suppress-health-check", "all", "--no-color", "--request-timeout", "20"]
    command += ["--exclude-method", "DELETE"]  # it would remove the studies of the other tests
    for path in LEFT_OUT:
        command += ["--exclude-path", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
