"""Estimates and cases by group: forests, strips, sizes of lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.evidence.figures.canvas import COLUMN_IN, INK, Figure, canvas
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.tables import cell_text

_WIDEST = 1e4  # a ratio whose interval reaches further is not drawn; the table has it


def forest_figure(
    name: str,
    rows: Sequence[tuple[str, Estimate]],
    *,
    pooled: tuple[str, Estimate] | None = None,
    prediction: tuple[float, float] | None = None,
    axis: str,
    reference: float | None = None,
    ratio: bool = False,
    caption: str,
) -> Figure:
    """Draw defined estimates with intervals, the pooled one as a diamond, the prediction as a bar."""
    kept = [row for row in rows if _is_drawn(row[1], ratio)]
    everything = [*kept, *([pooled] if pooled else [])]
    with canvas(COLUMN_IN * 1.5, 0.55 + 0.24 * len(everything)) as (fig, ax):
        if reference is not None:
            ax.axvline(reference, color=INK["reference"], lw=0.6, ls=":")
        for y, (_, e) in enumerate(kept):
            ax.plot([e.low, e.high], [y, y], color=INK["model"], lw=1.0)
            ax.plot(e.value, y, "s", ms=3.5, color=INK["model"])
        if pooled:
            _draw_diamond(ax, len(kept), pooled[1], prediction)
        _label_rows(ax, everything)
        if ratio and everything:
            _log_axis(ax, [v for _, e in everything for v in (e.low, e.high)])
        ax.set(xlabel=axis, ylim=(max(len(everything), 1) - 0.5, -0.5))
        return Figure(name, caption, fig)


def _is_drawn(e: Estimate, ratio: bool) -> bool:
    highest = _WIDEST if ratio else np.inf
    return bool(np.isfinite([e.value, e.low, e.high]).all() and e.high < highest)


def _draw_diamond(ax: Any, y: int, e: Estimate, prediction: tuple[float, float] | None) -> None:
    heights = [y, y - 0.25, y, y + 0.25]
    ax.fill([e.low, e.value, e.high, e.value], heights, color=INK["truth"], lw=0)
    if prediction and np.isfinite(prediction).all():
        ax.plot(prediction, [y, y], color=INK["truth"], lw=0.8)


def _label_rows(ax: Any, rows: Sequence[tuple[str, Estimate]]) -> None:
    """Name each row at the left and write its estimate at the right."""
    ax.set_yticks(range(len(rows)), [label for label, _ in rows])
    for y, (_, e) in enumerate(rows):
        ax.annotate(cell_text(e), (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=7)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)


def _log_axis(ax: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ax.set_xscale("log")
    low, high = max(min(values), 1e-3), min(max(values), 1e3)
    ticks = [
        t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low / 2 <= t <= high * 2
    ]
    ax.set_xlim(low / 1.3, high * 1.3)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def strip_figure(name: str, groups: Mapping[str, Floats], *, axis: str, caption: str) -> Figure:
    """Draw every case of every group with the median and quartiles; undefined cases are not drawn."""
    with canvas(COLUMN_IN, COLUMN_IN * 0.8) as (fig, ax):
        rng = np.random.default_rng(0)  # where the dots sit within their column; no number depends on it
        for x, values in enumerate(groups.values()):
            known = values[~np.isnan(values)]
            if not known.size:
                continue
            ax.plot(
                x + rng.uniform(-0.22, 0.22, known.size),
                known,
                "o",
                ms=2,
                mew=0,
                alpha=0.45,
                color=INK["model"],
            )
            low, middle, high = np.percentile(known, (25, 50, 75))
            ax.plot([x - 0.3, x + 0.3], [middle, middle], color=INK["truth"], lw=1.6)
            ax.plot([x, x], [low, high], color=INK["truth"], lw=1.0)
        counts = [f"{label}\n(n {int((~np.isnan(v)).sum())})" for label, v in groups.items()]
        ax.set_xticks(range(len(groups)), counts)
        ax.set(ylabel=axis, xlim=(-0.6, len(groups) - 0.4))
        return Figure(name, caption, fig)


def size_figure(name: str, bins: Sequence[str], sensitivity: Sequence[Estimate], *, caption: str) -> Figure:
    """Draw the share of lesions found by size."""
    with canvas(COLUMN_IN, COLUMN_IN * 0.7) as (fig, ax):
        for x, e in enumerate(sensitivity):
            if np.isfinite(e.value):
                ax.plot([x, x], [e.low, e.high], color=INK["model"], lw=1.0)
                ax.plot(x, e.value, "s", ms=4, color=INK["model"])
        ax.set_xticks(range(len(bins)), [f"{b}\n(n {e.n})" for b, e in zip(bins, sensitivity, strict=True)])
        ax.set(
            xlabel="True lesion (mL)", ylabel="Share found", ylim=(-0.03, 1.05), xlim=(-0.5, len(bins) - 0.5)
        )
        return Figure(name, caption, fig)
