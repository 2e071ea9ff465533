"""A short slice of the fault suite (benchmarks/node_faults.py): killed processes, cut connections, a locked
database; every study ends read and delivered once, or refused by name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_MISSING = next((name for name in ("storescu", "storescp") if shutil.which(name) is None), None)
# In a process of its own: what killed processes and cut connections leave behind ends with it.
_SLICE = """
import json, sys
from pathlib import Path
from builders.fault_field import Field, Plan
plan = Plan(studies=6, readable=1, events_between=6, seed=4, patience_s=240)
print(json.dumps(vars(Field(Path(sys.argv[1]), plan).run())))
"""


def test_studies_survive_trouble(tmp_path: Path) -> None:
    if _MISSING:
        if os.environ.get("CI"):
            pytest.fail(f"{_MISSING} is not installed; CI installs dcmtk")
        pytest.skip(f"{_MISSING} is not installed (Debian: dcmtk)")
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", _SLICE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert (verdict["lost"], verdict["double"]) == ([], [])
    assert (verdict["read"], verdict["refused"], verdict["failed"]) == (1, 5, 0)
    assert verdict["chain_whole"]
    assert sum(verdict["disturbances"].values()) >= 2
