"""Points that somebody has marked in both exams of a pair: how far the registration leaves them apart.

`derivatives/<pipeline>/sub-<id>/sub-<id>_landmarks.tsv` has the columns exam, name, x, y, z (RAS mm, each in
its own exam's space).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ichnos.cohort import EXAMS, Exam
from ichnos.errors import InputRefused, foreign
from ichnos.formats import bids
from ichnos.formats.text import TSV_DELIMITERS, read_table
from ichnos.registration import Transform
from ichnos.volume import Floats

Landmarks = Mapping[Exam, Mapping[str, Floats]]  # exam -> name -> (3,) RAS mm
_COLUMNS = ("exam", "name", "x", "y", "z")


def find_landmarks(root: Path, patient_id: str, pipelines: tuple[str, ...]) -> Landmarks:
    """Read a patient's landmarks from the first pipeline that has them; none without a file."""
    who = bids.subject(patient_id)
    for pipeline in pipelines:
        path = root / "derivatives" / pipeline / who / f"{who}_landmarks.tsv"
        if path.is_file():
            return read_landmarks(path)
    return {}


def read_landmarks(path: Path) -> Landmarks:
    """Read a table of landmarks; a column or an exam that is not known, or a place that is no number, is
    refused.
    """
    columns, rows = read_table(path, delimiters=TSV_DELIMITERS)
    if not set(_COLUMNS) <= set(columns):
        raise InputRefused(f"{path} needs the columns {', '.join(_COLUMNS)}, divided by tabs")
    landmarks: dict[Exam, dict[str, Floats]] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{path}, line {number}"
        landmarks.setdefault(_exam(row["exam"], where), {})[row["name"]] = _position_mm(row, where)
    return landmarks


def _exam(name: str, where: str) -> Exam:
    for exam in EXAMS:
        if exam == name:
            return exam
    raise InputRefused(f"{where}: exam {foreign(repr(name))} is unknown; write one of {', '.join(EXAMS)}")


def _position_mm(row: Mapping[str, str], where: str) -> Floats:
    try:
        position = np.array([float(row[axis]) for axis in "xyz"])
    except ValueError:
        position = np.full(3, np.nan)
    if not np.isfinite(position).all():
        raise InputRefused(f"{where}: x, y and z are expected to be numbers, in mm")
    return position


def landmark_residual_mm(landmarks: Landmarks, partner: Exam, partner_from_ct: Transform) -> float:
    """Return the median distance between where CT landmarks are mapped and where the partner shows them; NaN
    if they share none.

    >>> marks = {"ct": {"tip": np.zeros(3)}, "flair": {"tip": np.array([3.0, 4.0, 0.0])}}
    >>> landmark_residual_mm(marks, "flair", Transform())
    5.0
    """
    ours, theirs = landmarks.get("ct", {}), landmarks.get(partner, {})
    shared = sorted(set(ours) & set(theirs))
    if not shared:
        return float("nan")
    mapped = partner_from_ct.map(np.stack([ours[name] for name in shared]))
    return float(np.median(np.linalg.norm(mapped - np.stack([theirs[name] for name in shared]), axis=1)))
