"""The patients of a training: prepared by all members of a team together, and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ichnos.cohort import Cohort, Patient
from ichnos.errors import IchnosError, InputRefused
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.team import Team
from ichnos.learning.segmentation.cases import (
    CaseGrid,
    TrainingCase,
    check_cases,
    check_people,
    check_splits_apart,
    prepare_case,
)
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.models.store import sha256


def usable_cases(
    cohort: Cohort, settings: TrainSettings, work: Path, resources: Resources
) -> tuple[TrainingCase, ...]:
    """Prepare the patients of the training and validation splits, or say why none can be trained on.

    In a team each member prepares its share; no member waits in a collective while another one works.
    """
    check_people(cohort)
    shared = Shared(resources.team, work / "prepared")
    everyone = list(cohort.with_exams("ct"))
    digests = {row["id"]: row["ct"] for row in shared.rows(everyone, _digest)}
    check_splits_apart([(digests[p.id], p.id, p.split) for p in everyone], "have the same CT file")
    grid = CaseGrid(settings.names, settings.preprocessing.spacing_mm)
    folder = resources.cases or work / "cases"

    def prepared(patient: Patient) -> dict[str, Any] | None:
        resources.prepared(patient.id)
        case = prepare_case(cohort, patient, grid, folder, resources.pipelines, ct_sha256=digests[patient.id])
        return None if case is None else case.as_row()

    patients = list(cohort.of_split("train", "validation").with_exams("ct"))
    cases = tuple(TrainingCase.from_row(row, folder) for row in shared.rows(patients, prepared))
    check_cases(cases, settings.names)
    return cases


def _digest(patient: Patient) -> dict[str, Any]:
    return {"id": patient.id, "ct": sha256(patient.exam("ct"))}


@dataclass(frozen=True)
class Shared:
    """Work on patients that a team divides; the results pass through files, so that nobody times out."""

    team: Team
    folder: Path  # seen by all members

    def rows(
        self, patients: Sequence[Patient], task: Callable[[Patient], dict[str, Any] | None]
    ) -> list[dict[str, Any]]:
        """Return the rows of a task over patients, in their order; an error of one member stops all."""
        error, own, token = "", [], self.team.token()
        try:
            for number in self.team.share(range(len(patients))):
                row = task(patients[number])
                if row is not None:
                    own.append({"number": number, "row": row})
        except IchnosError as refusal:
            if self.team.size == 1:
                raise
            error = str(refusal)
        parts = self.team.exchanged({"rows": own, "error": error}, self.folder, token)
        if failed := next((part["error"] for part in parts if part["error"]), ""):
            raise InputRefused(failed)
        numbered = sorted((item for part in parts for item in part["rows"]), key=lambda item: item["number"])
        return [item["row"] for item in numbered]
