"""The stack of slices: how far apart, how many, and whether any is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from ichnos.arrays import Floats
from ichnos.quality.levels import level_of
from ichnos.scan import FEWEST_SLICES, Scan, missing_slices
from ichnos.verdict import Reason

SLICE_STEP_MM = (7.6, 10.5)
UNSEEN_MM = (0.5, 12.0)  # unseen between two slices


def slice_reasons(scan: Scan) -> Iterator[Reason]:
    """Judge how many slices there are and how far apart they lie."""
    steps = steps_mm(scan)
    largest = float(max(steps, default=scan.volume.spacing_mm[slice_axis(scan)]))
    yield Reason(
        "slice_step",
        level_of(largest, SLICE_STEP_MM),
        f"slices are up to {largest:.1f} mm apart",
        largest,
        "mm",
    )
    unseen, text = _largest_gap(steps, scan.acquisition.slice_thickness_mm)
    yield Reason("gaps", level_of(unseen, UNSEEN_MM), text, unseen, "mm")
    yield from _files_left_out(scan)
    count = (
        len(scan.source.slices) if scan.source and scan.source.slices else scan.volume.shape[slice_axis(scan)]
    )
    few = count < FEWEST_SLICES
    yield Reason(
        "slices",
        "refuse" if few else "pass",
        f"{count} slices{f', fewer than {FEWEST_SLICES}' if few else ''}",
        float(count),
    )


def _files_left_out(scan: Scan) -> Iterator[Reason]:
    """Warn of files beside the series that could not be read, which may have been slices of it."""
    if scan.source is None or not scan.source.left_out:
        return
    why = ", ".join(f"{n} {reason}" for reason, n in sorted(Counter(scan.source.left_out).items()))
    text = f"files beside the series were left out ({why}); they may have been slices of it"
    yield Reason("files", "warn", text, float(len(scan.source.left_out)))


def steps_mm(scan: Scan) -> Floats:
    """Return the distances between neighbouring source slices; those of the grid where there are no source
    slices.
    """
    if scan.source is None or len(scan.source.slices) < 2:
        axis = slice_axis(scan)
        return np.full(scan.volume.shape[axis] - 1, scan.volume.spacing_mm[axis])
    normal = scan.source.slices[0].affine[:3, 2]
    return np.asarray(np.diff([s.affine[:3, 3] @ normal for s in scan.source.slices]), np.float64)


def slice_axis(scan: Scan) -> int:
    """Return the array axis that runs nearest to head and feet."""
    directions = scan.volume.affine[:3, :3] / np.array(scan.volume.spacing_mm)
    return int(np.abs(directions[2]).argmax())


def _largest_gap(steps: Floats, thickness_mm: float | None) -> tuple[float, str]:
    """Return the mm that no slice shows between two slices, and a sentence: a step that stands out, or
    slices thinner than their step.
    """
    missing = missing_slices(steps)
    if missing.count:
        after = ", ".join(str(k + 1) for k in missing.after[:5])
        return missing.largest_mm, (
            f"{missing.count} slice(s) missing: up to {missing.largest_mm:.1f} mm of the head are not shown"
            f" after slice {after} (counted from the feet)"
        )
    if thickness_mm and len(steps) and steps.min() > 1.05 * thickness_mm:
        unseen = float(steps.min() - thickness_mm)
        return (
            unseen,
            (
                f"slices are {thickness_mm:.1f} mm thick and {steps.min():.1f} mm apart: {unseen:.1f} mm"
                " between them are not seen"
            ),
        )
    return 0.0, "no slice is missing"
