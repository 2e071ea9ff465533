"""DICOM SR, TID 1500: measurement groups that point at the segments of our SEG, values in UCUM units, and
what the file may be used for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
_HEAD = "brain"  # the segment to which what was measured of the whole head refers
_LOWER, _UPPER = ".low", ".high"  # the limits of an interval are measurements of their own, named after it


@dataclass(frozen=True)
class Quantity:
    """One number."""

    name: str  # stable: "ich_volume"
    label: str  # for people
    value: float  # finite; what is undefined is said in a comment instead
    unit: str = ""  # UCUM, or "HU"; "" for a ratio or a count
    low: float | None = None  # interval, same unit
    high: float | None = None
    interval: str = ""  # what the interval is: "80 % interval"


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
    segment: str | None = None  # the mask in the SEG that it was measured on; None: the whole head
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
    """Write a report as an SR that belongs to the scan's study. Same content, same bytes.

    Groups refer to their segment in `seg`; those without one to its segment `brain`, where it has one.
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
        "measurements": [item for quantity in group.quantities for item in _measured(quantity, group)]
        or None,
        "qualitative_evaluations": [_grade(grade) for grade in group.grades] or None,
    }
    target = codes.segment_targets().get(group.name)
    if target is not None:
        coded = codes.segment_codes(target)
        content["finding_category"], content["finding_type"] = coded.category, coded.type
        content["finding_sites"] = [sr.FindingSite(coded.region, coded.side)]
    # Groups with and without a region in one report are allowed by TID 1500, but not by every validator.
    number = seg.segment_numbers.get(group.segment or _HEAD) if seg is not None else None
    if seg is None or number is None:
        return sr.MeasurementsAndQualitativeEvaluations(**content)
    content["referenced_segment"] = sr.ReferencedSegment(
        SEG_STORAGE,
        seg.sop_instance_uid,
        number,
        source_series=sr.SourceSeriesForSegmentation(headers[0].SeriesInstanceUID),
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(**content)


def _algorithm(algorithm: Algorithm) -> Any:
    from highdicom.sr import AlgorithmIdentification

    return AlgorithmIdentification(
        algorithm.name, algorithm.version, list(algorithm.parameters), algorithm.family, MANUFACTURER
    )


def _measured(quantity: Quantity, group: MeasurementGroup) -> list[Any]:
    """Return a value and, where it has an interval, the two limits.

    The limits are measurements under private names, not the ranges of uncertainty of TID 310: viewers list
    them, and PixelMed's TID 1419 takes every number below a number for one that it was inferred from.
    """
    code = codes.measure_code(quantity.name, quantity.label)
    method = (
        codes.concept(codes.SUM_OF_VOXELS) if code == codes.VOLUME and group.segment is not None else None
    )
    items = [_measurement(quantity, group, code, method)]
    if quantity.low is None or quantity.high is None:
        return items
    what = quantity.interval or "interval"
    for suffix, word, value in ((_LOWER, "Lower", quantity.low), (_UPPER, "Upper", quantity.high)):
        limit = Quantity(quantity.name + suffix, quantity.interval, value, quantity.unit)
        meaning = f"{word} limit: {quantity.label}, {what}"
        items.append(_measurement(limit, group, (limit.name, PRIVATE_SCHEME, meaning[:64])))
    return items


def _measurement(quantity: Quantity, group: MeasurementGroup, code: Code, method: Any = None) -> Any:
    from highdicom.sr import Measurement, TrackingIdentifier

    words = f"{quantity.name}: {quantity.label}" if quantity.label else quantity.name
    return Measurement(
        name=codes.concept(code),
        value=float(quantity.value),
        unit=codes.unit_concept(quantity.unit),
        tracking_identifier=TrackingIdentifier(derived_uid("measure", group.name, quantity.name), words),
        method=method,
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
    segment = name if any(True for _ in _items(item, "121191")) and name in codes.segment_targets() else None
    numbers = [_read_quantity(child) for child in item.ContentSequence if child.ValueType == "NUM"]
    coded = [
        child
        for child in item.ContentSequence
        if child.ValueType == "CODE" and _scheme(child) == PRIVATE_SCHEME
    ]
    return MeasurementGroup(name, segment, _with_limits(numbers), tuple(map(_read_grade, coded)))


def _scheme(item: Any) -> str:
    return str(item.ConceptNameCodeSequence[0].CodingSchemeDesignator)


def _read_quantity(item: Any) -> Quantity:
    name, _, label = str(next(_items(item, "112039")).TextValue).partition(": ")
    unit = str(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue)
    return Quantity(name, label, _number(item), "" if unit == "1" else unit)


def _with_limits(quantities: Sequence[Quantity]) -> tuple[Quantity, ...]:
    """Return the values, each with the interval whose limits were written beside it."""
    named = {quantity.name: quantity for quantity in quantities}
    values = (quantity for quantity in quantities if not quantity.name.endswith((_LOWER, _UPPER)))
    return tuple(
        replace(value, low=low.value, high=high.value, interval=low.label)
        if (low := named.get(value.name + _LOWER)) and (high := named.get(value.name + _UPPER))
        else value
        for value in values
    )


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
