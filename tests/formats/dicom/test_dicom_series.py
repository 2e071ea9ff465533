"""Which series is the head CT, and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from builders.head import head_hu
from builders.series import Quirks, ball, build_series, datasets_of
from ichnos.cli.main import run
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import inspect_path, open_scan
from ichnos.formats.dicom import SeriesHeader, SeriesSummary, mask_from_source, mask_on_source

SMALL: dict[str, Any] = {"shape": (32, 32), "pixel_mm": 7.0}


def series(
    folder: Path, number: int, description: str, *, header: dict[str, Any] | None = None, **quirks: Any
) -> str:
    """Write one small series of a study; return its UID."""
    told = {
        "series_number": number,
        "description": description,
        "study_seed": "one study",
        "seed": f"series {number}",
        **(header or {}),
    }
    build_series(
        ball(80, inside_hu=35), folder, Quirks(**{**SMALL, "steps_mm": (5.0,) * 21, **quirks, "header": told})
    )
    return SeriesHeader(seed=told["seed"], series_number=number).series_uid


@pytest.fixture
def hospital(tmp_path: Path) -> dict[str, str]:
    """Write what a hospital sends for one head CT: six series of mixed kind and junk beside them."""
    place = tmp_path / "study"
    uids = {
        "localizer": series(
            place,
            1,
            "Topogram",
            steps_mm=(5.0,),
            header={"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")},
            axes="PIR",
        ),
        "head": series(place / "a", 2, "HEAD 5.0 H31s"),
        "bone": series(place / "a" / "b", 3, "HEAD 5.0 H60s", header={"kernel": "H60s"}),
        "angiography": series(
            place, 4, "CTA HEAD", steps_mm=(1.0,) * 120, tags={"ContrastBolusAgent": "IOMERON 400"}
        ),
        "mip": series(
            place, 5, "CTA MIP THICK", header={"image_type": ("DERIVED", "SECONDARY", "AXIAL", "MIP")}
        ),
        "dose": series(
            place, 999, "Dose Report", steps_mm=(5.0,), tags={"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}
        ),
    }
    (place / "README.txt").write_text("viewer")
    (place / "autorun").write_bytes(b"MZ" + bytes(300))
    (place / "Thumbs.db").write_bytes(bytes(10))
    return {"place": str(place), **uids}


def test_six_series_the_right_one_and_every_reason(hospital: dict[str, str]) -> None:
    found = inspect_path(hospital["place"])
    told = {summary.uid: " | ".join(summary.reasons) for summary in found.series}
    assert len(told) == 6
    assert found.pick == hospital["head"] == found.series[0].uid
    assert "original images" in told[hospital["head"]]
    assert "soft-tissue kernel H31s" in told[hospital["head"]]
    assert "22 slices over 105 mm" in told[hospital["head"]]
    assert "a localizer (cannot be picked)" in told[hospital["localizer"]]
    assert "too few slices (2" in told[hospital["localizer"]]
    assert "bone kernel or bone series (H60s) (-40)" in told[hospital["bone"]]
    assert "contrast agent (IOMERON 400) (-100)" in told[hospital["angiography"]]
    assert "angiography (-100)" in told[hospital["angiography"]]
    assert "a projection or rendering (MIP, VRT) (cannot be picked)" in told[hospital["mip"]]
    assert "a secondary capture or other object" in told[hospital["dose"]]
    assert "a dose report" in told[hospital["dose"]]
    assert found.skipped == {"not DICOM": 1}
    assert open_scan(hospital["place"]).source.series_uid == hospital["head"]  # type: ignore[union-attr]


def test_the_choice_does_not_depend_on_names_or_order(hospital: dict[str, str], tmp_path: Path) -> None:
    files = [file for file in Path(hospital["place"]).rglob("*.dcm")]
    for k, file in enumerate(np.random.default_rng(1).permutation(np.array(files, object))):
        (tmp_path / "mixed").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "mixed" / f"{k:05d}")
    assert inspect_path(tmp_path / "mixed").series == inspect_path(hospital["place"]).series


def test_series_can_be_named(hospital: dict[str, str]) -> None:
    assert open_scan(hospital["place"], series=hospital["bone"]).acquisition.kernel == "H60s"
    with pytest.raises(InputRefused, match=r"holds no series 1\.2\.3; .* lists the 6"):
        open_scan(hospital["place"], series="1.2.3")


def best(folder: Path) -> SeriesSummary:
    return inspect_path(folder).series[0]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"description": "HEAD"}, {"description": "HEAD C+"}),
        ({"description": "BRAIN WITHOUT"}, {"description": "BRAIN POST"}),
        ({"description": "HEAD"}, {"description": "CHEST", "header": {"body_part": "CHEST"}}),
        ({"description": "HEAD"}, {"description": "HEAD COR", "axes": "LIA"}),
        (
            {"description": "HEAD"},
            {"description": "HEAD", "header": {"image_type": ("DERIVED", "SECONDARY", "AXIAL")}},
        ),
        ({"description": "HEAD"}, {"description": "HEAD", "missing": (7, 8)}),
        ({"description": "HEAD"}, {"description": "HEAD", "steps_mm": (5.0,) * 9}),
        ({"description": "HEAD"}, {"description": "HEAD THIN", "steps_mm": (0.8,) * 140}),
        ({"description": "HEAD"}, {"description": "HEAD", "steps_mm": (8.0,) * 18}),
        ({"description": "HEAD"}, {"description": "PERFUSION CBF HEAD"}),
        ({"description": "HEAD"}, {"description": "HEAD", "pixel_mm": 15.0}),
        ({"description": "HEAD"}, {"description": "HEAD BONE"}),
        ({"description": "HEAD"}, {"description": "HEAD", "repeated": 2}),
    ],
    ids=lambda kind: " ".join(f"{v}" for v in kind.values())[:40],
)
def test_what_serves_better_is_preferred_whichever_comes_first(
    better: dict[str, Any], worse: dict[str, Any], tmp_path: Path
) -> None:
    for first, second, name in ((3, 4, "a"), (4, 3, "b")):
        wanted = series(tmp_path / name / "x", first, **better)
        series(tmp_path / name / "y", second, **worse)
        assert best(tmp_path / name).uid == wanted


def test_contrast_in_the_header_is_kept_for_the_verdict(tmp_path: Path) -> None:
    series(tmp_path, 2, "HEAD", tags={"ContrastBolusAgent": "ULTRAVIST"})
    assert open_scan(tmp_path).acquisition.contrast_agent == "ULTRAVIST"


@pytest.mark.parametrize("nothing", ["", "NONE", "No", "n/a"])
def test_no_contrast_is_not_contrast(nothing: str, tmp_path: Path) -> None:
    series(tmp_path, 2, "HEAD", tags={"ContrastBolusAgent": nothing})
    assert open_scan(tmp_path).acquisition.contrast_agent is None


def test_several_images_at_one_position_are_told(tmp_path: Path) -> None:
    series(tmp_path, 2, "HEAD", repeated=4, order="shuffled")
    assert "66 more image(s) of places already taken, left out (-5)" in best(tmp_path).reasons
    assert open_scan(tmp_path).volume.shape[2] == 22


def test_the_most_complete_acquisition_wins_at_shared_positions(tmp_path: Path) -> None:
    files = build_series(ball(80, inside_hu=35), tmp_path, Quirks(**SMALL, steps_mm=(5.0,) * 29, repeated=2))
    for file in files[:20]:
        file.unlink()  # of the first acquisition, 10 of 30 are left: the second is taken wherever it is
    assert open_scan(tmp_path).hu.max() == 1035
    assert open_scan(tmp_path).volume.shape[2] == 30


def test_patients_are_not_mixed(tmp_path: Path) -> None:
    series(tmp_path, 2, "HEAD")
    series(tmp_path, 3, "HEAD", header={"patient_id": "OTHER", "study_seed": "other"})
    assert inspect_path(tmp_path).patients == 2
    with pytest.raises(InputRefused, match="images of 2 patients"):
        open_scan(tmp_path)


def test_one_slice_stands_for_its_series(tmp_path: Path) -> None:
    series(tmp_path, 2, "HEAD")
    series(tmp_path, 3, "HEAD OTHER")
    slices = sorted(tmp_path.glob("S003*"))
    assert open_scan(slices[4]).acquisition.series_description == "HEAD OTHER"


@pytest.mark.parametrize(
    ("quirks", "why"),
    [
        ({"steps_mm": ()}, "too few slices"),
        ({"tags": {"Modality": "MR"}}, "modality MR, not CT"),
        ({"tags": {"ImagePositionPatient": None}}, "no place in the patient"),
        ({"tags": {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}}, "no place in the patient"),
        ({"tags": {"PixelSpacing": None}}, "no place in the patient"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    quirks: dict[str, Any], why: str, tmp_path: Path
) -> None:
    series(tmp_path, 2, "HEAD", **quirks)
    with pytest.raises(InputRefused, match=why):
        open_scan(tmp_path)


def test_age_and_sex_become_facts(tmp_path: Path) -> None:
    series(tmp_path, 2, "HEAD", header={"age_years": 67, "sex": "F"})
    assert open_scan(tmp_path).facts == {"sex": "F", "age_years": 67.0}


def test_a_report_beside_the_images_is_listed(tmp_path: Path) -> None:
    uid = series(tmp_path, 2, "HEAD")
    report = pydicom.dcmread(next(tmp_path.glob("*.dcm")), stop_before_pixels=True)
    report.SeriesInstanceUID, report.SOPInstanceUID, report.Modality = "1.2.9", "1.2.9.1", "SR"
    report.SOPClassUID, report.SeriesDescription = "1.2.840.10008.5.1.4.1.1.88.67", "Radiation"
    for word in ("Rows", "Columns"):
        delattr(report, word)
    report.save_as(tmp_path / "report.dcm")
    found = inspect_path(tmp_path)
    assert found.pick == uid
    assert any("modality SR, not CT" in reason for reason in found.series[1].reasons)
    with pytest.raises(InputRefused, match="has 1 slice"):
        open_scan(tmp_path, series="1.2.9")


# ---- the command
# ------------------------------------------------------------------------------------------


def head_series(folder: Path, **quirks: Any) -> None:
    build_series(
        head_hu(), folder, Quirks(**{"shape": (128, 128), "pixel_mm": 2.0, "steps_mm": (5.0,) * 29, **quirks})
    )


def test_inspect_tells_series_pick_and_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head_series(tmp_path / "s", tilt_deg=12.0)
    assert run(["inspect", str(tmp_path / "s"), "--json", "--montage", str(tmp_path / "row.png")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pick"] == told["series"][0]["uid"]
    assert told["series"][0]["tilt_deg"] == pytest.approx(12.0, abs=0.01)
    assert told["verdict"]["level"] == "pass"
    assert told["grid"]["spacing_mm"] == pytest.approx([2, 2, 5])
    picture = np.asarray(Image.open(tmp_path / "row.png"))
    assert picture.shape[0] == 160
    assert picture.std() > 20
    assert run(["inspect", str(tmp_path / "s")]) == 0
    shown = capsys.readouterr().out
    assert "→" in shown
    assert "quality: pass" in shown


def test_inspect_leaves_with_2_where_nothing_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series(tmp_path / "few", 2, "HEAD", steps_mm=(5.0,) * 3)
    assert run(["inspect", str(tmp_path / "few"), "--json", "--montage", str(tmp_path / "row.png")]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["pick"] is None
    assert "too few slices (4" in err
    assert not (tmp_path / "row.png").exists()
    series(tmp_path / "ball", 2, "HEAD")
    assert run(["inspect", str(tmp_path / "ball")]) == 2
    assert "quality: refuse" in capsys.readouterr().out
    assert run(["inspect", str(tmp_path / "nowhere")]) == 2
    assert run(["inspect", str(tmp_path / "ball"), "--montage", "row.jpg"]) == 3


def test_nifti_is_inspected_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ichnos.formats import nifti

    head_series(tmp_path / "s")
    nifti.save(open_scan(tmp_path / "s").volume, tmp_path / "head.nii.gz")
    assert run(["inspect", str(tmp_path / "head.nii.gz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"]["level"] == "pass"
    with pytest.raises(UsageError, match="has no series"):
        open_scan(tmp_path / "head.nii.gz", series="1.2.3")


@pytest.mark.parametrize(
    ("description", "usable", "contrast"),
    [
        ("HEAD iDose (3)", True, False),
        ("LOW DOSE HEAD", True, False),
        ("HEAD PROTOCOL 5mm", True, False),
        ("POST FOSSA", True, False),
        ("HEAD POST OP", True, False),
        ("HEAD POST", True, True),
        ("Kopf nativ 5.0", True, False),
        ("Kopf mit KM", True, True),
        ("CRANE SANS CONTRASTE", True, False),
        ("HEAD W/O CONTRAST", True, False),
        ("HEAD C+", True, True),
        ("Dose Report", False, False),
        ("Patient Protocol", False, False),
        ("SURVIEW", False, False),
        ("HEAD MIP", False, False),
    ],
)
def test_descriptions_as_hospitals_write_them(
    description: str, usable: bool, contrast: bool, tmp_path: Path
) -> None:
    series(tmp_path, 2, description, shape=(8, 8), steps_mm=(5.0,) * 9)
    found = best(tmp_path)
    assert found.usable == usable
    assert any("contrast agent" in reason for reason in found.reasons) == contrast


def test_a_scan_repeated_after_motion_is_not_mixed_with_the_first(tmp_path: Path) -> None:
    """The second acquisition lies 2.2 mm further up, so that no position is shared."""
    series(tmp_path, 2, "HEAD", steps_mm=(5.0,) * 29, tags={"AcquisitionNumber": 1})
    again = Quirks(
        **{**SMALL, "steps_mm": (5.0,) * 25},
        header={"series_number": 2, "seed": "series 2", "study_seed": "one study"},
    )
    for k, data in enumerate(datasets_of(ball(80, inside_hu=35), again, (0, 0, 2.2))):
        data.AcquisitionNumber, data.SOPInstanceUID = 2, f"1.2.3.{k}"
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.save_as(tmp_path / f"again{k}.dcm")
    assert best(tmp_path).images == 30
    assert "26 more image(s) of places already taken, left out (-5)" in best(tmp_path).reasons


def test_an_acquisition_for_each_rotation_is_one_scan(tmp_path: Path) -> None:
    """Some scanners count an acquisition for every few slices, and the base is cut thinner than the
    vertex.
    """
    quirks = Quirks(**SMALL, steps_mm=(4.0,) * 11 + (7.0,) * 12)
    for k, data in enumerate(datasets_of(ball(80, inside_hu=35), quirks)):
        data.AcquisitionNumber = k // 4
        data.save_as(tmp_path / f"{k}.dcm")
    assert best(tmp_path).images == 24
    assert best(tmp_path).steps_mm == (4.0, 7.0)


def test_a_full_disk_leaves_no_half_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head_series(tmp_path / "s")

    def full(image: object, target: Path, **options: object) -> None:
        target.write_bytes(b"\x89PNG")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Image.Image, "save", full)
    assert run(["inspect", str(tmp_path / "s"), "--montage", str(tmp_path / "row.png")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


# ---- one series in two parts


def mixed(
    folder: Path, last: list[str], *, steps_mm: tuple[float, ...] = (4.0,) * 13 + (5.5,) + (7.0,) * 13
) -> Path:
    """Write a series as GE scanners do: 4 mm slices at the base, 7 mm above, of another ImageType, tilted."""
    quirks = Quirks(
        steps_mm=steps_mm, tilt_deg=18.5, vendor="ge", padding_hu=-1500, shape=(64, 64), pixel_mm=4.0
    )
    files = build_series(ball(40), folder, quirks)
    for number, file in enumerate(files):
        data = pydicom.dcmread(file)
        data.SliceThickness = 4 if number < 14 else 7
        if number >= 14:
            data.ImageType = last
        data.save_as(file)
    return folder


def test_image_types_that_differ_in_trailing_values_are_one_series(tmp_path: Path) -> None:
    inspection = inspect_path(mixed(tmp_path / "s", ["ORIGINAL", "PRIMARY", "AXIAL", "ADD"]))
    assert [summary.images for summary in inspection.series] == [28]
    scan = inspection.open()
    drawn = np.random.default_rng(0).integers(0, 3, (28, 64, 64)).astype(np.uint8)
    assert (mask_on_source(scan, mask_from_source(scan, drawn)) == drawn).all()


def test_other_image_types_and_overlapping_parts_stay_apart(tmp_path: Path) -> None:
    reformat = inspect_path(mixed(tmp_path / "a", ["DERIVED", "SECONDARY", "AXIAL"]))
    assert sorted(summary.images for summary in reformat.series) == [14, 14]
    over = mixed(tmp_path / "b", ["ORIGINAL", "PRIMARY", "AXIAL", "VNC"], steps_mm=(4.0,) * 27)
    files = sorted(over.iterdir())
    for file, twin in zip(files[14:], files[:14], strict=True):  # the same places in another energy
        data = pydicom.dcmread(file)
        data.ImagePositionPatient = pydicom.dcmread(twin).ImagePositionPatient
        data.save_as(file)
    assert sorted(summary.images for summary in inspect_path(over).series) == [14, 14]


def test_a_child_known_by_its_birth_date_alone_has_an_age(tmp_path: Path) -> None:
    header = {"birth_date": "20170601", "age_years": None, "date": "20250101"}
    build_series(ball(30), tmp_path / "s", Quirks(header=header))
    assert open_scan(tmp_path / "s").facts["age_years"] == pytest.approx(7.6, abs=0.05)
