"""Retention and purge: what is old goes, what is held or on its way stays, what two studies share is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from builders.stored_node import DAY_S, open_stored, read_all, receive
from ichnos.errors import UsageError
from ichnos.service.node import Node
from ichnos.service.store import events
from ichnos.service.store.tables import DeliveryRow, EventRow, InstanceRow, PairRow, StudyRow, TaskRow
from ichnos.service.upkeep.daily import Upkeep
from ichnos.service.upkeep.leftovers import sweep
from ichnos.service.upkeep.retention import hold_study, purge_expired, purge_study
from service.test_receiver import slices


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = open_stored(tmp_path)
    receive(opened, slices(2, study="1.2.3"), now=0.0)
    receive(opened, slices(2, study="1.2.4"), now=9 * DAY_S)
    assert read_all(opened, now=9 * DAY_S) == [1, 2]
    with opened.database.transaction() as session:
        session.get_one(StudyRow, 1).read_at = 1.0
    yield replace(opened, clock=lambda: 10 * DAY_S)
    opened.database.close()


def files(node: Node) -> list[Path]:
    return [path for path in node.settings.home.rglob("*") if path.is_file() and "node.db" not in path.name]


def count(node: Node, table: type) -> int:
    with node.database.snapshot() as session:
        return session.execute(select(func.count()).select_from(table)).scalar_one()


def test_old_studies_go_with_every_file_and_new_ones_stay(node: Node) -> None:
    before = len(files(node))
    assert purge_expired(node, keep_days=5) == 1
    assert purge_expired(node, keep_days=5) == 0
    assert len(files(node)) == before - 2 - 2  # two images, a record and its page
    with node.database.snapshot() as session:
        gone, kept = session.get_one(StudyRow, 1), session.get_one(StudyRow, 2)
        assert (gone.state, gone.patient_name, gone.patient_id, gone.uid) == ("purged", "", "", "purged-1")
        assert kept.state == "ready"
        assert events.check_chain(session).whole
        assert (
            session.execute(select(EventRow.kind).where(EventRow.study_id == 1)).scalars().all()[-1]
            == "purged"
        )


def test_nothing_goes_without_a_limit(node: Node) -> None:
    assert purge_expired(node, keep_days=0) == 0
    assert count(node, InstanceRow) == 4


def test_a_hold_outlives_retention_and_purge_until_it_ends(node: Node) -> None:
    hold_study(node, 1, held=True, actor="ann")
    assert purge_expired(node, keep_days=5) == 0
    with pytest.raises(UsageError, match="it is held"):
        purge_study(node, 1, actor="ann")
    hold_study(node, 1, held=False, actor="ann")
    assert purge_expired(node, keep_days=5) == 1
    with node.database.snapshot() as session:
        kinds = session.execute(select(EventRow.kind).where(EventRow.actor == "ann")).scalars().all()
    assert kinds == ["held", "hold ended"]


def test_what_is_on_its_way_is_not_removed(node: Node) -> None:
    receive(node, slices(1, study="1.2.5"), now=0.0)
    with pytest.raises(UsageError, match="on its way"):
        purge_study(node, 3, actor="ann")
    with node.database.transaction() as session:
        session.add(DeliveryRow(study_id=1, destination="PACS", changed_at=0.0))
        session.add(TaskRow(kind="send", study_id=1, payload={}, state="waiting"))
    with pytest.raises(UsageError, match="being sent"):
        purge_study(node, 1, actor="ann")
    with pytest.raises(UsageError, match="no study 99"):
        purge_study(node, 99, actor="ann")


def test_all_revisions_go_together_and_the_same_study_may_come_again(node: Node) -> None:
    receive(node, slices(3, study="1.2.3"), now=1.0)  # a late slice: revision 2
    assert read_all(node, now=2.0) == [3]
    purge_study(node, 3, actor="ann")
    with node.database.snapshot() as session:
        assert {
            row.id for row in session.execute(select(StudyRow).where(StudyRow.state == "purged")).scalars()
        } == {1, 3}
    receive(node, slices(3, study="1.2.3"), now=1.0)
    with node.database.snapshot() as session:
        again = session.execute(select(StudyRow).where(StudyRow.uid == "1.2.3")).scalar_one()
        assert (again.id, again.revision, again.images) == (4, 1, 3)


def test_bytes_that_another_study_shares_stay(node: Node) -> None:
    (first,) = slices(1, study="1.2.3")
    with node.database.transaction() as session:
        shared = session.execute(select(InstanceRow).where(InstanceRow.study_id == 1).limit(1)).scalar_one()
        session.add(
            InstanceRow(
                study_id=2,
                series_uid="1",
                sop_uid=f"{first.SOPInstanceUID}.9",
                sha256=shared.sha256,
                path=shared.path,
                received_at=0.0,
            )
        )
    purge_study(node, 1, actor="ann")
    assert (node.settings.home / shared.path).is_file()


def test_leftovers_of_killed_processes_are_swept_and_busy_ones_are_not(node: Node) -> None:
    home = node.settings.home
    for name in ("work/worker-dead-3", "work/worker-busy-4", "readings/9-9-9"):
        (home / name).mkdir(parents=True)
    (home / "incoming" / "receiver-dead").mkdir(parents=True)
    (home / "incoming" / "receiver-dead" / "half.dcm").write_bytes(b"x")
    with node.database.transaction() as session:
        session.add(TaskRow(kind="read", study_id=2, state="leased", worker="worker-busy"))
    assert sweep(node) == 0  # all of it is young
    assert sweep(node, older_s=-60) == 3
    assert sorted(path.name for path in (home / "work").iterdir()) == ["worker-busy-4"]
    assert sorted(path.name for path in (home / "readings").iterdir()) == ["1-r", "2-r"]


def partners_files(node: Node, *names: str) -> None:
    for name in names:
        folder = node.settings.home / "partners" / name
        folder.mkdir(parents=True)
        (folder / "voxels.nii.gz").write_bytes(b"x")


def left_of_partners(node: Node) -> list[str]:
    home = node.settings.home / "partners"
    return sorted(str(file.parent.relative_to(home)) for file in home.rglob("*.nii.gz"))


def test_shadow_readings_and_pairs_go_with_every_revision(node: Node) -> None:
    receive(node, slices(3, study="1.2.3"), now=1.0)  # a late slice: revision 2
    assert read_all(node, now=2.0) == [3]
    with node.database.transaction() as session:
        for ct, partner in ((1, 2), (2, 3), (2, 2)):
            session.add(PairRow(ct_study_id=ct, partner_study_id=partner, found_at=0.0))
            session.flush()
    partners_files(node, "1", "2", "3/cohort", "shadow/1/new", "shadow/2/new", "shadow/3/new")
    purge_study(node, 3, actor="ann")
    assert left_of_partners(node) == ["3/cohort", "shadow/2/new"]


def test_pairs_that_are_not_being_judged_and_shadows_of_no_study_are_swept(node: Node) -> None:
    purge_study(node, 1, actor="ann")
    partners_files(node, "1", "2", "shadow/1/new", "shadow/2/new")  # as older versions left them
    with node.database.transaction() as session:
        session.add(TaskRow(kind="judge", study_id=2, payload={"pair": 2}, state="leased", worker="judge-1"))
    assert sweep(node) == 0
    assert sweep(node, older_s=-60) == 2
    assert left_of_partners(node) == ["2", "shadow/2/new"]


def test_upkeep_is_due_now_and_then(node: Node) -> None:
    storage = node.settings.storage.model_copy(update={"keep_days": 5.0})
    kept = replace(node, settings=node.settings.model_copy(update={"storage": storage}))
    upkeep = Upkeep(kept)
    assert upkeep.step()
    assert not upkeep.step()
    assert count(node, InstanceRow) == 2
