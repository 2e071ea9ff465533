"""How much an input may ask of the machine, checked before memory is set aside."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from math import prod
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from ichnos.errors import InputRefused, foreign

MIB = 1 << 20
_PIECE_BYTES = 1 << 20
_READS_BETWEEN_CLOCKS = 1024


class LimitExceeded(InputRefused):
    """The input asks for more than a limit allows.

    >>> LimitExceeded("voxels", "too many voxels").limit
    'voxels'
    """

    def __init__(self, limit: str, text: str) -> None:
        super().__init__(text)
        self.limit = limit  # name of the field of Limits

    def __reduce__(self) -> tuple[type[LimitExceeded], tuple[str, str]]:
        return type(self), (self.limit, str(self.args[0]))


class Limits(BaseModel):
    """Bounds on one input; the defaults let a head CT of 1,000 slices of 1,024 x 1,024 pixels through.

    >>> Limits(voxels=1000).check_voxels((100, 100, 100), "scan.nii")
    Traceback (most recent call last):
    ichnos.formats.limits.LimitExceeded: scan.nii would need 1,000,000 voxels; the limit `voxels` allows
    1,000. Raise it if you trust the file: --set limits.voxels=N
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    voxels: int = Field(default=1_200_000_000, gt=0, description="voxels of one image")
    frame_pixels: int = Field(default=1 << 26, gt=0, description="pixels of one slice (8,192 x 8,192)")
    growth: float = Field(default=8.0, ge=1, description="voxels of a grid per acquired voxel")
    unpacked_mib: int = Field(default=9_216, gt=0, description="MiB of one file after decompression")
    archive_mib: int = Field(default=32_768, gt=0, description="MiB of one zip archive after decompression")
    packing_ratio: float = Field(default=200.0, gt=1, description="unpacked over packed size")
    packing_from_mib: int = Field(default=256, ge=0, description="MiB up to which no ratio counts")
    files: int = Field(default=200_000, gt=0, description="files of one folder or archive")
    header_elements: int = Field(default=400_000, gt=0, description="elements and items of one DICOM header")
    seconds_per_file: float = Field(default=60.0, gt=0, description="processor seconds per header")
    table_mib: int = Field(default=64, gt=0, description="MiB of one table, sidecar or ledger")

    def check(self, limit: str, asked: float, text: str) -> None:
        """Refuse `asked` where it is more than the limit of this name; `text` says what asks for it."""
        allowed = getattr(self, limit)
        if asked > allowed:
            raise LimitExceeded(
                limit,
                f"{text}; the limit `{limit}` allows {allowed:,}. Raise it if you trust the file:"
                f" --set limits.{limit}=N",
            )

    def check_voxels(self, shape: Sequence[int], name: object) -> None:
        """Refuse an image of more voxels than allowed.

        >>> Limits(voxels=8).check_voxels((3, 3, 3), "scan.nii")
        Traceback (most recent call last):
        ichnos.formats.limits.LimitExceeded: scan.nii would need 27 voxels; the limit `voxels` ...
        """
        count = prod(int(n) for n in shape)
        self.check("voxels", count, f"{foreign(name)} would need {count:,} voxels")

    def check_growth(self, voxels: float, acquired: float, name: object) -> None:
        """Refuse a grid that has many times the voxels of what was acquired.

        >>> Limits().check_growth(2e9, 1e6, "scan.nii")
        Traceback (most recent call last):
        ichnos.formats.limits.LimitExceeded: scan.nii would need a grid of 2000 times the voxels it ...
        """
        ratio = voxels / max(acquired, 1)
        self.check(
            "growth", ratio, f"{foreign(name)} would need a grid of {ratio:.0f} times the voxels it holds"
        )
        self.check("voxels", voxels, f"{foreign(name)} would need a grid of {voxels:,.0f} voxels")

    def check_packing(self, unpacked: int, packed: int, name: object) -> None:
        """Refuse content that unpacks to more than one file may hold, or from suspiciously little."""
        mib = unpacked / MIB
        self.check("unpacked_mib", mib, f"{foreign(name)} unpacks to {mib:,.0f} MiB")
        self._check_ratio(unpacked, packed, name)

    def check_archive(self, unpacked: int, packed: int, name: object) -> None:
        """Refuse an archive that unpacks to more than one may hold, or from suspiciously little."""
        mib = unpacked / MIB
        self.check("archive_mib", mib, f"{foreign(name)} unpacks to {mib:,.0f} MiB, like a zip bomb")
        self._check_ratio(unpacked, packed, name)

    def _check_ratio(self, unpacked: int, packed: int, name: object) -> None:
        ratio = unpacked / max(packed, 1)
        if unpacked > self.packing_from_mib * MIB:
            text = f"{name} unpacks to {unpacked / MIB:,.0f} MiB, {ratio:.0f} times its size, like a bomb"
            self.check("packing_ratio", ratio, text)


DEFAULT_LIMITS = Limits()


def inflated(packed: bytes, *, gzip: bool, most: int, limits: Limits, name: object) -> bytes:
    """Return unpacked gzip or raw deflate content of at most `most` bytes; more is refused, not unpacked."""
    unpacker = zlib.decompressobj(31 if gzip else -zlib.MAX_WBITS)
    out = bytearray()
    rest = packed
    while True:
        out += unpacker.decompress(rest, _PIECE_BYTES)
        limits.check_packing(len(out), len(packed), name)
        if len(out) > most:
            raise LimitExceeded(
                "unpacked_mib",
                f"{foreign(name)} goes on after the {most:,} bytes that its header promises: a bomb?",
            )
        rest = unpacker.unconsumed_tail
        if unpacker.eof:
            rest = unpacker.unused_data.lstrip(b"\0")
            if not (gzip and rest):
                return bytes(out)
            unpacker = zlib.decompressobj(31)  # gzip files may follow each other in one
        elif not rest:
            raise EOFError("the compressed content ends too early")


class BoundedStream:
    """A binary stream that stops a parser which has read too often or for too long."""

    def __init__(self, stream: BinaryIO, limits: Limits, name: object) -> None:
        self._stream, self._limits, self._name = stream, limits, name
        self._reads, self._began = 0, time.process_time()
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read as the stream does, and count."""
        self._reads += 1
        if self._reads % _READS_BETWEEN_CLOCKS == 0:
            self._check()
        return self._stream.read(size)

    def _check(self) -> None:
        elements = self._reads // 2  # a tag with its length, then its value
        self._limits.check("header_elements", elements, f"{foreign(self._name)} has a header without an end")
        spent = time.process_time() - self._began
        self._limits.check("seconds_per_file", spent, f"{foreign(self._name)} takes {spent:.0f} s to parse")
