"""The template's structures and the names of places in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ichnos.anatomy import mni, regions


def test_the_template_is_symmetric_and_so_are_its_structures() -> None:
    codes = mni.structures().array
    assert np.array_equal(codes, codes[::-1])
    assert np.array_equal(mni.template("wm").array, mni.template("wm").array[::-1])


def test_the_stored_structures_are_the_named_ones(tmp_path: Path) -> None:
    with np.load(mni.store_structures(tmp_path / "structures.npz"), allow_pickle=False) as named:
        assert np.array_equal(named["codes"], mni.structures().array)
        assert np.array_equal(named["affine"], mni.structures().affine)
    assert mni.structures().same_grid(mni.brain_mask())


@pytest.mark.parametrize(
    ("code", "low_ml", "high_ml"),
    [(mni.THALAMUS, 8, 20), (mni.CAUDATE, 4, 14), (mni.PUTAMEN, 6, 16), (mni.VENTRICLE, 10, 45)],
)
def test_deep_structures_have_volumes_of_people(code: int, low_ml: float, high_ml: float) -> None:
    assert low_ml < np.count_nonzero(mni.structures().array == code) / 1000 < high_ml


def test_nothing_lies_outside_the_brain() -> None:
    outside = ~mni.brain_mask().array
    assert not mni.structures().array[outside].any()


def test_coordinates_are_those_of_the_affine() -> None:
    grid = mni.brain_mask()
    xyz = mni.coordinates(grid)
    for index in ((0, 0, 0), (98, 134, 72), (196, 232, 188)):
        assert np.allclose(xyz[(slice(None), *index)], grid.world(index))


@pytest.mark.parametrize(
    ("z_mm", "station"), [(70, "cortex"), (25, "corona_radiata"), (5, "plic"), (-80, "medulla")]
)
def test_heights_have_their_station(z_mm: float, station: str) -> None:
    assert regions.station_of_height(z_mm) == station


def test_sites_are_the_same_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((5, -90, -50), (60, 60, 60), (400, 3)).astype(np.float32)
    mirrored = points * np.array([-1, 1, 1], np.float32)
    assert (regions.sites_at(points) == regions.sites_at(mirrored)).all()


def test_a_wider_reach_names_no_fewer_deep_sites() -> None:
    points = np.random.default_rng(1).uniform((5, -40, -10), (40, 25, 25), (400, 3)).astype(np.float32)
    deep = [
        np.isin(regions.sites_at(points, reach_mm=r), ("thalamus", "basal ganglia")).sum() for r in (0, 6)
    ]
    assert deep[0] <= deep[1]


@pytest.mark.parametrize("name", ["plic", "thalamus", "periventricular", "frontal"])
def test_a_region_is_the_sum_of_its_sides(name: str) -> None:
    whole, left, right = (
        regions.region(name).array,
        regions.region(name, side="left").array,
        regions.region(name, side="right").array,
    )
    assert not (left & right).any()
    assert (whole & ~(left | right)).sum() <= 0.03 * whole.sum()  # the midline belongs to neither
