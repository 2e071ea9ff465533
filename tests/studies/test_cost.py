"""What a call costs is its own time and its own memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ichnos.studies.shared import cost
from ichnos.studies.shared.cost import with_cost

LINUX = Path("/proc/self/clear_refs").exists()


@pytest.mark.skipif(not LINUX, reason="the kernel does not tell the peak of a process")
def test_memory_that_is_given_back_counts_and_memory_from_before_does_not() -> None:
    held = np.ones(2**25)  # 256 MiB
    total, first = with_cost(lambda: float(np.ones(2**26).sum()))  # 512 MiB
    _, second = with_cost(lambda: 2 + 2)
    assert total == 2**26
    assert held.size
    assert first.gib is not None
    assert second.gib is not None
    assert 0.4 < first.gib < 0.7
    assert second.gib < 0.05
    assert 0 < first.seconds


def test_time_is_kept_where_the_kernel_tells_no_peak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cost, "_SELF", tmp_path / "nothing")
    made, found = with_cost(lambda: "made")
    assert (made, found.gib) == ("made", None)
    assert found.seconds >= 0
