"""Bombs, endless headers and odd files: bounded before memory is set aside, left out or refused by name."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from builders.head import head_hu
from builders.series import Quirks, build_series
from ichnos.errors import InputRefused
from ichnos.formats import inspect_path, nifti, open_scan
from ichnos.formats.limits import Limits
from ichnos.quality import judge
from ichnos.volume import Volume

SMALL = Quirks(shape=(32, 32), pixel_mm=8.0, steps_mm=(10.0,) * 13)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    build_series(head_hu(), tmp_path / "study", SMALL)
    return tmp_path / "study"


def image() -> Volume:
    affine = np.diag([8.0, 8, 10, 1])
    affine[:3, 3] = -120
    grid = Volume(np.zeros((30, 30, 26), np.int16), affine)
    mm = grid.world(np.indices(grid.shape).transpose(1, 2, 3, 0))
    return grid.with_array(head_hu()(mm).astype(np.int16))


def refusal(path: Path, *, most_mib: float = 64) -> str:
    """Return the refusal of an input, which must not have taken much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(InputRefused) as refused:
            open_scan(path)
        assert tracemalloc.get_traced_memory()[1] < most_mib * 2**20
    finally:
        tracemalloc.stop()
    return str(refused.value)


def test_a_gzip_file_that_goes_on_behind_its_scan_is_not_unpacked(tmp_path: Path) -> None:
    content = image().to_nibabel().to_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(content + bytes(200 << 20), 1))
    assert "goes on after" in refusal(tmp_path / "bomb.nii.gz")


def test_a_header_that_promises_too_many_voxels_is_refused_by_its_limit(tmp_path: Path) -> None:
    content = bytearray(image().to_nibabel().to_bytes())
    struct.pack_into("<3h", content, 42, 3000, 3000, 3000)
    (tmp_path / "huge.nii.gz").write_bytes(gzip.compress(bytes(content)))
    assert "`voxels` allows 1,200,000,000" in refusal(tmp_path / "huge.nii.gz")


def test_a_sheared_image_does_not_grow_without_end(tmp_path: Path) -> None:
    sheared = np.array(image().affine)
    sheared[1, 2] = 4000.0
    nibabel.save(nibabel.Nifti1Image(image().array, sheared), tmp_path / "sheared.nii")
    assert "which no head CT has" in refusal(tmp_path / "sheared.nii")


def test_limits_are_settings(series: Path) -> None:
    with pytest.raises(InputRefused, match="limit `voxels` allows 1,000"):
        open_scan(series, limits=Limits(voxels=1000))
    assert open_scan(series, limits=Limits(voxels=14 * 32 * 32)).hu.size == 14 * 32 * 32


def change(series: Path, number: int, edit: Callable[[pydicom.Dataset], None]) -> None:
    file = sorted(series.iterdir())[number]
    data = pydicom.dcmread(file)
    edit(data)
    data.save_as(file)


def test_a_frame_beyond_the_limit_is_left_out_by_name(series: Path) -> None:
    change(series, 0, lambda data: data.__setattr__("Rows", 65535) or data.__setattr__("Columns", 65535))
    found = inspect_path(series)
    assert found.skipped == {"beyond the limit `frame_pixels`": 1}
    assert found.open().volume.shape == (32, 32, 13)


def test_endless_functional_groups_are_left_out_by_name(series: Path) -> None:
    file = sorted(series.iterdir())[0]
    content = file.read_bytes()
    inner = b"\xfe\xff\x00\xe0\0\0\0\0" * 200_000
    at = content.find(b"\xe0\x7f\x10\x00")
    head = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, len(inner))
    file.write_bytes(content[:at] + head + inner + content[at:])
    assert inspect_path(series).skipped == {"beyond the limit `header_elements`": 1}


def test_one_flipped_bit_never_stops_the_rest(series: Path) -> None:
    file = sorted(series.iterdir())[4]
    content = bytearray(file.read_bytes())
    at = content.find(b"\x02\x00\x10\x00UI")  # the VR of the transfer syntax
    content[at + 4] ^= 1
    file.write_bytes(content)
    assert open_scan(series).volume.shape[:2] == (32, 32)


def test_pipes_links_and_folders_that_cannot_be_read_are_left_out(series: Path) -> None:
    os.mkfifo(series / "pipe")
    (series / "link").symlink_to(series / "nowhere")
    (series / "loop").symlink_to(series / "loop")
    found = inspect_path(series)
    assert found.skipped == {"pipe, socket or device": 1, "dangling link": 1, "unreadable file": 1}
    assert {path.name for path, _ in found.left_out} == {"pipe", "link", "loop"}
    assert found.open().volume.shape == (32, 32, 14)


def test_a_slice_with_a_bad_checksum_is_left_out_of_a_zip_by_verdict(series: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(series.iterdir()):
            archive.write(file, file.name)
    content = bytearray(buffer.getvalue())
    content[content.rfind(b"\xe0\x7f\x10\x00") + 200] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    scan = open_scan(tmp_path / "a.zip")
    assert scan.volume.shape[2] == 13  # of 14
    (reason,) = [reason for reason in judge(scan).reasons if reason.name == "files"]
    assert reason.level == "warn"
    assert "1 damaged" in reason.text


@pytest.mark.parametrize("scale", [1e-3, 1e-5])
def test_an_affine_in_metres_is_refused_with_a_question(scale: float, tmp_path: Path) -> None:
    small = Volume(image().array, np.diag([scale, scale, scale, 1]) @ image().affine)
    nifti.save(small, tmp_path / "metres.nii")
    assert "metres?" in refusal(tmp_path / "metres.nii")


@pytest.mark.parametrize("turn", [(-1, -1, 1), (-1, 1, -1), (1, 1, 1), (1, 1, 1.4)])
def test_qform_and_sform_are_compared_as_maps(turn: tuple[float, float, float], tmp_path: Path) -> None:
    header = image().to_nibabel()
    other = image().affine @ np.diag([*turn, 1])
    if turn == (1, 1, 1):
        other[0, 3] += 100
    header.set_qform(other, code=1)
    nibabel.save(header, tmp_path / "two.nii")
    assert "two different things" in refusal(tmp_path / "two.nii")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_tables_may_come_from_any_spreadsheet(encoding: str, tmp_path: Path) -> None:
    from ichnos.formats import bids

    (tmp_path / "participants.tsv").write_bytes("participant_id\tcentre\nsub-1\tKöln\n".encode(encoding))
    assert bids.read_participants(tmp_path) == [{"participant_id": "1", "centre": "Köln"}]


def test_a_field_without_end_is_refused_by_name(tmp_path: Path) -> None:
    from ichnos.formats import bids

    (tmp_path / "participants.tsv").write_text("participant_id\tcentre\nsub-1\t" + "x" * 2_000_000)
    with pytest.raises(InputRefused, match=r"participants\.tsv is not a table"):
        bids.read_participants(tmp_path)


@pytest.mark.parametrize(
    "content", ['{"KVP": [1]}', '{"SliceStepsMillimetres": "x"}', '{"KVP": 1e999, "Modality": "CT"}']
)
def test_a_sidecar_of_wrong_types_says_nothing(content: str, tmp_path: Path) -> None:
    nifti.save(image(), tmp_path / "scan.nii")
    (tmp_path / "scan.json").write_text(content)
    assert open_scan(tmp_path / "scan.nii").acquisition.tube_kv is None
