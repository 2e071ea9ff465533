"""Figures at journal column width (85 mm), units on every axis, one colour for one thing throughout."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ichnos.evidence.metrics.agreement import BlandAltman, StructuralLine
from ichnos.evidence.metrics.calibration import Calibration, DecisionCurve
from ichnos.evidence.metrics.discrimination import RocCurve
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.tables import shown
from ichnos.volume import Floats

COLUMN_IN = 3.35  # 85 mm
_WIDEST = 1e4  # a ratio whose interval reaches further is not drawn; the table has it
# Okabe and Ito's colours, which the colour-blind can tell apart; the model is always blue.
COLOURS: Mapping[str, str] = {
    "model": "#0072B2",
    "volume": "#999999",
    "bat": "#E69F00",
    "brain": "#009E73",
    "hep": "#CC79A7",
    "truth": "#D55E00",
    "reference": "#444444",
}
_STYLE = {
    "font.size": 7.5,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 6.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "svg.hashsalt": "ichnos",
}


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure that is drawn when it is asked for, as pixels for the page or as vectors for the journal."""

    name: str  # file stem
    caption: str
    drawing: Any  # matplotlib Figure

    @cached_property
    def png(self) -> bytes:
        """Return the figure at 300 dots per inch."""
        return self._saved(format="png", metadata={"Software": None})

    def pdf(self) -> bytes:
        """Return the figure as vectors, fonts embedded."""
        return self._saved(format="pdf", metadata={"CreationDate": None})

    def _saved(self, **options: Any) -> bytes:
        out = io.BytesIO()
        with _style():
            self.drawing.savefig(out, bbox_inches="tight", pad_inches=0.03, **options)
        return out.getvalue()


def roc_figure(name: str, curves: Mapping[str, tuple[RocCurve, str]], *, caption: str) -> Figure:
    """Draw ROC curves; each comes with its legend text."""
    with _canvas(COLUMN_IN, COLUMN_IN) as (fig, ax):
        ax.plot([0, 1], [0, 1], color=COLOURS["reference"], lw=0.6, ls=":")
        for key, (curve, text) in curves.items():
            style = {"lw": 1.6, "zorder": 3} if key == "model" else {"lw": 1.0}
            ax.plot(
                curve.false_positive_rate, curve.true_positive_rate, color=COLOURS[key], label=text, **style
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
    with _canvas(COLUMN_IN, COLUMN_IN * 1.15, rows=(4, 1)) as (fig, (ax, below)):
        highest = max(float(probability.max()), *(b.observed.high for b in result.bins))
        top = min(1.0, float(np.ceil(highest * 10) / 10))
        ax.plot([0, top], [0, top], color=COLOURS["reference"], lw=0.6, ls=":", label="ideal")
        ax.plot(
            result.curve_predicted, result.curve_observed, color=COLOURS["model"], label="smoothed (lowess)"
        )
        x, y = [b.predicted for b in result.bins], [b.observed.value for b in result.bins]
        reach = np.array(
            [(b.observed.value - b.observed.low, b.observed.high - b.observed.value) for b in result.bins]
        ).T
        ax.errorbar(
            x,
            y,
            yerr=reach,
            fmt="o",
            ms=3,
            lw=0.7,
            color=COLOURS["model"],
            mfc="white",
            label="tenths, 95 % interval",
        )
        ax.set(ylabel="Observed share with the event", xlim=(0, top), ylim=(0, top))
        ax.tick_params(labelbottom=False)
        ax.legend(loc="lower right")
        below.hist(probability, bins=np.linspace(0, top, 41), color=COLOURS["model"], alpha=0.6)
        below.set(xlabel="Predicted probability", ylabel="Cases", xlim=(0, top))
        return Figure(name, caption, fig)


def decision_figure(
    name: str, curves: Mapping[str, tuple[DecisionCurve, str]], *, prevalence: float, caption: str
) -> Figure:
    """Draw net benefit over threshold probabilities."""
    with _canvas(COLUMN_IN, COLUMN_IN * 0.8) as (fig, ax):
        first = next(iter(curves.values()))[0]
        ax.axhline(0, color=COLOURS["reference"], lw=0.8, label="treat none")
        ax.plot(
            first.threshold, first.treat_all, color=COLOURS["reference"], lw=0.8, ls="--", label="treat all"
        )
        for key, (curve, text) in curves.items():
            ax.plot(
                curve.threshold,
                curve.model,
                color=COLOURS[key],
                label=text,
                lw=1.6 if key == "model" else 1.0,
            )
        right = min(0.99, max(0.5, 2.5 * prevalence))
        ax.set(xlabel="Threshold probability", ylabel="Net benefit (true positives per case)")
        ax.set(xlim=(0, right), ylim=(-0.25 * prevalence, 1.1 * prevalence))
        ax.legend(loc="upper right")
        return Figure(name, caption, fig)


def bland_altman_figure(
    name: str, a: Floats, b: Floats, result: BlandAltman, *, unit: str, caption: str
) -> Figure:
    """Draw differences over means with bias and limits of agreement."""
    with _canvas(COLUMN_IN, COLUMN_IN * 0.8) as (fig, ax):
        mean, difference = (a + b) / 2, a - b
        shown_difference = 100 * difference / mean if result.percent else difference
        ax.plot(mean, shown_difference, "o", ms=2.5, mew=0, alpha=0.55, color=COLOURS["model"])
        for estimate, text in (
            (result.bias, "bias"),
            (result.lower, "lower limit"),
            (result.upper, "upper limit"),
        ):
            ax.axhspan(estimate.low, estimate.high, color=COLOURS["reference"], alpha=0.10, lw=0)
            ax.axhline(estimate.value, color=COLOURS["reference"], lw=0.9, ls="-" if text == "bias" else "--")
            ax.annotate(
                f"{estimate.value:.1f}",
                (1.0, estimate.value),
                xycoords=("axes fraction", "data"),
                fontsize=6.5,
                va="center",
            )
        ax.set(
            xlabel=f"Mean of predicted and true ({unit})",
            ylabel=f"Predicted − true ({'% of mean' if result.percent else unit})",
        )
        return Figure(name, caption, fig)


def scatter_figure(
    name: str, truth: Floats, predicted: Floats, line: StructuralLine | None, *, unit: str, caption: str
) -> Figure:
    """Draw predicted against true values with identity and the Passing-Bablok line."""
    with _canvas(COLUMN_IN, COLUMN_IN) as (fig, ax):
        top = float(max(truth.max(), predicted.max(), 1e-6)) * 1.05
        ax.plot([0, top], [0, top], color=COLOURS["reference"], lw=0.6, ls=":", label="identity")
        ax.plot(truth, predicted, "o", ms=2.5, mew=0, alpha=0.55, color=COLOURS["model"])
        if line is not None:
            x = np.array([0, top])
            ax.plot(
                x,
                line.intercept.value + line.slope.value * x,
                color=COLOURS["truth"],
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
    """Draw estimates with intervals, undefined ones left out; a diamond for the pooled one, a bar for the
    prediction interval.
    """
    highest = _WIDEST if ratio else np.inf
    kept = [
        (label, e) for label, e in rows if np.isfinite([e.value, e.low, e.high]).all() and e.high < highest
    ]
    everything = [*kept, *([pooled] if pooled else [])]
    with _canvas(COLUMN_IN * 1.5, 0.55 + 0.24 * len(everything)) as (fig, ax):
        if reference is not None:
            ax.axvline(reference, color=COLOURS["reference"], lw=0.6, ls=":")
        for y, (_, e) in enumerate(kept):
            ax.plot([e.low, e.high], [y, y], color=COLOURS["model"], lw=1.0)
            ax.plot(e.value, y, "s", ms=3.5, color=COLOURS["model"])
        if pooled:
            y, e = len(kept), pooled[1]
            ax.fill(
                [e.low, e.value, e.high, e.value], [y, y - 0.25, y, y + 0.25], color=COLOURS["truth"], lw=0
            )
            if prediction and np.isfinite(prediction).all():
                ax.plot(prediction, [y, y], color=COLOURS["truth"], lw=0.8)
        ax.set_yticks(range(len(everything)), [label for label, _ in everything])
        for y, (_, e) in enumerate(everything):
            ax.annotate(shown(e), (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=7)
        if ratio and everything:
            _log_axis(ax, [v for _, e in everything for v in (e.low, e.high)])
        ax.set(xlabel=axis, ylim=(len(everything) - 0.5, -0.5))
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        return Figure(name, caption, fig)


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
    with _canvas(COLUMN_IN, COLUMN_IN * 0.8) as (fig, ax):
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
                color=COLOURS["model"],
            )
            low, middle, high = np.percentile(known, (25, 50, 75))
            ax.plot([x - 0.3, x + 0.3], [middle, middle], color=COLOURS["truth"], lw=1.6)
            ax.plot([x, x], [low, high], color=COLOURS["truth"], lw=1.0)
        counts = [f"{label}\n(n {int((~np.isnan(v)).sum())})" for label, v in groups.items()]
        ax.set_xticks(range(len(groups)), counts)
        ax.set(ylabel=axis, xlim=(-0.6, len(groups) - 0.4))
        return Figure(name, caption, fig)


def size_figure(name: str, bins: Sequence[str], sensitivity: Sequence[Estimate], *, caption: str) -> Figure:
    """Draw the share of lesions found by size."""
    with _canvas(COLUMN_IN, COLUMN_IN * 0.7) as (fig, ax):
        for x, e in enumerate(sensitivity):
            if np.isfinite(e.value):
                ax.plot([x, x], [e.low, e.high], color=COLOURS["model"], lw=1.0)
                ax.plot(x, e.value, "s", ms=4, color=COLOURS["model"])
        ax.set_xticks(range(len(bins)), [f"{b}\n(n {e.n})" for b, e in zip(bins, sensitivity, strict=True)])
        ax.set(
            xlabel="True lesion (mL)", ylabel="Share found", ylim=(-0.03, 1.05), xlim=(-0.5, len(bins) - 0.5)
        )
        return Figure(name, caption, fig)


@dataclass(frozen=True, eq=False)
class Failure:
    """One slice of a case that went badly, as it was seen, with both outlines."""

    title: str
    image: Floats  # (x, y) 0 to 1
    truth: Floats  # (x, y) 0 or 1
    predicted: Floats  # (x, y) 0 or 1
    aspect: float  # mm along y per mm along x of one pixel


def gallery_figure(name: str, failures: Sequence[Failure], *, caption: str) -> Figure:
    """Draw the worst cases in a grid, truth outlined in orange, prediction in blue."""
    from matplotlib.figure import Figure as Drawing

    columns = min(3, len(failures))
    rows = -(-len(failures) // columns)
    with _style():
        fig = Drawing(figsize=(2.3 * columns, 2.5 * rows))
        axes = fig.subplots(rows, columns, squeeze=False)
        for ax in axes.ravel():
            ax.axis("off")
        for ax, failure in zip(axes.ravel(), failures, strict=False):
            ax.imshow(failure.image.T, cmap="gray", origin="lower", vmin=0, vmax=1, aspect=failure.aspect)
            for mask, colour in ((failure.truth, COLOURS["truth"]), (failure.predicted, COLOURS["model"])):
                if mask.any() and not mask.all():
                    ax.contour(mask.T, levels=[0.5], colors=[colour], linewidths=0.9)
            ax.set_title(failure.title, fontsize=6.5)
        fig.tight_layout(pad=0.4)
        return Figure(name, caption, fig)


@contextmanager
def _canvas(width_in: float, height_in: float, *, rows: tuple[int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Give an empty figure in this module's style, with its axes."""
    from matplotlib.figure import Figure as Drawing

    with _style():
        drawing = Drawing(figsize=(width_in, height_in), layout="constrained")
        axes = drawing.subplots(len(rows), 1, height_ratios=rows) if rows else drawing.subplots()
        yield drawing, axes


def _style() -> Any:
    import matplotlib as mpl

    settings: Any = _STYLE
    return mpl.rc_context(settings)
