"""What every test shares: one thread for torch (small tensors run ten times slower on two busy threads)
and the shared data, if present.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
_STATE = tempfile.TemporaryDirectory(prefix="ichnos-state-")  # the key file of hashed names; gone at the end
os.environ["XDG_STATE_HOME"] = _STATE.name
_OWN = str(Path(sys.prefix) / "bin")  # where pynetdicom has a storescu too: dcmtk's, the peer, comes first
_FOLDERS = os.environ.get("PATH", "").split(os.pathsep)
os.environ["PATH"] = os.pathsep.join(sorted(_FOLDERS, key=lambda folder: folder == _OWN))
settings.register_profile("house", deadline=None, max_examples=40)  # a busy machine is no fault of the code
settings.load_profile("house")
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure() -> None:
    try:
        import torch
    except ModuleNotFoundError:
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference data beside the repository, or skip."""
    if not SHARED.is_dir():
        pytest.skip("no shared reference data beside this checkout")
    return SHARED
