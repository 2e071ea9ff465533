"""Check a cohort on disk against the layout of `docs/cohorts.md`: one issue per line, everything in one
go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ichnos.cohort import EXAMS
from ichnos.errors import InputRefused
from ichnos.formats import bids, nifti
from ichnos.formats.text import read_json, read_text

_ENDINGS = (".nii.gz", ".json", ".bval", ".bvec", ".tsv")
_DERIVED = re.compile(r"(sub-[A-Za-z0-9]+)_(ses-[A-Za-z0-9]+)_.*_?(mask|dseg|probseg)\.(nii\.gz|json)")


@dataclass(frozen=True)
class CohortIssue:
    """One thing that is wrong with a cohort.

    >>> print(CohortIssue("error", "participants.tsv", "is missing"))
    error: participants.tsv: is missing
    """

    level: Literal["error", "warning"]
    path: str  # relative to the cohort
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.path}: {self.text}"


def validate(root: str | Path) -> list[CohortIssue]:
    """Return everything that is wrong with a cohort; an empty list means it can be used."""
    root = Path(root)
    if not root.is_dir():
        raise InputRefused(f"{root} is not a folder; give the folder that holds participants.tsv")
    issues = [*_description(root, root), *_ignored(root)]
    try:
        rows = bids.read_participants(root)
    except InputRefused as refusal:
        return [*issues, CohortIssue("error", "participants.tsv", str(refusal))]
    issues += _table(root, rows)
    for patient_id in dict.fromkeys(row["participant_id"] for row in rows):
        issues += _patient(root, patient_id)
    for pipeline in sorted(path for path in (root / "derivatives").glob("*") if path.is_dir()):
        issues += [*_description(root, pipeline), *_derived(root, pipeline)]
    return issues


def _description(root: Path, folder: Path) -> Iterator[CohortIssue]:
    path = folder / "dataset_description.json"
    where = path.relative_to(root).as_posix()
    if not path.is_file():
        yield CohortIssue("error", where, "is missing; it names the dataset and its BIDSVersion")
        return
    try:
        content = read_json(path)
    except InputRefused as refusal:
        yield _refused(path, where, refusal)
        return
    wanted = ("Name", "BIDSVersion") if folder == root else ("Name", "BIDSVersion", "GeneratedBy")
    for key in wanted:
        if not isinstance(content, dict) or not content.get(key):
            yield CohortIssue("error", where, f"has no {key}")


def _ignored(root: Path) -> Iterator[CohortIssue]:
    path = root / ".bidsignore"
    try:
        ignored = read_text(path) if path.is_file() else ""
    except InputRefused as refusal:
        yield _refused(path, ".bidsignore", refusal)
        return
    if "ct" not in ignored:
        yield CohortIssue(
            "warning",
            ".bidsignore",
            "does not list ct/ files, which BIDS does not know yet; BIDS validators will object to them",
        )


def _table(root: Path, rows: list[dict[str, str]]) -> Iterator[CohortIssue]:
    ids = [row["participant_id"] for row in rows]
    for patient_id in sorted({i for i in ids if ids.count(i) > 1}):
        yield CohortIssue(
            "error", "participants.tsv", f"sub-{patient_id} has {ids.count(patient_id)} rows; one is expected"
        )
    for row in rows:
        if row.get("split", "") not in bids.SPLITS:
            yield CohortIssue(
                "error",
                "participants.tsv",
                f"sub-{row['participant_id']} has the unknown split {row['split']!r}",
            )
    folders = {path.name.removeprefix("sub-") for path in root.glob("sub-*") if path.is_dir()}
    for patient_id in sorted(folders - set(ids)):
        yield CohortIssue("error", f"sub-{patient_id}", "has no row in participants.tsv")
    for patient_id in sorted(set(ids) - folders):
        yield CohortIssue("error", f"sub-{patient_id}", "is in participants.tsv and has no folder")


def _patient(root: Path, patient_id: str) -> Iterator[CohortIssue]:
    folder = root / bids.subject(patient_id)
    if not folder.is_dir():
        return
    known = {bids.exam_path(root, patient_id, exam): exam for exam in EXAMS}
    if not any(path.is_file() for path in known):
        yield CohortIssue("error", folder.name, "has no exam that ichnos knows")
    stems = {str(path).removesuffix(".nii.gz") for path in known}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        where = path.relative_to(root).as_posix()
        stem = next((str(path).removesuffix(ending) for ending in _ENDINGS if path.name.endswith(ending)), "")
        if path in known:
            yield from _image(root, path, where, diffusion=known[path] == "diffusion")
        elif stem not in stems:
            yield CohortIssue("warning", where, "is not named as an exam of the layout and will not be read")


def _image(root: Path, path: Path, where: str, *, diffusion: bool) -> Iterator[CohortIssue]:
    try:
        volume = nifti.load(path)
    except InputRefused as refusal:
        yield _refused(path, where, refusal)
        return
    if not nifti.sidecar_path(path).is_file():
        yield CohortIssue("warning", where, "has no JSON file beside it")
    if not diffusion:
        if volume.array.ndim != 3:
            yield CohortIssue("error", where, f"has {volume.array.shape[3]} frames; one is expected")
        return
    try:
        bvals, bvecs = bids.read_gradients(path)
    except InputRefused as refusal:
        yield _refused(path, where, refusal)
        return
    frames = volume.array.shape[3] if volume.array.ndim == 4 else 1
    if len(bvals) != frames:
        yield CohortIssue("error", where, f"has {frames} frames and {len(bvals)} b-values")
    lengths = np.linalg.norm(bvecs[bvals > 50], axis=1)
    if lengths.size and np.abs(lengths - 1).max() > 0.05:
        yield CohortIssue("error", where, "has gradient directions that are not of length 1")


def _derived(root: Path, pipeline: Path) -> Iterator[CohortIssue]:
    for path in sorted(p for p in pipeline.glob("sub-*/**/*") if p.is_file()):
        where = path.relative_to(root).as_posix()
        named = _DERIVED.fullmatch(path.name)
        if named is None or not path.name.endswith(".nii.gz"):
            continue
        who, session = named.group(1), named.group(2)
        if path.parent.relative_to(pipeline).parts[:2] != (who, session):
            yield CohortIssue("error", where, f"lies outside {who}/{session}, which its name says")
            continue
        exams = [bids.exam_path(root, who.removeprefix("sub-"), exam) for exam in EXAMS]
        yield from _on_an_exam(path, where, [exam for exam in exams if exam.parts[-3] == session])


def _on_an_exam(path: Path, where: str, exams: list[Path]) -> Iterator[CohortIssue]:
    try:
        drawn = nifti.load(path)
    except InputRefused as refusal:
        yield _refused(path, where, refusal)
        return
    grids = []
    for exam in exams:
        with suppress(InputRefused):  # an exam that is missing or damaged has its own issue
            grids.append(nifti.load_grid(exam))
    if grids and not any(drawn.same_grid(grid, tolerance_mm=0.01) for grid in grids):
        yield CohortIssue(
            "error",
            where,
            f"does not lie on the grid of any exam of its session ({', '.join(exam.name for exam in exams)})",
        )


def _refused(path: Path, where: str, refusal: InputRefused) -> CohortIssue:
    return CohortIssue("error", where, str(refusal).removeprefix(f"{path} "))
