"""Whether the head lay still from slice to slice."""

from __future__ import annotations

import numpy as np

from ichnos.arrays import Floats, Mask
from ichnos.quality.levels import level_of
from ichnos.quality.view import HeadView, convex_hull
from ichnos.verdict import Reason

MOTION_MM = (4.0, 12.0)  # of one slice against its neighbours
_BRAIN_LEVEL = 0.45  # of the largest area enclosed by skull


def motion_reason(view: HeadView) -> Reason:
    """Measure the largest step sideways of one slice against the run of its neighbours, at brain level.

    A head that moves takes skull and scalp along. What moves one outline alone is something else: noise
    beyond 250 HU, teeth, a headrest, an open or blurred skull.
    """
    area = view.inside_cm2
    levels = np.flatnonzero(area > _BRAIN_LEVEL * area.max()) if area.max() > 20 else np.array([], int)
    if len(levels) < 5:
        return Reason("motion", "warn", "too little brain to check for motion", float("nan"), "mm")
    skull = np.stack([convex_hull(view.skull[..., k]) for k in levels], axis=2)
    steps = np.minimum(
        _steps_mm(skull, view.step_mm),
        _steps_mm(view.body[..., levels], view.step_mm),
    )
    jump = float(steps.max())
    level = level_of(jump, MOTION_MM)
    text = "slices follow each other smoothly"
    if level != "pass":
        number = int(levels[int(steps.argmax()) + 1]) + 1
        text = (
            f"a slice near plane {number} of {len(area)} lies {jump:.1f} mm beside its neighbours, as if the"
        )
        text += " head had moved"
    return Reason("motion", level, text, jump, "mm")


def _steps_mm(outline: Mask, step_mm: tuple[float, float]) -> Floats:
    """Return how far each step of the outline's centre lies from the run of the steps around it."""
    x, y = np.arange(outline.shape[0]) * step_mm[0], np.arange(outline.shape[1]) * step_mm[1]
    size = np.maximum(outline.sum(axis=(0, 1)), 1)
    centre = np.stack([outline.sum(axis=1).T @ x / size, outline.sum(axis=0).T @ y / size], axis=1)
    moves = np.diff(centre, axis=0)
    padded = np.pad(moves, ((2, 2), (0, 0)), mode="edge")
    trend = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5, axis=0), axis=2)
    return np.asarray(np.linalg.norm(moves - trend, axis=1), np.float64)
