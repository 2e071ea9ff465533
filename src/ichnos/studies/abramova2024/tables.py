"""The tables and the picture of Abramova 2024."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ichnos.arrays import Floats32
from ichnos.errors import InputRefused
from ichnos.evidence.figures import Figure
from ichnos.evidence.metrics.intervals import Estimate, bootstrap
from ichnos.evidence.metrics.resampling import bca_mean
from ichnos.evidence.tables import Cell, Table
from ichnos.learning.expansion.pairs import LesionPair
from ichnos.studies.abramova2024.training import FORECAST_ARMS, ScoresByMethod
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.page import cell, comparison


def forecast_table(scores: ScoresByMethod) -> Table:
    def row(name: str, paper_dice: Cell, paper_error: Cell) -> dict[str, Cell]:
        found = scores.by_method.get(name, [])
        none = "the cohort has no oracle: it is known in simulations alone"
        expected = scores.expected_ml.get(name)
        return {
            "method": name,
            "growth Dice (paper)": paper_dice,
            "growth Dice": cell(lambda: bca_mean([s.growth_dice for s in found])) if found else none,
            "lesion Dice": cell(lambda: bca_mean([s.lesion_dice for s in found])) if found else none,
            "volume error, mL (paper)": paper_error,
            "volume error, mL": (
                cell(lambda: bca_mean([s.volume_error_ml for s in found])) if found else none
            ),
            "mean |error|, mL": (
                cell(lambda: bca_mean([abs(s.volume_error_ml) for s in found])) if found else none
            ),
            "error of expected volume, mL": (
                cell(lambda: bca_mean(expected)) if expected else "gives no probabilities"
            ),
        }

    asked = "not in the paper"
    rows = [
        row("warp", "without synthetic: not known to us", "not known to us"),
        row("warp + synthetic", 0.506, -3.44),
    ]
    rows += [
        row(name, asked, asked)
        for name in ("ours", "ours + synthetic", "no growth", "uniform dilation", "oracle")
    ]
    note = (
        "Mean over patients left out, BCa bootstrap interval. Volume error: forecast minus truth, of ICH and"
        " IVH together."
    )
    return comparison("forecast", "Follow-up lesion on patients left out", rows, note=note)


def ratio_table(scores: ScoresByMethod, budget: StudyBudget) -> Table:
    def ratio(top: str, bottom: str) -> Estimate:
        a, b = (np.array([s.growth_dice for s in scores.by_method.get(name, [])]) for name in (top, bottom))
        if a.size == 0 or a.size != b.size:
            raise InputRefused(f"{bottom} is not known in this cohort")
        if b.mean() <= 0:
            raise InputRefused(f"the growth Dice of {bottom} is 0, so there is no ratio to it")
        rng = np.random.default_rng(budget.seed)
        return bootstrap(
            lambda at: float(a[at].mean() / b[at].mean()) if b[at].mean() > 0 else math.nan,
            np.zeros(a.size),
            rng=rng,
        )

    asked = (
        ("ours + synthetic over the oracle", "0.90 or more", "ours + synthetic", "oracle"),
        ("ours over the oracle", "0.90 or more", "ours", "oracle"),
        ("ours over the warp", "1.2 or more", "ours", "warp + synthetic"),
        ("warp: synthetic over none", "asked, not aimed at", "warp + synthetic", "warp"),
        ("ours: synthetic over none", "asked, not aimed at", "ours + synthetic", "ours"),
    )

    def row(question: str, aim: str, top: str, bottom: str) -> dict[str, Cell]:
        return {"question": question, "aim": aim, "growth Dice, ratio": cell(lambda: ratio(top, bottom))}

    rows = [row(*question) for question in asked]
    note = "Ratios of means over the same patients, 95 % by resampling patients."
    return comparison("ratios", "What is reachable, and what is gained", rows, note=note)


def median_picture(pairs: Sequence[LesionPair], maps: dict[str, dict[str, Floats32]]) -> Figure:
    """Draw the patient of median growth: baseline, truth, and each forecast, on the slice with most new
    blood.
    """
    from matplotlib.figure import Figure as Drawing

    order = sorted(pairs, key=lambda p: float(p.later.sum() - p.blood.sum()))
    pair = order[len(order) // 2]
    z = int(np.argmax(((pair.later > 0.5) & (pair.blood < 0.5)).sum((0, 1))))
    shown = {
        "baseline": pair.blood,
        "follow-up": pair.later,
        **{name: maps[pair.patient][name] for name in FORECAST_ARMS},
    }
    if pair.oracle is not None:
        shown["oracle (0.5)"] = pair.oracle
    drawing = Drawing(figsize=(2.1 * len(shown), 2.5), layout="constrained")
    for axis, (name, lesion) in zip(drawing.subplots(1, len(shown)), shown.items(), strict=True):
        axis.imshow(pair.hu[::-1, ::-1, z].T, cmap="gray", vmin=0, vmax=80)
        if (lesion[:, :, z] > 0.5).any():
            axis.contour(lesion[::-1, ::-1, z].T, levels=[0.5], colors=["#ffb000"], linewidths=1.4)
        axis.contour(pair.later[::-1, ::-1, z].T, levels=[0.5], colors=["#40c0ff"], linewidths=0.7)
        axis.set_title(name, fontsize=8)
        axis.set_axis_off()
    caption = (
        "The patient of median growth. Yellow: what the method says; blue: the lesion at follow-up. "
        "The patient's left is on the right of the image."
    )
    return Figure("median_patient", caption, drawing)
