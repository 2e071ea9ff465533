"""Read what is needed of each file's header, once, and no pixels. LPS and (row, column) end here: a Frame
knows its RAS affine.
"""

from __future__ import annotations

import struct
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from ichnos.errors import InputRefused, foreign
from ichnos.formats.dicom.files import FileReader, files_in
from ichnos.formats.dicom.raw_header import (
    DEFLATED_SYNTAX,
    NATIVE_SYNTAXES,
    TAG,
    TAG_NUMBER,
    RawHeader,
    any_header,
    number_values,
    ordinary_header,
    transfer_syntax_of,
    unsigned_value,
)
from ichnos.formats.limits import MIB, LimitExceeded, Limits, inflated
from ichnos.volume import Floats

# Images that differ in one of these are never slices of one stack.
_TOGETHER_WORDS = """
    PatientID PatientName StudyInstanceUID SeriesInstanceUID SOPClassUID Modality ImageType
    ConvolutionKernel Rows Columns SamplesPerPixel PhotometricInterpretation
"""
IMAGE_TYPE_AT = _TOGETHER_WORDS.split().index("ImageType")  # in a frame's stack_key
_TOGETHER = [TAG_NUMBER[word] for word in _TOGETHER_WORDS.split()]
_ITEM = b"\xfe\xff\x00\xe0"  # tag of a sequence's item, little endian
_ORDINARY_BYTES = 2 * MIB  # no header in a file of this size keeps a parser busy for long
_NO_IMAGE = ("not DICOM", "empty", "DICOM without an image")  # reasons that need no further word
# CT, enhanced and legacy converted enhanced CT: what a file that ends too early may have been a slice of
_CT_KINDS = tuple(f"1.2.840.10008.5.1.4.1.1.2{more}" for more in ("", ".1", ".2"))
_LPS = np.array([-1.0, -1.0, 1.0])

FileProgress = Callable[[int, int], None]  # files done, files in all


@dataclass(frozen=True, slots=True)
class Stored:
    """How a frame's pixels are stored, and what makes HU of them."""

    offset: int | None  # of the pixel data in the file; None: a decoder must find them
    allocated: int  # bits
    bits: int  # bits that hold the value
    high_bit: int
    signed: bool
    slope: float
    intercept: float
    padding: tuple[int, int] | None  # lowest and highest stored value that means "nothing was measured here"
    inverted: bool  # MONOCHROME1


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of one file."""

    path: Path  # a member of a zip archive is archive.zip/member
    index: int  # frame in its file
    sop_uid: str
    series_uid: str
    stack_key: tuple[object, ...]
    shape: tuple[int, int]  # columns, rows
    position: tuple[float, ...] | None  # LPS mm of the first pixel's centre
    orientation: tuple[float, ...] | None  # LPS cosines of a row's run, then of a column's
    pixel_mm: tuple[float, float] | None  # between columns, between rows
    acquisition: int
    instance: int
    stored: Stored

    @property
    def placed(self) -> bool:
        """Say whether the header tells where the image lies."""
        return self.position is not None and self.orientation is not None and self.pixel_mm is not None

    @property
    def affine(self) -> Floats:
        """Return (column, row, 0) -> RAS mm; the third column is the unit normal, towards head, front or
        right, whichever is nearest.
        """
        if self.position is None or self.orientation is None or self.pixel_mm is None:
            raise InputRefused(f"{foreign(self.path)} does not say where its image lies in the patient")
        along_row, along_column = np.array(self.orientation[:3]) * _LPS, np.array(self.orientation[3:]) * _LPS
        normal = np.cross(along_row, along_column)
        normal /= np.linalg.norm(normal)
        leading = 2 if abs(normal[2]) > 0.5 else int(np.abs(normal).argmax())
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = along_row * self.pixel_mm[0], along_column * self.pixel_mm[1]
        affine[:3, 2], affine[:3, 3] = normal * np.sign(normal[leading]), np.array(self.position) * _LPS
        return affine


@dataclass(frozen=True, eq=False)
class Contents:
    """The images of a place, and the files that were left out."""

    path: Path
    frames: tuple[Frame, ...]
    heads: dict[tuple[object, ...], Any]  # stack_key -> header of one of its files
    without: tuple[tuple[Path, str], ...] = ()  # files without an image to read, with the reason

    @property
    def skipped(self) -> Counter[str]:
        """Return how many files were left out for each reason."""
        return Counter(why for _, why in self.without)

    @property
    def left_out(self) -> tuple[tuple[Path, str], ...]:
        """Return the files that should have been readable, with the reason."""
        return tuple((file, why) for file, why in self.without if why not in _NO_IMAGE)


def read_headers(path: Path, reader: FileReader, *, progress: FileProgress | None = None) -> Contents:
    """Read the headers of every DICOM image in a file, folder, zip or DICOMDIR."""
    listing = files_in(path, reader)
    return read_files(path, listing.files, reader, left_out=listing.left_out, progress=progress)


def read_files(
    path: Path,
    files: Sequence[Path],
    reader: FileReader,
    *,
    left_out: Sequence[tuple[Path, str]] = (),
    progress: FileProgress | None = None,
) -> Contents:
    """Read the headers of the given files; `path` names the place they come from. No file stops the rest."""
    frames: list[Frame] = []
    heads: dict[tuple[object, ...], Any] = {}
    without = list(left_out)  # files without an image to read, with the reason
    with warnings.catch_warnings():
        # pydicom warns of each odd value; what matters is judged here and later
        warnings.simplefilter("ignore")
        for done, file in enumerate(files, start=1):
            result = _read(file, reader, heads)
            if isinstance(result, str):
                without.append((file, result))
            else:
                frames += result
            if progress is not None:
                progress(done, len(files))
    if not frames:
        raise _no_image(path, without)
    return Contents(path, tuple(frames), heads, tuple(without))


def _no_image(path: Path, without: Sequence[tuple[Path, str]]) -> InputRefused:
    counted = sorted(Counter(why for _, why in without).items())
    why = ", ".join(f"{count} {reason}" for reason, count in counted) or "it is empty"
    return InputRefused(
        f"{foreign(path)} holds no DICOM image ({why}); give a file, folder, zip or DICOMDIR with CT images"
    )


def _read(path: Path, reader: FileReader, heads: dict[tuple[object, ...], Any]) -> list[Frame] | str:
    """Return a file's frames, or in words why it has none; keep its header if its stack has none yet."""
    try:
        frames = _frames_of(path, reader)
        for frame in frames if not isinstance(frames, str) else ():
            if frame.stack_key not in heads:
                heads[frame.stack_key] = _dataset(path, reader)
        return frames
    except LimitExceeded as refusal:
        return f"beyond the limit `{refusal.limit}`"
    except RecursionError:
        return "nested too deeply"
    except InvalidDicomError:
        return "not DICOM"
    except (OSError, InputRefused):
        return "unreadable file"
    except Exception:  # a damaged file may break the parser in any way; it is counted, and the user is told
        return "damaged"


def _frames_of(path: Path, reader: FileReader) -> list[Frame] | str:
    with reader.open(path) as stream:
        start = stream.read(132)
        bare = start[128:] != b"DICM"
        if bare and start[:2] not in (b"\x08\x00", b"\x02\x00", b"\x00\x08"):
            return "not DICOM" if start else "empty"
        source = reader.bounded(stream, path) if _is_large(stream, len(start)) else stream
        header = None if bare else ordinary_header(source)
        ends = header is not None and _at_end(stream)
        if header is None:
            _refuse_deflated_bomb(stream, path, reader.limits, bare=bare)
            source.seek(0)
            header = any_header(source, bare)
        named = header.raw("SOPInstanceUID") and header.raw("SeriesInstanceUID")
        if bare and not named:
            return "not DICOM"
        if (ends or not named) and _may_be_ct(header, path, reader):
            return "damaged"
        if not named:
            return "DICOM without an image"
        offset = _pixel_offset(header.syntax, stream)
    _refuse_oversized(header, path, reader.limits)
    return _frames(header, path, offset, lambda: _dataset(path, reader))


def _may_be_ct(header: RawHeader, path: Path, reader: FileReader) -> bool:
    """Say whether a file without pixels was to be a CT image, as far as it tells before it ends."""
    kind = header.text("SOPClassUID")
    if not header.raw("SOPInstanceUID"):
        kind = str(_dataset(path, reader).file_meta.get("MediaStorageSOPClassUID", ""))
    return any(ct.startswith(kind) for ct in _CT_KINDS)


def _at_end(stream: BinaryIO) -> bool:
    at = stream.tell()
    end = not stream.read(1)
    stream.seek(at)
    return end


def _is_large(stream: BinaryIO, at: int) -> bool:
    """Say whether a file could hold a header that keeps the parser busy; bounding every read costs time."""
    size = stream.seek(0, 2)
    stream.seek(at)
    return size > _ORDINARY_BYTES


def _refuse_oversized(header: RawHeader, path: Path, limits: Limits) -> None:
    """Refuse frames and functional groups beyond the limits before anything is set aside for them."""
    pixels = header.unsigned("Columns") * header.unsigned("Rows")
    limits.check("frame_pixels", pixels, f"{foreign(path)} has {pixels:,} pixels in one frame")
    groups = header.raw("PerFrameFunctionalGroupsSequence")
    if isinstance(groups, bytes):
        items = groups.count(_ITEM)
        limits.check(
            "header_elements", 8 * items, f"{foreign(path)} has {items:,} items in its functional groups"
        )


def _refuse_deflated_bomb(stream: BinaryIO, path: Path, limits: Limits, *, bare: bool) -> None:
    """Refuse a deflated file that unpacks to more than a file may hold; pydicom unpacks it in one go."""
    stream.seek(0 if bare else 132)
    if transfer_syntax_of(stream) == DEFLATED_SYNTAX:
        inflated(stream.read(), gzip=False, most=limits.unpacked_mib * MIB, limits=limits, name=path)


def _dataset(path: Path, reader: FileReader) -> Any:
    """Return a file's header as pydicom's dataset."""
    with reader.open(path) as stream:
        return pydicom.dcmread(reader.bounded(stream, path), stop_before_pixels=True, force=True)


def _frames(header: RawHeader, path: Path, offset: int | None, dataset: Callable[[], Any]) -> list[Frame]:
    key = tuple(_plain(header.values.get(tag)) for tag in _TOGETHER)
    shape = header.unsigned("Columns"), header.unsigned("Rows")
    common = header.text("SOPInstanceUID"), header.text("SeriesInstanceUID")
    order = int(header.number("AcquisitionNumber", 0)), int(header.number("InstanceNumber", 0))
    image = Frame(path, 0, *common, key, shape, None, None, None, *order, _stored(header, offset))
    if header.raw("PerFrameFunctionalGroupsSequence") is not None:
        return _multi_frames(dataset(), image)
    if header.number("NumberOfFrames", 1) > 1:  # several frames without a place: a capture or a film
        return [image]
    position, cosines = (
        header.numbers("ImagePositionPatient", 3),
        header.numbers("ImageOrientationPatient", 6),
    )
    return [_placed(image, position, cosines, header.numbers("PixelSpacing", 2))]


def _placed(
    image: Frame,
    position: tuple[float, ...] | None,
    cosines: tuple[float, ...] | None,
    spacing: tuple[float, ...] | None,
) -> Frame:
    """Return an image with its place; DICOM gives the distance of rows before that of columns."""
    pixel_mm = (spacing[1], spacing[0]) if spacing and min(spacing) > 0 else None
    return replace(image, position=position, orientation=_cosines(cosines), pixel_mm=pixel_mm)


def _plain(value: Any) -> bytes | str:
    return value if isinstance(value, bytes) else str(value or "")


@lru_cache(maxsize=1024)
def _cosines(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Return the two directions with length 1, or None where they are not two directions at right angles."""
    if values is None:
        return None
    row, column = np.array(values[:3]), np.array(values[3:])
    long_row, long_column = np.linalg.norm(row), np.linalg.norm(column)
    if min(long_row, long_column) < 0.5 or abs(row @ column) > 0.01 * long_row * long_column:
        return None
    return (*(row / long_row).tolist(), *(column / long_column).tolist())


def _multi_frames(data: Any, image: Frame) -> list[Frame]:
    """Return the frames of an enhanced image; what a frame does not say itself, the shared groups say."""
    shared = data.get("SharedFunctionalGroupsSequence") or [None]
    frames = []
    for index, own in enumerate(data.PerFrameFunctionalGroupsSequence):
        groups = [group for group in (own, shared[0]) if group is not None]
        kind = _group_value(groups, "CTImageFrameTypeSequence", "FrameType")
        frame = replace(
            image,
            index=index,
            stack_key=(*image.stack_key, str(kind)),
            instance=index + 1,
            stored=_rescaled(image.stored, groups, index, image.shape),
        )
        position = _group_floats(groups, "PlanePositionSequence", "ImagePositionPatient", 3)
        cosines = _group_floats(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
        spacing = _group_floats(groups, "PixelMeasuresSequence", "PixelSpacing", 2)
        frames.append(_placed(frame, position, cosines, spacing))
    return frames


def _rescaled(stored: Stored, groups: Sequence[Any], index: int, shape: tuple[int, int]) -> Stored:
    """Return where a frame's pixels lie, and how they become HU."""
    slope = _group_floats(groups, "PixelValueTransformationSequence", "RescaleSlope", 1)
    intercept = _group_floats(groups, "PixelValueTransformationSequence", "RescaleIntercept", 1)
    before = index * shape[0] * shape[1] * stored.allocated // 8  # bytes of the frames before this one
    return replace(
        stored,
        offset=None if stored.offset is None else stored.offset + before,
        slope=slope[0] if slope else stored.slope,
        intercept=intercept[0] if intercept else stored.intercept,
    )


def _group_value(groups: Sequence[Any], sequence: str, keyword: str) -> Any:
    for group in groups:
        items = group.get(sequence)
        if items and items[0].get(keyword) is not None:
            return items[0].get(keyword)
    return None


def _group_floats(groups: Sequence[Any], sequence: str, keyword: str, count: int) -> tuple[float, ...] | None:
    value = _group_value(groups, sequence, keyword)
    if value is None:
        return None
    values = tuple(float(v) for v in ([value] if count == 1 else value))
    return values if len(values) == count and np.isfinite(values).all() else None


def header_value(data: Any, keyword: str) -> Any:
    """Return what a header says under a keyword, in its functional groups too; None where it says nothing,
    or nothing legible.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = data.get(keyword)
            return _grouped(data, keyword) if value in (None, "") else value
        except (
            Exception
        ):  # pydicom converts a value when it is asked for it, and a damaged one may fail in any way
            return None


def header_number(data: Any, keyword: str) -> float | None:
    """Return the finite number under a keyword, None where there is none."""
    try:
        value = float(header_value(data, keyword))
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def _grouped(data: Any, keyword: str) -> Any:
    shared = data.get("SharedFunctionalGroupsSequence") or []
    per_frame = data.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*shared[:1], *per_frame[:1]]:
        for element in group:
            if element.VR == "SQ" and element.value and element.value[0].get(keyword) not in (None, ""):
                return element.value[0].get(keyword)
    return None


# ---- how the pixels are stored

_STORED_WORDS = """
    BitsAllocated BitsStored HighBit PixelRepresentation PhotometricInterpretation RescaleSlope
    RescaleIntercept PixelPaddingValue PixelPaddingRangeLimit
"""
_STORED_TAGS = [int(TAG[word]) for word in _STORED_WORDS.split()]


def _stored(header: RawHeader, offset: int | None) -> Stored:
    return _stored_of(tuple(header.values.get(tag, b"") for tag in _STORED_TAGS), offset, header.little)


@lru_cache(maxsize=4096)
def _stored_of(raw: tuple[Any, ...], offset: int | None, little: bool) -> Stored:
    allocated, bits, high_bit, representation = (unsigned_value(value, little) for value in raw[:4])
    slope, intercept = (number_values(value, 1) for value in raw[5:7])
    bits = min(bits or allocated, allocated)
    if not bits - 1 <= high_bit < allocated:
        high_bit = bits - 1  # as the standard requires; another one cannot be true (PS3.5, 8.1.1)
    signed = representation == 1
    return Stored(
        offset,
        allocated,
        bits,
        high_bit,
        signed,
        (slope[0] if slope else 0.0) or 1.0,
        intercept[0] if intercept else 0.0,
        _padding(
            [unsigned_value(value, little) for value in raw[7:] if value not in (None, b"", "")], bits, signed
        ),
        raw[4] in (b"MONOCHROME1", b"MONOCHROME1 ", "MONOCHROME1"),
    )


def _padding(values: Sequence[int], bits: int, signed: bool) -> tuple[int, int] | None:
    stored = [value & ((1 << bits) - 1) for value in values]
    stored = [value - (1 << bits) if signed and value >> (bits - 1) else value for value in stored]
    return (min(stored), max(stored)) if stored else None


def _pixel_offset(syntax: str, stream: BinaryIO) -> int | None:
    """Return where the pixels of an uncompressed little-endian file begin; None where a decoder must look
    for them.
    """
    if syntax not in NATIVE_SYNTAXES:
        return None
    at = stream.tell()
    head = stream.read(12)
    if len(head) < 12 or head[:4] != b"\xe0\x7f\x10\x00":
        return None
    explicit = syntax == NATIVE_SYNTAXES[1]
    (length,) = struct.unpack("<I", head[8:12] if explicit else head[4:8])
    return None if length == 0xFFFFFFFF else at + (12 if explicit else 8)
