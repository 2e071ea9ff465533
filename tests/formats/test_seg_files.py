"""SEG as a file: standard, complete, repeatable, under another identity, and refused where it does not
belong.
"""

from __future__ import annotations

import time
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom.seg import segread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.opened import dciodvfy_errors, open_built
from builders.series import Quirks, ball, build_series
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import nifti
from ichnos.formats.dicom import open_dicom
from ichnos.formats.dicom_codes import segment_targets
from ichnos.formats.dicom_seg import read_seg, write_seg
from ichnos.formats.dicom_source import Algorithm, Alias
from ichnos.formats.dicom_sr import Report, write_sr
from ichnos.scan import Scan
from ichnos.volume import Volume, sphere

Opened = Callable[..., Scan]
TRACES = {
    "InstitutionName": "Trace Hospital",
    "OperatorsName": "Trace^Operator",
    "OtherPatientIDs": "TRACE-ID",
    "PatientComments": "Trace of a comment",
    "StationName": "TRACESTATION",
    "PatientAddress": "Trace Street 1",
    "AccessionNumber": "TRACEACC",
    "StudyDescription": "Trace study",
    "AdmittingDiagnosesDescription": "Trace diagnosis",
    "ClinicalTrialSubjectID": "TRACE-TRIAL",
}
WHO = {
    "patient_name": "Secret^Person",
    "patient_id": "HOSP-4711",
    "birth_date": "19501224",
    "date": "20240317",
    "time": "081530",
}


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return partial(open_built, tmp_path)


def masks_of(scan: Scan) -> dict[str, Volume]:
    clot = scan.volume.map_array(lambda hu: hu > 0)
    left = np.zeros(clot.shape, bool)
    left[clot.shape[0] // 2 :] = clot.array[clot.shape[0] // 2 :]
    return {
        "ICH": clot,
        "IVH": clot.map_array(np.zeros_like),
        "tract_left": clot.with_array(left),
        "tract_right": clot.with_array(~left),
    }


@pytest.mark.parametrize(
    "quirks",
    [
        Quirks(),
        Quirks(tilt_deg=-22, steps_mm=(4.0,) * 8 + (7.0,) * 6),
        Quirks(enhanced=True, tilt_deg=15),
        Quirks(order="shuffled", duplicated=(3,), missing=(7,)),
        Quirks(oblique_deg=20, axes="LAS", order="head first"),
    ],
    ids=["plain", "tilted, uneven", "enhanced", "shuffled, gap", "oblique, reversed"],
)
def test_every_segment_comes_back_from_every_slice(quirks: Quirks, opened: Opened, tmp_path: Path) -> None:
    scan = opened(quirks)
    masks = masks_of(scan)
    written = write_seg(scan, masks, tmp_path / "seg.dcm")
    back = read_seg(tmp_path / "seg.dcm", scan)
    assert list(back) == list(masks)
    for name, mask in masks.items():
        # On a tilted stack some voxels of the grid lie on no source slice, so nothing can be stored there.
        seen = read_seg(
            write_seg(scan, {"brain": mask.map_array(np.ones_like)}, tmp_path / "all.dcm").path, scan
        )["brain"].array
        assert np.array_equal(back[name].array, mask.array & seen), name
        assert back[name].same_grid(scan.volume)
    seg = segread(tmp_path / "seg.dcm")
    assert scan.source is not None
    assert seg.NumberOfFrames == len(masks) * len(
        scan.source.slices
    )  # empty frames too: OHIF and others count on them
    assert written.segment_numbers == {name: k for k, name in enumerate(masks, start=1)}
    assert dciodvfy_errors(tmp_path / "seg.dcm") == []


def test_the_codes_say_what_and_which_side(opened: Opened, tmp_path: Path) -> None:
    scan = opened()
    seg = segread(write_seg(scan, masks_of(scan), tmp_path / "seg.dcm").path)
    items = {str(item.SegmentLabel): item for item in seg.SegmentSequence}
    blood = items["ICH"]
    assert blood.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert blood.SegmentedPropertyTypeCodeSequence[0].CodeValue == "50960005"
    assert blood.AnatomicRegionSequence[0].CodeValue == "12738006"
    assert items["IVH"].AnatomicRegionSequence[0].CodeValue == "66720007"
    sides = {
        n: items[n].SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
        for n in items
        if "tract" in n
    }
    assert (sides["tract_left"].CodeMeaning, sides["tract_right"].CodeMeaning) == ("Left", "Right")
    assert items["tract_left"].SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99ICHNOS"
    assert {item.CodingSchemeDesignator for item in seg.CodingSchemeIdentificationSequence} >= {"99ICHNOS"}
    assert "RESEARCH USE ONLY" in seg.SeriesDescription
    assert seg.PatientID == "MADE"


def test_highdicom_finds_the_same_ball_by_itself(opened: Opened, tmp_path: Path) -> None:
    """An outside reader, with geometry code of its own, puts the mask in the same place."""
    scan = opened(Quirks(axes="RAS", oblique_deg=15))
    mask = scan.volume.map_array(lambda hu: hu > 0)
    seg = segread(write_seg(scan, {"ICH": mask}, tmp_path / "seg.dcm").path)
    volume = seg.get_volume(segment_numbers=[1], combine_segments=True)
    index = np.argwhere(volume.array)
    lps = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    assert np.allclose(
        lps.mean(axis=0) * (-1, -1, 1), mask.world(np.argwhere(mask.array)).mean(axis=0), atol=1e-3
    )
    assert np.abs(np.linalg.det(volume.affine)) == pytest.approx(mask.voxel_ml * 1000, rel=1e-4)


def test_the_same_content_gives_the_same_bytes(opened: Opened, tmp_path: Path) -> None:
    scan = opened()
    masks = masks_of(scan)
    first = write_seg(scan, masks, tmp_path / "a.dcm")
    time.sleep(1.1)  # DICOM times count in seconds
    again = write_seg(scan, masks, tmp_path / "b.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    other = write_seg(scan, {**masks, "IVH": masks["ICH"]}, tmp_path / "c.dcm")
    assert first.sop_instance_uid == again.sop_instance_uid != other.sop_instance_uid


def test_a_mask_from_another_grid_is_brought_to_the_slices(opened: Opened, tmp_path: Path) -> None:
    scan = opened(Quirks(tilt_deg=10))
    ball_mm = sphere(radius_mm=30, spacing_mm=1.0, centre_mm=(-10, 5, 0))
    back = read_seg(write_seg(scan, {"ICH": ball_mm}, tmp_path / "seg.dcm").path, scan)["ICH"]
    truth = scan.volume.array > 0
    assert 2 * (back.array & truth).sum() / (back.array.sum() + truth.sum()) > 0.97


def test_slices_in_a_zip_have_a_seg_too(tmp_path: Path) -> None:
    files = build_series(ball(30), tmp_path / "series", Quirks())
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in files:
            archive.write(path, f"inner/{path.name}")
    scan = open_dicom(tmp_path / "study.zip")
    mask = scan.volume.map_array(lambda hu: hu > 0)
    back = read_seg(write_seg(scan, {"ICH": mask}, tmp_path / "seg.dcm").path, scan)
    assert np.array_equal(back["ICH"].array, mask.array)


def test_another_identity_leaves_no_trace_of_the_first(opened: Opened, tmp_path: Path) -> None:
    scan = opened(Quirks(header=WHO, tags=TRACES))
    alias = Alias("P01", key="secret of this test")
    written = write_seg(scan, masks_of(scan), tmp_path / "seg.dcm", alias=alias)
    content = (tmp_path / "seg.dcm").read_bytes()
    assert scan.source is not None
    assert scan.source.study_uid
    uids = (scan.source.study_uid, scan.source.slices[0].sop_instance_uid)
    for trace in ("Trace", "TRACE", "Secret", "HOSP-4711", "19501224", "20240317", "0815", *uids):
        assert trace.encode() not in content, trace
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (seg.PatientID, seg.PatientIdentityRemoved, seg.StudyDate) == ("P01", "YES", "20240101")
    assert seg.StudyInstanceUID == alias.uid(scan.source.study_uid) == written.study_uid
    assert np.array_equal(
        read_seg(tmp_path / "seg.dcm", scan, alias=alias)["ICH"].array, masks_of(scan)["ICH"].array
    )
    assert dciodvfy_errors(tmp_path / "seg.dcm") == []
    with pytest.raises(InputRefused, match="was drawn on series"):
        read_seg(tmp_path / "seg.dcm", scan)
    assert Alias("P01", key="another").uid("1.2") != alias.uid("1.2")
    with pytest.raises(UsageError, match="key"):
        Alias("P01", key="")


def test_what_does_not_belong_is_refused(opened: Opened, tmp_path: Path) -> None:
    scan = opened()
    mask = scan.volume.map_array(lambda hu: hu > 0)
    with pytest.raises(InputRefused, match="no code is known"):
        write_seg(scan, {"tumour": mask}, tmp_path / "seg.dcm")
    with pytest.raises(InputRefused, match="an empty list"):
        write_seg(scan, {}, tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()
    seg = write_seg(scan, {"ICH": mask}, tmp_path / "seg.dcm")
    other = opened(Quirks(header={"seed": "another"}), name="other")
    with pytest.raises(InputRefused, match="was drawn on series"):
        read_seg(seg.path, other)
    with pytest.raises(InputRefused, match="not a DICOM SEG"):
        read_seg(next((tmp_path / "series").iterdir()), scan)
    (tmp_path / "text.dcm").write_text("no DICOM at all")
    with pytest.raises(InputRefused, match="not a readable DICOM"):
        read_seg(tmp_path / "text.dcm", scan)
    nifti.save(scan.volume.map_array(lambda hu: np.where(hu > 0, 900, hu)), tmp_path / "scan.nii.gz")
    plain = nifti.open_nifti(tmp_path / "scan.nii.gz")
    with pytest.raises(InputRefused, match="save as NIfTI"):
        write_seg(plain, {"ICH": mask}, tmp_path / "no.dcm")
    assert not (tmp_path / "no.dcm").exists()


@pytest.mark.parametrize(
    ("sets", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO 2022 IR 100", "Müller^Jörg"),
        ("ISO_IR 6", "Doe^Jane"),
        ("", "Doe^Jane"),
        ("ISO_IR 100", "Müller^Jörg"),
    ],
)
def test_names_of_every_character_set_reach_seg_and_sr(
    sets: str | list[str], name: str, opened: Opened, tmp_path: Path
) -> None:
    scan = opened(Quirks(tags={"SpecificCharacterSet": sets, "PatientName": name, "PatientID": "4711"}))
    seg = write_seg(scan, masks_of(scan), tmp_path / "seg.dcm")
    write_sr(scan, Report(()), tmp_path / "sr.dcm", seg=seg)
    for path in (tmp_path / "seg.dcm", tmp_path / "sr.dcm"):
        written = pydicom.dcmread(path)
        assert (str(written.PatientName), written.PatientID) == (name, "4711")
        assert dciodvfy_errors(path) == []
    assert written.SpecificCharacterSet == ("ISO_IR 100" if sets == "ISO_IR 100" else "ISO_IR 192")


@pytest.mark.parametrize(
    "tags",
    [
        {"SliceThickness": None},
        {"PatientSex": "X"},
        {"PatientSex": "m"},
        {"StudyTime": "12:00:00"},
        {"StudyTime": "93000"},
        {"PatientBirthDate": "19500000"},
        {"PatientBirthDate": "00000000"},
        {"PatientBirthDate": "anonymized"},
        {"StudyDate": "20251301"},
    ],
    ids=str,
)
def test_what_dicom_does_not_know_is_left_empty(tags: dict[str, Any], opened: Opened, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns while such a header is made
        scan = opened(Quirks(tags=tags))
    long = Algorithm(version="0.2.0 " + "m" * 80)
    seg = write_seg(scan, masks_of(scan), tmp_path / "seg.dcm", algorithm=long)
    write_sr(scan, Report(()), tmp_path / "sr.dcm", seg=seg, algorithm=long)
    for path in (tmp_path / "seg.dcm", tmp_path / "sr.dcm"):
        written = pydicom.dcmread(path)
        assert all(not written.get(keyword) for keyword in tags)
        assert (written.PatientID, written.SoftwareVersions) == ("MADE", long.version)
        # a thickness that nobody gave is not made up, though dciodvfy would like one
        assert [error for error in dciodvfy_errors(path) if "<SliceThickness>" not in error] == []


def test_frames_without_references_are_found_by_their_place(opened: Opened, tmp_path: Path) -> None:
    """Other programs' SEGs often name no source image per frame."""
    scan = opened(Quirks(tilt_deg=20))
    mask = scan.volume.map_array(lambda hu: hu > 0)
    seg = pydicom.dcmread(write_seg(scan, {"ICH": mask}, tmp_path / "seg.dcm").path)
    for group in seg.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    seg.save_as(tmp_path / "bare.dcm")
    assert np.array_equal(read_seg(tmp_path / "bare.dcm", scan)["ICH"].array, mask.array)
    for group in seg.PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x, y, z + 1]
    seg.save_as(tmp_path / "moved.dcm")
    with pytest.raises(InputRefused, match="lie on no slice"):
        read_seg(tmp_path / "moved.dcm", scan)


def test_every_segment_that_we_know_can_be_written(opened: Opened, tmp_path: Path) -> None:
    scan = opened(Quirks(steps_mm=(5.0,) * 13))
    mask = scan.volume.map_array(lambda hu: hu > 0)
    seg = write_seg(scan, dict.fromkeys(segment_targets(), mask), tmp_path / "seg.dcm")
    assert list(read_seg(seg.path, scan)) == list(segment_targets())
    assert dciodvfy_errors(seg.path) == []


def test_a_real_scanner_study_has_a_seg(shared: Path, tmp_path: Path) -> None:
    study = shared / "data" / "head_phantom_series"
    if not study.is_dir():
        pytest.skip("the scanner study is not beside this checkout")
    scan = open_dicom(study)
    mask = scan.volume.map_array(lambda hu: (hu > 20) & (hu < 60))
    seg = write_seg(scan, {"ICH": mask, "tract_left": mask}, tmp_path / "seg.dcm")
    back = read_seg(seg.path, scan)
    assert mask.array.any()
    assert np.array_equal(back["ICH"].array, mask.array)
    assert np.array_equal(back["tract_left"].array, mask.array)
    assert dciodvfy_errors(seg.path) == []


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=6), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_seg_is_read_or_refused(
    damaged: tuple[Scan, Path], at: int, junk: bytes, cut: bool
) -> None:
    scan, seg = damaged
    content = bytearray(seg.read_bytes())
    at %= len(content)
    content[at : at + len(junk)] = junk
    spoilt = seg.with_name("spoilt.dcm")
    spoilt.write_bytes(bytes(content[:at] if cut else content))
    try:
        masks = read_seg(spoilt, scan)
    except InputRefused as refusal:
        text = str(refusal)
    else:
        text = "spoilt.dcm"
        assert all(mask.same_grid(scan.volume) for mask in masks.values())
    assert "spoilt.dcm" in text


@pytest.fixture
def damaged(opened: Opened, tmp_path: Path) -> tuple[Scan, Path]:
    scan = opened(Quirks(shape=(48, 48), pixel_mm=2.0, steps_mm=(10.0,) * 7))
    mask = scan.volume.map_array(lambda hu: hu > 0)
    return scan, write_seg(scan, {"ICH": mask, "PHE": mask}, tmp_path / "seg.dcm").path
