"""Which scans lie in the places that a user names, each with an id that becomes its folder."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ichnos.errors import InputRefused, UsageError
from ichnos.scan import known_facts

if TYPE_CHECKING:
    from ichnos.formats.dicom import DicomStudy
    from ichnos.scan import Scan

_LASTING = ("age_years", "anticoagulation")  # facts that hold for the follow-up too


@dataclass(frozen=True)
class ScanItem:
    """One scan of a run: a NIfTI file, a study's head CT, or a place that holds neither (its reading is a
    refusal).
    """

    id: str  # the name of its folder
    given: str  # where it was found, as the user named it
    place: Path
    study: DicomStudy | None = None
    refusal: str = ""
    facts: Mapping[str, float] = field(
        default_factory=dict
    )  # told besides the scan; they overrule what its headers say

    def open(self) -> Scan:
        """Open the scan, or refuse with the reason."""
        from ichnos.formats import open_scan

        if self.refusal:
            raise InputRefused(self.refusal)
        scan = self.study.open() if self.study is not None else open_scan(self.place)
        return scan.with_facts(self.facts)


def find_scans(paths: list[Path], *, progress: bool) -> list[ScanItem]:
    """List every scan in the given places; a place that does not exist is refused at once, being a slip of
    the keyboard.
    """
    for path in paths:
        if not path.exists():
            raise InputRefused(
                f"{path} does not exist; give a DICOM file, folder or zip, a NIfTI file, or a cohort"
            )
    items = list({item.given: item for path in paths for item in _items(path, progress=progress)}.values())
    names = Counter(item.id for item in items)
    return [
        item if names[item.id] == 1 else replace(item, id=f"{item.id}-{_digest(item.given)}")
        for item in items
    ]


def with_facts(items: list[ScanItem], told: Mapping[str, Mapping[str, float]]) -> list[ScanItem]:
    """Give each scan what is told of it; a line for a scan that is not there is a slip of the keyboard."""
    ids = [item.id for item in items]
    if strangers := sorted(set(told) - set(ids)):
        some = ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")
        raise UsageError(f"facts are told of {strangers[0]}, which is none of the scans: {some}")
    return [replace(item, facts={**item.facts, **told.get(item.id, {})}) for item in items]


def _items(path: Path, *, progress: bool) -> Iterator[ScanItem]:
    from ichnos.formats import bids, nifti

    if path.is_file() and nifti.is_nifti(path):
        yield _of_file(path)
    elif path.is_dir() and bids.is_cohort(path):
        yield from _of_cohort(path)
    else:
        files = (
            sorted(file for file in path.rglob("*") if nifti.is_nifti(file) and file.is_file())
            if path.is_dir()
            else []
        )
        yield from map(_of_file, files)
        yield from _of_dicom(path, progress=progress, alone=not files)


def _of_file(path: Path) -> ScanItem:
    return ScanItem(_safe(re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)), str(path), path)


def _of_cohort(root: Path) -> Iterator[ScanItem]:
    from ichnos.formats import bids

    for patient in bids.read_cohort(root):
        facts = known_facts(patient.facts, where=f"{root / 'participants.tsv'}, {patient.id}")
        for exam in ("ct", "followup"):
            if exam in patient.exams:
                place = patient.exams[exam]
                told = facts if exam == "ct" else {name: facts[name] for name in _LASTING if name in facts}
                yield ScanItem(
                    f"{bids.subject(patient.id)}_ses-{bids.EXAM_PLACES[exam][0]}",
                    str(place),
                    place,
                    facts=told,
                )


def _of_dicom(path: Path, *, progress: bool, alone: bool) -> Iterator[ScanItem]:
    """List the studies of a place; one that holds no DICOM is a refusal, unless it held something else."""
    from ichnos.cli.inspect import file_bar
    from ichnos.formats.dicom import studies_in

    try:
        with file_bar(show=progress) as advance:
            studies = studies_in(path, progress=advance)
    except InputRefused as error:
        if alone:
            yield ScanItem(_safe(path.resolve().name), str(path), path, refusal=str(error))
        return
    for study in studies:
        yield ScanItem(study.id, f"{study.folder} ({study.id})", study.folder, study)


def _safe(name: str) -> str:
    """Return a name that can be a folder's: letters, digits, dot, dash and underscore.

    >>> _safe("Müller 3"), _safe("../x")
    ('M_ller_3', 'x')
    """
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._") or "scan"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
