"""Which scans lie in the places that a user names, each with an id that becomes its folder."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ichnos.cli.inputs.names import NameBook
from ichnos.errors import InputRefused, UsageError, foreign
from ichnos.formats.limits import DEFAULT_LIMITS, Limits
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
    label: str = ""  # a name that a table of facts may use for it
    study: DicomStudy | None = None
    refusal: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)  # they overrule those of its headers
    cohort: bool = False  # its id is that of a patient of a cohort
    limits: Limits = DEFAULT_LIMITS  # on its files

    def open(self) -> Scan:
        """Open the scan, or refuse with the reason."""
        from ichnos.formats import open_scan

        if self.refusal:
            raise InputRefused(self.refusal)
        scan = self.study.open() if self.study is not None else open_scan(self.place, limits=self.limits)
        return scan.with_facts(self.facts)


def find_scans(
    paths: list[Path], *, progress: bool, names: NameBook | None = None, limits: Limits = DEFAULT_LIMITS
) -> list[ScanItem]:
    """List every scan in the given places, under hashed names if there is a book of names.

    Patients of a cohort keep their ids, which are pseudonyms. A place that does not exist is refused at once.
    """
    for path in paths:
        if not path.exists():
            raise InputRefused(
                f"{foreign(path)} does not exist; give a DICOM file, folder or zip, a NIfTI file, or a cohort"
            )
    listed = (item for path in paths for item in _items(path, limits, progress=progress))
    items = list({item.given: replace(item, limits=limits) for item in listed}.values())
    if names is not None:
        items = [_renamed(item, names) for item in items]
    counts = Counter(item.id for item in items)
    return [
        item if counts[item.id] == 1 else replace(item, id=f"{item.id}-{_digest(item.given)}")
        for item in items
    ]


def find_studies(
    path: Path, *, progress: bool, names: NameBook | None = None, limits: Limits = DEFAULT_LIMITS
) -> list[ScanItem]:
    """List the head CTs to convert: a NIfTI file, or every study of a place, with or without one."""
    from ichnos.cli.inspect import file_bar
    from ichnos.formats import nifti
    from ichnos.formats.dicom import studies_in

    if nifti.is_nifti(path) and path.is_file():
        items = [replace(_of_file(path), limits=limits)]
    else:
        with file_bar(show=progress) as advance:
            studies = studies_in(path, progress=advance, limits=limits)
        items = [ScanItem(s.id, f"{s.folder} ({s.uid})", s.folder, study=s) for s in studies]
    return items if names is None else [_renamed(item, names) for item in items]


def _renamed(item: ScanItem, names: NameBook) -> ScanItem:
    if item.cohort:
        return item
    if item.study is not None:
        return replace(item, id=names.name("study", item.study.uid), label=item.id)
    return replace(item, id=names.name("scan", str(item.place.resolve())), label=item.id)


def with_facts(items: list[ScanItem], table: Mapping[str, Mapping[str, float]]) -> list[ScanItem]:
    """Give each scan its row of the facts table, by its id or by the name of its file.

    >>> items = [ScanItem("x", "x.nii.gz", Path("x.nii.gz")), ScanItem("y", "y.nii.gz", Path("y.nii.gz"))]
    >>> [dict(item.facts) for item in with_facts(items, {"y": {"gcs": 14.0}})]
    [{}, {'gcs': 14.0}]
    """
    known = {item.id for item in items} | {item.label for item in items if item.label}
    if strangers := sorted(set(table) - known):
        some = ", ".join(item.label or item.id for item in items[:5]) + (" …" if len(items) > 5 else "")
        raise UsageError(
            f"the facts table has a row for {foreign(strangers[0])}, but no scan has that id; there is"
            f" {foreign(some)}"
        )
    return [
        replace(item, facts={**item.facts, **table.get(item.label, {}), **table.get(item.id, {})})
        for item in items
    ]


def _items(path: Path, limits: Limits, *, progress: bool) -> Iterator[ScanItem]:
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
        yield from _of_dicom(path, limits, progress=progress, alone=not files)


def _of_file(path: Path) -> ScanItem:
    return ScanItem(_safe(re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)), str(path), path)


def _of_cohort(root: Path) -> Iterator[ScanItem]:
    from ichnos.formats import bids

    for patient in bids.read_cohort(root):
        facts = known_facts(patient.facts, where=f"{root / 'participants.tsv'}, {patient.id}")
        for exam in ("ct", "followup"):
            if exam in patient.exams:
                place = patient.exams[exam]
                known = facts if exam == "ct" else {name: facts[name] for name in _LASTING if name in facts}
                yield ScanItem(
                    f"{bids.subject(patient.id)}_ses-{bids.EXAM_PLACES[exam][0]}",
                    str(place),
                    place,
                    facts=known,
                    cohort=True,
                )


def _of_dicom(path: Path, limits: Limits, *, progress: bool, alone: bool) -> Iterator[ScanItem]:
    """List the studies of a place; one that holds no DICOM is a refusal, unless it held something else."""
    from ichnos.cli.inspect import file_bar
    from ichnos.formats.dicom import studies_in

    try:
        with file_bar(show=progress) as advance:
            studies = studies_in(path, progress=advance, limits=limits)
    except InputRefused as error:
        if alone:
            yield ScanItem(_safe(path.resolve().name), str(path), path, refusal=error.marked)
        return
    for study in studies:
        yield ScanItem(study.id, f"{study.folder} ({study.uid})", study.folder, study=study)


def _safe(name: str) -> str:
    """Return a name that can be a folder's: letters, digits, dot, dash and underscore.

    >>> _safe("Müller 3"), _safe("../x")
    ('M_ller_3', 'x')
    """
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._") or "scan"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
