"""Images on the disk: found by content, synced, refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from ichnos.errors import InputRefused
from ichnos.service.store.images import dataset_offset, store_image
from ichnos.service.store.metadata import metadata_of
from service.test_receiver import one_slice


def written(folder: Path, number: int = 0, **meta: str) -> Path:
    dataset = one_slice("1.2.840.5", number)
    for name, value in meta.items():
        setattr(dataset.file_meta, name, value)
    file = folder / "received.dcm"
    dataset.save_as(file, enforce_file_format=True)
    return file


def test_the_file_is_moved_whole_and_found_by_its_content(tmp_path: Path) -> None:
    content = written(tmp_path).read_bytes()
    image = store_image(tmp_path, written(tmp_path))
    assert not (tmp_path / "received.dcm").exists()
    assert (tmp_path / image.path).read_bytes() == content
    assert image.path == f"images/{image.sha256[:2]}/{image.sha256}.dcm"
    assert (image.study_uid, image.modality, image.patient_id) == ("1.2.840.5", "CT", "P1")


def test_the_senders_own_file_meta_does_not_count(tmp_path: Path) -> None:
    first = store_image(tmp_path, written(tmp_path, SourceApplicationEntityTitle="CT1"))
    second = store_image(tmp_path, written(tmp_path, SourceApplicationEntityTitle="OTHER"))
    assert first.sha256 == second.sha256
    assert store_image(tmp_path, written(tmp_path, 1)).sha256 != first.sha256


@pytest.mark.parametrize("content", [b"", b"not DICOM at all", bytes(128) + b"DICM"])
def test_what_is_no_dicom_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "received.dcm"
    file.write_bytes(content)
    with pytest.raises(InputRefused):
        store_image(tmp_path, file)
    assert not (tmp_path / "images").exists()


def test_an_image_without_a_study_is_refused_by_name(tmp_path: Path) -> None:
    dataset = one_slice("1.2.840.5", 0)
    del dataset.StudyInstanceUID
    file = tmp_path / "received.dcm"
    dataset.save_as(file, enforce_file_format=True)
    with pytest.raises(InputRefused, match="no StudyInstanceUID"):
        store_image(tmp_path, file)


@given(st.binary(max_size=300))
def test_the_offset_of_any_bytes_is_a_number(head: bytes) -> None:
    assert dataset_offset(head) >= 0


def test_metadata_hold_no_pixels_and_are_made_once(tmp_path: Path) -> None:
    image = store_image(tmp_path, written(tmp_path))
    metadata = metadata_of(tmp_path, image.path)
    assert metadata["00100020"]["Value"] == ["P1"]
    assert "7FE00010" not in metadata
    kept = (tmp_path / image.path).with_suffix(".json")
    kept.write_text('{"00100020": {"vr": "LO", "Value": ["kept"]}}')
    assert metadata_of(tmp_path, image.path)["00100020"]["Value"] == ["kept"]


def test_every_transfer_syntax_is_stored_as_it_came(tmp_path: Path) -> None:
    dataset = one_slice("1.2.840.5", 3)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    file = tmp_path / "received.dcm"
    dataset.save_as(file, enforce_file_format=True)
    image = store_image(tmp_path, file)
    assert dcmread(tmp_path / image.path).file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
