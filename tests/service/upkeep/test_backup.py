"""A restored node holds what the first one held, on either database, and says what is missing or changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from builders.stored_node import open_stored, read_all, receive
from ichnos.errors import InputRefused, UsageError
from ichnos.service.installed import READING_MODEL
from ichnos.service.node import Node
from ichnos.service.settings import NodeSettings
from ichnos.service.store import events
from ichnos.service.store.database import Database
from ichnos.service.store.tables import EventRow, InstanceRow, NodeTables, OptionRow, StudyRow
from ichnos.service.upkeep.backup import back_up, check_node, restore
from ichnos.service.upkeep.retention import purge_study
from service.test_receiver import slices


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = open_stored(tmp_path / "first")
    receive(opened, slices(3))
    read_all(opened)
    yield opened
    opened.database.close()


def rows_of(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.snapshot() as session:
        return {
            table.name: [
                tuple(row) for row in session.execute(select(table).order_by(*table.primary_key.columns))
            ]
            for table in NodeTables.metadata.sorted_tables
        }


def test_every_row_and_file_comes_back_on_either_database(
    node: Node, database: Database, tmp_path: Path
) -> None:
    manifest = back_up(node, tmp_path / "backup")
    assert (manifest.rows["study"], manifest.rows["instance"]) == (1, 3)
    second = Node(NodeSettings(home=tmp_path / "second"), database)
    check = restore(second, tmp_path / "backup")
    assert (check.whole, check.studies, check.images, check.chain_whole) == (True, 1, 3, True)
    assert rows_of(database) == rows_of(node.database)
    with database.transaction() as session:  # it goes on where the first one stopped
        row = events.append_event(session, "held", at=1.0, actor="ann")
        assert row.id == check.events + 1
        assert events.check_chain(session).whole
    receive(second, slices(1, study="1.2.840.5"), now=5.0)
    assert read_all(second, now=6.0) == [2]


def test_a_second_backup_brings_the_first_up_to_date(node: Node, tmp_path: Path) -> None:
    back_up(node, tmp_path / "backup")
    old = sorted((tmp_path / "backup" / "images").rglob("*.dcm"))
    stamps = [file.stat().st_mtime_ns for file in old]
    receive(node, slices(1, study="1.2.840.5"), now=5.0)
    assert back_up(node, tmp_path / "backup").rows["study"] == 2
    assert [
        file.stat().st_mtime_ns for file in old
    ] == stamps  # files never change: they are not copied again
    assert len(list((tmp_path / "backup" / "images").rglob("*.dcm"))) == 4


def files_in(folder: Path) -> list[str]:
    found = (
        path.relative_to(folder) for sub in ("images", "readings") for path in (folder / sub).rglob("*.*")
    )
    return sorted(map(str, found))


def test_what_was_removed_from_the_node_is_neither_kept_nor_brought_back(node: Node, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    receive(node, slices(1, study="1.2.840.5"), now=5.0)
    assert read_all(node, now=6.0) == [2]
    back_up(node, folder)
    image, reading = next((folder / "images").rglob("*.dcm")), folder / "readings" / "1-r"
    both = files_in(folder)
    purge_study(node, 2, actor="ann")
    back_up(node, folder)
    assert len(files_in(folder)) == len(both) - 3  # its image, its record and its page
    (folder / "images" / "00").mkdir(exist_ok=True)
    for name in ("images/00/other.dcm", "readings/9-9-9"):  # as older backups left them
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copytree(reading, folder / name) if name[0] == "r" else shutil.copy(image, folder / name)
    second = open_stored(tmp_path / "second")
    assert restore(second, folder).whole
    assert files_in(second.settings.home) == files_in(node.settings.home)
    second.database.close()


def test_nothing_of_others_is_removed_and_the_home_is_no_place(node: Node, tmp_path: Path) -> None:
    own = tmp_path / "backup" / "images" / "ab" / "own.dcm"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"own")
    back_up(node, tmp_path / "backup")
    assert own.is_file()  # there was no backup in this folder before
    with pytest.raises(UsageError, match="home of the node"):
        back_up(node, node.settings.home)


def test_the_models_of_the_node_come_along_and_a_missing_one_is_named(node: Node, tmp_path: Path) -> None:
    model = node.settings.home / "models" / "site"
    model.mkdir(parents=True)
    (model / "model.json").write_text("{1}")
    with node.database.transaction() as session:
        session.add(OptionRow(name=READING_MODEL, value="site"))
    assert check_node(node).whole
    back_up(node, tmp_path / "backup")
    (model / "model.json").write_text("{2}")
    back_up(node, tmp_path / "backup")
    second, third = (open_stored(tmp_path / name) for name in ("second", "third"))
    assert restore(second, tmp_path / "backup").whole
    assert (second.settings.home / "models" / "site" / "model.json").read_text() == "{2}"
    shutil.rmtree(tmp_path / "backup" / "models")
    assert restore(third, tmp_path / "backup").missing == ("models/site",)
    for opened in (second, third):
        opened.database.close()


def test_what_is_missing_or_changed_is_named(node: Node) -> None:
    assert check_node(node).whole
    with node.database.transaction() as session:
        first, second = session.execute(select(InstanceRow).limit(2)).scalars().all()
        session.execute(select(EventRow).limit(1)).scalar_one().actor = "somebody"
    (node.settings.home / first.path).unlink()
    changed = node.settings.home / second.path
    changed.write_bytes(changed.read_bytes()[:-2] + b"zz")
    (node.settings.home / "readings" / "1-r" / "reading.json").unlink()
    check = check_node(node)
    assert check.missing == (first.path, "readings/1-r")
    assert check.damaged == (second.path,)
    assert not check.chain_whole
    assert not check.whole


def test_only_an_empty_node_is_filled_and_only_from_a_whole_backup(node: Node, tmp_path: Path) -> None:
    back_up(node, tmp_path / "backup")
    with pytest.raises(UsageError, match="already has studies"):
        restore(node, tmp_path / "backup")
    empty = open_stored(tmp_path / "empty")
    with pytest.raises(InputRefused, match=r"no readable backup\.json"):
        restore(empty, tmp_path)
    table = tmp_path / "backup" / "tables" / "study.jsonl.gz"
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(InputRefused, match="table study of the backup is missing or damaged"):
        restore(empty, tmp_path / "backup")
    with empty.database.snapshot() as session:
        assert session.execute(select(StudyRow)).first() is None
    empty.database.close()
