"""Two measurements of the same thing: Bland-Altman and scatter."""

from __future__ import annotations

from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.evidence.figures.canvas import COLUMN_IN, INK, Figure, canvas
from ichnos.evidence.metrics.agreement import BlandAltman, StructuralLine
from ichnos.evidence.metrics.intervals import Estimate


def bland_altman_figure(
    name: str, a: Floats, b: Floats, result: BlandAltman, *, unit: str, caption: str
) -> Figure:
    """Draw differences over means with bias and limits of agreement."""
    with canvas(COLUMN_IN, COLUMN_IN * 0.8) as (fig, ax):
        mean, difference = (a + b) / 2, a - b
        shown_difference = 100 * difference / mean if result.percent else difference
        ax.plot(mean, shown_difference, "o", ms=2.5, mew=0, alpha=0.55, color=INK["model"])
        for estimate, style in ((result.bias, "-"), (result.lower, "--"), (result.upper, "--")):
            _draw_level(ax, estimate, style)
        ax.set(
            xlabel=f"Mean of predicted and true ({unit})",
            ylabel=f"Predicted − true ({'% of mean' if result.percent else unit})",
        )
        return Figure(name, caption, fig)


def _draw_level(ax: Any, estimate: Estimate, style: str) -> None:
    """Draw an estimate as a horizontal line in the band of its interval, its value at the right."""
    ax.axhspan(estimate.low, estimate.high, color=INK["reference"], alpha=0.10, lw=0)
    ax.axhline(estimate.value, color=INK["reference"], lw=0.9, ls=style)
    at = {"xy": (1.0, estimate.value), "xycoords": ("axes fraction", "data")}
    ax.annotate(f"{estimate.value:.1f}", fontsize=6.5, va="center", **at)


def scatter_figure(
    name: str, truth: Floats, predicted: Floats, line: StructuralLine | None, *, unit: str, caption: str
) -> Figure:
    """Draw predicted against true values with identity and the Passing-Bablok line."""
    with canvas(COLUMN_IN, COLUMN_IN) as (fig, ax):
        top = float(max(truth.max(), predicted.max(), 1e-6)) * 1.05
        ax.plot([0, top], [0, top], color=INK["reference"], lw=0.6, ls=":", label="identity")
        ax.plot(truth, predicted, "o", ms=2.5, mew=0, alpha=0.55, color=INK["model"])
        if line is not None:
            x = np.array([0, top])
            ax.plot(
                x,
                line.intercept.value + line.slope.value * x,
                color=INK["truth"],
                lw=1.1,
                label="Passing-Bablok",
            )
        ax.set(
            xlabel=f"True ({unit})",
            ylabel=f"Predicted ({unit})",
            xlim=(0, top),
            ylim=(0, top),
            aspect="equal",
        )
        ax.legend(loc="upper left")
        return Figure(name, caption, fig)
