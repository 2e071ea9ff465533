"""Whether a whole head lies in the picture: brain size, vertex and base, field of view, metal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ichnos.arrays import Array, Mask
from ichnos.quality.levels import level_of
from ichnos.quality.view import HeadView
from ichnos.verdict import Level, Reason

VERTEX_MISSING_MM = (6.0, 30.0)
BASE_MISSING_MM = (6.0, 45.0)
FIELD_CUT_MM = (12.0, 100.0)  # of the head's outline that lies on the border of the image
METAL_ML = (0.3, 15.0)
# Of the skull at brain level; adults have a breadth of 125 to 165, a length of 160 to 205 mm.
SKULL_BREADTH_MM = ((110.0, 185.0), (88.0, 230.0))  # warn outside the first, refuse outside the second
SKULL_LENGTH_MM = ((135.0, 225.0), (105.0, 280.0))
SKULL_RATIO = ((0.9, 1.75), (0.7, 2.2))  # length over breadth
BRAIN_ML = (350.0, 120.0)  # enclosed by the skull: warn below, refuse below
_INTRACRANIAL_HEIGHT_MM = 112.0  # inner vertex to foramen magnum, a small adult's


def head_reasons(view: HeadView) -> Iterator[Reason]:
    """Judge whether enough of a head is there, and whether metal hides any of it."""
    yield from _brain_size(view)
    yield from _coverage(view)
    yield _field_of_view(view)
    yield from _skull_size(view)
    yield _metal(view)


def _brain_size(view: HeadView) -> Iterator[Reason]:
    brain_ml = float((view.inside_cm2 * view.slab_mm).sum() / 10.0)
    level: Level = "refuse" if brain_ml < BRAIN_ML[1] else "warn" if brain_ml < BRAIN_ML[0] else "pass"
    text = f"{brain_ml:.0f} mL of soft tissue enclosed by skull"
    yield Reason(
        "head",
        level,
        text if level == "pass" else f"{text}: not a head, or only a small part of one",
        brain_ml,
        "mL",
    )


def _coverage(view: HeadView) -> Iterator[Reason]:
    area, depth = view.inside_cm2, view.depth_mm
    if area.max() < 20:
        return
    slab, shown = view.slab_mm, np.flatnonzero(area > 2.0)
    radius_cm = np.sqrt(area.max() / np.pi)
    vertex = (
        float(10 * (radius_cm - np.sqrt(max(0.0, radius_cm**2 - area[-1] / np.pi))))
        if shown[-1] == len(area) - 1
        else 0.0
    )
    top = depth[shown[-1]] + slab[shown[-1]] / 2 + vertex
    covered = float(top - depth[0] + slab[0] / 2)
    base = max(0.0, _INTRACRANIAL_HEIGHT_MM - covered) if area[0] > 0.15 * area.max() else 0.0
    yield _missing("vertex", vertex, VERTEX_MISSING_MM)
    yield _missing("base", base, BASE_MISSING_MM)


def _missing(part: str, missing_mm: float, limits: tuple[float, float]) -> Reason:
    level = level_of(missing_mm, limits)
    text = (
        f"the {part} is covered"
        if level == "pass"
        else f"about {missing_mm:.0f} mm of the {part} are missing"
    )
    return Reason(f"{part}_missing", level, text, missing_mm, "mm")


def _field_of_view(view: HeadView) -> Reason:
    """Measure how much of the head's outline lies on the border of what was acquired, on the worst slice
    at brain level.
    """
    area = view.inside_cm2
    levels = np.flatnonzero(area > 0.3 * area.max()) if area.max() > 0 else np.arange(len(area))
    cut = max((_cut_mm(view, int(k)) for k in levels), default=0.0)
    level = level_of(cut, FIELD_CUT_MM)
    text = (
        "the head lies within the field of view"
        if level == "pass"
        else f"the field of view cuts {cut:.0f} mm of the head's outline"
    )
    return Reason("field_of_view", level, text, cut, "mm")


def _skull_size(view: HeadView) -> Iterator[Reason]:
    """Judge breadth and length of the skull, which tell of a wrong pixel size or of interleaved rows."""
    area = view.inside_cm2
    levels = np.flatnonzero(area > 0.6 * area.max()) if area.max() > 0 else np.array([], int)
    sizes = [size for k in levels if (size := _extent_mm(view.skull[..., k], view.step_mm)) is not None]
    if not sizes:
        return
    breadth, length = (float(value) for value in np.median(sizes, axis=0))
    if _field_of_view(view).level != "pass":
        return  # what is cut off has no size
    ratio = length / breadth
    off = max(_off(breadth, SKULL_BREADTH_MM), _off(length, SKULL_LENGTH_MM), _off(ratio, SKULL_RATIO))
    level: Level = ("pass", "warn", "refuse")[off]
    text = f"the skull is {breadth:.0f} mm broad and {length:.0f} mm long"
    if off:
        text += ", which is no adult's: is the pixel size right?"
    yield Reason("skull_size", level, text, breadth, "mm")


def _off(value: float, limits: tuple[tuple[float, float], tuple[float, float]]) -> int:
    """Return 0 within the first pair of limits, 1 within the second, 2 beyond."""
    return next((n for n, (low, high) in enumerate(limits) if low <= value <= high), 2)


def _extent_mm(plane: Mask, step_mm: tuple[float, float]) -> tuple[float, float] | None:
    """Return breadth and length of a skull's ring, or None where there is none."""
    across, along = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not len(across):
        return None
    return float(np.ptp(across) + 1) * step_mm[0], float(np.ptp(along) + 1) * step_mm[1]


def _cut_mm(view: HeadView, k: int) -> float:
    frame, body = view.frame[..., k], view.body[..., k]
    rows, columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
    if not len(rows):
        return 0.0
    x, y = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inner, hu = body[x, y], view.hu[x, y, k]
    along_y, along_x = max(inner[0].sum(), inner[-1].sum()), max(inner[:, 0].sum(), inner[:, -1].sum())
    straight = max(along_y * view.step_mm[1], along_x * view.step_mm[0])
    return float(max(straight, _round_cut_mm(inner, hu, view.step_mm)))


def _round_cut_mm(body: Mask, hu: Array, step_mm: tuple[float, float]) -> float:
    """Return how much body lies along the rim of a round field of view; 0 if the field is not round."""
    nx, ny = body.shape
    across = np.minimum(nx * step_mm[0], ny * step_mm[1]) / 2
    x, y = np.ogrid[:nx, :ny]
    radius = np.hypot((x - (nx - 1) / 2) * step_mm[0], (y - (ny - 1) / 2) * step_mm[1])
    outside = hu[radius > across + 1.5 * max(step_mm)]
    if not len(outside) or np.ptp(outside) > 0:
        return 0.0
    rim = (radius <= across - 0.5 * max(step_mm)) & (radius > across - 2.0 * max(step_mm))
    return float(body[rim].mean() * 2 * np.pi * across)


def _metal(view: HeadView) -> Reason:
    metal_ml = float(((view.hu > 2800) & view.body).sum(axis=(0, 1)) @ view.slab_mm * view.pixel_cm2 / 10.0)
    level = level_of(metal_ml, METAL_ML)
    text = (
        "no metal"
        if level == "pass"
        else f"{metal_ml:.1f} mL are as dense as metal; streaks may hide or mimic blood"
    )
    return Reason("metal", level, text, metal_ml, "mL")
