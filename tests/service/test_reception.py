"""One image from the wire to the database: nobody is told of success before both hold it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from ichnos.service import reception
from ichnos.service.node import Node, open_node
from ichnos.service.receiver import PROCESSING_FAILURE, SUCCESS
from ichnos.service.reception import Reception, keep_image
from ichnos.service.settings import NodeSettings
from ichnos.service.store import studies
from ichnos.service.store.database import Database
from ichnos.service.store.images import StoredImage
from ichnos.service.store.tables import StudyRow, TaskRow
from service.test_receiver import counts, listen, send, slices


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = open_node(NodeSettings(home=tmp_path / "node"))
    yield opened
    opened.database.close()


def file_of(folder: Path, number: int = 0, *, study: str = "1.2.840.99") -> Path:
    file = folder / f"{study}-{number}.dcm"
    slices(number + 1, study=study)[number].save_as(file, enforce_file_format=True)
    return file


def test_an_image_whose_file_a_purge_took_is_not_registered(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = reception.store_image

    def store_and_lose(home: Path, received: Path) -> StoredImage:
        image = original(home, received)
        (home / image.path).unlink()
        return image

    monkeypatch.setattr(reception, "store_image", store_and_lose)
    with pytest.raises(FileNotFoundError):
        keep_image(node, file_of(tmp_path), source="CT1")
    assert counts(node) == (0, 0)
    monkeypatch.setattr(reception, "store_image", original)
    keep_image(node, file_of(tmp_path), source="CT1")  # the sender tries again
    assert counts(node) == (1, 1)


def test_many_associations_open_one_revision_of_a_study(database: Database, tmp_path: Path) -> None:
    node = Node(NodeSettings(home=tmp_path), database)
    files = [file_of(tmp_path, number) for number in range(8)]
    problems: list[Exception] = []

    def keep(file: Path) -> None:
        try:
            keep_image(node, file, source="CT1")
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=keep, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert counts(node) == (1, 8)


def test_who_waits_together_is_registered_together_and_one_that_fails_spoils_no_other(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Reception(node)
    files = [file_of(tmp_path, number) for number in range(6)]
    outcomes: dict[int, str] = {}

    def keep(number: int) -> None:
        try:
            shared.keep(files[number], source="CT1")
            outcomes[number] = "kept"
        except ValueError as error:
            outcomes[number] = str(error)

    batches: list[int] = []
    original, bad = reception._register, "1.2.840.99.1.4"

    def register(node: Node, arrivals: Sequence[reception._Arrival]) -> None:
        batches.append(len(arrivals))
        if any(arrival.image.sop_uid == bad for arrival in arrivals):
            raise ValueError("bad image")
        original(node, arrivals)

    monkeypatch.setattr(reception, "_register", register)
    with shared._turn:  # somebody commits; meanwhile all the others arrive
        threads = [threading.Thread(target=keep, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        while len(shared._waiting) < 6:
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert batches[0] == 6
    assert outcomes == {0: "kept", 1: "kept", 2: "kept", 3: "bad image", 4: "kept", 5: "kept"}
    assert counts(node) == (1, 5)


def test_two_requests_to_send_make_one_task(node: Node, tmp_path: Path) -> None:
    keep_image(node, file_of(tmp_path), source="CT1")
    with node.database.transaction() as session:
        study = session.execute(select(StudyRow)).scalar_one()
        for destination in ("PACS", "PACS", "research"):
            studies.deliver(session, study, destination, now=0.0, attempts_allowed=3)
    with node.database.snapshot() as session:
        assert Counter(session.execute(select(TaskRow.kind)).scalars()) == Counter(send=2)


def test_disk_and_queue_are_looked_at_now_and_then_not_for_each_image(tmp_path: Path) -> None:
    node, receiver = listen(tmp_path)
    looks: list[int] = []
    original = receiver._look

    def look() -> bool:
        looks.append(1)
        return original()

    receiver._look = look  # type: ignore[method-assign]
    try:
        assert send(receiver.port, slices(12)) == [SUCCESS] * 12
        assert 1 <= len(looks) < 12
    finally:
        receiver.stop()
        node.database.close()


def test_a_database_that_is_away_is_answered_and_the_sender_may_come_again(tmp_path: Path) -> None:
    node, receiver = listen(tmp_path)
    original = receiver._look

    def away() -> bool:
        raise OperationalError("", {}, Exception("away"))

    try:
        receiver._look = away  # type: ignore[method-assign]
        assert send(receiver.port, slices(1)) == [PROCESSING_FAILURE]
        receiver._look = original  # type: ignore[method-assign]
        assert send(receiver.port, slices(1)) == [SUCCESS]
        assert counts(node) == (1, 1)
    finally:
        receiver.stop()
        node.database.close()


def test_a_database_error_names_no_patient(node: Node) -> None:
    with pytest.raises(SQLAlchemyError) as caught, node.database.transaction() as session:
        session.execute(text("INSERT INTO study (patient_name) VALUES (:name)"), {"name": "SECRET^JANE"})
    assert "SECRET" not in str(caught.value)
