"""Ryu 2025: leukoaraiosis on CT, learnt from FLAIR without a human label, measured against FLAIR on external
patients.

FLAIR -> hyperintensities -> deformable registration -> label on the CT -> a 2-D network on CT alone. Then:
overlap, volumes against the registered label and against MRI before and after calibration, grades, vendors,
infarcts, and what the volume says about patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.anatomy.ct_to_mni import register_ct_to_mni
from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.evidence.figures import scatter_figure
from ichnos.evidence.metrics.agreement import (
    concordance,
    fit_volume_calibrator,
    passing_bablok,
    pearson,
    spearman,
)
from ichnos.evidence.metrics.overlap import dice
from ichnos.evidence.tables import Cell, Table
from ichnos.learning.segmentation.fine_tuning import SHIPPED_NAME
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_file, target_specs
from ichnos.models import Model
from ichnos.runs import apply
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

TARGET: TransferTarget = "leukoaraiosis"
PAPER = (
    "Ryu et al., Brain and Behavior 2025;15:e70602. Automated segmentation of leukoaraiosis on"
    " non-contrast CT."
)
# of training per network at a small scale on two cores: the whole is meant to take three quarters of an hour
SMALL_MINUTES = 6.0
FEWEST = 5  # patients of each group at a small scale: a calibration is fitted on no fewer
SMOKE = Design(
    (
        Group(2, "A", "train", ("ct", "flair"), haematoma_share=0.0),
        Group(1, "A", "validation", ("ct", "flair"), haematoma_share=0.0),
        Group(2, "B", "external", ("ct", "flair"), haematoma_share=0.0),
        Group(1, "C", "external", ("ct",), haematoma_share=0.0),
    ),
    "six patients, to run every stage",
)
PLANS = {
    # As published: slices of a CT at its own thickness, one network of slices.
    "slices": TrainSettings(targets=target_specs(TARGET)).changed(
        spacing_mm=(1.0, 1.0, 5.0), patch=(192, 192, 1), batch=8, width=16
    ),
    # Ours: the whole context of a coarser head in three dimensions, begun with the weights that ship.
    "volume": TrainSettings(targets=target_specs(TARGET), start=SHIPPED_NAME),
}
WAYS = {
    NNUNET: "nnU-Net itself, 2-D",
    "slices": "2-D U-Net in our loop (twin of nnU-Net)",
    "volume": "3-D network from the weights that ship, ours",
    "threshold": "HU threshold in white matter",
}
CUTS_HU = np.arange(12.0, 31.0, 1.0)
_WHITE = 0.6  # probability of white matter in the atlas above which a voxel is searched
_SMOOTH_MM = 1.5
LARGE_INFARCT_ML = 10.0
_SPARE = 4  # patients more than terms, without whom a regression is not tried
RISK = ("age_years", "hypertension", "diabetes", "hyperlipidaemia", "smoking", "atrial_fibrillation")


def run(cohort: Cohort, out: Path, effort: Effort) -> StudyPage:
    """Do the study."""
    effort.say("bringing hyperintensities from FLAIR onto CT")
    labels = labelled(cohort, TARGET, effort)
    models = {name: trained(name, plan, labels, out, effort) for name, plan in PLANS.items()}
    if effort.nnunet:
        models[NNUNET] = trained_by_nnunet(PLANS["slices"], labels, out, effort)
    effort.say("choosing the threshold on training patients")
    cut_hu = chosen_threshold(labels, out, effort)
    effort.say("reading every patient who was not trained on")
    reader = Reader(
        labels, {name: str(model.folder) for name, model in models.items()}, cut_hu, effort.device
    )
    people = list(labels.cohort.of_split("validation", "test", "external").with_exams("ct"))
    told = {**told_of(models), "cut_hu": cut_hu}
    rows = read_patients(reader, people, out, effort, settings=told)
    return page(rows, labels, models, cut_hu, out, effort)


# ---- reading
# ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """Read one patient in every way, and compare with every label there is."""

    labels: Labels
    models: dict[str, str]  # name -> folder
    cut_hu: float
    device: str

    def __call__(self, patient: Patient, folder: Path) -> dict[str, Any]:
        """Return volumes in mL, Dice against the registered label, and what is known of the patient."""
        del folder
        scan = scan_of(patient)
        cohort = self.labels.cohort
        registered = label_of(cohort, patient, TARGET, self.labels.pipelines)
        true = (
            label_of(cohort, patient, TARGET, (TRUTH,)) if TRUTH not in self.labels.pipelines else registered
        )
        found = {
            name: predictor(model, self.device)(scan).mask(TARGET) for name, model in self.models.items()
        }
        found["threshold"] = dark_white_matter(scan.volume, self.cut_hu)
        row: dict[str, Any] = {
            "split": patient.split,
            "centre": patient.centre,
            "vendor": scan.acquisition.manufacturer or "unknown",
        }
        row |= {f"{name}_ml": round(volume_ml(mask), 4) for name, mask in found.items()}
        for name, mask in found.items():
            row[f"{name}_dice"] = None if registered is None else _finite(dice(registered, mask))
        row["registered_ml"] = None if registered is None else round(volume_ml(registered), 4)
        row["true_ml"] = None if true is None else round(volume_ml(true), 4)
        row["label_dice"] = None if registered is None or true is None else _finite(dice(true, registered))
        return row


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 5)


def dark_white_matter(ct: Volume, cut_hu: float) -> Volume:
    """Return the comparator: smoothed voxels of the atlas's white matter below a cut, and above fluid."""
    white = register_ct_to_mni(ct, kind="affine").share_on(mni.template("wm"), ct).array > _WHITE
    smooth = _smoothed(ct)
    return ct.with_array(white & (smooth < cut_hu) & (smooth > 5.0))


def _smoothed(ct: Volume) -> np.ndarray:
    sigma = [min(_SMOOTH_MM / step, 4.0) if step < _SMOOTH_MM else 0.0 for step in ct.spacing_mm]
    return np.asarray(ndimage.gaussian_filter(np.clip(np.asarray(ct.array, np.float32), -20, 100), sigma))


def chosen_threshold(labels: Labels, out: Path, effort: Effort) -> float:
    """Return the cut with the best mean Dice on some training patients; who has been searched is not
    searched again.
    """
    train = labels.cohort.of_split("train").with_exams("ct")
    people = [p for p in train if target_file(labels.cohort, p, TARGET, labels.pipelines) is not None][
        : 1 if effort.smoke else 8
    ]
    task, settings = (
        partial(_dice_by_cut, labels=labels),
        {"pipelines": labels.pipelines, "cuts": CUTS_HU.tolist()},
    )
    done = apply(
        task,
        people,
        out=out / "threshold",
        settings=settings,
        name="threshold",
        workers=effort.workers,
        progress=False,
    )
    scores = [row["dice"] for row in done.rows if row["dice"]]
    if not scores:
        raise InputRefused(
            f"none of {len(people)} training patients has {TARGET} drawn and a CT on which the atlas could be"
            " placed, so no threshold can be chosen; look at the labels of the training patients"
        )
    return float(CUTS_HU[int(np.mean(scores, axis=0).argmax())])


def _dice_by_cut(patient: Patient, folder: Path, *, labels: Labels) -> dict[str, Any]:
    """Return the Dice of each cut with a patient's label; nothing where the label is empty."""
    del folder
    drawn = label_of(labels.cohort, patient, TARGET, labels.pipelines)
    if drawn is None or not drawn.array.any():
        return {"dice": []}
    ct = scan_of(patient).volume
    white = register_ct_to_mni(ct, kind="affine").share_on(mni.template("wm"), ct).array > _WHITE
    smooth, truth = _smoothed(ct), np.asarray(drawn.array)
    masks = (white & (smooth < cut) & (smooth > 5.0) for cut in CUTS_HU)
    return {"dice": [float(2 * (mask & truth).sum() / (mask.sum() + truth.sum())) for mask in masks]}


# ---- the page
# ------------------------------------------------------------------------------------------


def page(
    rows: Sequence[dict[str, Any]],
    labels: Labels,
    models: dict[str, Model],
    cut_hu: float,
    out: Path,
    effort: Effort,
) -> StudyPage:
    """Set the paper's numbers beside ours."""
    for row in rows:
        _add_facts(row, labels)
    external = [
        row for row in rows if row["split"] != "validation" and np.isfinite(number(row["registered_ml"]))
    ]
    clinical = [
        row for row in rows if row["split"] != "validation" and row["id"] not in {r["id"] for r in external}
    ]
    held = [row for row in rows if row["split"] == "validation"]
    ways = {way: title for way, title in WAYS.items() if way in models or way == "threshold"}
    tables = (
        _main_table(external, held, ways),
        _group_table(external, ways),
        _association_table(clinical or external, labels),
    )
    pictures: list[Picture] = [picture for name in PLANS for picture in worst_picture(name, out)]
    predicted, registered = paired_columns(external, "volume_ml", "registered_ml")
    if len(predicted) >= 5:
        line = passing_bablok(registered, predicted)
        scatter = (np.array(registered), np.array(predicted), line)
        pictures.append(
            scatter_figure(
                "volumes",
                *scatter,
                unit="mL",
                caption="Volume of the 3-D network against the registered label.",
            )
        )
    source = (
        "the simulation's truth (a smoke run transfers one pair only)"
        if effort.smoke
        else "FLAIR, by transfer"
    )
    return StudyPage(
        "ryu2025",
        "Leukoaraiosis on plain CT, learnt from FLAIR",
        PAPER,
        (
            f"Labels came from {source}; {labels.refused} pair(s) were refused by transfer and left out. Both"
            " networks see CT alone. The 2-D network has the shape of the published one (slices, U-Net) and"
            f" is trained in our loop: a twin of nnU-Net. The 3-D network {BEGUN}. "
            + (NNUNET_TOLD if NNUNET in models else NNUNET_NOT_ASKED),
            (
                f"The comparator marks white matter of the atlas (affinely placed) below {cut_hu:g} HU, the"
                " cut with the best Dice on training patients. Volumes are calibrated by a Passing-Bablok"
                " line from the validation patients to their MRI volumes, then frozen."
            ),
            (
                f"{len(external)} external patients have a FLAIR, {len(clinical)} clinical ones only a CT."
                " Intervals are 95 %."
            ),
        ),
        tables,
        tuple(pictures),
        (
            (
                "Virtual patients have the disease that the simulation gives them: these numbers say how the"
                " method works, not how it would do in a hospital."
            ),
            (
                "The paper's cohorts, scanners and FLAIR software are not ours; its numbers stand beside ours"
                " for orientation only."
            ),
            (
                "`limit` compares the label that transfer gave with the simulation's truth: a network"
                " learning from such labels can hardly agree better with them than they do with the truth."
            ),
        ),
        provenance_of(labels.cohort, effort, models),
    )


def _add_facts(row: dict[str, Any], labels: Labels) -> None:
    """Add what transfer, the simulation and the clinic know of a patient."""
    patient = next(p for p in labels.cohort if p.id == row["id"])
    truth = truth_rows(labels.cohort).get(patient.id, {})
    pair = labels.rows.get(patient.id, {})
    row["mri_ml"] = pair.get("leukoaraiosis_flair_ml", truth.get("leukoaraiosis_flair_ml"))
    facts = {**truth, **{k: v for k, v in patient.facts.items() if v is not None}}
    row["infarct_ml"] = facts.get("infarct_acute_ml", facts.get("infarct_ml"))
    row["fazekas"] = number(facts.get("fazekas_periventricular")) + number(facts.get("fazekas_deep"))
    row |= {name: facts.get(name) for name in (*RISK, "sex", "nihss", "mrs_90d")}


def _against(rows: Sequence[Row], statistic: Any, other: str) -> Any:
    """Return the function of a way to read that compares its volumes with another column."""
    return lambda way: cell(lambda: statistic(*paired_columns(rows, f"{way}_ml", other)))


def _main_table(external: Sequence[Row], held: Sequence[Row], ways: Mapping[str, str]) -> Table:
    label = _against(external, concordance, "true_ml")("registered")
    no_truth = "no truth for MRI volumes: they are the reference"
    rows = [
        table_row(
            "Dice against the registered label",
            0.527,
            ways,
            lambda way: mean_of(external, f"{way}_dice", of="a label that is not empty"),
            mean_of(external, "label_dice", of="label and truth"),
        ),
        table_row(
            "r, volume against the registered label",
            0.953,
            ways,
            _against(external, pearson, "registered_ml"),
            "1 by definition",
        ),
        table_row(
            "CCC, volume against the registered label",
            0.919,
            ways,
            _against(external, concordance, "registered_ml"),
            label,
        ),
        table_row("r, volume against MRI", 0.951, ways, _against(external, pearson, "mri_ml"), no_truth),
        table_row(
            "CCC, volume against MRI", 0.760, ways, _against(external, concordance, "mri_ml"), no_truth
        ),
        table_row(
            "CCC, calibrated volume against MRI",
            "not reported",
            ways,
            lambda way: _calibrated(external, held, way),
            no_truth,
        ),
        table_row(
            "CCC, volume against the truth",
            "unknown outside a simulation",
            ways,
            _against(external, concordance, "true_ml"),
            label,
        ),
        table_row(
            "rho, volume against the sum of both Fazekas grades",
            "r 0.832 (external), 0.891 (US)",
            ways,
            _against(external, spearman, "fazekas"),
            cell(lambda: spearman(*paired_columns(external, "true_ml", "fazekas"))),
        ),
    ]
    return comparison("ryu2025", "The paper's table, and ours", rows, note="External patients with FLAIR.")


def _calibrated(external: Sequence[Row], held: Sequence[Row], way: str) -> Cell:
    def compute() -> Cell:
        calibrate = fit_volume_calibrator(
            *paired_columns(held, f"{way}_ml", "mri_ml"), fitted_on="validation"
        )
        predicted, reference = paired_columns(external, f"{way}_ml", "mri_ml")
        return concordance(calibrate(predicted), reference)

    return cell(compute)


def _group_table(external: Sequence[Row], ways: Mapping[str, str]) -> Table:
    """CCC against the registered label by centre, vendor and size of an acute infarct."""
    centres = sorted({str(row["centre"]) for row in external})
    vendors = sorted({str(row["vendor"]) for row in external})
    groups: list[tuple[str, Cell, list[Row]]] = [
        *[
            (f"centre {name or '(none)'}", "not reported", [row for row in external if row["centre"] == name])
            for name in centres
        ],
        *[
            (f"vendor {name}", "0.875 to 0.950", [row for row in external if row["vendor"] == name])
            for name in vendors
        ],
    ]
    small = [row for row in external if number(row["infarct_ml"]) <= LARGE_INFARCT_ML]
    large = [row for row in external if number(row["infarct_ml"]) > LARGE_INFARCT_ML]
    groups += [
        ("acute infarct up to 10 mL, or none", 0.912, small),
        ("acute infarct above 10 mL", 0.922, large),
    ]
    rows = [
        table_row(
            f"CCC, {name} (n = {len(group)})",
            paper,
            ways,
            _against(group, concordance, "registered_ml"),
            "see above",
        )
        for name, paper, group in groups
    ]
    return comparison("groups", "Agreement with the registered label, by group", rows)


def _association_table(rows: Sequence[Row], labels: Labels) -> Table:
    """Who has more of it, and how they fare; each term adjusted for the others."""
    if not labels.rows and not rows:
        raise InputRefused("no patient is left to look at; see the contact sheets of the transfer")
    table = pd.DataFrame([{k: number(v) if k != "sex" else v for k, v in row.items()} for row in rows])
    volumes = {"volume": WAYS["volume"], "threshold": WAYS["threshold"], "true": "limit"}
    out: list[dict[str, Cell]] = []
    for term in RISK:
        out.append({"measure": f"ln(1 + mL) per unit of {term}", "paper": "associated; size not at hand"})
        out[-1] |= {
            title: _effect("linear", f"ln_{key} ~ {' + '.join(RISK)}", table, key, term)
            for key, title in volumes.items()
        }
    out.append(
        {"measure": "odds of a worse mRS at 90 days per ln(1 + mL)", "paper": "associated; size not at hand"}
    )
    out[-1] |= {
        title: _effect("ordinal", f"mrs_90d ~ ln_{key} + age_years + nihss", table, key, f"ln_{key}")
        for key, title in volumes.items()
    }
    return comparison(
        "associations",
        f"Associations in {len(rows)} clinical patients",
        out,
        note="limit: with the simulation's true volume.",
    )


def _effect(kind: Any, formula: str, table: pd.DataFrame, key: str, term: str) -> Cell:
    def compute() -> Cell:
        terms = formula.count("+") + 1
        if f"{key}_ml" not in table or len(table) < terms + _SPARE:
            raise InputRefused(
                f"{len(table)} patients are too few for {terms} terms; {terms + _SPARE} are the least"
            )
        data = table.assign(**{f"ln_{key}": np.log1p(table[f"{key}_ml"])})
        return effect_of(kind, formula, data, term, of="patients")

    return cell(compute)
