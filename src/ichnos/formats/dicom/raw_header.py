"""A header's values as they stand in the file; pydicom would take longer to convert them than to read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import pydicom
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag, Tag

_WORDS = """
    AcquisitionNumber BitsAllocated BitsStored Columns ConvolutionKernel HighBit ImageOrientationPatient
    ImagePositionPatient ImageType InstanceNumber Modality NumberOfFrames PatientID PatientName
    PerFrameFunctionalGroupsSequence PhotometricInterpretation PixelPaddingRangeLimit PixelPaddingValue
    PixelRepresentation PixelSpacing RescaleIntercept RescaleSlope Rows SOPClassUID SOPInstanceUID
    SamplesPerPixel SeriesInstanceUID StudyInstanceUID
"""
TAG: dict[str, BaseTag] = {word: Tag(word) for word in _WORDS.split()}
# plain integers: looking up pydicom's own tags is slow
TAG_NUMBER = {word: int(tag) for word, tag in TAG.items()}
NATIVE_SYNTAXES = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
)  # implicit and explicit little endian, pixels as they are
DEFLATED_SYNTAX = "1.2.840.10008.1.2.1.99"
_OTHERWISE_ENCODED = (
    DEFLATED_SYNTAX,
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.8.1",
)  # deflated, big endian, deflated frames


@dataclass(frozen=True)
class RawHeader:
    """The values of a header, unconverted."""

    values: dict[int, Any]
    little: bool
    syntax: str  # transfer syntax

    def raw(self, word: str) -> Any:
        return self.values.get(TAG_NUMBER[word])

    def text(self, word: str) -> str:
        value = self.raw(word)
        return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value or "")

    def unsigned(self, word: str) -> int:
        return unsigned_value(self.raw(word), self.little)

    def number(self, word: str, default: float) -> float:
        values = self.numbers(word, 1)
        return values[0] if values else default

    def numbers(self, word: str, count: int) -> tuple[float, ...] | None:
        value = self.raw(word)
        return number_values(value if isinstance(value, bytes) else str(value), count)


def ordinary_header(stream: BinaryIO) -> RawHeader | None:
    """Read a little-endian file element by element, without a dataset for each; None for any other file.
    Stops before the pixels.
    """
    syntax = transfer_syntax_of(stream)
    if not syntax or syntax in _OTHERWISE_ENCODED:
        return None
    at = stream.tell()
    explicit = stream.read(6)[4:].isalpha()
    stream.seek(at)
    if explicit == (syntax == NATIVE_SYNTAXES[0]):  # encoded in another way than it says: left to pydicom
        return None
    elements = data_element_generator(
        stream, not explicit, True, stop_when=lambda tag, _vr, _length: tag >= 0x7FE00000
    )
    return RawHeader({int(e.tag): e.value for e in elements}, True, syntax)


def transfer_syntax_of(stream: BinaryIO) -> str:
    """Read the file meta group, which begins here, and return its transfer syntax."""
    elements = data_element_generator(stream, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    value = next((e.value for e in list(elements) if int(e.tag) == 0x00020010), b"")
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else ""


def any_header(stream: BinaryIO, bare: bool) -> RawHeader:
    """Read any header through pydicom."""
    data: Any = pydicom.dcmread(stream, stop_before_pixels=True, force=bare)
    little = next((e.is_little_endian for e in data.values() if hasattr(e, "is_little_endian")), True)
    meta = getattr(data, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if syntax is None and data.original_encoding[1]:  # a file without preamble: how it was parsed tells
        syntax = NATIVE_SYNTAXES[0] if data.original_encoding[0] else NATIVE_SYNTAXES[1]
    return RawHeader({int(tag): element.value for tag, element in data.items()}, little, str(syntax or ""))


def unsigned_value(value: Any, little: bool) -> int:
    if isinstance(value, bytes):
        return int.from_bytes(value[:2], "little" if little else "big")
    return int(value or 0)


@lru_cache(maxsize=4096)
def number_values(value: bytes | str, count: int) -> tuple[float, ...] | None:
    """Return exactly `count` finite numbers, or None."""
    text = (
        value.decode("latin-1").strip(" \0")
        if isinstance(value, bytes)
        else str(value).strip("[]").replace(", ", "\\")
    )
    try:
        values = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return None
    return values if len(values) == count and all(abs(v) < 1e9 for v in values) else None
