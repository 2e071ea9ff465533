"""From stored pixels to HU, slice by slice, straight into one array."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels.utils import pixel_array

from ichnos.errors import InputRefused, foreign
from ichnos.formats.dicom.files import FileReader
from ichnos.formats.dicom.headers import Frame, Stored
from ichnos.scan import AIR_HU, PADDING_BELOW_HU
from ichnos.volume import Array

# Unsigned values from here on were negative when they were written (-2000 became 63536), where as they stand
# they are denser than CT can say; a series stored over the full range with a small slope has such values too.
_WRAPPED, _DENSEST_HU = 57_344, 30_000.0
_DENSE_HU = 300.0  # a border denser than this, with air in the middle, is a picture stored inverted


def hu_of(frames: Sequence[Frame], reader: FileReader) -> Array:
    """Return (slices, rows, columns) in HU: int16 where every slice's rescaling keeps whole numbers, float32
    otherwise.

    Padding becomes air (-1000 HU). Slope and intercept are each slice's own.
    """
    columns, rows = frames[0].shape
    reader.limits.check_voxels((len(frames), rows, columns), "the series")
    whole = all(
        f.stored.slope.is_integer() and f.stored.intercept.is_integer() and f.stored.allocated <= 16
        for f in frames
    )
    hu = np.empty((len(frames), rows, columns), np.int16 if whole else np.float32)
    decoded = _Decoder(reader)
    for out, frame in zip(hu, frames, strict=True):
        stored = _native(frame, reader) if frame.stored.offset is not None else decoded.frame(frame)
        _rescale(stored, frame.stored, out)
    middle = len(frames) // 2
    if frames[middle].stored.inverted and _looks_inverted(hu[middle]):
        for out, frame in zip(hu, frames, strict=True):
            _invert(out, frame.stored)
    return hu


def _native(frame: Frame, reader: FileReader) -> Array:
    """Return the stored values (rows, columns) of an uncompressed little-endian file."""
    columns, rows = frame.shape
    width = _width(frame)
    content = reader.part(frame.path, frame.stored.offset or 0, rows * columns * width)
    if len(content) < rows * columns * width:
        raise InputRefused(
            f"{foreign(frame.path)} is cut short: its pixel data hold {len(content)} of"
            f" {rows * columns * width}"
            " bytes; copy or export it again"
        )
    return np.frombuffer(content, f"<{'i' if frame.stored.signed else 'u'}{width}").reshape(rows, columns)


def _width(frame: Frame) -> int:
    if frame.stored.allocated not in (8, 16, 32):
        raise InputRefused(
            f"{foreign(frame.path)} stores {frame.stored.allocated} bits per pixel; 8, 16 or 32 are expected"
        )
    return frame.stored.allocated // 8


class _Decoder:
    """Decodes frames of compressed, deflated or big-endian files; reads a multi-frame file once."""

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader
        self._opened: tuple[object, Any] = (None, None)

    def frame(self, frame: Frame) -> Array:
        """Return one frame's stored values (rows, columns)."""
        try:
            with warnings.catch_warnings():
                # of headers that contradict their JPEG 2000 stream: pydicom then follows the stream
                warnings.simplefilter("ignore")
                array = pixel_array(self._data(frame), index=frame.index, raw=True)
        except (PermissionError, InputRefused):
            raise
        except Exception as error:  # codecs fail in their own ways on damaged streams
            raise InputRefused(self._why(frame, error)) from None
        if array.shape != frame.shape[::-1]:
            raise InputRefused(
                f"{foreign(frame.path)} says {frame.shape[::-1]} rows and columns and holds"
                f" {array.shape}; it is"
                " damaged"
            )
        return array

    def _data(self, frame: Frame) -> Any:
        if self._opened[0] != frame.path:
            self._opened = (frame.path, pydicom.dcmread(self._reader.bytes(frame.path), force=True))
        return self._opened[1]

    def _why(self, frame: Frame, error: Exception) -> str:
        meta = getattr(self._opened[1], "file_meta", None)
        syntax = meta.get("TransferSyntaxUID") if meta is not None else None
        name = getattr(syntax, "name", "unnamed")
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return (
            f"{foreign(frame.path)}: its {foreign(name)} pixels cannot be decoded"
            f" ({foreign(first_line)}); the file is damaged or its"
            " codec is not supported"
        )


def _rescale(values: Array, stored: Stored, out: Array) -> None:
    """Write HU of stored values into `out` (rows, columns)."""
    values = _without_foreign_bits(values, stored)
    low, high = int(values.min()), int(values.max())
    too_dense = stored.slope * _WRAPPED + stored.intercept > _DENSEST_HU
    if values.dtype == np.uint16 and high >= _WRAPPED and too_dense:
        values, low, high = values.view(np.int16), -32768, 32767
    if out.dtype != np.int16:
        np.multiply(values, np.float32(stored.slope), out=out, dtype=np.float32)
        out += np.float32(stored.intercept)
    elif (
        stored.slope == 1 and -32768 <= low + stored.intercept and max(high, high + stored.intercept) <= 32767
    ):
        np.add(values.astype(np.int16, copy=False), np.int16(stored.intercept), out=out)
    else:
        out[...] = np.clip(values.astype(np.int64) * int(stored.slope) + int(stored.intercept), -32768, 32767)
    if stored.padding is not None and not _is_tissue(stored):
        out[(values >= stored.padding[0]) & (values <= stored.padding[1])] = AIR_HU
    if out.min() < PADDING_BELOW_HU:
        out[out < PADDING_BELOW_HU] = AIR_HU


def _is_tissue(stored: Stored) -> bool:
    """Say whether the header calls tissue padding: a wrong attribute (0 with intercept 0) must not erase
    the brain.
    """
    low, high = stored.padding or (0, 0)
    return stored.slope * high + stored.intercept > -200 and stored.slope * low + stored.intercept < 3000


def _without_foreign_bits(values: Array, stored: Stored) -> Array:
    """Clear bits that do not belong to the value (overlays, junk) and carry the sign on."""
    above, below = values.dtype.itemsize * 8 - 1 - stored.high_bit, stored.high_bit + 1 - stored.bits
    if above <= 0 and below <= 0:
        return values
    low = -(1 << (stored.bits - 1)) if values.dtype.kind == "i" else 0
    if below <= 0 and values.min() >= low and values.max() < low + (1 << stored.bits):
        return values
    shifted: Array = np.right_shift(np.left_shift(values, max(above, 0)), max(above, 0) + max(below, 0))
    return shifted


def _looks_inverted(hu: Array) -> bool:
    """Say whether a slice is bright around and dark within."""
    rim = np.concatenate([hu[0], hu[-1], hu[:, 0], hu[:, -1]])
    rows, columns = hu.shape
    inner = hu[rows // 4 : -(rows // 4) or None, columns // 4 : -(columns // 4) or None]
    return bool(np.median(rim) > _DENSE_HU and np.median(inner) < np.median(rim))


def _invert(hu: Array, stored: Stored) -> None:
    low = -(1 << (stored.bits - 1)) if stored.signed else 0
    total = stored.slope * (2 * low + (1 << stored.bits) - 1) + 2 * stored.intercept
    hu[...] = np.clip(total - hu.astype(np.float32), -32768, 32767)
    hu[hu < PADDING_BELOW_HU] = AIR_HU
