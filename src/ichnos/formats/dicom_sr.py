"""DICOM SR, TID 1500: measurement groups that point at the segments of our SEG, values in UCUM units, and
what the file may be used for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ichnos.errors import InputRefused, foreign
from ichnos.formats import dicom_codes as codes
from ichnos.formats.dicom_seg import SEG_STORAGE, SegFile
from ichnos.formats.dicom_source import (
    MANUFACTURER,
    Algorithm,
    Alias,
    derived_uid,
    readable,
    save_dataset,
    source_headers,
    stamp,
    tolerant,
)
from ichnos.scan import Scan
from ichnos.targets import PRIVATE_SCHEME, Code

SR_SERIES_NUMBER = 9002
SR_STORAGE = "1.2.840.10008.5.1.4.1.1.88.34"  # Comprehensive 3D SR
_CT: Code = ("25045-6", "LN", "CT unspecified body region")  # of CID 100; the finding sites say: head
_REPORT: Code = ("126000", "DCM", "Imaging Measurement Report")
_UPPER, _LOWER = "371886008", "371885007"  # SCT: range of upper, of lower measurement uncertainty


@dataclass(frozen=True)
class Quantity:
    """One number."""

    name: str  # stable: "ich_volume"
    label: str  # for people
    value: float  # finite; what is undefined is said in a comment instead
    unit: str = ""  # UCUM, or "HU"; "" for a ratio or a count
    low: float | None = None  # interval, same unit
    high: float | None = None


@dataclass(frozen=True)
class CodedGrade:
    """One category, such as a Fazekas grade."""

    name: str
    label: str
    value: str  # stable and short: "2"
    meaning: str  # for people: "early confluent lesions"


@dataclass(frozen=True)
class MeasurementGroup:
    """What was measured of one thing."""

    name: str  # stable: "ICH", "expansion"; a target of this name gives it codes and a site
    segment: str | None = None  # the mask in the SEG that it was measured on
    quantities: tuple[Quantity, ...] = ()
    grades: tuple[CodedGrade, ...] = ()


@dataclass(frozen=True)
class Report:
    """What an SR of ours says."""

    groups: tuple[MeasurementGroup, ...]
    # sentences: what could not be looked at, warnings; the research notice comes first by itself
    comments: tuple[str, ...] = ()


# TID 1500 wants one group at least; this one is empty, and the comments say why
_NOTHING = MeasurementGroup("not read")


def write_sr(
    scan: Scan,
    report: Report,
    path: str | Path,
    *,
    seg: SegFile | None = None,
    alias: Alias | None = None,
    algorithm: Algorithm | None = None,
) -> Path:
    """Write a report as an SR that belongs to the scan's study; groups with a segment refer to `seg`. Same
    content, same bytes.
    """
    _check(report, seg)
    algorithm = algorithm or Algorithm()
    headers = source_headers(scan, alias=alias)
    with tolerant():
        dataset = _document(report, headers, seg, algorithm)
    return save_dataset(dataset, path)


def _check(report: Report, seg: SegFile | None) -> None:
    for group in report.groups:
        if group.segment is not None and (seg is None or group.segment not in seg.segment_numbers):
            there = ", ".join(seg.segment_numbers) if seg is not None else "no SEG was given"
            raise InputRefused(
                f"group {group.name} refers to segment {group.segment}, which is not in the SEG ({there})"
            )
        for quantity in group.quantities:
            if not math.isfinite(quantity.value):
                raise InputRefused(
                    f"{quantity.name} of {group.name} is {quantity.value}; leave it out and say why in a"
                    " comment"
                )


def _document(report: Report, headers: Sequence[Any], seg: SegFile | None, algorithm: Algorithm) -> Any:
    import pydicom
    from highdicom.sr import Comprehensive3DSR

    first, seg_uid = headers[0], seg.sop_instance_uid if seg else ""
    content = (first.StudyInstanceUID, first.SeriesInstanceUID, algorithm, report, seg_uid)
    uid = derived_uid("SR", *content)
    dataset = Comprehensive3DSR(
        evidence=[*([pydicom.dcmread(seg.path, stop_before_pixels=True)] if seg else []), *headers],
        content=_content(report, headers, seg, algorithm, uid)[0],
        series_instance_uid=derived_uid("SR series", *content),
        series_number=SR_SERIES_NUMBER,
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
    )
    dataset.ManufacturerModelName, dataset.SoftwareVersions = algorithm.name, algorithm.version
    dataset.DeviceSerialNumber = "0"
    codes.describe_private_scheme(dataset)
    stamp(dataset, first, description="ichnos measurements - RESEARCH USE ONLY")
    return dataset


def _content(
    report: Report, headers: Sequence[Any], seg: SegFile | None, algorithm: Algorithm, uid: str
) -> Any:
    from highdicom.sr import MeasurementReport, RelationshipTypeValues, TextContentItem

    content = MeasurementReport(
        observation_context=_observed_by(algorithm),
        procedure_reported=codes.concept(_CT),
        imaging_measurements=[
            _group(group, headers, seg, algorithm, uid) for group in report.groups or (_NOTHING,)
        ],
        title=codes.concept(_REPORT),
    )
    for sentence in (codes.NOTICE, *report.comments):
        content[0].ContentSequence.append(
            TextContentItem(codes.concept(codes.COMMENT), sentence, RelationshipTypeValues.CONTAINS)
        )
    return content


def _observed_by(algorithm: Algorithm) -> Any:
    """Return the program as the device that observed."""
    from highdicom.sr import DeviceObserverIdentifyingAttributes, ObservationContext, ObserverContext

    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", algorithm),
        name=algorithm.name,
        manufacturer_name=MANUFACTURER,
        model_name=algorithm.version,
    )
    observer = ObserverContext(
        observer_type=codes.concept(("121007", "DCM", "Device")), observer_identifying_attributes=device
    )
    return ObservationContext(observer_device_context=observer)


def _group(
    group: MeasurementGroup, headers: Sequence[Any], seg: SegFile | None, algorithm: Algorithm, uid: str
) -> Any:
    from highdicom import sr

    content: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(derived_uid("group", uid, group.name), group.name),
        "algorithm_id": _algorithm(algorithm),
        "measurements": [_measurement(quantity, group) for quantity in group.quantities] or None,
        "qualitative_evaluations": [_grade(grade) for grade in group.grades] or None,
    }
    target = codes.segment_targets().get(group.name)
    if target is not None:
        coded = codes.segment_codes(target)
        content["finding_category"], content["finding_type"] = coded.category, coded.type
        content["finding_sites"] = [sr.FindingSite(coded.region, coded.side)]
    if group.segment is None or seg is None:
        return sr.MeasurementsAndQualitativeEvaluations(**content)
    content["referenced_segment"] = sr.ReferencedSegment(
        SEG_STORAGE,
        seg.sop_instance_uid,
        seg.segment_numbers[group.segment],
        source_series=sr.SourceSeriesForSegmentation(headers[0].SeriesInstanceUID),
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(**content)


def _algorithm(algorithm: Algorithm) -> Any:
    from highdicom.sr import AlgorithmIdentification

    return AlgorithmIdentification(
        algorithm.name, algorithm.version, list(algorithm.parameters), algorithm.family, MANUFACTURER
    )


def _measurement(quantity: Quantity, group: MeasurementGroup) -> Any:
    from highdicom.sr import Measurement, MeasurementProperties, TrackingIdentifier

    code = codes.measure_code(quantity.name, quantity.label)
    interval = None
    if quantity.low is not None and quantity.high is not None:
        interval = MeasurementProperties(
            upper_measurement_uncertainty=quantity.high - quantity.value,
            lower_measurement_uncertainty=quantity.value - quantity.low,
        )
        for item in interval:  # highdicom writes them without a unit; they have the value's
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0] = codes.unit_concept(quantity.unit)
    return Measurement(
        name=codes.concept(code),
        value=float(quantity.value),
        unit=codes.unit_concept(quantity.unit),
        tracking_identifier=TrackingIdentifier(
            derived_uid("measure", group.name, quantity.name), f"{quantity.name}: {quantity.label}"
        ),
        method=(
            codes.concept(codes.SUM_OF_VOXELS) if code == codes.VOLUME and group.segment is not None else None
        ),
        properties=interval,
    )


def _grade(grade: CodedGrade) -> Any:
    from highdicom.sr import QualitativeEvaluation

    name = codes.concept((grade.name, PRIVATE_SCHEME, grade.label[:64]))
    return QualitativeEvaluation(
        name, codes.concept((f"{grade.name}-{grade.value}", PRIVATE_SCHEME, grade.meaning[:64]))
    )


# ---- reading


def read_sr(path: str | Path) -> Report:
    """Read back an SR that `write_sr` wrote; `segment` becomes the mask name only where it is that of its
    group.
    """
    with readable(Path(path)):
        return _read(Path(path))


def _read(path: Path) -> Report:
    import pydicom

    dataset = pydicom.dcmread(path)
    if dataset.get("SOPClassUID") != SR_STORAGE:
        raise InputRefused(
            f"{foreign(path)} is not a Comprehensive 3D SR; its SOP class is"
            f" {foreign(dataset.get('SOPClassUID', 'missing'))}"
        )
    groups = tuple(
        group for item in _items(dataset, "126010", "125007") if (group := _read_group(item)) != _NOTHING
    )
    comments = [str(item.TextValue) for item in dataset.ContentSequence if _value(item) == codes.COMMENT[0]]
    return Report(groups, tuple(sentence for sentence in comments if sentence != codes.NOTICE))


def _value(item: Any) -> str:
    named = item.get("ConceptNameCodeSequence")
    return _code(named[0]) if named else ""


def _code(coded: Any) -> str:
    return str(coded.get("CodeValue") or coded.LongCodeValue)


def _items(parent: Any, *values: str) -> Iterator[Any]:
    """Walk down the content tree along concept names."""
    for item in parent.get("ContentSequence") or []:
        if _value(item) == values[0]:
            if len(values) == 1:
                yield item
            else:
                yield from _items(item, *values[1:])


def _read_group(item: Any) -> MeasurementGroup:
    name = str(next(_items(item, "112039")).TextValue)
    segment = name if any(True for _ in _items(item, "121191")) else None
    numbers = [child for child in item.ContentSequence if child.ValueType == "NUM"]
    coded = [
        child
        for child in item.ContentSequence
        if child.ValueType == "CODE" and _scheme(child) == PRIVATE_SCHEME
    ]
    return MeasurementGroup(
        name, segment, tuple(map(_read_quantity, numbers)), tuple(map(_read_grade, coded))
    )


def _scheme(item: Any) -> str:
    return str(item.ConceptNameCodeSequence[0].CodingSchemeDesignator)


def _read_quantity(item: Any) -> Quantity:
    name, _, label = str(next(_items(item, "112039")).TextValue).partition(": ")
    value, unit = _number(item), str(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue)
    upper, lower = (next(map(_number, _items(item, code)), None) for code in (_UPPER, _LOWER))
    low = value - lower if lower is not None else None
    high = value + upper if upper is not None else None
    return Quantity(name, label, value, "" if unit == "1" else unit, low, high)


def _number(item: Any) -> float:
    measured = item.MeasuredValueSequence[0]
    return float(measured.get("FloatingPointValue") or measured.NumericValue)


def _read_grade(item: Any) -> CodedGrade:
    name, value = item.ConceptNameCodeSequence[0], item.ConceptCodeSequence[0]
    return CodedGrade(
        _code(name),
        str(name.CodeMeaning),
        _code(value).removeprefix(f"{_code(name)}-"),
        str(value.CodeMeaning),
    )
