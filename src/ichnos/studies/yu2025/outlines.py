"""Part one of Yu 2025: networks of one plan outline the haematoma and are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.cohort import Patient
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import Estimate, bootstrap
from ichnos.evidence.metrics.overlap import dice
from ichnos.evidence.tables import Cell, Table
from ichnos.learning.segmentation.fine_tuning import SHIPPED_NAME
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.models import Model
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.labels import StudyLabels, label_on_ct
from ichnos.studies.shared.page import PngPicture, cell, comparison
from ichnos.studies.shared.reading import ct_scan, model_identity, predictor_of, read_patients
from ichnos.studies.shared.rows import PatientRow, column_mean
from ichnos.studies.shared.training import (
    FROM_SHIPPED,
    NNUNET_NOT_ASKED,
    train_arm,
    train_nnunet_arm,
    worst_cases,
)
from ichnos.studies.yu2025.people import EXTERNAL
from ichnos.volume import volume_ml

OUTLINE_PIPELINES = ("manual", "transfer", "truth")
OUTLINE_PLAN = TrainSettings(targets=target_specs("ICH")).changed(
    spacing_mm=(1.5, 1.5, 5.0), patch=(96, 96, 16), batch=2, width=12
)
OUR_OUTLINES = "ours, from the weights that ship"
OUTLINE_NETWORKS = {
    "U-Mamba": OUTLINE_PLAN.changed(network="umamba_enc"),
    "plain twin": OUTLINE_PLAN,
    "transformer (UNETR)": OUTLINE_PLAN.changed(network="unetr"),
    OUR_OUTLINES: TrainSettings(targets=target_specs("ICH"), start=SHIPPED_NAME),
}
NNUNET_ROW = "nnU-Net itself"
PAPER_DICE: Mapping[str, Cell] = {"U-Mamba": 0.937, OUR_OUTLINES: "not in the paper"}
_LOWER = "lower than U-Mamba's; no number known to us"


def train_outlines(
    labels: StudyLabels, out: Path, budget: StudyBudget
) -> tuple[dict[str, Model], dict[str, str]]:
    """Train every network of part one; what is not trained is named with its reason."""
    models = {
        name: train_arm(_stem(name), plan, labels, out, budget) for name, plan in OUTLINE_NETWORKS.items()
    }
    if not budget.nnunet:
        return models, {NNUNET_ROW: NNUNET_NOT_ASKED}
    return {**models, NNUNET_ROW: train_nnunet_arm(OUTLINE_PLAN, labels, out, budget)}, {}


def _stem(name: str) -> str:
    return name.split(" ")[0].strip(",")


class _Outliner:
    """Outline one patient with every network and compare with the drawn outline."""

    def __init__(self, labels: StudyLabels, models: Mapping[str, str], device: str) -> None:
        self.labels, self.models, self.device = labels, dict(models), device

    def __call__(self, patient: Patient, folder: Path) -> dict[str, Any]:
        del folder
        truth = label_on_ct(self.labels.cohort, patient, "ICH", self.labels.pipelines)
        row: dict[str, Any] = {"centre": patient.centre}
        for name, model in self.models.items():
            if truth is None:
                continue
            found = predictor_of(model, self.device)(ct_scan(patient)).mask("ICH").reoriented("RAS")
            shared = dice(truth, found)
            row |= {f"{name} dice": _known(shared), f"{name} iou": _known(shared / (2 - shared))}
            row[f"{name} error_ml"] = _known(volume_ml(found) - volume_ml(truth))
        return row


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 5)


def read_outlines(
    labels: StudyLabels, models: Mapping[str, Model], out: Path, budget: StudyBudget
) -> list[dict[str, Any]]:
    budget.say("outlining the external patients with every network")
    people = [p for p in labels.cohort.of_split(*EXTERNAL).with_exams("ct")]
    task = _Outliner(labels, {name: str(model.folder) for name, model in models.items()}, budget.device)
    return read_patients(task, people, out, budget, settings=model_identity(models))


def outline_table(rows: Sequence[PatientRow], refusals: Mapping[str, str]) -> Table:
    def line(name: str) -> dict[str, Cell]:
        if name in refusals:
            empty: dict[str, Cell] = dict.fromkeys(
                ("Dice", "IoU", "volume error, mL", "Dice minus twin"), refusals[name]
            )
            return {"network": name, "Dice (paper)": PAPER_DICE.get(name, _LOWER), **empty}
        return {
            "network": name,
            "Dice (paper)": PAPER_DICE.get(name, _LOWER),
            "Dice": column_mean(rows, f"{name} dice", of="an outline"),
            "IoU": column_mean(rows, f"{name} iou", of="an outline"),
            "volume error, mL": column_mean(rows, f"{name} error_ml", of="an outline"),
            "Dice minus twin": "itself" if name == "plain twin" else cell(lambda: _difference(rows, name)),
        }

    lines = [line(name) for name in (*OUTLINE_NETWORKS, NNUNET_ROW)]
    note = (
        "External centres. The paper gives IoU 0.934 beside Dice 0.937, which cannot both hold of one mask:"
        " IoU = Dice / (2 - Dice) = 0.881. U-Mamba, twin (the U-Net of nnU-Net's shape) and transformer"
        f" share plan, patients, minutes and loop. Ours has the same patients, minutes and loop, and"
        f" {FROM_SHIPPED}. Aim: Dice 0.94 or more."
    )
    return comparison("outlines", "Outlines of the haematoma on the external centres", lines, note=note)


def _difference(rows: Sequence[PatientRow], name: str) -> Estimate:
    both = [(r.get(f"{name} dice"), r.get("plain twin dice")) for r in rows]
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    if len(pairs) < 3:
        raise InputRefused(
            f"{len(pairs)} external patients have both outlines; 3 are the least for an interval"
        )
    gap = np.array([a - b for a, b in pairs], float)
    return bootstrap(lambda at: float(gap[at].mean()), np.zeros(gap.size), rng=np.random.default_rng(0))


def worst_outlines(models: Mapping[str, Model], out: Path) -> list[PngPicture]:
    return [image for name in models if name != NNUNET_ROW for image in worst_cases(_stem(name), out)]
