"""Our population atlas beside the published ones, level by level."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ichnos.anatomy import tract
from ichnos.anatomy.published import LEVELS_MM, SHARES, compared, published_sections, section_of


@pytest.fixture(scope="module")
def rows() -> list:
    return compared({side: tract.population(side) for side in tract.SIDES})


def test_area_centre_spread_and_direction_agree_at_every_level_judged(rows: list) -> None:
    judged = [row for row in rows if row.z_mm in LEVELS_MM]
    assert len(judged) == len(LEVELS_MM) * len(SHARES) * len(tract.SIDES)
    assert {(row.side, row.share, row.z_mm): row.misses for row in judged if row.misses} == {}


def test_a_section_moved_thickened_or_turned_is_a_miss(rows: list) -> None:
    row = next(row for row in rows if (row.side, row.share, row.z_mm) == ("left", 0.5, 20))
    for change, name in (
        ({"y_mm": row.ours.y_mm - 5}, "y"),
        ({"x_mm": row.ours.x_mm + 4}, "x"),
        ({"area_mm2": row.ours.area_mm2 / 3}, "area"),
        ({"sd_long_mm": row.ours.sd_long_mm * 0.6}, "length"),
        ({"angle_deg": (row.ours.angle_deg + 60) % 180}, "direction"),
    ):
        assert replace(row, ours=replace(row.ours, **change)).misses == (name,)


def test_the_published_atlases_disagree_somewhere_and_agree_in_the_capsule(rows: list) -> None:
    assert any(row.disagreement for row in rows)
    capsule = [row for row in rows if row.z_mm in (5, 10) and row.side == "left"]
    assert not any("area" in row.disagreement for row in capsule)


def test_an_empty_level_has_no_section() -> None:
    assert section_of(tract.population("left"), z_mm=-70, share=0.3) is None
    assert ("left", 0.3, 70) in published_sections()
