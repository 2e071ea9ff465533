"""A short slice of `benchmarks/fuzz.py`: malformed inputs of every kind are read or refused by name."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import fuzz


@pytest.mark.parametrize("kind", fuzz.inputs.KINDS)
def test_malformed_inputs_are_read_or_refused_by_name(kind: str) -> None:
    def hang(*_: object) -> None:
        raise TimeoutError("over 20 s of processor time")

    before = signal.signal(signal.SIGPROF, hang)
    try:
        outcomes = [fuzz.one(kind, 7, number) for number in range(12)]
    finally:
        signal.signal(signal.SIGPROF, before)
    faults = [details for outcome, details in outcomes if outcome not in fuzz.OUTCOMES[:2]]
    assert not faults, faults[0]
    assert {outcome for outcome, _ in outcomes} & set(fuzz.OUTCOMES[:2])
