"""Every kind of object that leaves the node, before every judge that is installed; CI has them all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pydicom import dcmread

from builders.judges import JUDGES, OBJECTS, Judge
from builders.read_node import made_study, node_that_reads, read_here
from ichnos.formats import nifti
from ichnos.formats.dicom import open_dicom
from ichnos.formats.dicom_seg import read_seg
from ichnos.reading import Reading, Record
from ichnos.service.node import Node
from ichnos.service.results import extras
from ichnos.service.results.extras import files_for
from ichnos.service.store.tables import StudyRow

EXTRAS = ("picture", "pdf", "rectified")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Give a node whose destination wants every extra."""
    opened = node_that_reads(tmp_path_factory.mktemp("leaving"), EXTRAS)  # type: ignore[arg-type]
    yield opened
    opened.database.close()


@pytest.fixture(scope="module")
def leaving(node: Node) -> dict[str, Path]:
    """Read a tilted study; give one file of each kind."""
    read_here(node, made_study(node.settings.home / "tilted", tilt_deg=15.0))
    with node.database.snapshot() as session:
        study = session.get_one(StudyRow, 1)
    assert study.state == "ready", study.reason
    reading = node.settings.home / study.reading
    return {
        "SEG": reading / "segmentation.dcm",
        "SR": reading / "measurements.dcm",
        "picture": reading / "picture.dcm",
        "PDF": reading / "report.dcm",
        "rectified CT": reading / "rectified" / "IM0001.dcm",
        "rectified SEG": reading / "rectified" / "segmentation.dcm",
    }


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.name)
def test_no_judge_finds_an_error(judge: Judge, kind: str, leaving: dict[str, Path]) -> None:
    if kind not in judge.objects:
        pytest.skip(f"{judge.name} judges other objects")
    if judge.path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{judge.program} is not installed; CI installs {judge.package}")
        pytest.skip(f"{judge.program} is not installed ({judge.package})")
    if kind == "PDF" and not leaving[kind].is_file():
        pytest.skip("no browser prints PDF here")
    assert judge.judge(leaving[kind]) == []


def test_every_object_belongs_to_the_patient_and_study_that_was_read(leaving: dict[str, Path]) -> None:
    heads = [dcmread(file, stop_before_pixels=True) for file in leaving.values() if file.is_file()]
    assert len({(head.PatientID, str(head.PatientName), head.StudyInstanceUID) for head in heads}) == 1
    assert len({head.SeriesInstanceUID for head in heads}) == len(heads)
    assert len({head.SOPInstanceUID for head in heads}) == len(heads)
    frames = {heads[0].FrameOfReferenceUID, heads[-1].FrameOfReferenceUID}
    assert len(frames) == 1  # the rectified copy lies in the same space


def test_a_destination_gets_what_it_asks_for_and_no_more(leaving: dict[str, Path]) -> None:
    reading = leaving["SEG"].parent
    assert [file.name for file in files_for(reading, ())] == ["segmentation.dcm", "measurements.dcm"]
    assert "picture.dcm" in [file.name for file in files_for(reading, ("picture",))]
    rectified = files_for(reading, ("rectified",))
    assert sum(file.parent.name == "rectified" for file in rectified) > 8


def test_an_enhanced_ct_is_read_and_its_seg_is_sound(node: Node, leaving: dict[str, Path]) -> None:
    study = made_study(node.settings.home / "enhanced", seed="e", date="20260201", enhanced=True)
    assert len(study) == 1
    read_here(node, study, now=50.0)
    with node.database.snapshot() as session:
        row = session.get_one(StudyRow, 2)
    assert row.state == "ready", row.reason
    seg = node.settings.home / row.reading / "segmentation.dcm"
    for judge in JUDGES:
        if judge.path is not None and judge.name in ("dciodvfy", "dcmqi segimage2itkimage"):
            assert judge.judge(seg) == []
    # a straight series has no rectified copy: nothing that is not needed leaves
    assert not (seg.parent / "rectified").exists()


def test_the_rectified_copy_shows_the_same_head_and_the_same_masks(leaving: dict[str, Path]) -> None:
    folder = leaving["rectified CT"].parent
    copy = open_dicom(folder)
    masks = read_seg(leaving["rectified SEG"], copy)
    reading = leaving["SEG"].parent
    before = nifti.load(reading / "brain.nii.gz")
    ml = [float(np.count_nonzero(mask.array)) * mask.voxel_ml for mask in (before, masks["brain"])]
    assert ml[1] == pytest.approx(ml[0], rel=0.05)
    positions = [dcmread(file, stop_before_pixels=True) for file in sorted(folder.glob("IM*.dcm"))]
    normal = np.cross(positions[0].ImageOrientationPatient[:3], positions[0].ImageOrientationPatient[3:])
    travel = np.subtract(positions[-1].ImagePositionPatient, positions[0].ImagePositionPatient).astype(float)
    assert abs(travel @ normal) / np.linalg.norm(travel) == pytest.approx(1.0, abs=1e-6)  # straight now


def test_the_picture_holds_words_and_slices_and_says_research_use(leaving: dict[str, Path]) -> None:
    picture = dcmread(leaving["picture"])
    assert picture.pixel_array.shape[2] == 3
    assert picture.pixel_array.std() > 10
    assert picture.BurnedInAnnotation == "NO"
    pdf = leaving["PDF"]
    if pdf.is_file():
        content = dcmread(pdf).EncapsulatedDocument
        assert content.startswith(b"%PDF")
        assert dcmread(pdf).EncapsulatedDocumentLength <= len(content)


def test_one_extra_that_cannot_be_written_keeps_no_other_back(
    leaving: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []

    def broken(*_: object) -> None:
        raise RuntimeError("no browser")

    writers = {"picture": broken, "pdf": broken, "rectified": lambda *_: done.append("rectified")}
    monkeypatch.setattr(extras, "_WRITERS", writers)
    scan = open_dicom(leaving["rectified CT"].parent)
    reading = Reading(Record(name="made", status="read"), scan, cast(Any, object()))
    extras.write_extras(reading, tmp_path, ("picture", "pdf", "rectified"))
    assert done == ["rectified"]
