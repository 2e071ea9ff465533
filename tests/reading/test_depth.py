"""Site, midline, level of the tract and Fazekas grades, on made positions and volumes whose answers are
known.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from builders.readable_head import reading
from ichnos.anatomy import regions
from ichnos.inference.coordinates import AtlasCoordinates
from ichnos.prognosis.fazekas import FazekasModel, OrdinalModel
from ichnos.reading.haematoma import side_of
from ichnos.reading.measures.blood import density_signs
from ichnos.reading.measures.fazekas import fazekas_measures
from ichnos.reading.measures.site import (
    midline_measure,
    midline_shift_mm,
    site_measure,
    station_measure,
)
from ichnos.volume import Box, Volume, sphere

STEP = 3.0
SHAPE = (60, 72, 60)


def straight() -> np.ndarray:
    """Return MNI mm of every voxel of a grid that lies straight in the atlas, (3, x, y, z)."""
    first = np.array([-STEP * 29.5, -STEP * 41, -STEP * 25], np.float32)
    return (np.indices(SHAPE) * STEP + first[:, None, None, None]).astype(np.float32)


def place_of(mni_mm: np.ndarray) -> AtlasCoordinates:
    """Wrap positions as those of a scan on the network's own grid."""
    grid = SimpleNamespace(box=Box((0, 0, 0), SHAPE), shape=SHAPE)
    everywhere = np.ones(SHAPE, np.float32)
    return AtlasCoordinates(mni_mm, everywhere, grid, Volume(everywhere, np.eye(4)))  # type: ignore[arg-type]


def clot_at(mm: tuple[float, float, float], radius_mm: float = 9.0) -> Volume:
    away = np.linalg.norm(straight() - np.array(mm)[:, None, None, None], axis=0)
    return Volume(away < radius_mm, np.diag([STEP, STEP, STEP, 1.0]))


@pytest.mark.parametrize(
    ("mm", "site"),
    [
        ((-27.0, 2.0, 2.0), "basal ganglia"),
        ((12.0, -19.0, 8.0), "thalamus"),
        ((0.0, -28.0, -30.0), "brainstem"),
        ((25.0, -65.0, -35.0), "cerebellum"),
        ((-35.0, 40.0, 25.0), "frontal lobe"),
        ((52.0, -30.0, -12.0), "temporal lobe"),
    ],
)
def test_a_clot_gets_the_name_of_its_place(mm: tuple[float, float, float], site: str) -> None:
    found = site_measure(place_of(straight()), clot_at(mm))
    assert found.value == site
    assert "%" in found.reason


def shares_of(clot: Volume) -> dict[str, float]:
    names = regions.sites_at(straight()[:, np.asarray(clot.array)].T)
    return {str(name): float(np.mean(names == name)) for name in np.unique(names)}


def test_a_large_clot_that_holds_a_deep_nucleus_is_named_after_it_not_after_the_lobe() -> None:
    clot = clot_at((-34.0, 10.0, 12.0), radius_mm=24.0)
    shares = shares_of(clot)
    found = site_measure(place_of(straight()), clot)
    assert shares["frontal lobe"] > shares["basal ganglia"] > 0.3
    assert found.value == "basal ganglia"
    assert "go before lobes" in found.reason


def test_a_clot_of_a_lobe_that_only_reaches_a_nucleus_is_named_after_the_lobe() -> None:
    clot = clot_at((-36.0, 34.0, 16.0), radius_mm=24.0)
    assert 0.02 < shares_of(clot)["basal ganglia"] < 0.15
    assert site_measure(place_of(straight()), clot).value == "frontal lobe"


def test_without_positions_site_and_level_are_withheld_and_say_why() -> None:
    for measure in (
        site_measure(None, clot_at((0, 0, 0))),
        station_measure(None, "left", clot_at((0, 0, 0))),
    ):
        assert measure.value is None
        assert "atlas" in measure.reason
    assert station_measure(None, "left", None).reason == "no blood meets this tract"


def head_and_clot(degrees: float, at_mm: tuple[float, float, float]) -> tuple[Volume, Volume]:
    """Return a brain that lies turned about its long axis, counter-clockwise from above, and a clot in it."""
    scan = sphere(radius_mm=96, spacing_mm=(2.0, 2.0, 5.0))
    turn = np.deg2rad(degrees)
    x, y, z = np.moveaxis(scan.world(np.moveaxis(np.indices(scan.shape), 0, -1)), -1, 0)
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    brain = (x / 68) ** 2 + (y / 86) ** 2 + (z / 62) ** 2 < 1
    away = (x - at_mm[0]) ** 2 + (y - at_mm[1]) ** 2 + (z - at_mm[2]) ** 2
    return scan.with_array(brain), scan.with_array(away < 9**2)


@pytest.mark.parametrize("degrees", [0, 10, 20, 30, -20, -30])
def test_left_is_left_however_the_head_lies_turned(degrees: float) -> None:
    for at_mm in ((13.0, -55.0, 5.0), (12.0, 50.0, 10.0), (18.0, -50.0, -20.0)):
        for sign, side in ((-1, "left"), (1, "right")):
            brain, clot = head_and_clot(degrees, (sign * at_mm[0], *at_mm[1:]))
            assert side_of(clot, brain) == side, at_mm
    brain, clot = head_and_clot(degrees, (0.0, -55.0, 5.0))
    assert side_of(clot, brain) == "midline"


def test_a_part_of_a_head_shows_no_turn() -> None:
    for x_mm, side in ((-16.0, "left"), (16.0, "right")):
        brain, clot = head_and_clot(5, (x_mm, -55.0, 5.0))
        y = brain.world(np.moveaxis(np.indices(brain.shape), 0, -1))[..., 1]
        assert side_of(clot, brain.map_array(lambda a, y=y: a & (y < 30))) == side


@pytest.mark.parametrize(
    ("z_mm", "level"),
    [(30.0, "corona radiata"), (8.0, "posterior limb of the internal capsule"), (-12.0, "cerebral peduncle")],
)
def test_the_level_of_the_tract_follows_from_its_height(z_mm: float, level: str) -> None:
    assert station_measure(place_of(straight()), "left", clot_at((-22.0, -16.0, z_mm), 4.0)).value == level


def pushed(shift_mm: float) -> tuple[Any, Any]:
    """Return the positions of a turned head whose septum is pushed, and its brain."""
    mni: Any = straight()
    y, z = mni[1], mni[2]
    push = shift_mm * np.exp(-((y / 25) ** 2) - ((z - 10) / 40) ** 2)
    brain = (mni[0] / 68) ** 2 + ((y + 18) / 86) ** 2 + ((z - 10) / 60) ** 2 < 1
    turned = mni[0] * np.cos(0.1) - y * np.sin(0.1)
    return np.stack([turned - push * np.exp(-((turned / 30) ** 2)), y, z]).astype(np.float32), brain


@pytest.mark.parametrize("shift_mm", [0.0, 4.0, -7.0])
def test_a_pushed_septum_is_measured_and_a_turned_head_is_not(shift_mm: float) -> None:
    moved, brain = pushed(shift_mm)
    found = midline_shift_mm(moved, brain, (STEP,) * 3)
    assert found is not None
    assert found == pytest.approx(0.75 * shift_mm, abs=1.2)


@pytest.mark.parametrize(("shift_mm", "told"), [(-9.0, True), (2.0, False)])
def test_a_shift_that_may_be_error_alone_is_withheld(shift_mm: float, told: bool) -> None:
    moved, brain = pushed(shift_mm)
    scan = Volume(brain.astype(np.float32), np.diag([STEP, STEP, STEP, 1.0]))
    measure = midline_measure(replace(place_of(moved), brain=scan.array, scan_ras=scan))
    assert (measure.value is not None) == told
    assert "by eye" in measure.reason


def test_a_shift_is_measured_at_right_angles_to_the_midline() -> None:
    moved, brain = pushed(8.0)
    turn = np.deg2rad(30)
    grid = Volume(np.moveaxis(moved, 0, -1), np.diag([STEP, STEP, STEP, 1.0]))
    middle = np.eye(4)
    middle[:3, 3] = grid.centre_mm
    about = np.eye(4)
    about[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    about = middle @ about @ np.linalg.inv(middle)
    turned = Volume(grid.array, about @ grid.affine).on_grid(grid)
    outline = Volume(brain.astype(np.float32), about @ grid.affine).on_grid(grid).array > 0.99
    straight_mm = midline_shift_mm(moved, brain, (STEP,) * 3)
    turned_mm = midline_shift_mm(np.moveaxis(turned.array, -1, 0), outline, (STEP,) * 3)
    assert straight_mm is not None
    assert turned_mm == pytest.approx(straight_mm, rel=0.05)


def test_too_little_brain_gives_no_midline() -> None:
    assert midline_shift_mm(straight(), np.zeros(SHAPE, bool), (STEP,) * 3) is None


def test_swirl_is_a_part_as_dark_as_brain() -> None:
    mask = sphere(radius_mm=15, spacing_mm=1.0)
    even = np.full(mask.shape, 60.0, np.float32)
    dark = even.copy()
    dark[10:20, 10:20, 10:20] = 30
    assert density_signs(mask.with_array(even), mask).swirl is False
    assert density_signs(mask.with_array(dark), mask).swirl is True


def test_fazekas_grades_need_a_law_and_then_come_with_their_probabilities() -> None:
    law = FazekasModel(
        cohort="made patients",
        periventricular=OrdinalModel(slope=3, cuts=(1, 4, 7)),
        deep=OrdinalModel(slope=3, cuts=(2, 5, 8)),
    )
    periventricular, deep = fazekas_measures(law, {"periventricular": 20.0, "deep": 0.0})
    assert (periventricular.value, deep.value) == ("3", "0")
    assert "made patients" in periventricular.reason
    assert {m.value for m in fazekas_measures(None, {"periventricular": 1.0, "deep": 1.0})} == {None}
    with pytest.raises(ValueError, match="must rise"):
        OrdinalModel(slope=1, cuts=(3, 2, 1))


def test_a_whole_reading_says_what_it_cannot_say() -> None:
    blood, tract = (reading().record.finding(name) for name in ("haematoma", "tract"))
    assert blood.measure("site").value is None
    assert blood.measure("midline_shift").value is None
    assert blood.measure("irregular").value is False
    assert tract.measure("weakness").value == "right"
    assert "atlas" in tract.measure("level_left").reason
