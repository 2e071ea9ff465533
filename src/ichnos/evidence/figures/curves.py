"""Curves of scores and probabilities: ROC, calibration, net benefit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.evidence.figures.canvas import COLUMN_IN, INK, Figure, canvas
from ichnos.evidence.metrics.calibration import Calibration, CalibrationBin, DecisionCurve
from ichnos.evidence.metrics.discrimination import RocCurve


def roc_figure(name: str, curves: Mapping[str, tuple[RocCurve, str]], *, caption: str) -> Figure:
    """Draw ROC curves; each comes with its legend text."""
    with canvas(COLUMN_IN, COLUMN_IN) as (fig, ax):
        ax.plot([0, 1], [0, 1], color=INK["reference"], lw=0.6, ls=":")
        for key, (curve, text) in curves.items():
            style = {"lw": 1.6, "zorder": 3} if key == "model" else {"lw": 1.0}
            ax.plot(
                curve.false_positive_rate,
                curve.true_positive_rate,
                color=INK[key],
                label=text,
                **style,
            )
        ax.set(
            xlabel="1 − specificity",
            ylabel="Sensitivity",
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            aspect="equal",
        )
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), handlelength=1.2)
        return Figure(name, caption, fig)


def calibration_figure(name: str, result: Calibration, probability: Floats, *, caption: str) -> Figure:
    """Draw observed against predicted risk, smoothed and in bins, over the distribution of the
    predictions.
    """
    with canvas(COLUMN_IN, COLUMN_IN * 1.15, rows=(4, 1)) as (fig, (ax, below)):
        highest = max(float(probability.max()), *(b.observed.high for b in result.bins))
        top = min(1.0, float(np.ceil(highest * 10) / 10))
        ax.plot([0, top], [0, top], color=INK["reference"], lw=0.6, ls=":", label="ideal")
        curve = (result.curve_predicted, result.curve_observed)
        ax.plot(*curve, color=INK["model"], label="smoothed (lowess)")
        _draw_bins(ax, result.bins)
        ax.set(ylabel="Observed share with the event", xlim=(0, top), ylim=(0, top))
        ax.tick_params(labelbottom=False)
        ax.legend(loc="lower right")
        below.hist(probability, bins=np.linspace(0, top, 41), color=INK["model"], alpha=0.6)
        below.set(xlabel="Predicted probability", ylabel="Cases", xlim=(0, top))
        return Figure(name, caption, fig)


def _draw_bins(ax: Any, bins: Sequence[CalibrationBin]) -> None:
    """Draw the share of events in each bin with its interval."""
    shares = [b.observed for b in bins]
    reach = np.array([(s.value - s.low, s.high - s.value) for s in shares]).T
    ax.errorbar(
        [b.predicted for b in bins],
        [s.value for s in shares],
        yerr=reach,
        fmt="o",
        ms=3,
        lw=0.7,
        color=INK["model"],
        mfc="white",
        label="tenths, 95 % interval",
    )


def decision_figure(
    name: str, curves: Mapping[str, tuple[DecisionCurve, str]], *, prevalence: float, caption: str
) -> Figure:
    """Draw net benefit over threshold probabilities."""
    with canvas(COLUMN_IN, COLUMN_IN * 0.8) as (fig, ax):
        first = next(iter(curves.values()))[0]
        thin = {"color": INK["reference"], "lw": 0.8}
        ax.axhline(0, label="treat none", **thin)
        ax.plot(first.threshold, first.treat_all, ls="--", label="treat all", **thin)
        for key, (curve, text) in curves.items():
            width = 1.6 if key == "model" else 1.0
            ax.plot(curve.threshold, curve.model, color=INK[key], label=text, lw=width)
        right = min(0.99, max(0.5, 2.5 * prevalence))
        ax.set(xlabel="Threshold probability", ylabel="Net benefit (true positives per case)")
        ax.set(xlim=(0, right), ylim=(-0.25 * prevalence, 1.1 * prevalence))
        ax.legend(loc="upper right")
        return Figure(name, caption, fig)
