"""Part one of Yu 2025: networks of one plan outline the haematoma and are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.cohort import Patient
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import Estimate, bootstrap
from ichnos.evidence.metrics.overlap import dice
from ichnos.evidence.tables import Cell, Table
from ichnos.inference.grid import SpacingMm, through_grid
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.recipes import segmentation_recipe
from ichnos.learning.segmentation.fine_tuning import SHIPPED_NAME
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.models import Model
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.cost import peak_gib, with_seconds
from ichnos.studies.shared.grid_limit import voxels_of
from ichnos.studies.shared.labels import StudyLabels, label_on_ct
from ichnos.studies.shared.page import PngPicture, cell, comparison
from ichnos.studies.shared.reading import ct_scan, model_identity, predictor_of, read_patients
from ichnos.studies.shared.rows import PatientRow, column_mean, known_number
from ichnos.studies.shared.training import (
    FROM_SHIPPED,
    NNUNET_NOT_ASKED,
    SegmentationPlan,
    train_arms,
    train_nnunet_arm,
    worst_cases,
)
from ichnos.studies.yu2025.people import EXTERNAL
from ichnos.volume import Volume, volume_ml

OUTLINE_PIPELINES = ("manual", "transfer", "truth")
OUR_OUTLINES = "ours, from the weights that ship"
_TARGETS = "ICH"


def outline_networks(budget: StudyBudget) -> dict[str, SegmentationPlan]:
    """Return what is trained: the paper's network, its twin and a transformer on one plan, and ours."""
    plan = segmentation_recipe(_TARGETS, budget.recipe.base)
    ours = TrainSettings(targets=target_specs(_TARGETS), start=SHIPPED_NAME)
    if isinstance(plan, NnunetSettings):  # published: by nnU-Net itself, where no transformer of ours fits
        twin = plan.changed(network="plain", learning_rate=0.0)
        return {"U-Mamba": plan, "plain twin": twin, OUR_OUTLINES: ours}
    return {
        "U-Mamba": plan.changed(network="umamba_enc"),
        "plain twin": plan.changed(network="unet"),
        "transformer (UNETR)": plan.changed(network="unetr"),
        OUR_OUTLINES: ours,
    }


NNUNET_ROW = "nnU-Net itself"
GRID_LIMIT = "the drawn outline itself, at "  # what the rows begin with that no network made
_NOT_IN_PAPER = "not in the paper"
PAPER_DICE: Mapping[str, Cell] = {"U-Mamba": 0.937, OUR_OUTLINES: _NOT_IN_PAPER}
_OUTLINE_COLUMNS = ("Dice", "IoU", "volume error, mL", "Dice minus twin", "s a scan", "GiB")
_LOWER = "lower than U-Mamba's; no number known to us"


def train_outlines(
    labels: StudyLabels, out: Path, budget: StudyBudget
) -> tuple[dict[str, Model], dict[str, str]]:
    """Train every network of part one; what is not trained is named with its reason."""
    plans = outline_networks(budget)
    stems = train_arms({_stem(name): plan for name, plan in plans.items()}, labels, out, budget)
    models = {name: stems[_stem(name)] for name in plans}
    if not budget.nnunet:
        return models, {NNUNET_ROW: NNUNET_NOT_ASKED}
    return {**models, NNUNET_ROW: train_nnunet_arm(_TARGETS, labels, out, budget)}, {}


def outline_stems() -> tuple[str, ...]:
    """Return the names of the networks' folders, as a recipe names them.

    >>> outline_stems()
    ('U-Mamba', 'plain', 'transformer', 'ours-outlines')
    """
    return tuple(_stem(name) for name in outline_networks(StudyBudget()))


def _stem(name: str) -> str:
    return "ours-outlines" if name == OUR_OUTLINES else name.split(" ")[0].strip(",")


class _Outliner:
    """Outline one patient with every network and compare with the drawn outline; beside them, what the voxels
    of a network leave of the drawn outline itself.
    """

    def __init__(
        self,
        labels: StudyLabels,
        models: Mapping[str, str],
        grids: Mapping[str, SpacingMm],
        device: str,
    ) -> None:
        self.labels, self.models, self.grids, self.device = labels, dict(models), dict(grids), device

    def __call__(self, patient: Patient, folder: Path) -> dict[str, Any]:
        del folder
        truth = label_on_ct(self.labels.cohort, patient, "ICH", self.labels.pipelines)
        row: dict[str, Any] = {"centre": patient.centre}
        if truth is None:
            return row
        for name, model in self.models.items():
            found, seconds = with_seconds(partial(_outlined, model, patient, self.device))
            row |= _agreement(name, truth, found)
            row[f"{name} seconds"] = round(seconds, 2)
        for name, spacing_mm in self.grids.items():
            row |= _agreement(name, truth, through_grid(truth, spacing_mm))
        return row


def _agreement(name: str, truth: Volume, found: Volume) -> dict[str, float | None]:
    shared = dice(truth, found)
    return {
        f"{name} dice": _known(shared),
        f"{name} iou": _known(shared / (2 - shared)),
        f"{name} error_ml": _known(volume_ml(found) - volume_ml(truth)),
    }


def _grids(models: Mapping[str, Model]) -> dict[str, SpacingMm]:
    """Return the voxel sizes that networks work at, each once, by the name of their row."""
    sizes = dict.fromkeys(voxels_of(models).values())
    return {f"{GRID_LIMIT}{' x '.join(f'{step:g}' for step in size)} mm": size for size in sizes}


def _outlined(model: str, patient: Patient, device: str) -> Volume:
    return predictor_of(model, device)(ct_scan(patient)).mask("ICH").reoriented("RAS")


def outlining_memory(
    labels: StudyLabels, models: Mapping[str, Model], budget: StudyBudget
) -> dict[str, float | None]:
    """Return what a process that outlines one external patient by one network holds at its height, GiB.

    Empty where there is no external patient.
    """
    people = list(labels.cohort.of_split(*EXTERNAL).with_exams("ct"))[:1]
    return {
        name: peak_gib(partial(_outlined, str(model.folder), patient, budget.device))
        for name, model in models.items()
        for patient in people
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 5)


def read_outlines(
    labels: StudyLabels, models: Mapping[str, Model], out: Path, budget: StudyBudget
) -> list[dict[str, Any]]:
    budget.say("outlining the external patients with every network")
    people = [p for p in labels.cohort.of_split(*EXTERNAL).with_exams("ct")]
    folders, grids = {name: str(model.folder) for name, model in models.items()}, _grids(models)
    task = _Outliner(labels, folders, grids, budget.device)
    settings = {**model_identity(models), **{name: list(size) for name, size in grids.items()}}
    return read_patients(task, people, out, budget, settings=settings)


def outline_table(
    rows: Sequence[PatientRow], refusals: Mapping[str, str], memory_gib: Mapping[str, float | None]
) -> Table:
    """Compare the networks' outlines with the drawn ones."""
    trained = [key.removesuffix(" error_ml") for row in rows for key in row if key.endswith(" error_ml")]
    lines = [_outline_row(rows, name, memory_gib.get(name)) for name in dict.fromkeys(trained)]
    for name, reason in refusals.items():
        empty: dict[str, Cell] = dict.fromkeys(_OUTLINE_COLUMNS, reason)
        lines.append({"network": name, "Dice (paper)": PAPER_DICE.get(name, _LOWER), **empty})
    note = (
        "External centres. The paper gives IoU 0.934 beside Dice 0.937, which cannot both hold of one mask:"
        " IoU = Dice / (2 - Dice) = 0.881. U-Mamba, twin (the U-Net of nnU-Net's shape) and transformer"
        f" share plan and patients; the recipe says how many steps each had. Ours {FROM_SHIPPED}."
        " Aim: Dice 0.94 or more; rows without a network say what its voxels leave of a perfect answer."
        " Last two columns:"
        " processor time of opening and outlining a scan, median (quartiles), and memory at its height of a"
        " process that does one, without a device's. On a processor U-Nets run in OpenVINO where it is"
        " installed, the others in PyTorch."
    )
    return comparison("outlines", "Outlines of the haematoma on the external centres", lines, note=note)


def _outline_row(rows: Sequence[PatientRow], name: str, gib: float | None) -> dict[str, Cell]:
    measures = ("dice", "iou", "error_ml")
    means = [column_mean(rows, f"{name} {measure}", of="an outline") for measure in measures]
    costs: tuple[Cell, ...] = (
        _middle(rows, f"{name} seconds"),
        "not measured" if gib is None else round(gib, 2),
    )
    paper = PAPER_DICE.get(name, _LOWER)
    if name.startswith(GRID_LIMIT):
        paper, costs = _NOT_IN_PAPER, ("no network", "no network")
    gap = "itself" if name == "plain twin" else cell(lambda: _difference(rows, name))
    return {
        "network": name,
        "Dice (paper)": paper,
        **dict(zip(_OUTLINE_COLUMNS, (*means, gap, *costs), strict=True)),
    }


def _middle(rows: Sequence[PatientRow], column: str) -> Cell:
    """Return the median of a cost with its quartiles, or that it was not measured."""
    known = [value for row in rows if np.isfinite(value := known_number(row.get(column)))]
    if not known:
        return "not measured"
    low, middle, high = np.percentile(known, (25, 50, 75))
    return f"{middle:.2g} ({low:.2g} to {high:.2g})"


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
