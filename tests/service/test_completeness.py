"""A study that is whole is read at once; one that may still grow waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from builders.stored_node import open_stored, receive
from ichnos.service import completeness
from ichnos.service.assembler import assemble
from ichnos.service.completeness import Completeness, why_whole
from ichnos.service.node import Node
from ichnos.service.remote.archive import ArchiveProblem
from ichnos.service.settings import ArchiveSettings
from ichnos.service.store.tables import StudyRow
from service.test_receiver import one_slice, slices

ARCHIVE = ArchiveSettings(ae_title="PACS", host="127.0.0.1")


def stack(count: int, *, step_mm: float = 5.0, series: str = "1", **tags: int) -> list[Dataset]:
    headers = []
    for k in range(count):
        header = Dataset()
        header.SeriesInstanceUID = series
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.ImagePositionPatient = [0, 0, k * step_mm]
        for keyword, value in tags.items():
            setattr(header, keyword, value)
        headers.append(header)
    return headers


def enhanced(frames: int) -> list[Dataset]:
    (header,) = stack(1, NumberOfFrames=frames)
    return [header]


@pytest.mark.parametrize(
    ("headers", "whole"),
    [
        (stack(28), True),
        (stack(15), False),  # 75 mm: the rest of the head may come
        (stack(28)[:10] + stack(28)[11:], False),  # a gap: a slice is late
        (stack(30, ImagesInAcquisition=30), True),
        (stack(28, ImagesInAcquisition=30), False),
        (stack(10, NumberOfSeriesRelatedInstances=10), True),
        (stack(28) + stack(15, series="2"), False),
        (stack(28) + stack(3, series="2", ImagesInAcquisition=3), True),
        (enhanced(30), True),
        (enhanced(2), False),
        ([], False),
        ([Dataset()], False),
    ],
)
def test_only_what_is_surely_whole_is_called_so(headers: list[Dataset], whole: bool) -> None:
    assert bool(why_whole(headers)) == whole


def test_slices_in_any_order_and_direction_are_a_stack() -> None:
    headers = stack(28)
    for header in headers:
        header.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
    assert why_whole(headers[::-1])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = open_stored(tmp_path, archive=ARCHIVE)
    receive(opened, slices(3), now=100.0)
    yield opened
    opened.database.close()


def test_the_archives_count_ends_the_wait_after_a_moment(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def count(_archive: object, uid: str, _title: str) -> int:
        asked.append(uid)
        return 3

    monkeypatch.setattr(completeness, "images_of_study", count)
    assert Completeness(replace(node, clock=lambda: 101.0)).complete_studies() == {}  # images still come
    watch = Completeness(replace(node, clock=lambda: 102.5))
    complete = watch.complete_studies()
    assert complete == {1: "all images of the archive have arrived"}
    assert watch.complete_studies() == {}  # asked once for each number of images
    assert asked == ["1.2.840.99"]
    assert assemble(replace(node, clock=lambda: 102.5), complete)
    with node.database.snapshot() as session:
        assert session.get_one(StudyRow, 1).state == "queued"


@pytest.mark.parametrize("answer", [5, None, ArchiveProblem("away")])
def test_an_archive_that_has_more_or_does_not_say_ends_no_wait(
    node: Node, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    def count(*_: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(completeness, "images_of_study", count)
    assert Completeness(replace(node, clock=lambda: 102.5)).complete_studies() == {}


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom names what is malformed
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImageOrientationPatient", b""),
        ("ImageOrientationPatient", b"1\\0\\0\\0 "),
        ("ImagePositionPatient", b"here"),
        ("NumberOfFrames", b"abc "),
        ("ImagesInAcquisition", b"36\\36 "),
    ],
)
def test_a_malformed_header_holds_up_no_other_study(
    tmp_path: Path, keyword: str, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    odd, whole = one_slice("1.2.840.1", 0), slices(2)
    odd.ImagePositionPatient, tag = [0, 0, 0], Tag(keyword)
    odd[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
    for image in whole:
        image.ImagesInAcquisition = 2
    node = replace(open_stored(tmp_path), clock=lambda: 102.5)
    receive(node, [odd, *whole], now=100.0)
    assert Completeness(node).complete_studies() == {2: "every series is whole"}
    own = [record.getMessage() for record in caplog.records if record.name.startswith("ichnos")]
    assert all(line.startswith("study 1: a header is malformed") and "abc" not in line for line in own)
    assert assemble(replace(node, clock=lambda: 111.0))
    with node.database.snapshot() as session:
        assert session.get_one(StudyRow, 1).state == "queued"  # after its quiet time, like any other
    node.database.close()


def test_a_node_can_be_told_to_wait_always(node: Node) -> None:
    assembly = node.settings.assembly.model_copy(update={"early": False})
    patient = replace(node, settings=node.settings.model_copy(update={"assembly": assembly}))
    assert Completeness(replace(patient, clock=lambda: 109.0)).complete_studies() == {}
