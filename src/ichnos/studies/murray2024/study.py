"""Murray 2024: the corticospinal tract on CT, learnt from diffusion tractography; its injury by a haematoma,
and what that says of people.

Diffusion -> tract -> label on the CT -> a network on CT alone. Then: overlap per side, with and without a
haematoma, beside the atlas carried over by affine and by deformable registration; in a trial, grades of
injury, loads, and motor outcome with its interaction with surgery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ichnos.anatomy.ct_to_mni import CtToMni, register_ct_to_mni
from ichnos.anatomy.tract import SIDES, atlas
from ichnos.clinical.injury import INJURY_GRADES, tract_injury
from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.agreement import pearson, weighted_kappa
from ichnos.evidence.metrics.overlap import dice
from ichnos.evidence.tables import Cell, Table
from ichnos.learning.segmentation.fine_tuning import SHIPPED_NAME
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.models import Model
from ichnos.simulation.cohort.design import Design, Group
from ichnos.studies.page import Effort, Picture, StudyPage, cell, comparison
from ichnos.studies.shared import (
    BEGUN,
    NNUNET,
    NNUNET_NOT_ASKED,
    NNUNET_TOLD,
    TRUTH,
    Labels,
    Row,
    effect_of,
    label_of,
    labelled,
    mean_of,
    number,
    paired_columns,
    predictor,
    provenance_of,
    read_patients,
    scan_of,
    table_row,
    told_of,
    trained,
    trained_by_nnunet,
    truth_rows,
    worst_picture,
)
from ichnos.transfer.makers import TransferTarget
from ichnos.volume import Volume, volume_ml

TARGET: TransferTarget = "tract"
PAPER = (
    "Murray et al., arXiv 2408.06403 (2024), applied to the MISTIE III trial; grades and effects of the same"
    " group's follow-on work."
)
# of training per network at a small scale on two cores: the whole is meant to take three quarters of an hour
SMALL_MINUTES = 6.0
FEWEST = 4  # pairs to train, and to test, at a small scale: one says nothing
SMOKE = Design(
    (
        Group(2, "A", "train", ("ct", "diffusion")),
        Group(1, "A", "validation", ("ct",)),
        Group(1, "B", "test", ("ct", "diffusion")),
        Group(2, "D", "external", ("ct",), least_ich_ml=30.0, trial=True),
    ),
    "six patients, to run every stage",
)
_SEEN: dict[str, Any] = {"spacing_mm": (2.0, 2.0, 2.0), "patch": (64, 64, 64), "batch": 2, "width": 16}
PLANS = {
    # As published: a U-Net in three dimensions, taught by the pairs alone.
    "pairs": TrainSettings(targets=target_specs(TARGET)).changed(**_SEEN),
    # Ours: begun with the weights that ship, a loss that minds that a tract is one thread, and simulated
    # patients in half of the batches.
    "thread": TrainSettings(targets=target_specs(TARGET)).changed(
        cl_dice_weight=0.5, simulated_share=0.5, start=SHIPPED_NAME
    ),
}
WAYS = {
    NNUNET: "nnU-Net itself, 3-D",
    "pairs": "3-D U-Net on pairs in our loop (twin of nnU-Net)",
    "thread": "from the weights that ship, with a centre-line loss, ours",
    "affine": "atlas, affine",
    "deformable": "atlas, deformable",
}
Tracts = Mapping[str, Volume | None]  # side -> tract; None where it is not known
_MIXED = "draws half of its batches from simulated patients"
_UNMIXED = "no simulated patients (too short a training for them)"
_LEAST_MINUTES = 8.0  # of training on a processor, from which simulated patients are made for it
_LIKELY = 0.5  # share of the population that has its tract in a voxel of the atlas


def run(cohort: Cohort, out: Path, effort: Effort) -> StudyPage:
    """Do the study."""
    effort.say("tracking in diffusion exams and bringing the tracts onto CT")
    labels = labelled(cohort, TARGET, effort)
    plans = {name: _without_simulation(plan, effort) for name, plan in PLANS.items()}
    models = {name: trained(name, plan, labels, out, effort) for name, plan in plans.items()}
    if effort.nnunet:
        models[NNUNET] = trained_by_nnunet(PLANS["pairs"], labels, out, effort)
    effort.say("reading every patient who was not trained on")
    reader = Reader(labels, {name: str(model.folder) for name, model in models.items()}, effort.device)
    people = list(labels.cohort.of_split("test", "external").with_exams("ct"))
    rows = read_patients(reader, people, out, effort, settings=told_of(models))
    return page(rows, labels, models, out, effort)


def _without_simulation(plan: TrainSettings, effort: Effort) -> TrainSettings:
    """Leave simulated patients out of a short training: making the first of them takes longer than all of
    its steps.
    """
    return plan.changed(simulated_share=0.0) if _short(effort) else plan


def _short(effort: Effort) -> bool:
    return effort.smoke or (effort.device == "cpu" and effort.minutes < _LEAST_MINUTES)


# ---- reading
# ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """Find both tracts of one patient in every way, compare them with the label, and judge their injury."""

    labels: Labels
    models: dict[str, str]  # name -> folder
    device: str

    def __call__(self, patient: Patient, folder: Path) -> dict[str, Any]:
        """Return Dice per side, mL, injury grades and loads of each way."""
        del folder
        scan, cohort = scan_of(patient), self.labels.cohort
        found: dict[str, Tracts] = {
            name: _read(predictor(model, self.device)(scan).mask) for name, model in self.models.items()
        }
        blood, oedema = (_blood(cohort, patient, name) for name in (("ICH", "IVH"), ("PHE",)))
        affine = register_ct_to_mni(scan.volume)
        bent = register_ct_to_mni(
            scan.volume, kind="deformable", exclude=_either(blood, oedema), start=affine
        )
        found |= {"affine": carried(scan.volume, affine), "deformable": carried(scan.volume, bent)}
        label: Tracts = {
            side: label_of(cohort, patient, f"tract_{side}", self.labels.pipelines) for side in SIDES
        }
        true: Tracts = {side: label_of(cohort, patient, f"tract_{side}", (TRUTH,)) for side in SIDES}
        row: dict[str, Any] = {"split": patient.split, "centre": patient.centre}
        row |= {
            "ich_ml": None if blood is None else round(volume_ml(blood), 3),
            "side": _bleeding_side(blood),
        }
        for way, tracts in {**found, "label": label, "truth": true}.items():
            for side in SIDES:
                reference = true[side] if way == "label" else label[side]
                tract = tracts[side]
                if (
                    way != "truth"
                    and tract is not None
                    and reference is not None
                    and (reference.array.any() or tract.array.any())
                ):
                    row[f"{way}_{side}_dice"] = round(dice(reference, tract), 5)
            row |= {f"{way}_{name}": value for name, value in worst_injury(tracts, blood, oedema).items()}
        return row


def _read(mask_of: Callable[[str], Volume]) -> Tracts:
    return {side: mask_of(f"tract_{side}") for side in SIDES}


def carried(ct: Volume, placed: CtToMni) -> Tracts:
    """Return the comparator: the atlas's tracts brought onto the CT by registration."""
    return {
        side: placed.share_on(atlas(side).probability, ct).map_array(lambda share: share > _LIKELY)
        for side in SIDES
    }


def _blood(cohort: Cohort, patient: Patient, names: Sequence[str]) -> Volume | None:
    """Return drawn blood or oedema; None where nobody has drawn it."""
    return _either(*(label_of(cohort, patient, name, ("manual", "transfer", TRUTH)) for name in names))


def _either(*masks: Volume | None) -> Volume | None:
    there = [mask for mask in masks if mask is not None]
    return there[0].with_array(np.any([mask.array for mask in there], axis=0)) if there else None


def _bleeding_side(blood: Volume | None) -> str | None:
    """Return on which side of the scan's middle most of the blood lies (RAS)."""
    if blood is None or not blood.array.any():
        return None
    x = blood.world(np.argwhere(blood.array))[:, 0] - blood.centre_mm[0]
    return "left" if np.median(x) < 0 else "right"


def worst_injury(tracts: Tracts, blood: Volume | None, oedema: Volume | None) -> dict[str, Any]:
    """Return grade (0 no risk … 3 interrupted) and loads of the side that is injured more; nothing where
    it cannot be said.
    """
    if blood is None or not blood.array.any():
        return {}
    found = []
    for tract in tracts.values():
        if tract is None or not tract.array.any():
            return {}
        z_mm = tract.world(
            np.column_stack([np.zeros(tract.shape[2]), np.zeros(tract.shape[2]), np.arange(tract.shape[2])])
        )[:, 2]
        swollen = blood.array & False if oedema is None else oedema.array
        parts = [np.asarray(array, np.float32) for array in (tract.array, blood.array, swollen)]
        found.append(tract_injury(parts[0], parts[1], parts[2], z_mm=z_mm, voxel_ml=tract.voxel_ml))
    worst = max(found, key=lambda injury: (INJURY_GRADES.index(injury.grade), injury.blood_load_ml))
    return {
        "grade": INJURY_GRADES.index(worst.grade),
        "load_ml": round(worst.blood_load_ml, 4),
        "weighted_load_ml": round(worst.weighted_blood_load_ml, 4),
    }


# ---- the page
# ------------------------------------------------------------------------------------------


def page(
    rows: list[dict[str, Any]], labels: Labels, models: dict[str, Model], out: Path, effort: Effort
) -> StudyPage:
    """Set the paper's numbers beside ours."""
    truths = truth_rows(labels.cohort)
    facts = {patient.id: patient.facts for patient in labels.cohort}
    for row in rows:
        row["true_grade"] = _grade(truths.get(row["id"], {}).get("injury"))
        row |= {
            name: facts[row["id"]].get(name) for name in ("age_years", "arm", "nihss_motor_180d", "mrs_365d")
        }
    pairs = [row for row in rows if any(f"pairs_{side}_dice" in row for side in SIDES)]
    trial = [row for row in rows if row["split"] == "external" and row.get("arm") and row.get("ich_ml")]
    pictures: list[Picture] = [picture for name in PLANS for picture in worst_picture(name, out)]
    ways = {way: title for way, title in WAYS.items() if way in models or way in ("affine", "deformable")}
    source = (
        "the simulation's truth (a smoke run tracks one pair only)"
        if effort.smoke
        else "diffusion tractography, by transfer"
    )
    return StudyPage(
        "murray2024",
        "The corticospinal tract on plain CT, its injury, and motor outcome",
        PAPER,
        (
            f"Labels came from {source}; {labels.refused} pair(s) were refused by transfer and left out. Both"
            " networks see CT alone. The first has the published shape (a 3-D U-Net taught by pairs) and is"
            f" trained in our loop: a twin of nnU-Net. The second {BEGUN}, adds a centre-line term and"
            f" {_UNMIXED if _short(effort) else _MIXED}. "
            + (NNUNET_TOLD if NNUNET in models else NNUNET_NOT_ASKED),
            (
                "The comparators carry the atlas's tract onto the CT by an affine and by a deformable"
                " registration (blood and oedema masked)."
            ),
            (
                "Grades follow the group's four levels (reading.injury says how each is defined), on the"
                " haematoma as it was drawn: what is compared is the tract. The worse side counts. Motor"
                " NIHSS at 180 days is regressed on the grade against complete interruption, with surgery,"
                " their interaction, age and volume; mRS at 365 days by proportional odds. Intervals are"
                " 95 %."
            ),
            (
                f"{len(pairs)} patients with a tract label were held out; the trial has {len(trial)} patients"
                " with a haematoma."
            ),
        ),
        (_overlap_table(pairs, ways), _injury_table(trial, ways), _outcome_table(trial, ways)),
        tuple(pictures),
        (
            (
                "Virtual patients' outcomes are drawn from the published effects: finding them again says"
                " that a way to read the tract keeps the information, not that the effects are true."
            ),
            "The paper's integrity formula is not known; grades and loads are defined in reading.injury.",
            (
                "`limit` is the label against the simulation's truth for overlap, and the truth's own tract"
                " and grade for injury and outcome."
            ),
        ),
        provenance_of(labels.cohort, effort, models),
    )


def _grade(text: object) -> float:
    return float(INJURY_GRADES.index(str(text))) if text in INJURY_GRADES else float("nan")


def _overlap_table(rows: Sequence[Row], ways: Mapping[str, str]) -> Table:
    healthy = [row for row in rows if not row.get("ich_ml")]
    asked: tuple[tuple[str, Cell, Callable[[str], Cell]], ...] = (
        ("Dice, both sides", 0.57, partial(_dice, rows)),
        ("Dice, left", "not reported", partial(_dice, rows, sides=("left",))),
        ("Dice, right", "not reported", partial(_dice, rows, sides=("right",))),
        ("Dice, side of the haematoma", "not reported", partial(_dice, rows, bleeding=True)),
        ("Dice, other side", "not reported", partial(_dice, rows, bleeding=False)),
        ("Dice, patients without haematoma", "not reported", partial(_dice, healthy)),
    )
    out = [table_row(measure, paper, ways, compare, compare("label")) for measure, paper, compare in asked]
    return comparison(
        "murray2024", "The paper's table, and ours: overlap with the tract label", out, note="Held-out pairs."
    )


def _dice(
    rows: Sequence[Row], way: str, *, sides: Sequence[str] = SIDES, bleeding: bool | None = None
) -> Cell:
    """Return the mean Dice over sides; with `bleeding`, over the sides that bleed or those that do not."""
    chosen = [
        {"dice": row.get(f"{way}_{side}_dice")}
        for row in rows
        for side in sides
        if bleeding is None or (row.get("side") is not None and (side == row["side"]) == bleeding)
    ]
    return mean_of(chosen, "dice", of="such a side and a tract to compare with")


def _injury_table(rows: Sequence[Row], ways: Mapping[str, str]) -> Table:
    unknown, certain = "unknown outside a simulation", "1 by definition"
    kappa, load, weighted = (
        partial(_kappa, rows),
        partial(_load, rows, "load_ml"),
        partial(_load, rows, "weighted_load_ml"),
    )
    out = [
        table_row("weighted kappa, grade against the truth's", unknown, ways, kappa, kappa("truth")),
        table_row("r, lesion load against the truth's", unknown, ways, load, certain),
        table_row("r, weighted load against the truth's", unknown, ways, weighted, certain),
    ]
    for code, grade in enumerate(INJURY_GRADES):
        count = partial(_count, rows, code)
        out.append(table_row(f"patients graded {grade}", "not reported", ways, count, count("truth")))
    return comparison("injury", f"Injury of the tract in {len(rows)} trial patients", out)


def _kappa(rows: Sequence[Row], way: str) -> Cell:
    return cell(lambda: weighted_kappa(*paired_columns(rows, f"{way}_grade", "true_grade"), grades=4))


def _load(rows: Sequence[Row], name: str, way: str) -> Cell:
    return cell(lambda: pearson(*paired_columns(rows, f"{way}_{name}", f"truth_{name}")))


def _count(rows: Sequence[Row], code: int, way: str) -> Cell:
    graded = [number(row.get(f"{way}_grade")) for row in rows]
    return f"{sum(grade == code for grade in graded)} of {sum(np.isfinite(graded))} who could be graded"


def _outcome_table(rows: Sequence[Row], ways: Mapping[str, str]) -> Table:
    """Return effects on motor NIHSS (points) and mRS (odds), each way's grades in turn."""
    wanted = (
        (
            "motor NIHSS at 180 days: no risk against interruption",
            "b -3.77 (-5.8 to -1.70)",
            "linear",
            "no risk",
        ),
        (
            "motor NIHSS: PHE infiltration against interruption",
            "b -2.3 (-3.5 to -1.1)",
            "linear",
            "PHE infiltration",
        ),
        (
            "motor NIHSS: surgery where the haematoma infiltrates",
            "b -2.07 (-3.8 to -0.4)",
            "surgery",
            "haematoma infiltration",
        ),
        ("mRS at 365 days: no risk against interruption", "aOR 0.27 (0.10 to 0.74)", "ordinal", "no risk"),
        (
            "mRS at 365 days: PHE infiltration against interruption",
            "aOR 0.41 (0.23 to 0.74)",
            "ordinal",
            "PHE infiltration",
        ),
    )
    asked = {**ways, "truth": "limit"}
    out: list[dict[str, Cell]] = []
    for measure, paper, kind, grade in wanted:
        out.append(
            {
                "measure": measure,
                "paper": paper,
                **{title: _effect(rows, way, kind, grade) for way, title in asked.items()},
            }
        )
    return comparison(
        "outcome",
        "Outcome by grade of injury, adjusted for age and volume",
        out,
        note="limit: the grade by the true tract.",
    )


def _effect(rows: Sequence[Row], way: str, kind: str, grade: str) -> Cell:
    def compute() -> Cell:
        known = [row for row in rows if np.isfinite(number(row.get(f"{way}_grade")))]
        if kind == "surgery":  # within the grade, as the published effect
            known = [row for row in known if INJURY_GRADES[int(row[f"{way}_grade"])] == grade]
        if len(known) < 8:
            raise InputRefused(f"{len(known)} patient(s) are too few for a regression")
        table = pd.DataFrame(
            {
                "grade": [INJURY_GRADES[int(row[f"{way}_grade"])].replace(" ", "_") for row in known],
                "surgery": [float(row["arm"] == "surgery") for row in known],
                **{
                    name: [number(row.get(name)) for row in known]
                    for name in ("age_years", "ich_ml", "nihss_motor_180d", "mrs_365d")
                },
            }
        )
        if kind == "surgery":
            return effect_of(
                "linear",
                "nihss_motor_180d ~ surgery + age_years + ich_ml",
                table,
                "surgery",
                of="patients of the grade",
            )
        here, reference = grade.replace(" ", "_"), INJURY_GRADES[-1].replace(" ", "_")
        if not {here, reference} <= set(table["grade"]):
            absent = grade if here not in set(table["grade"]) else INJURY_GRADES[-1]
            raise InputRefused(f"no patient was graded {absent}, so there is nothing to compare")
        outcome = "nihss_motor_180d" if kind == "linear" else "mrs_365d"
        formula = f"{outcome} ~ C(grade, Treatment('{reference}')) * surgery + age_years + ich_ml"
        if kind == "ordinal":
            formula = formula.replace(" * surgery", " + surgery")
        term = f"C(grade, Treatment('{reference}'))[T.{here}]"
        return effect_of(
            "linear" if kind == "linear" else "ordinal", formula, table, term, of="graded patients"
        )

    return cell(compute)
