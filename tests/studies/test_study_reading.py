"""Patients of a study are read once, by every network; who cannot be read is left out and told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ichnos.cohort import Patient
from ichnos.errors import InputRefused
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.processes import each_at_once
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


def root_of(number: int, budget: StudyBudget) -> tuple[float, int]:
    budget.say("from another process, where nobody listens")
    if number < 0:
        raise InputRefused(f"{number} has no root")
    return number**0.5, os.getpid()


def test_parts_are_done_in_processes_of_their_own(budget: StudyBudget, told: list[str]) -> None:
    two = replace(budget, workers=2)
    found = each_at_once(root_of, {"four": (4,), "nine": (9,)}, two)
    assert {name: root for name, (root, _) in found.items()} == {"four": 2.0, "nine": 3.0}
    assert os.getpid() not in {process for _, process in found.values()}
    assert told == ["four, nine: 2 at once", "  four: done", "  nine: done"]
    with pytest.raises(InputRefused, match="-1 has no root"):
        each_at_once(root_of, {"four": (4,), "none": (-1,)}, two)


def test_on_a_gpu_one_part_comes_after_the_other(budget: StudyBudget) -> None:
    alone = replace(budget, workers=2, device="cuda")
    assert each_at_once(root_of, {"four": (4,), "nine": (9,)}, alone)["nine"] == (3.0, os.getpid())
