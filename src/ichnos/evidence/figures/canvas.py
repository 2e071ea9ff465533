"""What all figures share: size, colours, style, and how a figure becomes a file."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

COLUMN_IN = 3.35  # 85 mm
# Okabe and Ito's colours, which the colour-blind can tell apart; the model is always blue.
INK: Mapping[str, str] = {
    "model": "#0072B2",
    "volume": "#999999",
    "bat": "#E69F00",
    "brain": "#009E73",
    "hep": "#CC79A7",
    "truth": "#D55E00",
    "reference": "#444444",
}
_STYLE = {
    "text.parse_math": False,  # a centre may be called "$\\frac{$"
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
        with figure_style():
            self.drawing.savefig(out, bbox_inches="tight", pad_inches=0.03, **options)
        return out.getvalue()


@contextmanager
def canvas(width_in: float, height_in: float, *, rows: tuple[int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Give an empty figure in this module's style, with its axes."""
    from matplotlib.figure import Figure as Drawing

    with figure_style():
        drawing = Drawing(figsize=(width_in, height_in), layout="constrained")
        axes = drawing.subplots(len(rows), 1, height_ratios=rows) if rows else drawing.subplots()
        yield drawing, axes


def figure_style() -> Any:
    """Return matplotlib's settings of these figures as a context."""
    import matplotlib as mpl

    settings: Any = _STYLE
    return mpl.rc_context(settings)
