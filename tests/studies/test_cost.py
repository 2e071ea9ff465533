"""What a call costs is its own time, and the memory of a process of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ichnos.studies.shared.cost import peak_gib, with_seconds

LINUX = Path("/proc/self/status").exists()


@pytest.mark.skipif(not LINUX, reason="the system does not tell the peak of a process")
def test_memory_is_that_of_a_process_which_does_nothing_else() -> None:
    held = np.ones(2**27)  # 1 GiB that this process holds, and the other does not
    little, much = peak_gib(partial(np.ones, 2)), peak_gib(partial(np.ones, 2**26))
    assert held.size == 2**27
    assert little is not None
    assert much is not None
    assert little < 0.9
    assert much - little == pytest.approx(0.5, abs=0.05)


def test_time_is_the_processors_not_the_clocks() -> None:
    import time

    made, seconds = with_seconds(lambda: time.sleep(0.5) or "made")
    assert made == "made"
    assert seconds < 0.3
