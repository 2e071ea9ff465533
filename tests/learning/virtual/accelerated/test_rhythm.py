"""When a line of a training's log is due, and how fast the steps went."""

from __future__ import annotations

import pytest

from ichnos.learning.virtual.accelerated import timed
from ichnos.learning.virtual.accelerated.timed import Clock, Rhythm


class Seconds:
    """A clock that a test winds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    clock = Seconds()
    monkeypatch.setattr(timed.time, "monotonic", clock)
    return clock


def test_a_line_is_due_after_its_seconds_and_says_the_pace_since_the_last_one(seconds: Seconds) -> None:
    lines = Rhythm(every_s=10.0, step=0, _at=seconds.now)
    assert lines.steps_per_s(5) is None
    seconds.now += 20
    assert lines.steps_per_s(40) == pytest.approx(2.0)
    assert lines.steps_per_s(41) is None, "the next line is due ten seconds later"
    seconds.now += 10.5
    assert lines.steps_per_s(61) == pytest.approx(21 / 10.5)


def test_a_resumed_training_counts_its_own_steps_alone(seconds: Seconds) -> None:
    lines = Rhythm(every_s=1.0, step=1000, _at=seconds.now)
    seconds.now += 2
    assert lines.steps_per_s(1010) == pytest.approx(5.0)


def test_a_clock_that_goes_on_begins_where_the_last_call_ended(seconds: Seconds) -> None:
    clock = Clock(10.0, before=0.5, until=0.9)
    clock.start()
    assert clock.done == 0.5
    seconds.now += 5
    assert clock.done == pytest.approx(0.7)
    assert not clock.over
    seconds.now += 50
    assert clock.over
    assert clock.done == 1.0, "never more than all"
