"""Patients resampled to a network's grid, once, and kept on disk, where patches are read from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ichnos.cohort import Cohort, Patient, Split
from ichnos.errors import InputRefused
from ichnos.formats import nifti
from ichnos.formats.bids import TRUSTED_PIPELINES
from ichnos.inference.grid import reading_grid
from ichnos.inference.head import head_box
from ichnos.learning.segmentation.target_files import target_degree, target_file
from ichnos.models.store import sha256

DEGREE_STEPS = 200  # steps of a degree on disk
_CENTRES = 4000  # voxels of each target that are kept, to centre patches on


@dataclass(frozen=True)
class CaseGrid:
    """What decides how a case looks on disk."""

    targets: tuple[str, ...]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """One patient on the network's grid. The arrays are read from disk where they are touched."""

    id: str
    centre: str
    split: Split
    folder: Path
    known: tuple[bool, ...]  # per target
    voxels_sha256: str  # of the CT's voxels as they were given

    def as_row(self) -> dict[str, Any]:
        """Return the case as plain data, its folder by name."""
        return {**vars(self), "folder": self.folder.name}

    @classmethod
    def from_row(cls, row: dict[str, Any], cache: Path) -> TrainingCase:
        """Return the case of a row, in a folder of prepared patients."""
        return cls(**row | {"folder": cache / row["folder"], "known": tuple(row["known"])})

    @property
    def hu(self) -> npt.NDArray[np.int16]:
        """Return HU (x, y, z)."""
        array: npt.NDArray[np.int16] = np.load(self.folder / "hu.npy", mmap_mode="r")
        return array

    @property
    def degrees(self) -> npt.NDArray[np.uint8]:
        """Return the degree of each target (target, x, y, z), 0..DEGREES; 0 where it is not known."""
        array: npt.NDArray[np.uint8] = np.load(self.folder / "degrees.npy", mmap_mode="r")
        return array

    @property
    def centres(self) -> npt.NDArray[np.int16]:
        """Return voxels of the targets (n, 4): target, x, y, z."""
        array: npt.NDArray[np.int16] = np.load(self.folder / "places.npy", mmap_mode="r")
        return array


def prepare_cases(
    cohort: Cohort,
    grid: CaseGrid,
    cache: Path,
    *,
    pipelines: Sequence[str] = TRUSTED_PIPELINES,
    advance: Callable[[str], None] = lambda patient: None,
) -> tuple[TrainingCase, ...]:
    """Resample every patient with a CT and a target onto the network's grid; the cache is used where it can.

    >>> prepare_cases(Cohort(()), CaseGrid(("ICH",), (2.0, 2.0, 2.0)), Path("cache"))
    ()
    """
    cases = []
    for patient in cohort.with_exams("ct"):
        advance(patient.id)
        cases.append(prepare_case(cohort, patient, grid, cache, pipelines))
    return tuple(case for case in cases if case is not None)


def prepare_case(
    cohort: Cohort,
    patient: Patient,
    grid: CaseGrid,
    cache: Path,
    pipelines: Sequence[str],
    *,
    ct_sha256: str = "",
) -> TrainingCase | None:
    """Resample one patient onto the network's grid; None where the cohort holds none of the targets."""
    files = [target_file(cohort, patient, name, pipelines) for name in grid.targets]
    if not any(files):
        return None
    content = {
        "ct": ct_sha256 or sha256(patient.exam("ct")),
        "targets": [None if f is None else [sha256(f[0]), list(f[1])] for f in files],
    }
    text = json.dumps([content, grid.targets, grid.spacing_mm, DEGREE_STEPS])
    folder = cache / f"{patient.id}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if not (folder / "case.json").is_file():
        _write(folder, patient, files, grid)
    voxels = json.loads((folder / "case.json").read_text(encoding="utf-8"))["voxels_sha256"]
    known = tuple(f is not None for f in files)
    return TrainingCase(patient.id, patient.centre, patient.split, folder, known, voxels)


def _write(
    folder: Path, patient: Patient, files: Sequence[tuple[Path, tuple[int, ...]] | None], grid: CaseGrid
) -> None:
    ct = nifti.open_nifti(patient.exam("ct")).volume
    ras = ct.reoriented("RAS")
    lattice = reading_grid(ras, head_box(ras), grid.spacing_mm)  # as `inference.Predictor` lays it
    degrees = np.zeros((len(files), *lattice.shape), np.uint8)
    for channel, file in enumerate(files):
        if file is not None:
            degree = ct.with_array(target_degree(*file, ct)).reoriented("RAS")
            degrees[channel] = np.round(np.clip(lattice.pull(degree.array), 0, 1) * DEGREE_STEPS)
    hu = np.clip(np.round(lattice.pull(ras.array)), -1024, 3071).astype(np.int16)
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        for name, array in (("hu", hu), ("degrees", degrees), ("places", _centres(degrees, patient.id))):
            np.save(partial / f"{name}.npy", array)
        voxels = hashlib.sha256(np.ascontiguousarray(ct.array).tobytes()).hexdigest()
        (partial / "case.json").write_text(json.dumps({"voxels_sha256": voxels}), encoding="utf-8")
        try:
            os.replace(partial, folder)
        except OSError:
            if not (folder / "case.json").is_file():  # else another training has just made the same one
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _centres(degrees: npt.NDArray[np.uint8], patient: str) -> npt.NDArray[np.int16]:
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8]))
    rows = []
    for channel, degree in enumerate(degrees):
        at = np.argwhere(degree >= DEGREE_STEPS // 2)
        at = at[np.sort(rng.permutation(len(at))[:_CENTRES])]
        rows.append(np.column_stack([np.full(len(at), channel), at]))
    return np.concatenate(rows).astype(np.int16)


# ---- checks


def check_cases(cases: Sequence[TrainingCase], targets: Sequence[str]) -> None:
    """Refuse cases without training or validation patients, a target that nobody has, and leakage."""
    train, validation = ([c for c in cases if c.split == split] for split in ("train", "validation"))
    if not train:
        raise InputRefused(
            f"none of {len(cases)} patients with a target is in the split 'train'; fill in the column split"
            " of participants.tsv"
        )
    for channel, name in enumerate(targets):
        if not any(case.known[channel] for case in train):
            raise InputRefused(
                f"no patient of the split 'train' has the target {name}; outline it (derivatives/manual),"
                " transfer it (ichnos transfer), or leave it out"
            )
    if not validation:
        raise InputRefused(
            f"there is no validation patient among {len(cases)} with a target, and the best step is chosen"
            " on them. Give some patients the split 'validation' in participants.tsv"
        )
    check_splits_apart(
        [(case.voxels_sha256, case.id, case.split) for case in cases], "have the same CT, voxel by voxel"
    )


def check_splits(cohort: Cohort) -> None:
    """Refuse a cohort with one person in two splits, by the column `person` or by the same CT file."""
    check_people(cohort)
    check_splits_apart(
        [(sha256(p.exam("ct")), p.id, p.split) for p in cohort.with_exams("ct")], "have the same CT file"
    )


def check_people(cohort: Cohort) -> None:
    """Refuse a cohort in which the column `person` puts one person into two splits."""
    people = [(str(p.facts["person"]), p.id, p.split) for p in cohort if p.facts.get("person") is not None]
    check_splits_apart(people, "are one person by the column person")


def check_splits_apart(rows: Sequence[tuple[str, str, Split]], why: str) -> None:
    """Refuse rows (key, patient, split) in which one key is in two splits.

    >>> check_splits_apart([("a", "01", "train"), ("a", "02", "test")], "are one person")
    Traceback (most recent call last):
    ichnos.errors.InputRefused: leakage: sub-01 (train) and sub-02 (test) are one person; put all exams of a
    person into one split
    """
    seen: dict[str, tuple[str, Split]] = {}
    for key, patient, split in rows:
        other, elsewhere = seen.setdefault(key, (patient, split))
        if elsewhere != split:
            raise InputRefused(
                f"leakage: sub-{other} ({elsewhere or 'no split'}) and sub-{patient} ({split or 'no split'})"
                f" {why}; put all exams of a person into one split"
            )


def cases_fingerprint(cases: Sequence[TrainingCase]) -> str:
    """Return one SHA-256 for all cases: another patient, another mask or another grid gives another."""
    names = sorted(f"{case.split}/{case.folder.name}" for case in cases)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
