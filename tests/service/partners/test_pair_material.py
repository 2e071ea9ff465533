"""What pairs are judged on: forecasts alone, and exams that have come whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
from sqlalchemy import select

from builders.audited import volume_score
from ichnos.audit.score import Score
from ichnos.service.node import Node
from ichnos.service.partners import finder as finding
from ichnos.service.partners import judge as judging
from ichnos.service.partners.evidence import scores_in
from ichnos.service.partners.finder import LATE, PairFinder
from ichnos.service.partners.judge import PairJudge
from ichnos.service.store import queue
from ichnos.service.store.tables import PairRow
from service.partners.arriving import (
    later,
    more_of,
    pairs,
    read_again,
    shadow_reading,
    stand_in,
    study,
    waiting,
)


def test_an_mr_that_is_still_arriving_is_held_back(node: Node) -> None:
    ct = study(node, "1.1", "20260101")
    later(node, 50)  # the plain CT, too, is looked at while the MR arrives
    mri = study(node, "1.3", "20260110", modality="MR")
    finder = PairFinder(node)
    for number in range(4):  # for longer than the delay
        later(node, 60)
        more_of(node, "1.3", number)
        finder.step()
    assert pairs(node) == []
    other = study(node, "1.4", "20260111")  # holds nobody back
    later(node, 90)
    more_of(node, "1.3", 9, modality="PR")
    later(node, 20)
    while finder.step():
        pass
    assert pairs(node) == [(ct, other, "waiting")]
    later(node, 81)
    while finder.step():
        pass
    assert pairs(node) == [(ct, other, "waiting"), (ct, mri, "waiting")]


def test_a_pair_is_judged_again_once_when_more_images_came(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(node, "1.1", "20260101")
    study(node, "1.2", "20260101", patient="P2")
    later(node, 50)
    study(node, "1.3", "20260110", modality="MR")
    study(node, "1.4", "20260110", modality="MR", patient="P2")
    later(node, 101)
    finder, judge = PairFinder(node), PairJudge(node)
    monkeypatch.setattr(finding, "_EVENTS_AT_ONCE", 3)
    while finder.step():
        pass
    stand_in(monkeypatch)
    assert [judge.step(), judge.step(), judge.step()] == [True, True, False]
    later(node, 10)
    for number in range(10):  # more than are looked at together
        more_of(node, "1.3", number)
    job = judge._claim()
    later(node, 99)
    assert (finder.step(), job) == (False, None)
    later(node, 2)
    while finder.step():
        pass
    assert waiting(node, "judge") == 1  # the other pair has got nothing
    job = judge._claim()
    assert job is not None
    later(node, 1)
    more_of(node, "1.3", 11)  # while it is being judged
    later(node, 200)
    judge._finish(job, "judged", "", ())
    while finder.step():
        pass
    assert waiting(node, "judge") == 1


def test_a_ct_that_was_read_again_after_its_partner_came_is_no_forecast(
    paired: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, volume_score(1, 20, 22))
    read_again(paired, 1)
    shadow_reading(paired, 1, "late", made_at=paired.clock())
    assert PairJudge(paired).step()
    assert not PairJudge(paired).step()
    with paired.database.snapshot() as session:
        pair = session.execute(select(PairRow)).scalar_one()
        assert (pair.state, pair.reason.split(";")[0]) == ("late", LATE.split(";")[0])
        assert scores_in(session) == []


def test_of_a_ct_that_was_read_again_the_readings_of_before_are_judged(
    paired: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[tuple[Path, ...]] = []

    def judged(job: Any, home: Path) -> tuple[str, str, tuple[Score, ...]]:
        readings.append(job.readings)
        return "judged", "", (volume_score(1, 20, 22),)

    monkeypatch.setattr(judging, "_judged", judged)
    read_again(paired, 1)
    shadow_reading(paired, 1, "late", made_at=paired.clock())
    early = shadow_reading(paired, 1, "new", made_at=1_010.0)
    of_partner = shadow_reading(paired, 2, "new", made_at=paired.clock())
    assert PairJudge(paired).step()
    assert readings == [(early, paired.settings.home / "readings/2", of_partner)]
    shutil.rmtree(early)
    with paired.database.transaction() as session:  # as when a segmentation comes
        queue.enqueue(session, "judge", study_id=1, payload={"pair": 1})
    assert PairJudge(paired).step()
    assert (len(readings), pairs(paired)[0][2]) == (1, "judged")  # its scores stand
