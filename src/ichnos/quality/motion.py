"""Whether the head lay still from slice to slice."""

from __future__ import annotations

import numpy as np

from ichnos.quality.levels import level_of
from ichnos.quality.view import HeadView, convex_hull
from ichnos.verdict import Reason

MOTION_MM = (4.0, 12.0)  # of one slice against its neighbours


def motion_reason(view: HeadView) -> Reason:
    """Measure the largest step sideways of one slice's skull against the run of its neighbours, at brain
    level.
    """
    area = view.inside_cm2
    levels = np.flatnonzero(area > 0.45 * area.max()) if area.max() > 20 else np.array([], int)
    if len(levels) < 5:
        return Reason("motion", "warn", "too little brain to check for motion", float("nan"), "mm")
    outline = np.stack([convex_hull(view.skull[..., k]) for k in levels], axis=2)
    x, y = np.arange(outline.shape[0]) * view.step_mm[0], np.arange(outline.shape[1]) * view.step_mm[1]
    size = np.maximum(outline.sum(axis=(0, 1)), 1)
    place = np.stack([outline.sum(axis=1).T @ x / size, outline.sum(axis=0).T @ y / size], axis=1)
    moves = np.diff(place, axis=0)
    padded = np.pad(moves, ((2, 2), (0, 0)), mode="edge")
    trend = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5, axis=0), axis=2)
    jump = float(np.linalg.norm(moves - trend, axis=1).max())
    level = level_of(jump, MOTION_MM)
    text = (
        "slices follow each other smoothly"
        if level == "pass"
        else f"a slice lies {jump:.1f} mm beside its neighbours, as if the head had moved"
    )
    return Reason("motion", level, text, jump, "mm")
