"""What automatic outlines cost in Yu 2025: external patients cut at a network's outlines and asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.cohort import Cohort, Patient
from ichnos.evidence.tables import Cell, Table
from ichnos.inference.crops import published_slices
from ichnos.learning.expansion.ensemble import load_classifier
from ichnos.learning.expansion.examples import ImageExample
from ichnos.models import Model
from ichnos.runs.ledger import settings_hash
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.page import cell, comparison
from ichnos.studies.shared.reading import ct_scan, model_identity, predictor_of, rows_of_patients
from ichnos.studies.yu2025.arms import arm_model_folder, classifier_arms
from ichnos.studies.yu2025.people import People
from ichnos.studies.yu2025.risks import KnownPatients, MethodRisk, Risks, mean_risk
from ichnos.studies.yu2025.tables import centre_auc, paired_differences

OUTLINED_BY = "U-Mamba"  # the network of part one, as the paper's chain has it


@dataclass(frozen=True)
class _Cutter:
    """Cut one patient into the published slices at the outline that a network draws."""

    model: str  # its folder
    size: int
    device: str

    def __call__(self, patient: Patient, folder: Path) -> dict[str, Any]:
        scan = ct_scan(patient)
        ich = predictor_of(self.model, self.device)(scan).mask("ICH").reoriented("RAS")
        if not ich.array.any():
            return {"id": patient.id, "outlined": False}
        slices = np.stack(published_slices(scan.volume, ich, size=self.size))
        np.savez_compressed(folder / f"{patient.id}.npz", images=slices.astype(np.float16))
        return {"id": patient.id, "outlined": True}


def automatic_risks(
    people: People, cohort: Cohort, outliner: Model, out: Path, budget: StudyBudget
) -> dict[str, MethodRisk]:
    """Ask every trained arm that sees published slices about the external patients at automatic outlines.

    A patient in whom the network outlines nothing has no score.
    """
    asked = _cut_external(people, cohort, outliner, out, budget)
    arms = [arm for arm in classifier_arms(people, budget) if arm.published]
    found = {}
    for arm in arms:
        folders = [arm_model_folder(arm, out, budget.seed + k) for k in range(budget.seeds)]
        found[arm.name] = mean_risk([_risk_by(folder, asked, budget.device) for folder in folders])
    return found


def _risk_by(folder: Path, asked: Sequence[ImageExample], device: str) -> MethodRisk:
    if not folder.is_dir():
        return MethodRisk(reason="the arm could not be trained")
    if not asked:
        return MethodRisk(reason="the network outlines nothing in any external patient")
    return MethodRisk(load_classifier(folder, device=device)(asked, device=device))


def _cut_external(
    people: People, cohort: Cohort, outliner: Model, out: Path, budget: StudyBudget
) -> list[ImageExample]:
    """Return the slices at automatic outlines of the external patients; each is outlined once and kept."""
    size = people.training[0].slices[0].image.shape[0]
    settings = {**model_identity({OUTLINED_BY: outliner}), "size": size}
    folder = out / "automatic" / settings_hash(settings)
    known = {person.patient: person for person in people.external}
    task = _Cutter(str(outliner.folder), size, budget.device)
    patients = [patient for patient in cohort if patient.id in known]
    rows = rows_of_patients(
        task, patients, folder, budget, settings=settings, name="automatic", failed="outlined"
    )
    asked: list[ImageExample] = []
    for row in rows:
        if row["outlined"]:
            person = known[str(row["id"])]
            with np.load(folder / f"{person.patient}.npz") as kept:
                images = kept["images"].astype(np.float32)
            asked += [
                ImageExample(person.patient, image, person.outcome, centre=person.centre) for image in images
            ]
    return asked


def automatic_table(people: KnownPatients, risks: Risks, automatic: Risks) -> Table:
    """AUC with drawn outlines minus AUC with automatic ones, paired, of each arm and centre."""
    rows: list[dict[str, Cell]] = []
    for name, method in automatic.items():
        row: dict[str, Cell] = {"method": name}
        pair = {"drawn": risks.get(name, MethodRisk(reason=f"{name} was not trained")), "automatic": method}
        for centre in people.centres:
            gap, p = paired_differences(people, pair, centre, against="automatic")["drawn"]
            row[f"AUC, automatic, {centre}"] = cell(partial(centre_auc, people, method, centre))
            row |= {f"drawn minus automatic, {centre}": gap, f"p, {centre}": p}
            row[f"not outlined, {centre}"] = _not_outlined(people, method, centre)
        rows.append(row)
    if not rows:
        rows = [{"method": "no method", "why": "automatic outlines need the part `outlines` and whole heads"}]
    note = (
        f"The same classifiers on slices at outlines that {OUTLINED_BY} of part one draws; DeLong's paired"
        " difference on the patients who have both. Who is not outlined has no score and is left out of it."
    )
    return comparison("automatic", "What automatic outlines cost", rows, note=note)


def _not_outlined(people: KnownPatients, method: MethodRisk, centre: str) -> str:
    here = [p.patient for p in people.external if p.centre == centre]
    return f"{sum(patient not in method.risk for patient in here)} of {len(here)}"
