"""DICOM SEG on the source slices, tilted and uneven ones too: every slice has a frame for every segment,
empty or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.errors import InputRefused, foreign
from ichnos.formats.dicom.geometry import mask_from_source, mask_on_source
from ichnos.formats.dicom_codes import concept, describe_private_scheme, segment_codes, segment_targets
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
from ichnos.scan import Scan, SourceSlice
from ichnos.targets import TARGETS, Target
from ichnos.volume import Array, Volume

SEG_SERIES_NUMBER = 9001
SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
_SAME_PLACE_MM = 0.05


@dataclass(frozen=True)
class SegFile:
    """A written SEG, as an SR refers to it."""

    path: Path
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    segment_numbers: Mapping[str, int]  # our mask name -> number in the file


def write_seg(
    scan: Scan,
    masks: Mapping[str, Volume],
    path: str | Path,
    *,
    alias: Alias | None = None,
    algorithm: Algorithm | None = None,
) -> SegFile:
    """Write masks, by their ichnos names ("ICH", "tract_left" …), as one SEG that belongs to the scan's
    source series.

    Masks lie on the scan's grid or any other; an empty mask is a segment whose every frame is empty. The same
    content gives the same bytes; all UIDs follow from it.
    """
    _check_names(masks)
    headers = source_headers(scan, alias=alias)
    frames = np.stack([mask_on_source(scan, mask) != 0 for mask in masks.values()], axis=-1)
    with tolerant():
        dataset = _segmentation(scan, headers, frames, tuple(masks), algorithm or Algorithm())
    path = save_dataset(dataset, path)
    uids = [str(u) for u in (dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID)]
    numbers = {name: number for number, name in enumerate(masks, start=1)}
    return SegFile(path, uids[0], uids[1], uids[2], numbers)


def _check_names(masks: Mapping[str, Volume]) -> None:
    unknown = sorted(set(masks) - set(segment_targets()))
    if unknown or not masks:
        raise InputRefused(
            f"no code is known for the mask(s) {', '.join(unknown) or 'of an empty list'}; there is"
            f" {', '.join(segment_targets())}"
        )


def _segmentation(
    scan: Scan, headers: list[Any], frames: Array, names: tuple[str, ...], algorithm: Algorithm
) -> Any:
    from highdicom.seg import Segmentation

    dataset = Segmentation(
        source_images=headers,
        pixel_array=_in_file_order(scan, headers, frames).astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[_description(k, name, algorithm) for k, name in enumerate(names, start=1)],
        **_identity(headers[0], frames, names, algorithm),
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.version,
        device_serial_number="0",
        content_label="ICHNOS",
        content_description="Research use only",
        content_creator_name="ichnos^",
        omit_empty_frames=False,
    )
    for item, name in zip(dataset.SegmentSequence, names, strict=True):
        _say_side(item, TARGETS[name])
    describe_private_scheme(dataset)
    stamp(dataset, headers[0], description="ichnos segmentation - RESEARCH USE ONLY")
    return dataset


def _identity(first: Any, frames: Array, names: tuple[str, ...], algorithm: Algorithm) -> dict[str, Any]:
    """Return UIDs that follow from the content, and the numbers beside them."""
    pixels = np.packbits(frames).tobytes()
    content = (first.StudyInstanceUID, first.SeriesInstanceUID, algorithm, *names, frames.shape, pixels)
    return {
        "series_instance_uid": derived_uid("SEG series", *content),
        "series_number": SEG_SERIES_NUMBER,
        "sop_instance_uid": derived_uid("SEG", *content),
        "instance_number": 1,
    }


def _in_file_order(scan: Scan, headers: list[Any], frames: Array) -> Array:
    """Return one plane per source image or frame; frames of an enhanced file that the scan does not use
    stay empty.
    """
    assert scan.source is not None  # source_headers has refused a scan without one
    count = int(headers[0].get("NumberOfFrames", 1))
    if count == 1:
        return frames
    if len(headers) > 1:
        raise InputRefused(
            "the scan comes from several multi-frame files; a SEG can refer to one such file only"
        )
    placed = np.zeros((count, *frames.shape[1:]), frames.dtype)
    placed[[s.frame for s in scan.source.slices]] = frames
    return placed


def _description(number: int, name: str, algorithm: Algorithm) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    shown, coded = TARGETS[name], segment_codes(TARGETS[name])
    description = SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=coded.category,
        segmented_property_type=coded.type,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=algorithm.name,
            family=algorithm.family,
            version=algorithm.version,
            parameters={"use": algorithm.parameters[0]},
        ),
        anatomic_regions=[coded.region],
        tracking_id=name,
        tracking_uid=derived_uid("segment", name),
        display_color=CIELabColor.from_rgb(*shown.rgb),
    )
    description.SegmentDescription = shown.label
    return description


def _say_side(item: Any, target: Target) -> None:
    """Name left or right where the readers look: beside the property type (Slicer) and beside the region."""
    from pydicom.sequence import Sequence

    if target.side is None:
        return
    side = concept(target.side)
    kind, region = item.SegmentedPropertyTypeCodeSequence[0], item.AnatomicRegionSequence[0]
    kind.SegmentedPropertyTypeModifierCodeSequence = Sequence([side])
    region.AnatomicRegionModifierSequence = Sequence([side])


# ---- reading


def read_seg(path: str | Path, scan: Scan, *, alias: Alias | None = None) -> dict[str, Volume]:
    """Read the segments of a SEG back onto the scan that it was drawn on, by tracking id (ours) or label.

    Each frame goes to the source image that it names, or else to the slice at its position; a SEG of another
    series is refused. One that was written under an alias is read with the same alias.
    """
    slices = _slices(scan)
    with readable(Path(path)):
        return _read(Path(path), scan, slices, alias)


def _read(path: Path, scan: Scan, slices: tuple[SourceSlice, ...], alias: Alias | None) -> dict[str, Volume]:
    dataset = _opened(path)
    _check_series(path, dataset, scan, alias)
    renamed = alias.uid if alias is not None else str
    by_image = {(renamed(s.sop_instance_uid), s.frame): k for k, s in enumerate(slices)}
    names = {
        int(item.SegmentNumber): str(item.get("TrackingID") or item.SegmentLabel)
        for item in dataset.SegmentSequence
    }
    columns, rows = slices[0].shape
    drawn = {name: np.zeros((len(slices), rows, columns), bool) for name in names.values()}
    lost = 0
    for frame, group in zip(_frames(dataset), dataset.PerFrameFunctionalGroupsSequence, strict=True):
        k = _slice_of(dataset, group, by_image, slices)
        if k is None:
            lost += int(frame.any())
        else:
            number = int(_said(dataset, group, "SegmentIdentificationSequence")[0].ReferencedSegmentNumber)
            drawn[names[number]][k] |= frame
    if lost:
        raise InputRefused(
            f"{foreign(path)} has {lost} filled frame(s) that lie on no slice of this scan; it was drawn"
            " on other"
            " slices"
        )
    return {name: mask_from_source(scan, array) for name, array in drawn.items()}


def _slices(scan: Scan) -> tuple[SourceSlice, ...]:
    if scan.source is None or not scan.source.slices:
        raise InputRefused(
            "the scan has no source slices (it was not opened from DICOM), so a SEG cannot be put on it"
        )
    return scan.source.slices


def _check_series(path: Path, dataset: Any, scan: Scan, alias: Alias | None) -> None:
    """Refuse a SEG of another series, or one whose pixels do not lie as the series' do."""
    assert scan.source is not None
    mine = scan.source.series_uid or ""
    mine = alias.uid(mine) if alias is not None else mine
    referred = [str(item.SeriesInstanceUID) for item in dataset.get("ReferencedSeriesSequence") or []]
    if mine not in referred:
        raise InputRefused(
            f"{foreign(path)} was drawn on series {foreign(', '.join(referred) or 'unknown')}, not on"
            f" this scan's series {mine}"
        )
    first = scan.source.slices[0]
    if (dataset.Columns, dataset.Rows) != first.shape:
        raise InputRefused(
            f"{foreign(path)} has {dataset.Columns} x {dataset.Rows} pixels per frame; the series has"
            f" {first.shape[0]} x {first.shape[1]}"
        )
    groups = (*dataset.SharedFunctionalGroupsSequence, *dataset.PerFrameFunctionalGroupsSequence[:1])
    if any(_turned(group, first) for group in groups):
        raise InputRefused(
            f"{foreign(path)} has rows and columns that run elsewhere than the series' do; resample it onto"
            " the series first"
        )


def _turned(group: Any, first: SourceSlice) -> bool:
    """Say whether a frame says that its rows and columns run elsewhere than a slice's."""
    if "PlaneOrientationSequence" not in group:
        return False
    cosines = np.asarray(group.PlaneOrientationSequence[0].ImageOrientationPatient, np.float64)
    own = (first.affine[:3, :2] / np.linalg.norm(first.affine[:3, :2], axis=0)).T
    return bool(np.abs(cosines.reshape(2, 3) * (-1, -1, 1) - own).max() > 1e-3)


def _opened(path: Path) -> Any:
    import pydicom

    dataset = pydicom.dcmread(path)
    if dataset.get("SOPClassUID") != SEG_STORAGE:
        raise InputRefused(
            f"{foreign(path)} is not a DICOM SEG; its SOP class is"
            f" {foreign(dataset.get('SOPClassUID', 'missing'))}"
        )
    if dataset.SegmentationType != "BINARY":
        raise InputRefused(
            f"{foreign(path)} is a {foreign(dataset.SegmentationType)} SEG; only BINARY ones are read"
        )
    return dataset


def _frames(dataset: Any) -> Array:
    pixels = np.asarray(dataset.pixel_array).astype(bool)
    return pixels[None] if pixels.ndim == 2 else pixels


def _said(dataset: Any, group: Any, keyword: str) -> Any:
    """Return what a frame says of itself, or else what is said of all frames."""
    return group.get(keyword) or dataset.SharedFunctionalGroupsSequence[0].get(keyword) or []


def _slice_of(
    dataset: Any, group: Any, by_image: Mapping[tuple[str, int], int], slices: Sequence[SourceSlice]
) -> int | None:
    """Return the index of the slice that a frame names or lies on; None if it is not one of this scan's."""
    for derivation in _said(dataset, group, "DerivationImageSequence"):
        for image in derivation.get("SourceImageSequence") or []:
            frame = int(np.atleast_1d(image.get("ReferencedFrameNumber", 1))[0]) - 1
            if (k := by_image.get((str(image.ReferencedSOPInstanceUID), frame))) is not None:
                return k
    place = np.asarray(_said(dataset, group, "PlanePositionSequence")[0].ImagePositionPatient, np.float64) * (
        -1,
        -1,
        1,
    )
    distance_mm = [float(np.linalg.norm(s.affine[:3, 3] - place)) for s in slices]
    k = int(np.argmin(distance_mm))
    return k if distance_mm[k] <= _SAME_PLACE_MM else None
