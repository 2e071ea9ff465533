"""Rigid and deformable registration on pairs whose displacement is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ichnos.cohort import Cohort, Patient
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.tables import Table
from ichnos.formats import bids
from ichnos.registration import Transform
from ichnos.studies.ryu2025 import registration_arms
from ichnos.studies.ryu2025.registration_arms import registration_rows, registration_table
from ichnos.studies.shared.budget import StudyBudget
from ichnos.volume import Affine, Volume

SHIFT_MM = (6.0, -4.0, 0.0)  # from FLAIR to CT


@dataclass
class Found:
    transform: Transform


def shifted(matrix_mm: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = matrix_mm
    return matrix


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Two external pairs whose FLAIR lies beside the CT, one of which nobody knows by how much."""
    root, affine = tmp_path / "cohort", np.diag([2.0, 2.0, 4.0, 1.0])
    x, y, z = np.indices((40, 40, 16))
    lesion = ((x - 20) ** 2 + (y - 20) ** 2 < 36) & (abs(z - 8) < 3)
    beside = np.roll(lesion, (-3, 2), axis=(0, 1))  # FLAIR mm = CT mm - shift
    people = [Patient("0", "B", "external"), Patient("1", "B", "external")]
    for patient in people:
        for exam in ("ct", "flair"):
            bids.write_exam(root, patient.id, exam, Volume(np.full(x.shape, 30, np.int16), affine))  # type: ignore[arg-type]
        for label, kind, exam, array in (
            ("brain", "dseg", "ct", np.ones(x.shape, np.uint8)),
            ("leukoaraiosis", "mask", "ct", lesion.astype(np.uint8)),
            ("leukoaraiosis", "mask", "flair", beside.astype(np.uint8)),
        ):
            how: Any = {"pipeline": "truth", "label": label, "kind": kind, "exam": exam}
            bids.write_derivative(root, patient.id, Volume(array, affine), **how)
    folder = root / "derivatives" / "truth" / "sub-0"
    np.savetxt(folder / "sub-0_from-flair_to-ct_xfm.txt", shifted(SHIFT_MM))
    bids.write_cohort(people, root, name="beside")
    return bids.read_cohort(root)


def test_each_arm_is_judged_by_the_known_displacement(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = Transform.of(~Affine(shifted(SHIFT_MM)))
    wrong = Transform.of(Affine(shifted((3.0, 4.0, 0.0)))) @ truth
    found = {"rigid": Found(truth), "deformable": Found(wrong)}
    monkeypatch.setattr(registration_arms, "register", lambda ct, flair, *, kind, **how: found[kind])
    rows = registration_rows(cohort, tmp_path / "out", StudyBudget())
    assert [row["id"] for row in rows] == ["0"], "of the other pair nothing is known"
    row = rows[0]
    assert row["rigid_mm"] == pytest.approx(0, abs=1e-6)
    assert (row["deformable_mm"], row["deformable_p95_mm"]) == (pytest.approx(5), pytest.approx(5))
    assert row["rigid_dice"] > 0.95 > row["deformable_dice"]


def test_the_arms_are_paired() -> None:
    rows = [
        {"rigid_mm": 0.5 + k / 10, "deformable_mm": 0.7 + k / 10, "rigid_p95_mm": 1, "deformable_p95_mm": 1}
        | {"rigid_dice": 0.8, "deformable_dice": None if k else 0.7}
        for k in range(6)
    ]
    table = registration_table(rows)
    first, last = (dict(zip(table.columns, table.rows[at], strict=True)) for at in (0, 2))
    gap = first["deformable minus rigid"]
    assert isinstance(gap, Estimate)
    assert gap.value == pytest.approx(0.2)
    alone = last["deformable minus rigid"]
    assert isinstance(alone, Estimate)
    assert (alone.n, alone.value) == (1, pytest.approx(-0.1)), "of one pair there is no interval"
    assert np.isnan(alone.low)
    assert isinstance(table, Table)


def test_people_have_no_known_displacement(cohort: Cohort, tmp_path: Path) -> None:
    for file in Path(str(cohort.root)).rglob("*_xfm.txt"):
        file.unlink()
    assert registration_rows(cohort, tmp_path, StudyBudget()) == []
