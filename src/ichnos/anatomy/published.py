"""Published figures of the corticospinal tract, level by level, and how ours compares with them.

The figures beside this file (`tract_published.csv`) describe axial sections of the two population atlases
that come with XTRACT, of the Human Connectome Project (HCP, 3 T) and of UK Biobank: Warrington et al.,
NeuroImage 2020;217:116923. A section holds the voxels of 1 mm whose share of people is at least the share
named.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ichnos.anatomy.tract import SIDES, Side
from ichnos.volume import Volume

SHARES = (0.3, 0.5)
LEVELS_MM = tuple(range(60, -46, -5))  # where both atlases show the tract whole
AREA_MARGIN, SPREAD_MARGIN = 0.25, 0.25  # of the nearer atlas, beyond the span of the two
CENTRE_MARGIN_MM, TURN_MARGIN_DEG = 1.5, 15.0
LONG_ENOUGH = 1.3  # the direction of a section is judged from this ratio of its spreads on
_FILE = Path(__file__).with_name("tract_published.csv")


@dataclass(frozen=True)
class TractSection:
    """One axial section of one side's tract."""

    area_mm2: float
    x_mm: float  # centre, MNI
    y_mm: float
    sd_long_mm: float  # standard deviation of the voxels along the section's long axis
    sd_short_mm: float
    angle_deg: float  # of the long axis, from +x (right) towards +y (front), 0..180

    @property
    def is_long(self) -> bool:
        """Say whether the section is stretched enough to have a direction."""
        return self.sd_long_mm >= LONG_ENOUGH * self.sd_short_mm


@dataclass(frozen=True)
class SectionComparison:
    """Our section beside the published ones at one height."""

    side: Side
    share: float
    z_mm: int
    published: Mapping[str, TractSection]  # atlas -> its section
    ours: TractSection

    @property
    def misses(self) -> tuple[str, ...]:
        """Return what lies outside the span of the two and its margin."""
        return tuple(name for name, inside in self._checks() if not inside)

    @property
    def disagreement(self) -> tuple[str, ...]:
        """Return in what the published atlases differ by more than the margin that ours is granted."""
        first, *rest = self.published.values()
        if not rest:
            return ()
        other = SectionComparison(self.side, self.share, self.z_mm, {"first": first}, rest[0])
        return other.misses

    def _checks(self) -> Iterator[tuple[str, bool]]:
        ours, others = self.ours, list(self.published.values())
        yield "area", _within(ours.area_mm2, [o.area_mm2 for o in others], share=AREA_MARGIN)
        yield "x", _within(ours.x_mm, [o.x_mm for o in others], margin=CENTRE_MARGIN_MM)
        yield "y", _within(ours.y_mm, [o.y_mm for o in others], margin=CENTRE_MARGIN_MM)
        yield "length", _within(ours.sd_long_mm, [o.sd_long_mm for o in others], share=SPREAD_MARGIN)
        yield "width", _within(ours.sd_short_mm, [o.sd_short_mm for o in others], share=SPREAD_MARGIN)
        if ours.is_long and all(o.is_long for o in others):
            yield "direction", min(_turn(ours.angle_deg, o.angle_deg) for o in others) <= TURN_MARGIN_DEG


def section_of(share_map: Volume, *, z_mm: float, share: float) -> TractSection | None:
    """Measure the section of a population map (on a grid whose axes are those of space) at one height.

    Returns None where fewer than three voxels reach the share.

    >>> disc = np.hypot(*np.mgrid[-10:11, -10:11]) <= 6
    >>> grid = np.eye(4)
    >>> grid[:3, 3] = (-10, -10, 0)
    >>> section = section_of(Volume(disc[:, :, None].astype(float), grid), z_mm=0, share=0.5)
    >>> section.area_mm2, round(section.sd_long_mm, 1)
    (113.0, 3.0)
    """
    level = round(float(share_map.index((0.0, 0.0, z_mm))[2]))
    index = np.argwhere(share_map.array[:, :, level] >= share - 1e-6)
    if len(index) < 3:
        return None
    points = share_map.world(np.column_stack([index, np.full(len(index), level)]))[:, :2]
    values, vectors = np.linalg.eigh(np.cov(points.T))
    area = len(index) * share_map.spacing_mm[0] * share_map.spacing_mm[1]
    angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1])) % 180
    short, long = (math.sqrt(max(value, 0.0)) for value in values)
    x_mm, y_mm = (float(c) for c in points.mean(axis=0))
    return TractSection(float(area), x_mm, y_mm, long, short, angle)


@lru_cache(maxsize=1)
def published_sections() -> Mapping[tuple[Side, float, int], Mapping[str, TractSection]]:
    """Return the published sections: (side, share, height in mm) -> atlas -> section.

    >>> published_sections()["left", 0.5, 20]["HCP"].area_mm2
    213.0
    """
    found: dict[tuple[Side, float, int], dict[str, TractSection]] = {}
    names = ("area_mm2", "x_mm", "y_mm", "sd_long_mm", "sd_short_mm", "angle_deg")
    with _FILE.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            section = TractSection(*(float(row[name]) for name in names))
            side: Side = "left" if row["side"] == "left" else "right"
            if math.isfinite(section.x_mm):
                found.setdefault((side, float(row["share"]), int(row["z_mm"])), {})[row["source"]] = section
    return found


def compared(population: Mapping[Side, Volume]) -> list[SectionComparison]:
    """Compare population maps of both sides with the published sections, from the cortex down."""
    rows = []
    for (side, share, z_mm), sections in published_sections().items():
        ours = section_of(population[side], z_mm=z_mm, share=share)
        if ours is not None and side in SIDES:
            rows.append(SectionComparison(side, share, z_mm, sections, ours))
    return sorted(rows, key=lambda row: (row.side, row.share, -row.z_mm))


def _within(value: float, others: list[float], *, margin: float = 0.0, share: float = 0.0) -> bool:
    return min(others) * (1 - share) - margin <= value <= max(others) * (1 + share) + margin


def _turn(first_deg: float, second_deg: float) -> float:
    """Return the angle between two axes, 0..90 degrees."""
    return abs((first_deg - second_deg + 90) % 180 - 90)
