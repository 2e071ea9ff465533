"""What users point at: folders with junk, archives, directories of a disc; and what must be refused in one
sentence.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import shutil
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.fileset import FileSet

from builders.head import head_hu
from builders.series import Quirks, ball, build_series
from ichnos.cli.main import run
from ichnos.errors import IchnosError, InputRefused
from ichnos.formats import inspect_path, open_scan
from ichnos.formats.dicom import mask_on_source, studies_in
from ichnos.quality import judge

SMALL = Quirks(shape=(16, 16), pixel_mm=14.0, steps_mm=(5.0,) * 11)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    build_series(ball(80, inside_hu=35), tmp_path / "study", SMALL)
    return tmp_path / "study"


def test_zip_is_read_in_place(study: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "study"))
    shutil.copy(archive, tmp_path / "no_suffix")
    before = sorted(tmp_path.rglob("*"))
    for place in (archive, tmp_path / "no_suffix"):
        scan = open_scan(place)
        assert (scan.hu == open_scan(study).hu).all()
        assert mask_on_source(scan, scan.volume.map_array(lambda hu: hu > 0)).sum() == (scan.hu > 0).sum()
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked"


def test_names_that_leave_a_zip_are_refused(study: Path, tmp_path: Path) -> None:
    for name in ("../outside.dcm", "/etc/outside.dcm", "a\\..\\..\\b.dcm", "C:/x.dcm"):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.write(next(study.iterdir()), "fine.dcm")
            archive.writestr(zipfile.ZipInfo(name), b"x")
        with pytest.raises(InputRefused, match="would leave the archive"):
            open_scan(tmp_path / "bad.zip")


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("0.dcm", "w") as member,
    ):
        for _ in range(1100):
            member.write(bytes(1 << 20))
    with pytest.raises(InputRefused, match="like a bomb; the limit `packing_ratio`"):
        open_scan(tmp_path / "bomb.zip")


def test_damaged_and_locked_archives_are_refused(study: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", study))
    content = bytearray(archive.read_bytes())
    (tmp_path / "half.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputRefused, match="holds no DICOM image"):
        open_scan(tmp_path / "half.zip")
    content[content.rfind(b"PK\x01\x02") + 8] |= 1  # says that one member is encrypted
    (tmp_path / "locked.zip").write_bytes(content)
    with pytest.raises(InputRefused, match="is encrypted"):
        open_scan(tmp_path / "locked.zip")


def test_dicomdir_names_its_files(study: Path, tmp_path: Path) -> None:
    disc = FileSet()
    for file in sorted(study.iterdir()):
        disc.add(file)
    disc.write(tmp_path / "disc")
    with warnings.catch_warnings():
        # pydicom leaves its temporary folder to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        del disc
        gc.collect()
    (tmp_path / "disc" / "VIEWER.EXE").write_bytes(b"MZ" + bytes(500))
    for place in (tmp_path / "disc" / "DICOMDIR", tmp_path / "disc"):
        assert (open_scan(place).hu == open_scan(study).hu).all()


def test_dicomdir_without_records_stands_for_its_folder(shared: Path) -> None:
    assert inspect_path(shared / "data" / "head_phantom_series" / "S21570" / "S2010").series[0].images == 28


def test_junk_is_counted_and_does_not_matter(study: Path) -> None:
    (study / "empty").write_bytes(b"")
    (study / "text.dcm").write_text("this is not DICOM")
    (study / "short.dcm").write_bytes(next(study.glob("*.dcm")).read_bytes()[:400])
    (study / "._S002I0001.dcm").write_bytes(b"apple")
    (study / "report.pdf").write_bytes(b"%PDF")
    found = inspect_path(study)
    assert found.skipped == {"empty": 1, "not DICOM": 1, "damaged": 1} or sum(found.skipped.values()) == 3
    assert open_scan(study).volume.shape == (16, 16, 12)


@pytest.mark.parametrize("tag", ["SOPInstanceUID", "SeriesInstanceUID", "Rows", "PixelData"])
@pytest.mark.parametrize("place", ["folder", "zip"])
def test_a_slice_cut_short_is_told_by_read_and_convert_too(
    tag: str, place: str, study: Path, tmp_path: Path
) -> None:
    file = sorted(study.iterdir())[0]
    number = int(pydicom.tag.Tag(tag))
    at = file.read_bytes().index(struct.pack("<HH", number >> 16, number & 0xFFFF), 400)
    file.write_bytes(file.read_bytes()[: at + (0 if tag == "PixelData" else 6)])
    if place == "zip":
        study = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", study))
    assert inspect_path(study).skipped == {"damaged": 1}
    (found,) = studies_in(study)
    scan = found.open()
    assert (scan.source.left_out, len(scan.source.slices)) == (("damaged",), 11)
    assert [r.level for r in judge(scan).reasons if r.name == "files"] == ["warn"]


def test_objects_without_an_image_are_no_lost_slices(study: Path) -> None:
    image = pydicom.dcmread(min(study.iterdir()), stop_before_pixels=True)
    kinds = {
        "report": ("1.2.840.10008.5.1.4.1.1.88.67",),
        "presentation": ("1.2.840.10008.5.1.4.1.1.11.1",),
        "key objects": ("1.2.840.10008.5.1.4.1.1.88.59",),
        "hanging protocol": ("1.2.840.10008.5.1.4.38.1", "SeriesInstanceUID"),
        "index": ("1.2.840.10008.1.3.10", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"),
    }
    for name, (kind, *without) in kinds.items():
        other = copy.deepcopy(image)
        other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = kind
        for word in without:
            delattr(other, word)
        other.save_as(study / name)
    (found,) = studies_in(study)
    assert (inspect_path(study).left_out, found.left_out) == ((), ())
    assert inspect_path(study).skipped == {"DICOM without an image": 2}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: p.mkdir(), "it is empty"),
        (lambda p: p.write_text("hello"), "1 not DICOM"),
        (lambda p: p.write_bytes(b""), "1 empty"),
        (lambda p: p.write_bytes(bytes(128) + b"DICM" + b"\x02\x00garbage"), "holds no DICOM image"),
        (lambda p: None, "does not exist"),
    ],
    ids=["empty folder", "text", "empty file", "garbage", "nothing"],
)
def test_one_sentence_and_exit_code_2(
    make: object, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "given.dcm"
    make(place)  # type: ignore[operator]
    assert run(["inspect", str(place)]) == 2
    message = capsys.readouterr().err.strip()
    assert why in message
    assert len(message.splitlines()) == 1
    with pytest.raises(InputRefused):
        open_scan(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_is_not_silence(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hidden = next(study.iterdir())
    hidden.chmod(0)
    assert run(["inspect", str(study)]) == 0
    assert "1 unreadable file" in capsys.readouterr().out


def test_a_file_that_may_not_be_read_is_left_out_and_named(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, for those who run tests as root: a slice that cannot be opened is not left out in silence."""
    hidden, really_open = sorted(study.iterdir())[3], Path.open

    def guarded(path: Path, *arguments: object, **options: object) -> object:
        if path == hidden:
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", guarded)
    scan = open_scan(study)
    assert scan.source is not None
    assert scan.source.left_out == ("unreadable file",)
    assert [r.level for r in judge(scan).reasons if r.name in ("files", "gaps")] == ["warn", "warn"]
    assert inspect_path(study).left_out == ((hidden, "unreadable file"),)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_or_read_but_never_break(study: Path, data: st.DataObject) -> None:
    """Flip, cut and insert bytes anywhere: the answer is a scan or a sentence."""
    victim = sorted(study.glob("*.dcm"))[data.draw(st.integers(0, 11))]
    original = victim.read_bytes()
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if kind == "flip":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 300))]
        else:
            content[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        content = content or bytearray(b"\0")
    victim.write_bytes(content)
    sentence = ""
    try:
        answer = open_scan(study).hu.size > 0
    except IchnosError as error:
        answer, sentence = True, str(error)
    finally:
        victim.write_bytes(original)
    assert answer
    assert len(sentence.splitlines()) <= 1


# ---- many studies
# ------------------------------------------------------------------------------------------


@pytest.fixture
def archive_of_studies(tmp_path: Path) -> Path:
    place = tmp_path / "Smith^John"
    for k in range(3):
        header = {
            "seed": f"study {k}",
            "patient_id": f"SECRET{k}",
            "patient_name": f"Smith^John{k}",
            "birth_date": "19500101",
            "date": "20231224",
            "description": f"HEAD of Smith{k}",
            "age_years": 95,
            "sex": "M",
        }
        quirks = Quirks(
            shape=(64, 64),
            pixel_mm=4.0,
            steps_mm=(5.0,) * (29 if k else 3),
            header=header,
            tags={"ContrastBolusAgent": "for Smith"},
        )
        build_series(
            head_hu(),
            place / "mixed",
            Quirks(**{**quirks.__dict__, "header": {**header, "series_number": k + 1}}),
        )
    return place


def test_studies_are_told_apart(archive_of_studies: Path) -> None:
    studies = studies_in(archive_of_studies)
    assert len({study.id for study in studies}) == 3
    assert sorted(len(study.files) for study in studies) == [4, 30, 30]
    assert sorted("too few slices" in study.refusal for study in studies) == [False, False, True]
    assert all("SECRET" not in study.id and study.uid not in study.id for study in studies)


def test_convert_writes_each_study_once_and_nobody_can_be_recognised(
    archive_of_studies: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(["convert", str(archive_of_studies), "-o", str(out), "--json"]) == 2, (
        "one of the three studies was refused"
    )
    images = sorted(out.glob("*_ct.nii.gz"))
    assert len(images) == 2
    assert all(image.with_name(image.name.replace(".nii.gz", ".json")).exists() for image in images)
    stamps = {image: image.stat().st_mtime_ns for image in images}
    for file in (file for file in out.rglob("*") if file.is_file()):
        content = file.read_bytes() + str(file).encode()
        for secret in (b"Smith", b"SECRET", b"19500101", b"20231224"):
            assert secret not in content or file.suffix == ".gz", f"{secret!r} in {file}"
    ages = {json.loads(sidecar.read_text()).get("AgeYears") for sidecar in out.glob("*_ct.json")}
    assert ages == {90}, "an age of 95 points at a person"
    assert run(["convert", str(archive_of_studies), "-o", str(out), "--json"]) == 2
    assert {image: image.stat().st_mtime_ns for image in images} == stamps, "what is done is not done again"
    scan = open_scan(images[0])
    assert scan.volume.shape == (64, 64, 30)
    assert scan.acquisition.series_description is None
    source = [study.open() for study in studies_in(archive_of_studies) if not study.refusal]
    assert any(np.array_equal(scan.hu, one.hu) and scan.volume.same_grid(one.volume) for one in source)


def test_convert_refuses_a_file_as_its_folder(archive_of_studies: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run(["convert", str(archive_of_studies), "-o", str(tmp_path / "file")]) == 3
