"""Find the files in whatever a user points at: a file, a folder with junk in it, a zip, a DICOMDIR.

Archives are read in place. Pipes, devices, dangling links and unreadable folders are left out by name.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Self, cast

from ichnos.errors import InputRefused, foreign
from ichnos.formats.limits import DEFAULT_LIMITS, BoundedStream, Limits

_JUNK_WORDS = """
    .txt .json .xml .html .htm .pdf .jpg .jpeg .png .gif .bmp .exe .dll .inf .ini .csv .tsv .nii .gz .md .py
    .js .css .ico .db
"""
_JUNK_SUFFIXES = frozenset(_JUNK_WORDS.split())
DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)  # while a member is read


@dataclass(frozen=True)
class Listing:
    """The files of a place, sorted, and those left out with the reason."""

    files: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...] = ()


class FileReader:
    """Opens files, and members of zip archives written as `archive.zip/folder/member`.

    Archives stay open until the reader is closed.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._archives: dict[Path, zipfile.ZipFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for archive in self._archives.values():
            archive.close()

    def open(self, path: Path) -> BinaryIO:
        """Open a file or an archive's member for reading."""
        try:
            return path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            pass
        archive = next((parent for parent in path.parents if parent.is_file()), None)
        if archive is None:
            raise InputRefused(
                f"{foreign(path)} is no longer there; it was moved or deleted while it was being read"
            )
        opened = self.archive(archive)
        member = opened.getinfo(path.relative_to(archive).as_posix())
        self.limits.check_packing(member.file_size, member.compress_size, path)
        return cast(BinaryIO, opened.open(member))

    def bounded(self, stream: BinaryIO, path: Path) -> BinaryIO:
        """Return the stream such that no header can keep a parser busy beyond the limits."""
        return cast(BinaryIO, BoundedStream(stream, self.limits, path))

    def part(self, path: Path, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on; a damaged archive is refused by name."""
        try:
            with self.open(path) as stream:
                if isinstance(stream, zipfile.ZipExtFile):  # whole: its checksum is not checked after a seek
                    content = stream.read()
                    return content[start:] if size < 0 else content[start : start + size]
                stream.seek(start)
                return stream.read(size)
        except DAMAGED_ARCHIVE as error:
            raise InputRefused(
                f"{foreign(path)} cannot be unpacked ({foreign(error)}); copy or export it again"
            ) from None

    def bytes(self, path: Path) -> io.BytesIO:
        """Return the whole content of a file or member."""
        return io.BytesIO(self.part(path, 0, -1))

    def archive(self, path: Path) -> zipfile.ZipFile:
        """Return an opened, checked archive."""
        if path not in self._archives:
            try:
                opened = zipfile.ZipFile(path)
            except (*DAMAGED_ARCHIVE, OSError, ValueError) as error:
                raise InputRefused(
                    f"{foreign(path)} is not a readable zip archive ({foreign(error)}); it may be cut short"
                ) from None
            _check_archive(path, opened, self.limits)
            self._archives[path] = opened
        return self._archives[path]


def _check_archive(path: Path, archive: zipfile.ZipFile, limits: Limits) -> None:
    members = [info for info in archive.infolist() if not info.is_dir()]
    unpacked, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    limits.check("files", len(members), f"{foreign(path)} holds {len(members):,} files")
    limits.check_archive(unpacked, packed, path)
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or (name.parts and ":" in name.parts[0]):
            raise InputRefused(
                f"{foreign(path)} holds a file named {foreign(repr(member.filename))}, which would leave"
                " the archive; do not trust"
                " this file"
            )
        if member.flag_bits & 1:
            raise InputRefused(f"{foreign(path)} is encrypted; unpack it with its password first")


def files_in(path: Path, reader: FileReader) -> Listing:
    """List every file that may be DICOM, sorted, so that the same folder always gives the same answer."""
    if not path.exists():
        raise InputRefused(f"{foreign(path)} does not exist; give a DICOM file, folder, zip or DICOMDIR")
    if path.is_dir():
        return walk(path, reader.limits)
    if not path.is_file():
        raise InputRefused(
            f"{foreign(path)} is neither a file nor a folder; give a DICOM file, folder, zip or DICOMDIR"
        )
    if zipfile.is_zipfile(path):
        names = (info.filename for info in reader.archive(path).infolist() if not info.is_dir())
        return Listing(tuple(path / name for name in sorted(names) if not _is_junk(PurePosixPath(name))))
    if path.name.upper() == "DICOMDIR":
        return _from_dicomdir(path, reader)
    return Listing((path,))


def walk(folder: Path, limits: Limits = DEFAULT_LIMITS, *, deep: bool = True) -> Listing:
    """List the ordinary files of a folder, and of those below it if `deep`."""
    files: list[Path] = []
    left_out: list[tuple[Path, str]] = []

    def unreadable(error: OSError) -> None:
        left_out.append((Path(error.filename or folder), "unreadable folder"))

    for root, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX"))) if deep else []
        for name in sorted(names):
            if _is_junk(PurePosixPath(name)):
                continue
            path = Path(root, name)
            why = why_not_ordinary(path)
            if why:
                left_out.append((path, why))
            else:
                files.append(path)
        limits.check("files", len(files), f"{foreign(folder)} holds {len(files):,} files")
    return Listing(tuple(files), tuple(left_out))


def why_not_ordinary(path: Path) -> str:
    """Return in words why a path is no ordinary file; "" if it is one.

    >>> why_not_ordinary(Path("no such file"))
    'dangling link'
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "dangling link"
    except OSError:
        return "unreadable file"
    return "" if stat.S_ISREG(mode) else "pipe, socket or device"


def _is_junk(name: PurePosixPath) -> bool:
    hidden = name.name.startswith(".") or "__MACOSX" in name.parts
    return hidden or name.suffix.lower() in _JUNK_SUFFIXES or name.name.upper() in ("DICOMDIR", "DIRFILE")


def _from_dicomdir(path: Path, reader: FileReader) -> Listing:
    """List the files that a DICOMDIR names; without usable records, every file beside it."""
    named = _named_by(path, reader)
    if any(".." in parts for parts in named):
        raise InputRefused(
            f"{foreign(path)} names files outside its own folder; give the folder that holds the images"
            " instead"
        )
    beside = walk(path.parent, reader.limits)
    present = {file.relative_to(path.parent).as_posix().upper(): file for file in beside.files}
    files = [present[key] for parts in named if (key := "/".join(parts).upper()) in present]
    return Listing(tuple(sorted(set(files))) or beside.files, beside.left_out)


def _named_by(path: Path, reader: FileReader) -> list[tuple[str, ...]]:
    """Return the parts of every file name in a DICOMDIR."""
    import pydicom

    try:
        with reader.open(path) as stream:
            records = pydicom.dcmread(reader.bounded(stream, path)).get("DirectoryRecordSequence") or []
        return [_parts(record.ReferencedFileID) for record in records if "ReferencedFileID" in record]
    except InputRefused:
        raise
    except Exception:  # a damaged or endlessly nested file may break the parser in any way
        raise InputRefused(
            f"{foreign(path)} is not a readable DICOMDIR; give the folder that holds the images instead"
        ) from None


def _parts(file_id: object) -> tuple[str, ...]:
    return (file_id,) if isinstance(file_id, str) else tuple(str(part) for part in cast(list[str], file_id))
