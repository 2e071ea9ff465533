"""From images to a settled study: duplicates, late slices, own results, and the chain of events."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select, update

from ichnos.service.store import events, queue, studies
from ichnos.service.store.database import Database
from ichnos.service.store.images import StoredImage
from ichnos.service.store.studies import ReadingOutcome, SettleRule
from ichnos.service.store.tables import DeliveryRow, EventRow, StudyRow, TaskRow

RULE = SettleRule(quiet_s=10, limit_s=100)


def image(number: int, *, study: str = "1.2.3", modality: str = "CT", content: str = "") -> StoredImage:
    sha = f"{study}{number}{content}".encode().hex().ljust(64, "0")[:64]
    uid = f"{study}.{modality}.{number}"
    return StoredImage(
        f"images/{sha}.dcm", sha, 100, study, f"{study}.9", uid, "1.2", modality, "P1", "DOE^JANE", "20260101"
    )


def receive(database: Database, *images: StoredImage, now: float) -> list[str]:
    with database.transaction() as session:
        return [studies.register_image(session, one, now=now, source="CT1") for one in images]


def settle(database: Database, now: float) -> list[int]:
    with database.transaction() as session:
        return [study.revision for study in studies.settle_studies(session, RULE, now=now)]


def states(database: Database) -> list[tuple[int, str]]:
    with database.snapshot() as session:
        rows = session.execute(select(StudyRow.revision, StudyRow.state).order_by(StudyRow.id))
        return [(revision, state) for revision, state in rows]


def read(database: Database, now: float, *, destinations: tuple[str, ...] = ()) -> StudyRow:
    with database.transaction() as session:
        task = queue.claim_task(session, "read", worker="w", now=now, lease_s=10)
        assert task is not None
        studies.begin_reading(session, task, now=now)
        return studies.finish_reading(
            session,
            task,
            ReadingOutcome("readings/1", urgency=3.0, summary={"ich_volume": 4.0}),
            now=now,
            destinations=destinations,
            attempts_allowed=2,
        )


def test_a_study_is_queued_after_a_quiet_time_and_not_before(database: Database) -> None:
    receive(database, image(1), now=0)
    receive(database, image(2), now=8)
    assert settle(database, 15) == []
    assert settle(database, 18) == [1]
    assert settle(database, 30) == []  # once
    assert states(database) == [(1, "queued")]


def test_the_archive_count_settles_at_once_and_the_limit_forces(database: Database) -> None:
    receive(database, image(1), image(2), now=0)
    with database.transaction() as session:
        session.execute(update(StudyRow).values(expected_images=2))
    assert settle(database, 0.5) == [1]
    for at in range(0, 101, 5):
        receive(database, image(at, study="1.9"), now=at)
    assert settle(database, 100) == [1]  # never quiet, yet over the limit


def test_the_same_bytes_again_change_nothing_and_other_bytes_are_kept_and_flagged(database: Database) -> None:
    assert receive(database, image(1), image(1), image(1, content="x"), now=0) == [
        "new",
        "duplicate",
        "conflict",
    ]
    with database.transaction() as session:
        study = session.execute(select(StudyRow)).scalar_one()
        assert [one.sha256 for one in studies.files_of(session, study)] == [image(1).sha256]
        assert study.images == 2


def test_a_study_that_comes_again_with_other_bytes_is_not_read_again(database: Database) -> None:
    receive(database, image(1), image(2), now=0)
    settle(database, 10)
    read(database, 11, destinations=("PACS",))
    corrected = [replace(image(number, content="x"), patient_id="P2") for number in (1, 2)]
    assert receive(database, *corrected, now=20) == ["conflict", "conflict"]
    assert receive(database, *corrected, image(1), now=21) == ["duplicate"] * 3
    assert settle(database, 200) == []
    assert states(database) == [(1, "ready")]
    with database.snapshot() as session:
        study = session.execute(select(StudyRow)).scalar_one()
        assert (study.patient_id, study.last_image_at) == ("P1", 0)
        assert [one.sha256 for one in studies.files_of(session, study)] == [image(1).sha256, image(2).sha256]
        noted = session.execute(select(EventRow.details).where(EventRow.kind == "conflict")).scalars().all()
    assert noted == [{"another_patient_id": True}] * 2
    assert receive(database, image(1, content="y"), image(3), now=220) == ["conflict", "new"]  # it grows
    assert states(database) == [(1, "ready"), (2, "received")]


def test_an_image_that_was_moved_to_another_study_is_an_image_of_that_study(database: Database) -> None:
    moved = [
        replace(image(number, study="1.9"), sop_uid=image(number).sop_uid, series_uid="1.2.3.9")
        for number in (1, 2)
    ]
    receive(database, image(1), image(2), now=0)
    assert receive(database, *moved, now=0) == ["new", "new"]
    assert settle(database, 10) == [1, 1]
    with database.snapshot() as session:
        study = session.execute(select(StudyRow).where(StudyRow.uid == "1.9")).scalar_one()
        assert [one.sha256 for one in studies.files_of(session, study)] == [one.sha256 for one in moved]


def test_a_later_revision_ends_the_deliveries_of_the_older_one(database: Database) -> None:
    receive(database, image(1), now=0)
    settle(database, 10)
    read(database, 11, destinations=("PACS", "research", "far"))
    with database.transaction() as session:
        for name, state in (("research", "sending"), ("far", "stored")):
            session.execute(update(DeliveryRow).where(DeliveryRow.destination == name).values(state=state))
    receive(database, image(2), now=20)
    settle(database, 30)
    with database.snapshot() as session:
        rows = session.execute(select(DeliveryRow.destination, DeliveryRow.state, DeliveryRow.error)).all()
    ended = "revision 2 took over"
    assert set(rows) == {("PACS", "dead", ended), ("research", "dead", ended), ("far", "stored", "")}


def test_late_slices_make_a_revision_that_supersedes(database: Database) -> None:
    receive(database, image(1), now=0)
    settle(database, 10)
    read(database, 11)
    receive(database, image(2), now=20)
    assert states(database) == [(1, "ready"), (2, "received")]
    settle(database, 30)
    assert states(database) == [(1, "superseded"), (2, "queued")]
    with database.transaction() as session:
        newest = session.execute(select(StudyRow).where(StudyRow.revision == 2)).scalar_one()
        assert len(studies.files_of(session, newest)) == 2


def test_a_superseded_reading_in_progress_is_thrown_away(database: Database) -> None:
    receive(database, image(1), now=0)
    settle(database, 10)
    with database.transaction() as session:
        task = queue.claim_task(session, "read", worker="w", now=10, lease_s=100)
    receive(database, image(2), now=20)
    settle(database, 30)
    with database.transaction() as session:
        assert task is not None
        assert queue.held_task(session, task.id, worker="w") is None


def test_own_results_that_come_back_are_kept_and_never_read(database: Database) -> None:
    receive(database, image(1), now=0)
    settle(database, 10)
    read(database, 11)
    receive(database, image(7, modality="SEG"), image(8, modality="SR"), now=20)
    assert settle(database, 200) == []
    assert states(database) == [(1, "ready")]


def test_a_study_without_ct_is_kept_until_a_ct_comes(database: Database) -> None:
    receive(database, image(1, modality="MR"), now=0)
    assert settle(database, 500) == []
    assert states(database) == [(1, "kept")]
    receive(database, image(2), now=501)
    assert settle(database, 600) == [1]


def test_a_finished_reading_queues_each_delivery_in_the_same_transaction(database: Database) -> None:
    receive(database, image(1), now=0)
    settle(database, 10)
    study = read(database, 11, destinations=("PACS", "research"))
    assert (study.state, study.urgency) == ("ready", 3.0)
    with database.snapshot() as session:
        names = session.execute(select(DeliveryRow.destination).order_by(DeliveryRow.id)).scalars().all()
        tasks = session.execute(select(TaskRow.kind).where(TaskRow.state == "waiting")).scalars().all()
    assert names == ["PACS", "research"]
    assert tasks == ["send", "send"]


def test_the_last_failed_try_names_the_study_failed(database: Database) -> None:
    receive(database, image(1), now=0)
    settle(database, 10)
    with database.transaction() as session:
        task = queue.claim_task(session, "read", worker="w", now=10, lease_s=100)
        assert task is not None
        task.error = "out of memory"
        studies.set_aside(session, task, now=12)
    with database.snapshot() as session:
        assert session.execute(select(StudyRow.state, StudyRow.reason)).one() == ("failed", "out of memory")


def test_the_chain_is_whole_and_shows_a_change(database: Database) -> None:
    receive(database, image(1), now=0)
    settle(database, 10)
    read(database, 11)
    with database.transaction() as session:
        whole = events.check_chain(session)
        kinds = session.execute(select(EventRow.kind).order_by(EventRow.id)).scalars().all()
    assert kinds == ["received", "queued", "reading", "ready"]
    assert (whole.events, whole.whole) == (4, True)
    with database.transaction() as session:
        session.execute(update(EventRow).where(EventRow.id == 2).values(actor="somebody else"))
    with database.transaction() as session:
        assert events.check_chain(session).broken_at == 2


@pytest.mark.parametrize("field", ["patient_name", "patient_id"])
def test_events_hold_no_identity(database: Database, field: str) -> None:
    receive(database, replace(image(1), **{field: "SECRET"}), now=0)  # type: ignore[arg-type]
    settle(database, 10)
    with database.snapshot() as session:
        rows = session.execute(select(EventRow)).scalars().all()
    assert rows
    assert not any("SECRET" in f"{row.actor}{row.kind}{row.details}" for row in rows)
