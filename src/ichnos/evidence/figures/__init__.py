"""Figures at journal column width (85 mm), units on every axis, one colour for one thing throughout."""

from ichnos.evidence.figures.agreement import bland_altman_figure, scatter_figure
from ichnos.evidence.figures.canvas import INK, Figure
from ichnos.evidence.figures.curves import calibration_figure, decision_figure, roc_figure
from ichnos.evidence.figures.gallery import FailedSlice, gallery_figure
from ichnos.evidence.figures.groups import forest_figure, size_figure, strip_figure

__all__ = [
    "INK",
    "FailedSlice",
    "Figure",
    "bland_altman_figure",
    "calibration_figure",
    "decision_figure",
    "forest_figure",
    "gallery_figure",
    "roc_figure",
    "scatter_figure",
    "size_figure",
    "strip_figure",
]
