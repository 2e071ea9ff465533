"""The words of `ichnos serve` that do one thing and end: exit codes, lines, and what happens on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.stored_node import open_stored, read_all, receive
from ichnos.cli.main import run
from ichnos.service.store.tables import InstanceRow, StudyRow
from service.test_receiver import slices


@pytest.fixture
def home(tmp_path: Path) -> Path:
    node = open_stored(tmp_path / "node")
    receive(node, slices(2))
    read_all(node)
    node.database.close()
    return tmp_path / "node"


def serve(home: Path, *words: str | Path) -> int:
    return run(["serve", *map(str, words), "--home", str(home)])


def test_backup_and_restore_from_one_home_to_another(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(home, "backup", tmp_path / "backup") == 0
    assert "rows in" in capsys.readouterr().out
    assert serve(tmp_path / "other", "restore", tmp_path / "backup") == 0
    assert "the event chain is whole" in capsys.readouterr().out
    assert serve(tmp_path / "other", "verify") == 0
    assert serve(tmp_path / "other", "restore", tmp_path / "backup") != 0
    assert "already has studies" in capsys.readouterr().err


def test_verify_fails_when_a_file_is_gone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next((home / "images").rglob("*.dcm")).unlink()
    assert serve(home, "verify") != 0
    said = capsys.readouterr()
    assert "missing  images/" in said.out
    assert "1 files are missing, 0 damaged" in said.err


def test_hold_release_and_purge_by_number(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(home, "hold", "--study", "1") == 0
    assert serve(home, "purge", "--study", "1") != 0
    assert "it is held" in capsys.readouterr().err
    assert serve(home, "release", "--study", "1") == 0
    assert serve(home, "purge", "--study", "1") == 0
    assert "study 1 removed" in capsys.readouterr().out
    node = open_stored(home)
    with node.database.snapshot() as session:
        assert session.get_one(StudyRow, 1).state == "purged"
        assert session.get(InstanceRow, 1) is None
    node.database.close()


def test_statement_and_audit_are_printed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(home, "conformance") == 0
    assert capsys.readouterr().out.startswith("# DICOM conformance statement")
    assert serve(home, "audit") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("<AuditMessage>") for line in lines)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("dance",), "is no part of the node"),
        (("backup",), "give a folder: ichnos serve backup FOLDER"),
        (("hold",), "give the studies with --study NUMBER"),
        (("purge", "1"), "takes no '1': leave it out, or give the study by --study NUMBER"),
        (("verify", "backup"), "ichnos serve verify takes no 'backup'"),
        (("audit", "--study", "4"), "ichnos serve audit takes no --study"),
        (("backup", "there", "--check"), "leave out backup, or --check"),
        (("recever", "--check"), "is no part of the node"),
    ],
)
def test_wrong_words_are_explained(
    home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    assert serve(home, *words) != 0
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_purge_without_a_number_follows_the_retention(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(home, "purge") == 0
    assert "0 studies removed that are older than 0 days" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["backup", "verify", "export", "audit", "purge", "hold", "release"])
def test_a_home_without_a_node_is_refused_and_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    folder = [tmp_path / "there"] if word in {"backup", "export"} else []
    assert serve(tmp_path / "typo", word, *folder) == 3
    assert "typo holds no node" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "typo").exists()


def test_a_backup_is_not_replaced_by_that_of_an_empty_node(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(home, "backup", tmp_path / "backup") == 0
    before = (tmp_path / "backup" / "backup.json").read_bytes()
    open_stored(tmp_path / "empty").database.close()
    assert serve(tmp_path / "empty", "backup", tmp_path / "backup") == 3
    assert "is the backup of a node with 1 studies" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "backup" / "backup.json").read_bytes() == before
