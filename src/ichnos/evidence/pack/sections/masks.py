"""Sections on masks: overlap and surfaces, lesions by size, volumes, and the cases that went worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ichnos.evidence import figures
from ichnos.evidence.metrics.intervals import proportion
from ichnos.evidence.metrics.summary import by_centre, measure_column, over_centres, summarise
from ichnos.evidence.pack.cases import CaseRows
from ichnos.evidence.pack.evaluation import Evaluation
from ichnos.evidence.pack.flags import ReviewFlag, check_pair
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.evidence.pack.section import Section
from ichnos.evidence.pack.sections.agreement import Agreement, agreement_of, estimate_numbers
from ichnos.evidence.tables import Cell, Table, number

MASK_MEASURES: Mapping[str, str] = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "nsd": "NSD",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "volume_error_ml": "Volume error (mL)",
    "growth_dice": "Growth Dice",
    "cl_dice": "clDice",
}
_WITH_POLICY = ("dice", "iou", "precision", "recall", "nsd", "hd95_mm", "assd_mm")


def mask_sections(evaluation: Evaluation, rows: CaseRows) -> tuple[Section, ...]:
    """Return one section for each target and label that was measured."""
    names = list(dict.fromkeys(key for row in rows for key in row if isinstance(row[key], Mapping)))
    centre_of = {case.id: case.centre for case in evaluation.cases}
    return tuple(
        _section(name, [row for row in rows if row.get(name)], evaluation.plan, centre_of) for name in names
    )


def _section(name: str, rows: CaseRows, plan: EvidencePlan, centre_of: Mapping[str, str]) -> Section:
    stem = name.replace(" ", "_").lower()
    centres = [centre_of[str(row["id"])] for row in rows]
    empties = {
        state: sum(row[name]["empty"] == state for row in rows) for state in ("truth", "prediction", "both")
    }
    overlap, flags, numbers = _overlap_table(stem, name, rows, centres, plan, empties)
    drawn = [_strip(stem, name, rows, centres)] if numbers["dice"]["n"] else []
    if (forest := _forest(stem, name, rows, centres)) is not None:
        drawn.append(forest)
    tables = [overlap]
    if any("lesions" in row[name] for row in rows):
        lesions, figure = _lesions(stem, name, rows)
        tables.append(lesions)
        drawn.append(figure)
    volumes, volume_figures, volume_numbers = _volumes(stem, name, rows)
    tables += volumes
    drawn += volume_figures
    numbers["volume"] = volume_numbers
    text = (
        f"{len(rows)} cases; the true mask is empty in {empties['truth'] + empties['both']}, the predicted"
        f" one in {empties['prediction'] + empties['both']}, both in {empties['both']}."
    )
    return Section(
        stem,
        f"Masks: {name}",
        (text,),
        tuple(tables),
        tuple(drawn),
        tuple(flags),
        _methods(plan, rows, name),
        numbers,
    )


def _methods(plan: EvidencePlan, rows: CaseRows, name: str) -> tuple[str, ...]:
    sentences = [
        (
            "Masks were compared by Dice, IoU, precision, recall, normalised surface distance (tolerance"
            f" {plan.tolerance_mm:g} mm), 95th percentile Hausdorff distance and average symmetric surface"
            " distance, the surfaces weighted by area (Nikolov 2021). Means carry BCa bootstrap intervals."
            " Measures that an empty mask leaves undefined were left out and counted; where this changes a"
            " mean, the mean with such cases scored (both empty 1, one empty 0, distances the diagonal of"
            " the grid) is given beside it."
        ),
        (
            "Volumes were compared by Lin's concordance, ICC(2,1), Pearson's and Spearman's correlation,"
            " Bland-Altman limits and Passing-Bablok regression; intervals of the first four resample"
            " patients, and the first three are also given of ln(1 + mL)."
        ),
    ]
    if any("lesions" in row[name] for row in rows):
        sentences.append(
            "Lesions (26-connected components) were counted by true size; one voxel of overlap counts as"
            " found."
        )
    if any("growth_dice" in row[name] for row in rows):
        sentences.append(
            "Growth Dice compares follow-up minus baseline as set differences, predicted against true."
        )
    if any("cl_dice" in row[name] for row in rows):
        sentences.append("Tracts were also judged by their centre line (clDice, Shit 2021).")
    return tuple(sentences)


def _overlap_table(
    stem: str,
    name: str,
    rows: CaseRows,
    centres: Sequence[str],
    plan: EvidencePlan,
    empties: Mapping[str, int],
) -> tuple[Table, list[ReviewFlag], dict[str, Any]]:
    present = [m for m in MASK_MEASURES if any(m in row[name] for row in rows)]
    values = {m: measure_column(rows, name, m) for m in present}
    overall = {m: summarise(values[m]) for m in present}
    lines: list[tuple[Cell, ...]] = [("All", len(rows), *(overall[m].mean for m in present))]
    if any(empties.values()):
        scored = {m: summarise(measure_column(rows, name, m, scored=m in _WITH_POLICY)) for m in present}
        lines.append(("All, empty masks scored", len(rows), *(scored[m].mean for m in present)))
    lines.append(("Median", len(rows), *(overall[m].median for m in present)))
    names = sorted(set(centres))
    if len(names) > 1:
        per_centre = {m: {s.centre: s for s in by_centre(values[m], centres)} for m in present}
        lines += [
            (c or "(no centre)", centres.count(c), *(per_centre[m][c].mean for m in present)) for c in names
        ]
        pooled = {m: over_centres(list(per_centre[m].values())) for m in present}
        if any(pooled.values()):
            lines.append(
                (
                    "Mean of centres (random effects)",
                    len(names),
                    *(p.pooled if (p := pooled[m]) else None for m in present),
                )
            )
            lines.append(("Next centre (95 % prediction)", None, *(_prediction(pooled[m]) for m in present)))
    lacking = [m for m in present if overall[m].undefined]
    undefined = "; ".join(f"{MASK_MEASURES[m]} {overall[m].undefined}" for m in lacking)
    note = f"Mean (95 % interval). NSD at {plan.tolerance_mm:g} mm. Volume error is predicted minus true." + (
        f" Undefined in so many cases: {undefined}." if undefined else ""
    )
    table = Table(
        f"overlap_{stem}",
        f"{name}: overlap per centre",
        ("", "n", *(MASK_MEASURES[m] for m in present)),
        tuple(lines),
        note,
    )
    flag = check_pair(overall["dice"].mean.value, overall["iou"].mean.value, of="mean")
    numbers = {
        m: estimate_numbers(overall[m].mean)
        | {"median": overall[m].median, "undefined": overall[m].undefined}
        for m in present
    }
    return table, [flag] if flag else [], numbers


def _prediction(pooled: Any) -> str | None:
    if pooled is None or np.isnan(pooled.prediction_low):
        return None
    return f"{number(pooled.prediction_low)} to {number(pooled.prediction_high)}"


def _strip(stem: str, name: str, rows: CaseRows, centres: Sequence[str]) -> figures.Figure:
    dice, where = measure_column(rows, name, "dice"), np.array(centres)
    groups = {c or "all": dice[where == c] for c in sorted(set(centres))}
    caption = (
        f"{name}: Dice of every case, with median and quartiles. Cases with two empty masks are undefined and"
        " not drawn."
    )
    return figures.strip_figure(f"dice_{stem}", groups, axis="Dice", caption=caption)


def _forest(stem: str, name: str, rows: CaseRows, centres: Sequence[str]) -> figures.Figure | None:
    per_centre = by_centre(measure_column(rows, name, "dice"), centres)
    pooled = over_centres(per_centre)
    if pooled is None:
        return None
    return figures.forest_figure(
        f"forest_dice_{stem}",
        [(f"{s.centre or '(no centre)'} (n {s.mean.n})", s.mean) for s in per_centre],
        pooled=("Random effects", pooled.pooled),
        prediction=(pooled.prediction_low, pooled.prediction_high),
        axis="Mean Dice",
        caption=(
            f"{name}: mean Dice per centre; the diamond is their mean, its line the 95 % prediction interval"
            " for the next centre."
        ),
    )


def _lesions(stem: str, name: str, rows: CaseRows) -> tuple[Table, figures.Figure]:
    counted = [row[name]["lesions"] for row in rows]
    totals = [
        {k: sum(case[i][k] for case in counted) for k in ("truth", "found", "predicted", "false")}
        for i in range(len(counted[0]))
    ]
    labels = [_bin(b["from_ml"], b["to_ml"]) for b in counted[0]]
    sensitivity = [proportion(t["found"], t["truth"]) for t in totals]
    precision = [proportion(t["predicted"] - t["false"], t["predicted"]) for t in totals]
    lines = tuple(
        (label, t["truth"], t["found"], s, t["predicted"], t["false"], p, t["false"] / len(rows))
        for label, t, s, p in zip(labels, totals, sensitivity, precision, strict=True)
    )
    columns = (
        "Size (mL)",
        "True",
        "Found",
        "Sensitivity",
        "Predicted",
        "False",
        "Precision",
        "False per case",
    )
    note = (
        "26-connected components; one voxel of overlap counts as found. Wilson intervals treat lesions of one"
        " patient as independent."
    )
    figure = figures.size_figure(
        f"lesions_{stem}", labels, sensitivity, caption=f"{name}: share of true lesions found, by size."
    )
    return Table(f"lesions_{stem}", f"{name}: lesions found, by size", columns, lines, note), figure


def _bin(low: float | None, high: float | None) -> str:
    if high is None or np.isinf(high):
        return f"> {low:g}"
    return f"< {high:g}" if not low else f"{low:g}–{high:g}"


def _volumes(stem: str, name: str, rows: CaseRows) -> Agreement:
    truth, predicted = measure_column(rows, name, "truth_ml"), measure_column(rows, name, "prediction_ml")
    some = (truth > 0) | (predicted > 0)
    return agreement_of(f"volume_{stem}", f"{name}: volume", predicted[some], truth[some], unit="mL")
