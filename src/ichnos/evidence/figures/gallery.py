"""Slices of the cases that went worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ichnos.arrays import Floats
from ichnos.evidence.figures.canvas import INK, Figure, figure_style


@dataclass(frozen=True, eq=False)
class FailedSlice:
    """One slice of a case that went badly, as it was seen, with both outlines."""

    title: str
    image: Floats  # (x, y) 0 to 1
    truth: Floats  # (x, y) 0 or 1
    predicted: Floats  # (x, y) 0 or 1
    aspect: float  # mm along y per mm along x of one pixel


def gallery_figure(name: str, failures: Sequence[FailedSlice], *, caption: str) -> Figure:
    """Draw the worst cases in a grid, truth outlined in orange, prediction in blue."""
    from matplotlib.figure import Figure as Drawing

    columns = min(3, len(failures))
    rows = -(-len(failures) // columns)
    with figure_style():
        fig = Drawing(figsize=(2.3 * columns, 2.5 * rows))
        axes = fig.subplots(rows, columns, squeeze=False)
        for ax in axes.ravel():
            ax.axis("off")
        for ax, failure in zip(axes.ravel(), failures, strict=False):
            ax.imshow(failure.image.T, cmap="gray", origin="lower", vmin=0, vmax=1, aspect=failure.aspect)
            for mask, colour in (
                (failure.truth, INK["truth"]),
                (failure.predicted, INK["model"]),
            ):
                if mask.any() and not mask.all():
                    ax.contour(mask.T, levels=[0.5], colors=[colour], linewidths=0.9)
            ax.set_title(failure.title, fontsize=6.5)
        fig.tight_layout(pad=0.4)
        return Figure(name, caption, fig)
