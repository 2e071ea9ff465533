"""Find the files in whatever a user points at: a file, a folder with junk in it, a zip, a DICOMDIR.
Archives are read in place.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Self, cast

from ichnos.errors import InputRefused

_JUNK_WORDS = """
    .txt .json .xml .html .htm .pdf .jpg .jpeg .png .gif .bmp .exe .dll .inf .ini .csv .tsv .nii .gz .md .py
    .js .css .ico .db
"""
_JUNK_SUFFIXES = frozenset(_JUNK_WORDS.split())
_MAX_MEMBERS = 200_000
_MAX_UNPACKED_BYTES = 32 << 30
_MAX_RATIO = 200  # CT packs 2 to 10 times; only beyond _SMALL_BYTES does a ratio make an archive suspicious
_SMALL_BYTES = 1 << 30


class FileReader:
    """Opens files, and members of zip archives written as `archive.zip/folder/member`; keeps archives open
    until it is closed.
    """

    def __init__(self) -> None:
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
            raise InputRefused(f"{path} is no longer there; it was moved or deleted while it was being read")
        return cast(BinaryIO, self.archive(archive).open(path.relative_to(archive).as_posix()))

    def bytes(self, path: Path) -> io.BytesIO:
        """Return the whole content of a file or member."""
        with self.open(path) as stream:
            return io.BytesIO(stream.read())

    def archive(self, path: Path) -> zipfile.ZipFile:
        """Return an opened, checked archive."""
        if path not in self._archives:
            try:
                opened = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise InputRefused(
                    f"{path} is not a readable zip archive ({error}); it may be cut short"
                ) from None
            _check_archive(path, opened)
            self._archives[path] = opened
        return self._archives[path]


def _check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    members = [info for info in archive.infolist() if not info.is_dir()]
    unpacked, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if len(members) > _MAX_MEMBERS:
        raise InputRefused(
            f"{path} holds {len(members)} files, more than the {_MAX_MEMBERS} allowed; unpack what you need"
            " yourself"
        )
    if unpacked > _MAX_UNPACKED_BYTES or (unpacked > _SMALL_BYTES and unpacked > _MAX_RATIO * max(packed, 1)):
        raise InputRefused(
            f"{path} would unpack to {unpacked / 2**30:.1f} GiB from {packed / 2**20:.1f} MiB, like a zip"
            " bomb; unpack it yourself if you trust it"
        )
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or (name.parts and ":" in name.parts[0]):
            raise InputRefused(
                f"{path} holds a file named {member.filename!r}, which would leave the archive; do not trust"
                " this file"
            )
        if member.flag_bits & 1:
            raise InputRefused(f"{path} is encrypted; unpack it with its password first")


def files_in(path: Path, reader: FileReader) -> list[Path]:
    """List every file that may be DICOM, sorted, so that the same folder always gives the same answer."""
    if not path.exists():
        raise InputRefused(f"{path} does not exist; give a DICOM file, folder, zip or DICOMDIR")
    if path.is_dir():
        return _walk(path)
    if not path.is_file():
        raise InputRefused(
            f"{path} is neither a file nor a folder; give a DICOM file, folder, zip or DICOMDIR"
        )
    if zipfile.is_zipfile(path):
        names = (info.filename for info in reader.archive(path).infolist() if not info.is_dir())
        return [path / name for name in sorted(names) if not _is_junk(PurePosixPath(name))]
    if path.name.upper() == "DICOMDIR":
        return _from_dicomdir(path)
    return [path]


def _walk(folder: Path) -> list[Path]:
    found = []

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        found += [Path(root, name) for name in sorted(names) if not _is_junk(PurePosixPath(name))]
    return found


def _is_junk(name: PurePosixPath) -> bool:
    hidden = name.name.startswith(".") or "__MACOSX" in name.parts
    return hidden or name.suffix.lower() in _JUNK_SUFFIXES or name.name.upper() in ("DICOMDIR", "DIRFILE")


def _from_dicomdir(path: Path) -> list[Path]:
    """List the files that a DICOMDIR names; without usable records, every file beside it."""
    import pydicom

    try:
        records = pydicom.dcmread(path).get("DirectoryRecordSequence") or []
    except (pydicom.errors.InvalidDicomError, OSError, ValueError, EOFError, KeyError):
        raise InputRefused(
            f"{path} is not a readable DICOMDIR; give the folder that holds the images instead"
        ) from None
    named = [_parts(record.ReferencedFileID) for record in records if "ReferencedFileID" in record]
    if any(".." in parts for parts in named):
        raise InputRefused(
            f"{path} names files outside its own folder; give the folder that holds the images instead"
        )
    present = {found.relative_to(path.parent).as_posix().upper(): found for found in _walk(path.parent)}
    files = [present[key] for parts in named if (key := "/".join(parts).upper()) in present]
    return sorted(set(files)) or _walk(path.parent)


def _parts(file_id: object) -> tuple[str, ...]:
    return (file_id,) if isinstance(file_id, str) else tuple(str(part) for part in cast(list[str], file_id))
