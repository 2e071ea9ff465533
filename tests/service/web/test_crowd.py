"""Twenty users of locust at once: every answer comes, none is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ichnos.service.accounts import auth
from ichnos.service.web.sessions import COOKIE
from service.web.living import PASSWORD, Living

# not imported here: it would put gevent in the place of this process's threads and sockets
pytestmark = pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed")
USERS, SECONDS = 20, 8


def test_twenty_users_at_once_are_answered(living: Living, tmp_path: Path) -> None:
    living.add_user("crowd", "reader")
    with living.node.database.transaction() as session:
        secret = auth.sign_in(session, "crowd", PASSWORD, now=living.node.clock(), hours=1)
    who = {
        "ICHNOS_COOKIE": f"{COOKIE}={secret}",
        "ICHNOS_TOKEN": living.token("program", "reader", "read", "images"),
    }
    words = (
        f"-m locust --headless --only-summary --json -u {USERS} -r {USERS} -t {SECONDS}s --stop-timeout 20"
    )
    command = [sys.executable, *words.split(), "-f", str(Path(__file__).with_name("crowd.py"))]
    ended = subprocess.run(
        [*command, "--host", living.url],
        env={**os.environ, **who},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    rows = json.loads(ended.stdout[ended.stdout.index("[") :])
    asked = {row["name"]: row["num_requests"] for row in rows}
    assert set(asked) >= {"/worklist", "/studies/N", "/api/v1/studies", "/dicom-web/studies"}
    assert min(asked.values()) >= 1
    assert {row["name"]: row["num_failures"] for row in rows if row["num_failures"]} == {}, ended.stderr[
        -2000:
    ]
    assert ended.returncode == 0
