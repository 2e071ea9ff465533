"""A short slice of the fault suite (benchmarks/node_faults.py): killed processes, cut connections, a locked
database; every study ends read and delivered once, or refused by name.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from builders.fault_field import Field, Plan

_MISSING = next((name for name in ("storescu", "storescp") if shutil.which(name) is None), None)


# forkserver and cut sockets leave what the collector finds later
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_studies_survive_trouble(tmp_path: Path) -> None:
    if _MISSING:
        if os.environ.get("CI"):
            pytest.fail(f"{_MISSING} is not installed; CI installs dcmtk")
        pytest.skip(f"{_MISSING} is not installed (Debian: dcmtk)")
    verdict = Field(tmp_path, Plan(studies=6, readable=1, events_between=6, seed=4, patience_s=240)).run()
    assert (verdict.lost, verdict.double) == ([], [])
    assert (verdict.read, verdict.refused, verdict.failed) == (1, 5, 0)
    assert verdict.chain_whole
    assert sum(verdict.disturbances.values()) >= 2
