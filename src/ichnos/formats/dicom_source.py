"""What SEG and SR take over from the source images: identity, or another identity put consistently in its
place, and the equipment.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ichnos
from ichnos.errors import InputRefused, UsageError, foreign
from ichnos.files import atomic_file
from ichnos.formats.dicom.files import FileReader
from ichnos.formats.dicom_codes import ARTIFICIAL_INTELLIGENCE, NOTICE, concept
from ichnos.scan import Scan

MANUFACTURER = "ichnos"
# What a header keeps under another identity: where the pixels lie, how they are stored (group 0028), and
# nothing that tells who or where.
_KEPT = frozenset(
    (
        "SpecificCharacterSet",
        "ImageType",
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyDate",
        "StudyTime",
        "Modality",
        "PatientID",
        "PatientName",
        "PatientSex",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "SliceThickness",
        "SpacingBetweenSlices",
        "PatientPosition",
        "InstanceNumber",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
    )
)
_IMAGE_GROUP = 0x0028
# What DICOM wants in every image, with nothing in it where it is not known.
_WANTED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
    "SliceThickness",
)
LONGEST_TEXT = 64  # characters of a long string (LO)
_SEXES = ("", "M", "F", "O")
# What pydicom and the walk through a dataset raise when bytes are not what they should be.
_DAMAGED = (
    AttributeError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    StopIteration,
    struct.error,
    RuntimeError,
)


@dataclass(frozen=True)
class Alias:
    """Another identity for the patient: the same key turns the same UID into the same new one, in SEG, SR and
    wherever it is used.

    >>> alias = Alias("P01", key="a secret of the project")
    >>> alias.uid("1.2.3") == alias.uid("1.2.3") != alias.uid("1.2.4")
    True
    """

    patient_id: str
    key: str  # keep it secret: with it, and only with it, old and new can be brought together again

    def __post_init__(self) -> None:
        if not self.key or not self.patient_id:
            raise UsageError("de-identification needs a new patient id and a secret key that is not empty")

    def uid(self, old: str) -> str:
        """Return the UID that takes the place of another."""
        digest = hmac.new(self.key.encode(), str(old).encode(), hashlib.sha256).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def source_headers(scan: Scan, *, alias: Alias | None = None) -> list[Any]:
    """Read the headers of a scan's source files, each file once, in the order of the slices; with an
    alias, under the other identity.
    """
    import pydicom

    if scan.source is None or not scan.source.slices:
        raise InputRefused(
            "the scan has no source slices (it was not opened from DICOM); SEG and SR belong to DICOM images:"
            " save as NIfTI"
        )
    headers = []
    with FileReader() as reader:
        for path in dict.fromkeys(s.path for s in scan.source.slices):
            with readable(path), reader.open(path) as stream:
                header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
                headers.append(_renamed(_completed(header, path), alias))
    return headers


def _completed(header: Any, path: Path) -> Any:
    """Fill in what scanners leave out although DICOM wants it there, with nothing in it."""
    if "SOPInstanceUID" not in header or "StudyInstanceUID" not in header:
        raise InputRefused(
            f"{foreign(path)} has no SOPInstanceUID or no StudyInstanceUID, so nothing can refer to it"
        )
    for keyword in _WANTED:
        if keyword not in header:
            setattr(header, keyword, None if keyword == "SliceThickness" else "")
    _make_legal(header)
    if "FrameOfReferenceUID" not in header:
        header.FrameOfReferenceUID = derived_uid(
            "frame of reference", header.StudyInstanceUID, header.get("SeriesInstanceUID", "")
        )
    _share_orientation(header)
    return header


def _make_legal(header: Any) -> None:
    """Empty a sex, dates and a time that DICOM does not know, and bring text of any character set but a
    plain one to Unicode: highdicom refuses them, though they change no pixel. Name and number stay.
    """
    from highdicom import SpecificCharacterSetValues
    from pydicom.valuerep import DA, TM

    plain = {kind.value for kind in SpecificCharacterSetValues if not kind.value.startswith("ISO 2022")}
    if "SpecificCharacterSet" in header and str(header.SpecificCharacterSet) not in plain:
        header.decode()
        header.SpecificCharacterSet = "ISO_IR 192"
    if str(header.PatientSex or "") not in _SEXES:
        header.PatientSex = ""
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(header.get(keyword))
        except (TypeError, ValueError):
            setattr(header, keyword, "")


def save_dataset(dataset: Any, path: str | Path) -> Path:
    """Write a DICOM object whole, in folders that are made where they are missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return path


def _share_orientation(header: Any) -> None:
    """Move what all frames of an enhanced file say alike to the place that is shared by all, where
    highdicom looks for it.
    """
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence") if groups and shared else ():
        said = [group.get(keyword) for group in groups]
        if keyword not in shared[0] and all(value == said[0] for value in said):
            setattr(shared[0], keyword, said[0])


def _renamed(header: Any, alias: Alias | None) -> Any:
    if alias is None:
        return header
    for tag in [
        element.tag
        for element in header
        if element.tag.group != _IMAGE_GROUP and element.keyword not in _KEPT
    ]:
        del header[tag]
    header.PatientID, header.PatientName = alias.patient_id, f"{alias.patient_id}^"
    header.PatientBirthDate = header.StudyID = header.AccessionNumber = header.ReferringPhysicianName = ""
    header.PositionReferenceIndicator = ""
    header.StudyDate, header.StudyTime = f"{str(header.StudyDate)[:4]}0101" if header.StudyDate else "", ""
    header.PatientIdentityRemoved, header.DeidentificationMethod = (
        "YES",
        "ichnos: identity and UIDs replaced, dates set to 1 January",
    )
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(header, keyword, alias.uid(header.get(keyword, "")))
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    return header


@contextmanager
def tolerant() -> Iterator[None]:
    """Let highdicom take over names as the scanner wrote them, such as "HEAD PHANTOM" in one piece,
    without a warning each.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*unlikely to represent the intended person name.*", category=UserWarning
        )
        yield


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or foreign DICOM file raises while it is read into one sentence about it."""
    import pydicom

    try:
        with warnings.catch_warnings():
            # pydicom tells of odd values; what matters is refused below
            warnings.simplefilter("ignore", UserWarning)
            yield
    except (pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException, EOFError) as error:
        raise InputRefused(f"{foreign(path)} is not a readable DICOM file ({foreign(error)})") from None
    except (OSError, *_DAMAGED) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file could not be opened at all; the system says why
        what = (str(error).splitlines() or [""])[0]
        raise InputRefused(
            f"{foreign(path)} is damaged or not laid out as expected ({type(error).__name__}:"
            f" {foreign(what)})"
        ) from None


def derived_uid(*parts: object) -> str:
    """Return the UID that belongs to this content: the same parts give the same UID, so that the same run
    writes the same file.

    >>> derived_uid("scan", 1) == derived_uid("scan", 1), derived_uid("scan", 1) == derived_uid("scan", 2)
    (True, False)
    """
    digest = hashlib.sha256()
    for part in parts:
        piece = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return f"2.25.{int.from_bytes(digest.digest()[:16], 'big')}"


@dataclass(frozen=True)
class Algorithm:
    """Who drew or measured: goes into every segment and measurement group."""

    name: str = "ichnos"
    version: str = ichnos.__version__

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", self.version[:LONGEST_TEXT])

    @property
    def parameters(self) -> tuple[str, ...]:
        """Return what every reader should see beside the name."""
        return (NOTICE,)

    @property
    def family(self) -> Any:
        """Return the coded family of the algorithm."""
        return concept(ARTIFICIAL_INTELLIGENCE)


def stamp(dataset: Any, header: Any, *, description: str) -> None:
    """Give a new object the dates of its study (so that the same content gives the same bytes) and say
    what it may be used for.
    """
    date, time = header.StudyDate or "19000101", header.StudyTime or "000000"
    dataset.InstanceCreationDate = dataset.ContentDate = dataset.SeriesDate = date
    dataset.InstanceCreationTime = dataset.ContentTime = dataset.SeriesTime = time
    dataset.SeriesDescription = description[:LONGEST_TEXT]
    organization = derived_uid("dimensions", dataset.SOPInstanceUID)
    for element in dataset.iterall():
        if element.keyword == "ContributionDateTime":
            element.value = f"{date}{time}"
        elif element.keyword == "DimensionOrganizationUID":
            element.value = organization
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod"):
        if keyword in header:
            setattr(dataset, keyword, header.get(keyword))
