"""The tables and the picture of Abramova 2024."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ichnos.arrays import Floats32
from ichnos.errors import InputRefused
from ichnos.evidence.figures import Figure
from ichnos.evidence.metrics.intervals import Estimate, bootstrap
from ichnos.evidence.metrics.resampling import bca_mean
from ichnos.evidence.tables import Cell, Table
from ichnos.learning.expansion.pairs import LesionPair
from ichnos.studies.abramova2024.training import FORECAST_ARMS
from ichnos.studies.shared.page import cell, comparison

Scores = Sequence[Mapping[str, Any]]  # a row per method and patient
_ASKED = "not in the paper"
_METHODS: Mapping[str, tuple[Cell, Cell]] = {  # method -> the paper's growth Dice and volume error
    "warp": ("without synthetic: not known to us", "not known to us"),
    "warp + synthetic": (0.506, -3.44),
    **dict.fromkeys(
        ("ours", "ours + synthetic", "no growth", "uniform dilation", "oracle"), (_ASKED, _ASKED)
    ),
}
_RATIOS = (
    ("ours + synthetic over the oracle", "0.90 or more", "ours + synthetic", "oracle"),
    ("ours over the oracle", "0.90 or more", "ours", "oracle"),
    ("ours over the dilation", "above 1", "ours", "uniform dilation"),
    ("ours + synthetic over the dilation", "above 1", "ours + synthetic", "uniform dilation"),
    ("ours over the warp", "1.2 or more", "ours", "warp + synthetic"),
    ("warp: synthetic over none", "asked, not aimed at", "warp + synthetic", "warp"),
    ("ours: synthetic over none", "asked, not aimed at", "ours + synthetic", "ours"),
)


def forecast_table(scores: Scores) -> Table:
    """Growth Dice, lesion Dice and errors of volume of every method."""
    rows = [_method_row(scores, name, *paper) for name, paper in _METHODS.items()]
    note = (
        "Mean over patients left out, BCa bootstrap interval. Volume error: forecast minus truth, of ICH and"
        " IVH together."
    )
    return comparison("forecast", "Follow-up lesion on patients left out", rows, note=note)


def _method_row(scores: Scores, name: str, paper_dice: Cell, paper_error: Cell) -> dict[str, Cell]:
    found = [row for row in scores if row["method"] == name]
    none = "the cohort has no oracle: it is known in simulations alone"
    errors = [float(row["volume_error_ml"]) for row in found]
    expected = [float(row["expected_error_ml"]) for row in found if row.get("expected_error_ml") is not None]

    def mean(values: Sequence[float], otherwise: str = none) -> Cell:
        return cell(lambda: bca_mean(values)) if values else otherwise

    return {
        "method": name,
        "growth Dice (paper)": paper_dice,
        "growth Dice": mean(_column(found, "growth_dice")),
        "lesion Dice": mean(_column(found, "lesion_dice")),
        "volume error, mL (paper)": paper_error,
        "volume error, mL": mean(errors),
        "mean |error|, mL": mean([abs(e) for e in errors]),
        "error of expected volume, mL": mean(expected, "gives no probabilities"),
    }


def _column(rows: Scores, name: str) -> list[float]:
    return [float("nan") if row[name] is None else float(row[name]) for row in rows]


def ratio_table(scores: Scores) -> Table:
    """Ratios of growth Dice between methods on the same patients."""
    rows: list[dict[str, Cell]] = [
        {"question": question, "aim": aim, "growth Dice, ratio": cell(partial(_ratio, scores, top, bottom))}
        for question, aim, top, bottom in _RATIOS
    ]
    note = "Ratios of means over the same patients, 95 % by resampling patients."
    return comparison("ratios", "What is reachable, and what is gained", rows, note=note)


def _ratio(scores: Scores, top: str, bottom: str) -> Estimate:
    a, b = (
        np.array(_column([row for row in scores if row["method"] == name], "growth_dice"))
        for name in (top, bottom)
    )
    if a.size == 0 or a.size != b.size:
        raise InputRefused(f"{bottom} is not known in this cohort")
    if b.mean() <= 0:
        raise InputRefused(f"the growth Dice of {bottom} is 0, so there is no ratio to it")
    return bootstrap(
        lambda at: float(a[at].mean() / b[at].mean()) if b[at].mean() > 0 else math.nan,
        np.zeros(a.size),
        rng=np.random.default_rng(0),
    )


def median_picture(pairs: Sequence[LesionPair], maps: dict[str, dict[str, Floats32]]) -> Figure:
    """Draw the patient of median growth: baseline, truth, and each forecast, on the slice with most new
    blood.
    """
    order = sorted(pairs, key=lambda p: float(p.later.sum() - p.blood.sum()))
    pair = order[len(order) // 2]
    shown = {
        "baseline": pair.blood,
        "follow-up": pair.later,
        **{name: maps[pair.patient][name] for name in FORECAST_ARMS},
    }
    if pair.oracle is not None:
        shown["oracle (0.5)"] = pair.oracle
    drawing = _drawn(pair, shown)
    caption = (
        "The patient of median growth. Yellow: what the method says; blue: the lesion at follow-up. "
        "The patient's left is on the right of the image."
    )
    return Figure("median_patient", caption, drawing)


def _drawn(pair: LesionPair, shown: Mapping[str, Floats32]) -> Any:
    from matplotlib.figure import Figure as Drawing

    z = int(np.argmax(((pair.later > 0.5) & (pair.blood < 0.5)).sum((0, 1))))
    drawing = Drawing(figsize=(2.1 * len(shown), 2.5), layout="constrained")
    for axis, (name, lesion) in zip(drawing.subplots(1, len(shown)), shown.items(), strict=True):
        axis.imshow(pair.hu[::-1, ::-1, z].T, cmap="gray", vmin=0, vmax=80)
        if (lesion[:, :, z] > 0.5).any():
            axis.contour(lesion[::-1, ::-1, z].T, levels=[0.5], colors=["#ffb000"], linewidths=1.4)
        axis.contour(pair.later[::-1, ::-1, z].T, levels=[0.5], colors=["#40c0ff"], linewidths=0.7)
        axis.set_title(name, fontsize=8)
        axis.set_axis_off()
    return drawing
