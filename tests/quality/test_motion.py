"""The motion check: noise, teeth, headrests and blurred skulls are no motion; a slice moved aside is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ichnos.quality import judge

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from sound_heads import KINDS, moved, scan_of


@pytest.mark.parametrize("kind", KINDS)
def test_sound_heads_are_not_refused_and_moved_ones_are(kind: str) -> None:
    rng = np.random.default_rng(3)
    scan, layout, planes = scan_of(kind, rng)
    assert not judge(scan).at("refuse")
    assert "motion" in {reason.name for reason in judge(moved(scan, layout, planes, rng)).at("refuse")}
