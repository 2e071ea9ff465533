"""Patients of a study are read once, by every network; who cannot be read is left out and told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ichnos.cohort import Patient
from ichnos.errors import InputRefused
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.reading import read_patients, rows_of_patients

PEOPLE = [Patient("a"), Patient("b"), Patient("c")]


@dataclass
class Task:
    """Read everybody but b; remember who was asked about."""

    asked: list[str] = field(default_factory=list)

    def __call__(self, patient: Patient, folder: Path) -> dict[str, Any]:
        assert folder.is_dir()
        self.asked.append(patient.id)
        if patient.id == "b":
            raise InputRefused("the vertex is missing")
        return {"letters": patient.id * 2}


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def budget(told: list[str]) -> StudyBudget:
    return replace(StudyBudget(), workers=1, say=told.append)


def test_who_cannot_be_read_is_left_out_and_told(
    budget: StudyBudget, told: list[str], tmp_path: Path
) -> None:
    rows = read_patients(Task(), PEOPLE, tmp_path, budget, settings={"model": 1})
    assert [row["letters"] for row in rows] == ["aa", "cc"]
    (sentence,) = told
    assert sentence.startswith("sub-b could not be read: ")
    assert "the vertex is missing" in sentence


def test_nobody_is_read_twice_and_everybody_anew_by_another_network(
    budget: StudyBudget, tmp_path: Path
) -> None:
    task = Task()
    first = read_patients(task, PEOPLE[:1], tmp_path, budget, settings={"model": 1})
    assert read_patients(task, PEOPLE[:1], tmp_path, budget, settings={"model": 1}) == first
    assert task.asked == ["a"]
    read_patients(task, PEOPLE[:1], tmp_path, budget, settings={"model": 2})
    assert task.asked == ["a", "a"]


def test_another_task_has_its_own_ledger_and_its_own_words(
    budget: StudyBudget, told: list[str], tmp_path: Path
) -> None:
    how: dict[str, Any] = {"settings": {}, "name": "automatic", "failed": "outlined"}
    rows = rows_of_patients(Task(), PEOPLE[:2], tmp_path / "automatic", budget, **how)
    assert [row["letters"] for row in rows] == ["aa"]
    assert told[0].startswith("sub-b could not be outlined: ")
    assert (tmp_path / "automatic" / ".ichnos" / "automatic").is_dir()
