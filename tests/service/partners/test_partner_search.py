"""The archive is asked for partner exams: off-peak, capped, within windows, and never for what is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import Dataset

pytest.importorskip("sqlalchemy")
from ichnos.service.node import Node
from ichnos.service.partners.search import PartnerSearch, within_window
from ichnos.service.remote.archive import ArchivedStudy, ArchiveProblem
from ichnos.service.settings import ArchiveSettings, NodeSettings, PartnerSettings
from ichnos.service.store import studies
from ichnos.service.store.database import Database
from ichnos.service.store.images import StoredImage

NIGHT = datetime(2026, 3, 20, 2, tzinfo=UTC).timestamp()
DAY_S = 86_400.0
ARCHIVE = ArchiveSettings(ae_title="PACS", host="pacs")


class Archive:
    """An archive that remembers what it was asked."""

    def __init__(self, *there: ArchivedStudy, away: bool = False) -> None:
        self.there, self.away = there, away
        self.asked: list[str] = []
        self.sent: list[str] = []

    def ask(self, archive: ArchiveSettings, patient: str, own: str) -> Sequence[ArchivedStudy]:
        self.asked.append(patient)
        if self.away:
            raise ArchiveProblem("PACS does not answer")
        return self.there

    def fetch(self, archive: ArchiveSettings, uid: str, own: str, keep: Callable[[Dataset], object]) -> int:
        self.sent.append(uid)
        return 1


def mri(uid: str, date: str = "20260310", modality: str = "MR") -> ArchivedStudy:
    return ArchivedStudy(uid, date, modality, "", None)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def opened(database: Database, tmp_path: Path, **changes: object) -> Node:
    """Return a node that holds one CT with a reading, taken on 1 March."""
    partners = PartnerSettings(search=True, from_hour=20, to_hour=6).model_copy(update=changes)
    settings = NodeSettings(home=tmp_path / "node", partners=partners, archive=ARCHIVE)
    node = Node(settings, database, clock=Clock(NIGHT))
    read(node, "1.1", "20260301")
    return node


def read(node: Node, uid: str, date: str, patient: str = "P1") -> None:
    sha = uid.encode().hex().ljust(64, "0")[:64]
    image = StoredImage(f"i/{sha}", sha, 1, uid, f"{uid}.9", f"{uid}.1", "1.2", "CT", patient, "D^J", date)
    with node.database.transaction() as session:
        studies.register_image(session, image, now=node.clock(), source="CT1")
        row = studies.latest_revision(session, uid)
        assert row is not None
        row.state = "ready"


def search(node: Node, archive: Archive) -> PartnerSearch:
    return PartnerSearch(node, ask=archive.ask, fetch=archive.fetch)


def at(node: Node, now: float) -> None:
    node.clock.now = now  # type: ignore[attr-defined]


def test_exams_within_their_window_are_fetched_and_those_here_are_not(
    database: Database, tmp_path: Path
) -> None:
    archive = Archive(
        mri("2.1"),
        mri("2.2", "20260215"),
        mri("2.3", modality="US"),
        mri("1.1"),
        mri("2.4", "20260303", "CT, SR"),
    )
    node = opened(database, tmp_path)
    assert search(node, archive).step()
    assert (archive.asked, archive.sent) == (["P1"], ["2.1", "2.4"])


@pytest.mark.parametrize(
    ("modality", "date", "wanted"),
    [
        ("CT", "20260304", True),
        ("CT", "20260305", False),
        ("MR", "20260530", True),
        ("MR", "20260531", False),
        ("MR", "20260228", False),
        ("MR", "", False),
    ],
)
def test_windows_are_those_of_the_pairs(modality: str, date: str, wanted: bool) -> None:
    assert within_window("20260301", mri("2", date, modality)) is wanted


def test_a_patient_is_asked_for_again_after_a_day_and_not_after_the_longest_window(
    database: Database, tmp_path: Path
) -> None:
    node, archive = opened(database, tmp_path), Archive()
    loop = search(node, archive)
    assert [loop.step(), loop.step()] == [True, False]
    at(node, NIGHT + DAY_S)
    assert loop.step()
    at(node, NIGHT + 90 * DAY_S)
    assert not loop.step()
    assert archive.asked == ["P1", "P1"]


def test_no_more_than_the_cap_is_fetched_a_day(database: Database, tmp_path: Path) -> None:
    node, archive = opened(database, tmp_path, search_daily=2), Archive(*(mri(f"2.{k}") for k in range(5)))
    read(node, "1.2", "20260302", patient="P2")
    loop = search(node, archive)
    assert [loop.step(), loop.step()] == [True, False]
    assert len(archive.sent) == 2
    at(node, NIGHT + DAY_S)
    assert loop.step()
    assert len(archive.sent) == 4


def test_by_day_or_without_an_archive_or_unless_asked_for_nothing_is_searched(
    database: Database, tmp_path: Path
) -> None:
    node, archive = opened(database, tmp_path), Archive(mri("2.1"))
    at(node, NIGHT + 10 * 3600)
    assert not search(node, archive).step()
    at(node, NIGHT)
    for settings in (
        node.settings.model_copy(update={"archive": ArchiveSettings()}),
        node.settings.model_copy(update={"partners": PartnerSettings()}),
    ):
        assert not search(Node(settings, database, clock=Clock(NIGHT)), archive).step()
    assert archive.asked == []


def test_an_archive_that_is_away_is_left_alone_until_the_next_day(database: Database, tmp_path: Path) -> None:
    node, archive = opened(database, tmp_path), Archive(mri("2.1"), away=True)
    loop = search(node, archive)
    assert [loop.step(), loop.step()] == [True, False]
    archive.away = False
    at(node, NIGHT + DAY_S)
    assert loop.step()
    assert archive.sent == ["2.1"]
