"""Yu 2025: will the haematoma grow? Five centres; outlines by U-Mamba, images by Diffusion U-KAN, expansion
by a vision transformer.

Methods. Centres A to C train, D and E are external. Part one: networks of one plan outline the haematoma
(U-Mamba, its plain twin, a transformer, nnU-Net) and are compared on the external centres. Part two: a vision
transformer says from three slices of a tight crop whether the haematoma will expand; training is balanced by
images that were made, or by the controls that the paper leaves out (oversampling, weights, focal loss) at the
same ratios. Ours sees a region in which sizes stay what they are, with its outlines and measured signs. Every
classifier is an ensemble over folds, recalibrated to the true prevalence on patients it was not trained on.
Comparators: volume alone, BAT, BRAIN and HEP, and the growth law; in simulated cohorts the oracle knows all
that the CT shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.evidence.figures import roc_figure
from ichnos.evidence.metrics.calibration import calibration
from ichnos.evidence.metrics.discrimination import auc, compare_paired, roc_curve
from ichnos.evidence.metrics.intervals import Estimate, bootstrap, proportion
from ichnos.evidence.metrics.overlap import dice
from ichnos.evidence.tables import Cell, Table
from ichnos.learning.segmentation.cases import check_splits
from ichnos.learning.segmentation.fine_tuning import SHIPPED_NAME
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.models import Model
from ichnos.simulation.cohort.design import Design, Group
from ichnos.simulation.disease import law, oracle
from ichnos.studies.page import Effort, Image, Picture, StudyPage, cell, comparison
from ichnos.studies.shared import (
    BEGUN,
    NNUNET_NOT_ASKED,
    Labels,
    Row,
    label_of,
    mean_of,
    predictor,
    provenance_of,
    read_patients,
    scan_of,
    told_of,
    trained,
    trained_by_nnunet,
    with_validation,
    worst_picture,
)
from ichnos.studies.yu2025.expansion import EXTERNAL, People, classified, people_of
from ichnos.volume import volume_ml

PAPER = "Yu et al. 2025, npj Digital Medicine, s41746-025-02213-w"
# of training per network at a small scale on two cores: the whole is meant to take three quarters of an hour
SMALL_MINUTES = 3.0
FEWEST = 5  # patients of each centre at a small scale
SMOKE = Design(
    (
        Group(8, "A", "train", ("ct", "followup"), expansion_share=0.5),
        Group(2, "D", "external", ("ct", "followup"), expansion_share=0.5),
        Group(2, "E", "external", ("ct", "followup"), expansion_share=0.5),
    ),
    "expansion: a few patients of three centres, to try every stage",
)
PIPELINES = ("manual", "transfer", "truth")
PLAN = TrainSettings(targets=target_specs("ICH")).changed(
    spacing_mm=(1.5, 1.5, 5.0), patch=(96, 96, 16), batch=2, width=12
)
OURS = "ours, from the weights that ship"
NETWORKS = {
    "U-Mamba": PLAN.changed(network="umamba_enc"),
    "plain twin": PLAN,
    "transformer (UNETR)": PLAN.changed(network="unetr"),
    OURS: TrainSettings(targets=target_specs("ICH"), start=SHIPPED_NAME),
}
NNUNET_ROW = "nnU-Net itself"
PAPER_DICE: Mapping[str, Cell] = {"U-Mamba": 0.937, OURS: "not in the paper"}
_LEAST_TO_CALIBRATE = 8  # patients of a centre
_LOWER = "lower than U-Mamba's; no number known to us"


def run(cohort: Cohort, out: Path, effort: Effort) -> StudyPage:
    """Do the whole study."""
    check_splits(cohort)
    labels = Labels(with_validation(cohort), PIPELINES, {}, 0)
    models, untrained = _outlined(labels, out, effort)
    rows = _outlines_read(labels, models, out, effort)
    effort.say("cutting haematomas into slices and regions")
    people = people_of(cohort, size=32 if effort.smoke else 64)
    found = classified(people, out, effort)
    risk = found.risk
    tables = (
        _auc_table(people, risk),
        _outline_table(rows, untrained),
        _point_table(people, risk),
        _calibration_table(people, risk),
    )
    return StudyPage(
        name="yu2025",
        title="Will the haematoma grow?",
        paper=PAPER,
        design=_design(cohort, people, effort),
        tables=(*tables, _reach_table(people, risk), *found.tables),
        pictures=(*_curves(people, risk), *found.pictures, *_worst(models, out)),
        limits=_limits(people, effort),
        provenance=provenance_of(labels.cohort, effort, models),
    )


# ---- part one: outlines
# ----------------------------------------------------------------------------------------------


def _outlined(labels: Labels, out: Path, effort: Effort) -> tuple[dict[str, Model], dict[str, str]]:
    """Train every network of part one; what is not trained is named with its reason."""
    models = {name: trained(_stem(name), plan, labels, out, effort) for name, plan in NETWORKS.items()}
    if not effort.nnunet:
        return models, {NNUNET_ROW: NNUNET_NOT_ASKED}
    return {**models, NNUNET_ROW: trained_by_nnunet(PLAN, labels, out, effort)}, {}


def _stem(name: str) -> str:
    return name.split(" ")[0].strip(",")


class _Outliner:
    """Outline one patient with every network and compare with the drawn outline."""

    def __init__(self, labels: Labels, models: Mapping[str, str], device: str) -> None:
        self.labels, self.models, self.device = labels, dict(models), device

    def __call__(self, patient: Patient, folder: Path) -> dict[str, Any]:
        del folder
        truth = label_of(self.labels.cohort, patient, "ICH", self.labels.pipelines)
        row: dict[str, Any] = {"centre": patient.centre}
        for name, model in self.models.items():
            if truth is None:
                continue
            found = predictor(model, self.device)(scan_of(patient)).mask("ICH").reoriented("RAS")
            shared = dice(truth, found)
            row |= {f"{name} dice": _known(shared), f"{name} iou": _known(shared / (2 - shared))}
            row[f"{name} error_ml"] = _known(volume_ml(found) - volume_ml(truth))
        return row


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 5)


def _outlines_read(
    labels: Labels, models: Mapping[str, Model], out: Path, effort: Effort
) -> list[dict[str, Any]]:
    effort.say("outlining the external patients with every network")
    people = [p for p in labels.cohort.of_split(*EXTERNAL).with_exams("ct")]
    task = _Outliner(labels, {name: str(model.folder) for name, model in models.items()}, effort.device)
    return read_patients(task, people, out, effort, settings=told_of(models))


def _outline_table(rows: Sequence[Row], refusals: Mapping[str, str]) -> Table:
    def line(name: str) -> dict[str, Cell]:
        if name in refusals:
            empty: dict[str, Cell] = dict.fromkeys(
                ("Dice", "IoU", "volume error, mL", "Dice minus twin"), refusals[name]
            )
            return {"network": name, "Dice (paper)": PAPER_DICE.get(name, _LOWER), **empty}
        return {
            "network": name,
            "Dice (paper)": PAPER_DICE.get(name, _LOWER),
            "Dice": mean_of(rows, f"{name} dice", of="an outline"),
            "IoU": mean_of(rows, f"{name} iou", of="an outline"),
            "volume error, mL": mean_of(rows, f"{name} error_ml", of="an outline"),
            "Dice minus twin": "itself" if name == "plain twin" else cell(lambda: _difference(rows, name)),
        }

    lines = [line(name) for name in (*NETWORKS, NNUNET_ROW)]
    note = (
        "External centres. The paper gives IoU 0.934 beside Dice 0.937, which cannot both hold of one mask:"
        " IoU = Dice / (2 - Dice) = 0.881. U-Mamba, twin (the U-Net of nnU-Net's shape) and transformer"
        f" share plan, patients, minutes and loop. Ours has the same patients, minutes and loop, and {BEGUN}."
        " Aim: Dice 0.94 or more."
    )
    return comparison("outlines", "Outlines of the haematoma on the external centres", lines, note=note)


def _difference(rows: Sequence[Row], name: str) -> Estimate:
    both = [(r.get(f"{name} dice"), r.get("plain twin dice")) for r in rows]
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    if len(pairs) < 3:
        raise InputRefused(
            f"{len(pairs)} external patients have both outlines; 3 are the least for an interval"
        )
    gap = np.array([a - b for a, b in pairs], float)
    return bootstrap(lambda at: float(gap[at].mean()), np.zeros(gap.size), rng=np.random.default_rng(0))


def _worst(models: Mapping[str, Model], out: Path) -> list[Image]:
    return [image for name in models if name != NNUNET_ROW for image in worst_picture(_stem(name), out)]


# ---- part two: expansion
# ---------------------------------------------------------------------------------------------

PAPER_AUC = {
    ("published, as is", "D"): "0.714 (0.661 to 0.770), 1:4",
    ("published, as is", "E"): "0.728 (0.667 to 0.783), 1:4",
    ("published, synthesis 1:2", "D"): "0.793 (0.750 to 0.837)",
    ("published, synthesis 1:2", "E"): "0.781 (0.733 to 0.827)",
    ("published, synthesis 1:1", "D"): "0.752 (0.701 to 0.806)",
    ("published, synthesis 1:1", "E"): "0.738 (0.681 to 0.792)",
    ("BAT", "D"): "0.70 in other external cohorts",
    ("BRAIN", "D"): "0.70 in other external cohorts",
    ("HEP", "D"): "0.65 in other external cohorts",
}
Risks = Mapping[str, Mapping[str, float] | str]  # method -> patient -> score, or why there is none


def _of_centre(
    people: People, risk: Mapping[str, float], centre: str
) -> tuple[list[float], list[float], list[str]]:
    who = [
        p
        for p in people.external
        if p.centre == centre and p.patient in risk and np.isfinite(risk[p.patient])
    ]
    return [p.outcome for p in who], [risk[p.patient] for p in who], [p.patient for p in who]


def _auc_table(people: People, risks: Risks) -> Table:
    def line(name: str, risk: Mapping[str, float] | str) -> dict[str, Cell]:
        row: dict[str, Cell] = {"method": name}
        for centre in people.centres:
            row[f"paper, {centre}"] = PAPER_AUC.get((name, centre), "not in the paper")
            row[f"AUC, {centre}"] = (
                risk if isinstance(risk, str) else cell(partial(_auc, people, risk, centre))
            )
            row[f"minus published, {centre}"] = _against(people, risks, name, "published, as is", centre)
        return row

    note = (
        "DeLong's intervals and paired differences (first minus second, p). Scores without probability rank"
        " as they are."
    )
    return comparison(
        "auc",
        "Telling expansion apart on the external centres",
        [line(n, r) for n, r in risks.items()],
        note=note,
    )


def _auc(people: People, risk: Mapping[str, float], centre: str) -> Estimate:
    outcome, score, _ = _of_centre(people, risk, centre)
    found = auc(outcome, score)
    return Estimate(found.value, found.low, found.high, found.n)


def _against(people: People, risks: Risks, name: str, other: str, centre: str) -> Cell:
    first, second = risks[name], risks.get(other, f"{other} is not known")
    if name == other:
        return "itself"
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else str(second)

    def compute() -> Cell:
        outcome, score, who = _of_centre(people, first, centre)
        kept = [k for k, patient in enumerate(who) if np.isfinite(second.get(patient, np.nan))]
        d = compare_paired(
            [outcome[k] for k in kept], [score[k] for k in kept], [second[who[k]] for k in kept]
        )
        if not np.isfinite(d.value):
            raise InputRefused(
                f"{len(kept)} patients of centre {centre} do not determine a difference of areas"
            )
        return (
            f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}), p {d.p:.3f}"
            if np.isfinite(d.p)
            else f"{d.value:+.3f}, no interval"
        )

    return cell(compute)


def _point_table(people: People, risks: Risks) -> Table:
    """Sensitivity and its relatives where the out-of-fold training scores put the operating point
    (greatest sensitivity + specificity).
    """
    rows: list[dict[str, Cell]] = []
    for name, risk in risks.items():
        cut = people.cuts.get(name)
        if isinstance(risk, str) or cut is None:
            continue
        for centre in people.centres:
            outcome, score, _ = _of_centre(people, risk, centre)
            truth, called = np.array(outcome) > 0.5, np.array(score) >= cut

            def share(part: np.ndarray, whole: np.ndarray) -> Cell:
                return cell(lambda: proportion(int(part.sum()), int(whole.sum())))

            rows.append(
                {
                    "method": f"{name}, {centre}",
                    "accuracy": share(called == truth, np.ones(truth.size)),
                    "sensitivity": share(called & truth, truth),
                    "specificity": share(~called & ~truth, ~truth),
                    "NPV": share(~called & ~truth, ~called),
                    "PPV": share(called & truth, called),
                }
            )
    names = ("accuracy", "sensitivity", "specificity", "NPV", "PPV")
    paper = dict(
        zip(names, (".747 / .730", ".661 / .630", ".771 / .755", ".890 / .891", ".446 / .392"), strict=True)
    )
    rows.append({"method": "paper, synthesis 1:2, first / second external centre", **paper})
    return comparison(
        "operating_point", "At the operating point of the training patients", rows, note="Wilson's intervals."
    )


def _calibration_table(people: People, risks: Risks) -> Table:
    rows: list[dict[str, Cell]] = []
    for name, risk in risks.items():
        if isinstance(risk, str) or name in people.scores_only:
            continue
        for centre in people.centres:

            def measured(what: str, risk: Mapping[str, float] = risk, centre: str = centre) -> Cell:
                def compute() -> Cell:
                    outcome, score, _ = _of_centre(people, risk, centre)
                    if len(outcome) < _LEAST_TO_CALIBRATE:
                        raise InputRefused(
                            f"{len(outcome)} patients; {_LEAST_TO_CALIBRATE} are the least for a calibration"
                        )
                    found: Cell = getattr(calibration(outcome, score), what)
                    return found

                return cell(compute)

            names = {
                "slope": "slope",
                "intercept": "intercept",
                "observed over expected": "observed_over_expected",
                "Brier": "brier",
            }
            rows.append(
                {"method": f"{name}, {centre}", **{title: measured(what) for title, what in names.items()}}
            )
    note = "Aim: slope 0.9 to 1.1. The paper does not report calibration."
    return comparison("calibration", "Do the probabilities mean what they say?", rows, note=note)


def _reach_table(people: People, risks: Risks) -> Table:
    """What could be reached at all: the oracle's area, ours over it, and the law's area in thousands of
    patients without images.
    """
    draws = law.draw(20_000, torch.Generator().manual_seed(1))
    limit = oracle.auc(oracle.expansion_probability(draws), draws.expanded)
    rows: list[dict[str, Cell]] = [
        {"question": "the oracle in 20,000 patients of the law", "aim": "the limit", "value": limit}
    ]
    for centre in people.centres:
        for name in (n for n in risks if n.startswith("ours")):
            value = cell(lambda n=name, c=centre: _over_oracle(people, risks, n, c))  # type: ignore[misc]
            rows.append(
                {"question": f"{name} over the oracle, {centre}", "aim": "0.95 or more", "value": value}
            )
    note = (
        "Areas under the ROC curve, and ratios of areas on the same patients, 95 % by resampling patients in"
        " each class."
    )
    return comparison("reach", "What is reachable", rows, note=note)


def _over_oracle(people: People, risks: Risks, name: str, centre: str) -> Estimate:
    first, second = (
        risks.get(name, f"there is no method {name!r}"),
        risks.get("oracle", "the cohort has no oracle"),
    )
    if isinstance(first, str) or isinstance(second, str):
        raise InputRefused(first if isinstance(first, str) else str(second))
    outcome, score, who = _of_centre(people, first, centre)
    best = np.array([second[p] for p in who])
    truth, mine = np.array(outcome), np.array(score)
    auc(truth, mine)  # refuses a single class by name

    def ratio(at: np.ndarray) -> float:
        reachable = auc(truth[at], best[at]).value
        return auc(truth[at], mine[at]).value / reachable if reachable > 0 else float("nan")

    return bootstrap(ratio, truth, rng=np.random.default_rng(0), repeats=500)


# What is drawn -> its colour, by the names that figures know.
_DRAWN = {
    "published, as is": "bat",
    "published, synthesis 1:2": "reference",
    "ours, as is": "model",
    "ours, growth law fitted here": "hep",
    "ours, growth law that ships": "brain",
    "volume alone": "volume",
    "oracle": "truth",
}


def _curves(people: People, risks: Risks) -> list[Picture]:
    pictures: list[Picture] = []
    for centre in people.centres:
        curves = {}
        for name, colour in _DRAWN.items():
            risk = risks.get(name, "")
            if isinstance(risk, str):
                continue
            outcome, score, _ = _of_centre(people, risk, centre)
            if 0 < sum(outcome) < len(outcome):
                area = auc(outcome, score)
                told = str(area) if np.isfinite(area.low) else f"{area.value:.3f}, no interval"
                curves[colour] = (roc_curve(outcome, score), f"{name}: {told}")
        if curves:
            pictures.append(
                roc_figure(f"roc-{centre}", curves, caption=f"Expansion at the external centre {centre}.")
            )
    return pictures


def _design(cohort: Cohort, people: People, effort: Effort) -> tuple[str, ...]:
    outcomes = {c: [p.outcome for p in people.external if p.centre == c] for c in people.centres}
    counts = [f"{c}: {len(those)} ({sum(those):.0f})" for c, those in outcomes.items()]
    events = sum(p.outcome for p in people.training)
    return (
        (
            f"{len(cohort)} patients; expansion (> 33 % or > 6 mL) is known of {len(people.training)} to"
            f" train ({events:.0f} expanded) and of the external ones, {', '.join(counts)}; each network was"
            f" trained for {'a few steps' if effort.smoke else f'{effort.minutes:g} minutes'}."
        ),
        (
            "Outlines: every network took the same time on the same patients; one in five training patients"
            " chose its best step."
        ),
        (
            "Classifiers see drawn outlines, so that part two does not inherit the errors of part one."
            " Published: three slices around the largest area, tight box, 0 to 90 HU, ViT, mean score of the"
            " slices; smaller networks and images than published where there is no GPU. Ours: a region of 96"
            " x 96 x 96 mm with outlines as channels, and measured signs with onset and anticoagulation as"
            " tokens."
        ),
        (
            "Images that were made come from a generator trained on the fold's own training patients, no"
            " image was selected, and their ledger lies beside the models."
        ),
    )


def _limits(people: People, effort: Effort) -> tuple[str, ...]:
    smoke = (
        ("This is a smoke run: a few steps on a few patients. Its numbers mean nothing.",)
        if effort.smoke
        else ()
    )
    events = sum(p.outcome for p in people.external)
    few = (
        (
            (
                f"{events:.0f} expansions at the external centres: intervals are wide, and no difference is"
                " proven."
            ),
        )
        if events < 100
        else ()
    )
    simulated = (
        ("Simulated patients: signs, growth and the oracle follow one law.",)
        if effort.scale or effort.smoke
        else ()
    )
    return (
        *smoke,
        *few,
        *simulated,
        "The paper's patients are not at hand: its columns come from the publication, on other patients.",
    )
