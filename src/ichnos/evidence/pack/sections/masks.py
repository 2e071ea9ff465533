"""Sections on masks: overlap and surfaces, lesions by size, volumes, and the cases that went worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.evidence import figures
from ichnos.evidence.metrics.intervals import proportion
from ichnos.evidence.metrics.summary import (
    MeasureSummary,
    by_centre,
    measure_column,
    over_centres,
    summarise,
)
from ichnos.evidence.pack.cases import CaseRows
from ichnos.evidence.pack.evaluation import Evaluation
from ichnos.evidence.pack.flags import check_pair
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
    measured = _Measured(name, rows, tuple(centre_of[str(row["id"])] for row in rows))
    overlap, numbers = _overlap(measured)
    tables, drawn = [_overlap_table(measured, overlap, plan)], []
    if numbers["dice"]["n"]:
        drawn.append(_strip(measured))
    if (forest := _forest(measured)) is not None:
        drawn.append(forest)
    if measured.has("lesions"):
        lesions, figure = _lesions(measured)
        tables.append(lesions)
        drawn.append(figure)
    volumes, volume_figures, volume_numbers = _volumes(measured)
    flag = check_pair(overlap["dice"].mean.value, overlap["iou"].mean.value, of="mean")
    return Section(
        measured.stem,
        f"Masks: {name}",
        (_empty_text(measured),),
        (*tables, *volumes),
        (*drawn, *volume_figures),
        () if flag is None else (flag,),
        _methods(plan, measured),
        {**numbers, "volume": volume_numbers},
    )


@dataclass(frozen=True, eq=False)
class _Measured:
    """One mask, "haematoma ICH", in every case that was measured."""

    name: str
    rows: CaseRows
    centres: tuple[str, ...]  # of the rows

    @property
    def stem(self) -> str:
        """Return the name as part of a file's name."""
        return self.name.replace(" ", "_").lower()

    def has(self, measure: str) -> bool:
        """Say whether any case has a measure."""
        return any(measure in row[self.name] for row in self.rows)

    def column(self, measure: str, *, scored: bool = False) -> Floats:
        """Return a measure of every case; `scored` gives empty masks the value that the policy sets."""
        return measure_column(self.rows, self.name, measure, scored=scored)

    def empty(self, state: str) -> int:
        """Return in how many cases the "truth", the "prediction" or "both" masks are empty."""
        return sum(row[self.name]["empty"] == state for row in self.rows)


def _empty_text(measured: _Measured) -> str:
    truth, prediction, both = (measured.empty(state) for state in ("truth", "prediction", "both"))
    return (
        f"{len(measured.rows)} cases; the true mask is empty in {truth + both}, the predicted one in"
        f" {prediction + both}, both in {both}."
    )


_METHODS_IF_MEASURED = {
    "lesions": (
        "Lesions (26-connected components) were counted by true size; one voxel of overlap counts as found."
    ),
    "growth_dice": (
        "Growth Dice compares follow-up minus baseline as set differences, predicted against true."
    ),
    "cl_dice": "Tracts were also judged by their centre line (clDice, Shit 2021).",
}


def _methods(plan: EvidencePlan, measured: _Measured) -> tuple[str, ...]:
    overlap = (
        "Masks were compared by Dice, IoU, precision, recall, normalised surface distance (tolerance"
        f" {plan.tolerance_mm:g} mm), 95th percentile Hausdorff distance and average symmetric surface"
        " distance, the surfaces weighted by area (Nikolov 2021). Means carry BCa bootstrap intervals."
        " Measures that an empty mask leaves undefined were left out and counted; where this changes a"
        " mean, the mean with such cases scored (both empty 1, one empty 0, distances the diagonal of"
        " the grid) is given beside it."
    )
    volumes = (
        "Volumes were compared by Lin's concordance, ICC(2,1), Pearson's and Spearman's correlation,"
        " Bland-Altman limits and Passing-Bablok regression; intervals of the first four resample"
        " patients, and the first three are also given of ln(1 + mL)."
    )
    further = (text for measure, text in _METHODS_IF_MEASURED.items() if measured.has(measure))
    return (overlap, volumes, *further)


def _overlap(measured: _Measured) -> tuple[dict[str, MeasureSummary], dict[str, Any]]:
    """Summarise every overlap measure over all cases, and give its numbers."""
    overall = {m: summarise(measured.column(m)) for m in MASK_MEASURES if measured.has(m)}
    numbers = {
        m: estimate_numbers(s.mean) | {"median": s.median, "undefined": s.undefined}
        for m, s in overall.items()
    }
    return overall, numbers


def _overlap_table(measured: _Measured, overall: Mapping[str, MeasureSummary], plan: EvidencePlan) -> Table:
    count = len(measured.rows)
    lines: list[tuple[Cell, ...]] = [("All", count, *(s.mean for s in overall.values()))]
    if any(measured.empty(state) for state in ("truth", "prediction", "both")):
        scored = (summarise(measured.column(m, scored=m in _WITH_POLICY)) for m in overall)
        lines.append(("All, empty masks scored", count, *(s.mean for s in scored)))
    lines.append(("Median", count, *(s.median for s in overall.values())))
    lines += _centre_lines(measured, tuple(overall))
    undefined = "; ".join(f"{MASK_MEASURES[m]} {s.undefined}" for m, s in overall.items() if s.undefined)
    note = f"Mean (95 % interval). NSD at {plan.tolerance_mm:g} mm. Volume error is predicted minus true." + (
        f" Undefined in so many cases: {undefined}." if undefined else ""
    )
    columns = ("", "n", *(MASK_MEASURES[m] for m in overall))
    title = f"{measured.name}: overlap per centre"
    return Table(f"overlap_{measured.stem}", title, columns, tuple(lines), note)


def _centre_lines(measured: _Measured, measures: Sequence[str]) -> list[tuple[Cell, ...]]:
    """Return a line per centre, their mean, and where the next centre is expected; nothing for one centre."""
    centres, names = measured.centres, sorted(set(measured.centres))
    if len(names) < 2:
        return []
    summaries = [{s.centre: s for s in by_centre(measured.column(m), centres)} for m in measures]
    lines: list[tuple[Cell, ...]] = [
        (c or "(no centre)", centres.count(c), *(per_centre[c].mean for per_centre in summaries))
        for c in names
    ]
    pooled = [over_centres(list(per_centre.values())) for per_centre in summaries]
    if any(pooled):
        means = (p.pooled if p else None for p in pooled)
        lines.append(("Mean of centres (random effects)", len(names), *means))
        lines.append(("Next centre (95 % prediction)", None, *map(_prediction, pooled)))
    return lines


def _prediction(pooled: Any) -> str | None:
    if pooled is None or np.isnan(pooled.prediction_low):
        return None
    return f"{number(pooled.prediction_low)} to {number(pooled.prediction_high)}"


def _strip(measured: _Measured) -> figures.Figure:
    dice, where = measured.column("dice"), np.array(measured.centres)
    groups = {c or "all": dice[where == c] for c in sorted(set(measured.centres))}
    caption = (
        f"{measured.name}: Dice of every case, with median and quartiles. Cases with two empty masks are"
        " undefined and not drawn."
    )
    return figures.strip_figure(f"dice_{measured.stem}", groups, axis="Dice", caption=caption)


def _forest(measured: _Measured) -> figures.Figure | None:
    per_centre = by_centre(measured.column("dice"), measured.centres)
    pooled = over_centres(per_centre)
    if pooled is None:
        return None
    return figures.forest_figure(
        f"forest_dice_{measured.stem}",
        [(f"{s.centre or '(no centre)'} (n {s.mean.n})", s.mean) for s in per_centre],
        pooled=("Random effects", pooled.pooled),
        prediction=(pooled.prediction_low, pooled.prediction_high),
        axis="Mean Dice",
        caption=(
            f"{measured.name}: mean Dice per centre; the diamond is their mean, its line the 95 % prediction"
            " interval for the next centre."
        ),
    )


def _lesions(measured: _Measured) -> tuple[Table, figures.Figure]:
    name, stem = measured.name, f"lesions_{measured.stem}"
    counted = [row[name]["lesions"] for row in measured.rows]
    totals = [
        {k: sum(case[i][k] for case in counted) for k in ("truth", "found", "predicted", "false")}
        for i in range(len(counted[0]))
    ]
    labels = [_bin(b["from_ml"], b["to_ml"]) for b in counted[0]]
    sensitivity = [proportion(t["found"], t["truth"]) for t in totals]
    precision = [proportion(t["predicted"] - t["false"], t["predicted"]) for t in totals]
    lines = tuple(
        (label, t["truth"], t["found"], s, t["predicted"], t["false"], p, t["false"] / len(measured.rows))
        for label, t, s, p in zip(labels, totals, sensitivity, precision, strict=True)
    )
    note = (
        "26-connected components; one voxel of overlap counts as found. Wilson intervals treat lesions of one"
        " patient as independent."
    )
    caption = f"{name}: share of true lesions found, by size."
    figure = figures.size_figure(stem, labels, sensitivity, caption=caption)
    return Table(stem, f"{name}: lesions found, by size", _LESION_COLUMNS, lines, note), figure


_LESION_COLUMNS = (
    "Size (mL)",
    "True",
    "Found",
    "Sensitivity",
    "Predicted",
    "False",
    "Precision",
    "False per case",
)


def _bin(low: float | None, high: float | None) -> str:
    if high is None or np.isinf(high):
        return f"> {low:g}"
    return f"< {high:g}" if not low else f"{low:g}–{high:g}"


def _volumes(measured: _Measured) -> Agreement:
    truth, predicted = measured.column("truth_ml"), measured.column("prediction_ml")
    some = (truth > 0) | (predicted > 0)
    stem, title = f"volume_{measured.stem}", f"{measured.name}: volume"
    return agreement_of(stem, title, predicted[some], truth[some], unit="mL")
