"""No name of a file or folder and no text of a header reaches what `read` and `convert` write, unless"
" asked for."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pydicom
import pytest

from builders.head import head_hu
from builders.series import Quirks, build_series
from builders.tiny_model import tiny_model
from ichnos.cli.main import run
from ichnos.formats import nifti, open_scan

MARK = "ZQMARK"
# VR of text elements -> a text that is valid there and holds the mark.
_TEXT = {vr: MARK for vr in ("LO", "SH", "PN", "LT", "ST", "UT", "UC", "CS", "AE")}
_KEYWORDS = """
    InstitutionName InstitutionAddress ReferringPhysicianName OperatorsName StationName PatientName PatientID
    OtherPatientIDs PatientComments PatientAddress AccessionNumber StudyID StudyDescription SeriesDescription
    ProtocolName ImageComments DeviceSerialNumber SoftwareVersions Manufacturer ManufacturerModelName
    ConvolutionKernel BodyPartExamined RequestedProcedureDescription DerivationDescription
    AdmittingDiagnosesDescription PerformedProcedureStepDescription
"""
_NEEDED = ("Modality", "ImageType", "PhotometricInterpretation", "PatientSex", "SpecificCharacterSet")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny").folder


def fill(file: Path) -> None:
    """Put the mark into every text element that the header may hold without ceasing to be a CT."""
    data = pydicom.dcmread(file)
    for keyword in _KEYWORDS.split():
        setattr(data, keyword, MARK)
    for element in data:
        if element.VR in _TEXT and element.keyword not in _NEEDED:
            element.value = MARK
    data.save_as(file)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make folders, files and headers that all carry the mark: two good scans and several that are"
    " refused."""
    place = tmp_path_factory.mktemp("given") / f"{MARK}_DOE"
    quirks = Quirks(shape=(64, 64), pixel_mm=4.0, steps_mm=(5.0,) * 31)
    build_series(head_hu(bleed_mm=14), place / f"{MARK} study", quirks)
    for file in (place / f"{MARK} study").iterdir():
        fill(file)
        file.rename(file.with_name(f"{MARK}_{file.name}"))
    scan = open_scan(place / f"{MARK} study")
    nifti.save(scan.volume, place / "n" / f"{MARK}.nii.gz")
    few = {"seed": "few", "series_number": 7}
    build_series(head_hu(), place / f"{MARK} few", Quirks(shape=(64, 64), steps_mm=(5.0,) * 3, header=few))
    for file in (place / f"{MARK} few").iterdir():
        fill(file)
        data = pydicom.dcmread(file)
        data.Modality = MARK
        data.save_as(file)
    (place / "n" / f"{MARK}_broken.nii.gz").write_bytes(gzip.compress(b"not an image " * 90))
    nifti.save(scan.volume, place / "n" / f"{MARK}_mr.nii.gz")
    (place / "n" / f"{MARK}_mr.json").write_text(json.dumps({"Modality": MARK}))
    return place


def everything_in(out: Path) -> dict[str, bytes]:
    """Return names and contents of all files that are meant to be shared; SEG and SR go back to the"
    " patient."""
    files = [p for p in out.rglob("*") if p.is_file() and p.suffix != ".dcm"]
    return {
        str(p.relative_to(out)): gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes()
        for p in files
    }


def assert_nothing_is_told(out: Path, printed: str, given: Path) -> None:
    secrets = [MARK, given.parent.name]
    for name, content in everything_in(out).items():
        for secret in secrets:
            assert secret not in name
            assert secret.encode() not in content, name
    assert not [line for line in printed.splitlines() if MARK in line]


def test_read_tells_nobody_who_it_was(
    marked: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    facts = tmp_path / f"{MARK}.tsv"
    facts.write_text(f"id\tage_years\n{MARK}\t71\n")
    out = tmp_path / "out"
    arguments = ["read", str(marked), "-o", str(out), "--model", str(model), "--facts", str(facts), "--json"]
    assert run(arguments) == 2
    printed = capfd.readouterr()
    assert_nothing_is_told(out, printed.out + printed.err, marked)
    rows = json.loads(printed.out)["scans"]
    assert sorted(row["status"] for row in rows) == ["read", "read", "refused", "refused", "refused"]
    assert all(row["id"].startswith(("scan-", "study-")) for row in rows)
    assert all(row["reason"] for row in rows if row["status"] == "refused"), "the reason is told nevertheless"
    ages = [
        json.loads((out / row["id"] / "reading.json").read_text())["facts"].get("age_years") for row in rows
    ]
    assert 71.0 in ages, "the facts table may name the file"
    names = json.loads((Path(os.environ["XDG_STATE_HOME"]) / "ichnos" / "names.json").read_text())["names"]
    assert {MARK in names[row["id"]] for row in rows} == {True}, "the key file maps back"


def test_convert_tells_nobody_who_it_was(
    marked: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, given in enumerate(
        (marked, marked / "n" / f"{MARK}.nii.gz", marked / "n" / f"{MARK}_mr.nii.gz")
    ):
        out = tmp_path / f"out{number}"
        run(["convert", str(given), "-o", str(out)])
        printed = capfd.readouterr()
        assert_nothing_is_told(out, printed.out + printed.err, marked)
    assert list((tmp_path / "out0").glob("study-*_ct.nii.gz"))


def test_names_are_kept_where_they_are_asked_for(marked: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["convert", str(marked / "n" / f"{MARK}.nii.gz"), "-o", str(out), "--keep-names"]) == 0
    assert (out / f"{MARK}_ct.nii.gz").is_file()


def test_another_key_is_not_resumed_under_other_names(
    marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(marked / "n" / f"{MARK}.nii.gz"), "-o", str(tmp_path / "out")]
    assert run(arguments) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert run(arguments) == 3
    assert "other settings (names" in capsys.readouterr().err
