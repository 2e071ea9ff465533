"""The schema in docs is that of the records that are written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builders.readable_head import reading
from ichnos.api import save_reading
from ichnos.errors import UsageError
from ichnos.reading import Finding, Measure, Record
from ichnos.scan import Source, SourceSlice

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "reading.schema.json"


def test_the_published_schema_is_the_records_own() -> None:
    told = "docs/reading.schema.json is old; write Record.model_json_schema() to it"
    assert json.loads(SCHEMA.read_text()) == Record.model_json_schema(), told


def test_a_saved_record_comes_back(tmp_path: Path) -> None:
    result = reading()
    save_reading(result, tmp_path)
    saved = Record.model_validate_json((tmp_path / "reading.json").read_bytes())
    assert saved.findings == result.record.findings
    assert all((tmp_path / file).is_file() for file in saved.masks.values())


def test_an_error_of_the_dicom_library_costs_no_reading_and_tells_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(*_: object, **__: object) -> None:
        raise ValueError("Roe^Jane is no name")

    monkeypatch.setattr("ichnos.reading.save.write_seg", odd)
    result = reading()
    volume = result.scan.volume
    slices = (SourceSlice(tmp_path / "1.dcm", 0, "1.2", volume.affine, volume.shape[:2]),)
    with_source = replace(result.scan, source=Source(tmp_path, "1.1", "1.3", slices, ()))
    save_reading(replace(result, scan=with_source), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    record = Record.model_validate_json((tmp_path / "out" / "reading.json").read_bytes())
    assert record.files == {"report": "report.html"}
    assert record.warnings[-1].endswith("does not allow it (ValueError)")
    assert (record.warnings[-1] in page, "Roe^Jane" in page) == (True, False)


def test_a_measure_without_value_or_interval_must_say_why() -> None:
    with pytest.raises(ValueError, match="must say why"):
        Measure(name="a", label="A", value=None)
    with pytest.raises(ValueError, match="must say why"):
        Measure(name="a", label="A", value=1.0, unit="mL")
    with pytest.raises(ValueError, match="say None"):
        Measure(name="a", label="A", value=float("nan"), reason="-")


def test_an_unknown_finding_or_measure_is_refused_with_the_choices() -> None:
    measure = Measure(name="ich_volume", label="A", value=None, reason="-")
    finding = Finding(target="haematoma", status="read", sentence="-", measures=(measure,))
    record = Record(name="made", status="read", findings=(finding,))
    with pytest.raises(UsageError, match="no finding 'blood'; it has haematoma"):
        record.finding("blood")
    with pytest.raises(UsageError, match="no measure 'volume'; it has ich_volume"):
        record.finding("haematoma").measure("volume")
    with pytest.raises(UsageError, match="it has none"):
        Finding(target="tract", status="withheld", sentence="-").measure("injury_left")


def test_a_reading_is_shown_in_one_short_line() -> None:
    assert repr(reading()).startswith("Reading('made', haematoma: read, leukoaraiosis: read")
    assert len(repr(reading())) < 200
