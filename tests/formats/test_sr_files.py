"""SR: what was measured comes back, points at its segment, has a unit, and says what it may be used for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from builders.opened import dciodvfy_errors, open_built
from builders.series import Quirks
from ichnos.errors import InputRefused
from ichnos.formats.dicom_codes import NOTICE
from ichnos.formats.dicom_seg import write_seg
from ichnos.formats.dicom_source import Alias
from ichnos.formats.dicom_sr import CodedGrade, MeasurementGroup, Quantity, Report, read_sr, write_sr
from ichnos.scan import Scan

Opened = Callable[..., Scan]

REPORT = Report(
    groups=(
        MeasurementGroup(
            "ICH", "ICH", (Quantity("ich_volume", "Intracerebral haematoma", 31.25, "mL", 28.5, 35.0),)
        ),
        MeasurementGroup(
            "tract_left",
            "tract_left",
            (Quantity("tract_left_overlap_share", "Share of the left tract in blood", 0.125),),
        ),
        MeasurementGroup(
            "expansion",
            None,
            (
                Quantity(
                    "expansion_probability", "Probability of expansion", 0.375, "", 0.25, 0.5, "80 % interval"
                ),
            ),
        ),
        MeasurementGroup(
            "leukoaraiosis",
            None,
            (Quantity("leukoaraiosis_density", "Mean density", 24.5, "HU"),),
            (CodedGrade("fazekas_deep_white_matter", "Fazekas, deep white matter", "2", "early confluent"),),
        ),
    ),
    comments=("Right tract: could not look, the slices end below the capsule.",),
)


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return partial(open_built, tmp_path)


@pytest.fixture
def scan(opened: Opened) -> Scan:
    return opened(Quirks(tilt_deg=12))


def seg_of(scan: Scan, folder: Path, alias: Alias | None = None, *more: str):  # type: ignore[no-untyped-def]
    mask = scan.volume.map_array(lambda hu: hu > 0)
    names = ("ICH", "tract_left", *more)
    return write_seg(scan, dict.fromkeys(names, mask), folder / "seg.dcm", alias=alias)


def expected(report: Report) -> Report:
    """HU is written as UCUM has it."""
    groups = [
        MeasurementGroup(g.name, g.segment, tuple(_ucum(q) for q in g.quantities), g.grades)
        for g in report.groups
    ]
    return Report(tuple(groups), report.comments)


def _ucum(q: Quantity) -> Quantity:
    return replace(q, unit="[hnsf'U]") if q.unit == "HU" else q


def test_what_was_written_is_read(scan: Scan, tmp_path: Path) -> None:
    path = write_sr(scan, REPORT, tmp_path / "sr.dcm", seg=seg_of(scan, tmp_path))
    assert read_sr(path) == expected(
        REPORT
    )  # every number here is a sum of few powers of two, so equality is exact
    assert dciodvfy_errors(path) == []


def test_an_outside_reader_finds_the_volume_of_the_segment(scan: Scan, tmp_path: Path) -> None:
    seg = seg_of(scan, tmp_path)
    sr = srread(write_sr(scan, REPORT, tmp_path / "sr.dcm", seg=seg))
    group = sr.content.get_volumetric_roi_measurement_groups(tracking_uid=None)[0]
    assert group.tracking_identifier == "ICH"
    assert group.referenced_segment.referenced_sop_instance_uid == seg.sop_instance_uid
    measurement = group.get_measurements()[0]
    assert (measurement.name.value, measurement.value, measurement.unit.value) == ("118565006", 31.25, "mL")
    assert group.method is None
    assert measurement.method.value == "126030"
    assert group.finding_type.value == "50960005"
    algorithm = [item for item in group[0].ContentSequence if "Algorithm" in item.name.meaning]
    assert {item.value for item in algorithm if item.value_type.value == "TEXT"} >= {"ichnos", NOTICE}


def test_the_limits_of_an_interval_are_numbers_of_their_own_that_no_reader_takes_for_the_volume(
    scan: Scan, tmp_path: Path
) -> None:
    sr = srread(write_sr(scan, REPORT, tmp_path / "sr.dcm", seg=seg_of(scan, tmp_path)))
    group = sr.content.get_volumetric_roi_measurement_groups(tracking_uid=None)[0]
    volume, *limits = group.get_measurements()
    assert [(limit.value, limit.unit.value) for limit in limits] == [(28.5, "mL"), (35.0, "mL")]
    assert [limit.name.scheme_designator for limit in (volume, *limits)] == ["SCT", "99ICHNOS", "99ICHNOS"]
    assert limits[1].name.meaning == "Upper limit: Intracerebral haematoma, interval"


def test_what_was_measured_of_the_whole_head_refers_to_the_brain(scan: Scan, tmp_path: Path) -> None:
    seg = seg_of(scan, tmp_path, None, "brain")
    shift = MeasurementGroup("haematoma measures", None, (Quantity("midline_shift", "Shift", 3.0, "mm"),))
    report = Report((*REPORT.groups[:2], shift))
    path = write_sr(scan, report, tmp_path / "sr.dcm", seg=seg)
    groups = srread(path).content.get_volumetric_roi_measurement_groups()
    referred = [
        item.ReferencedSOPSequence[0]
        for group in groups
        for item in group[0].ContentSequence
        if item.name.meaning == "Referenced Segment"
    ]
    assert [item.ReferencedSegmentNumber for item in referred] == [1, 2, seg.segment_numbers["brain"]]
    assert {item.ReferencedSOPInstanceUID for item in referred} == {seg.sop_instance_uid}
    assert read_sr(path) == report
    assert dciodvfy_errors(path) == []


def test_it_says_research_use_only_and_belongs_to_the_study(scan: Scan, tmp_path: Path) -> None:
    sr = pydicom.dcmread(write_sr(scan, REPORT, tmp_path / "sr.dcm", seg=seg_of(scan, tmp_path)))
    assert scan.source is not None
    assert sr.StudyInstanceUID == scan.source.study_uid
    assert NOTICE in [item.TextValue for item in sr.ContentSequence if item.ValueType == "TEXT"]
    assert "RESEARCH USE ONLY" in sr.SeriesDescription
    referred = {
        item.ReferencedSOPInstanceUID
        for study in sr.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert referred == {s.sop_instance_uid for s in scan.source.slices} | {
        seg_of(scan, tmp_path).sop_instance_uid
    }


def test_same_bytes_and_another_identity(scan: Scan, tmp_path: Path) -> None:
    alias = Alias("P01", key="secret of this test")
    for name, who in (("a", None), ("b", None), ("c", alias)):
        write_sr(scan, REPORT, tmp_path / f"{name}.dcm", seg=seg_of(scan, tmp_path, who), alias=who)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    renamed, seg = pydicom.dcmread(tmp_path / "c.dcm"), pydicom.dcmread(tmp_path / "seg.dcm")
    assert scan.source is not None
    assert scan.source.study_uid
    assert (renamed.PatientID, renamed.StudyInstanceUID) == (seg.PatientID, seg.StudyInstanceUID)
    assert scan.source.study_uid.encode() not in (tmp_path / "c.dcm").read_bytes()
    assert read_sr(tmp_path / "c.dcm") == expected(REPORT)


def test_what_cannot_be_said_is_refused(scan: Scan, tmp_path: Path) -> None:
    seg = seg_of(scan, tmp_path)
    with pytest.raises(InputRefused, match="not in the SEG"):
        write_sr(scan, Report((MeasurementGroup("PHE", "PHE"),)), tmp_path / "sr.dcm", seg=seg)
    with pytest.raises(InputRefused, match="no SEG was given"):
        write_sr(scan, Report((MeasurementGroup("ICH", "ICH"),)), tmp_path / "sr.dcm")
    undefined = MeasurementGroup("ICH", "ICH", (Quantity("ich_volume", "Volume", float("nan"), "mL"),))
    with pytest.raises(InputRefused, match="say why in a comment"):
        write_sr(scan, Report((undefined,)), tmp_path / "sr.dcm", seg=seg)
    assert not (tmp_path / "sr.dcm").exists()
    with pytest.raises(InputRefused, match="not a Comprehensive 3D SR"):
        read_sr(seg.path)


def test_a_report_without_findings_still_says_why(scan: Scan, tmp_path: Path) -> None:
    refused = Report((), ("Not read: the vertex is missing.",))
    path = write_sr(scan, refused, tmp_path / "sr.dcm")
    assert read_sr(path) == refused
    assert dciodvfy_errors(path) == []


def test_small_numbers_keep_their_digits(scan: Scan, tmp_path: Path) -> None:
    values = [1 / 3, 1e-7, 123456.789, 0.0, -12.125]
    group = MeasurementGroup(
        "ICH", None, tuple(Quantity(f"value_{k}", "Value", v) for k, v in enumerate(values))
    )
    back = read_sr(write_sr(scan, Report((group,)), tmp_path / "sr.dcm"))
    assert np.allclose([q.value for q in back.groups[0].quantities], values, rtol=1e-12, atol=0)
