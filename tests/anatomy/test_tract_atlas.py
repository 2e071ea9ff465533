"""The corticospinal atlas: where it runs, which side is which, what it never crosses."""

from __future__ import annotations

import numpy as np
import pytest

from ichnos.anatomy import bundles, mni, regions, tract
from ichnos.errors import UsageError


@pytest.mark.parametrize("side", tract.SIDES)
def test_the_tract_passes_its_stations_in_order_and_on_its_own_side(side: tract.Side) -> None:
    atlas = tract.atlas(side)
    inside = atlas.radius.array <= 1
    sign = -1 if side == "left" else 1
    x = mni.coordinates(atlas.radius)[0]
    assert (sign * x[inside] > 0).all()
    for station in regions.STATIONS:
        crossed = inside & regions.region(station, side=side).array
        assert crossed.sum() > 60, station
    plic = inside & regions.region("plic", side=side).array
    at_capsule = inside & (np.abs(mni.coordinates(atlas.radius)[2] - 8) < 4)
    assert plic.sum() > 0.8 * at_capsule.sum()


def test_left_mirrors_right_and_lies_in_white_matter_and_brainstem() -> None:
    left, right = (tract.atlas(side).radius.array for side in tract.SIDES)
    volumes = [(a <= 1).sum() for a in (left, right)]
    assert abs(volumes[0] - volumes[1]) < 0.1 * volumes[0]
    codes = mni.structures().array[(left <= 1) | (right <= 1)]
    assert np.isin(codes, (mni.WHITE, mni.BRAINSTEM, mni.CORTEX)).mean() > 0.99
    assert np.isin(codes, (mni.WHITE, mni.BRAINSTEM)).mean() > 0.75


def test_published_landmarks_are_met_within_a_few_millimetres() -> None:
    for place in ((36, -22, 55), (22.5, -17, 6), (14, -17, -13), (7, -20, -31), (4, -34, -54)):
        index = tuple(np.round(tract.atlas("right").radius.index(place)).astype(int))
        assert tract.atlas("right").radius.array[index] < 1.5, place


def test_probability_is_high_in_the_middle_and_zero_far_away() -> None:
    atlas = tract.atlas("left")
    probability = atlas.probability.array
    assert probability.max() > 0.9
    assert probability.min() == 0
    assert probability[atlas.radius.array > 8].max() == 0
    assert probability[atlas.radius.array < 0.3].mean() > 0.7


def test_orientation_is_a_unit_field_that_points_down_in_the_capsule() -> None:
    atlas = tract.atlas("right")
    inside = atlas.radius.array <= 1
    arrows = atlas.orientation.array[inside]
    assert np.allclose(np.linalg.norm(arrows, axis=1), 1, atol=1e-3)
    capsule = atlas.orientation.array[inside & regions.region("plic").array]
    assert (capsule[:, 2] < -0.6).all()


def test_courses_are_somatotopic() -> None:
    leg, face = tract.course(-1.0), tract.course(1.0)
    assert leg[0, 0] < face[0, 0]  # the leg is medial at the cortex
    level = [line[np.abs(line[:, 2] - 8).argmin(), 1] for line in (leg, face)]
    assert level[0] < level[1]  # and behind the face in the capsule


def test_bundles_cross_in_the_corona_radiata_and_run_sideways_in_the_callosum() -> None:
    atlas = bundles.bundles()
    assert atlas.weight.sum(0).max() <= 0.9
    lengths = np.linalg.norm(atlas.orientation, axis=1)
    assert np.allclose(lengths[atlas.weight > 0.1], 1, atol=1e-3)
    index = np.round(np.linalg.inv(atlas.affine) @ [0, 12, 22, 1])[:3].astype(int)
    x, y, z = index
    near = atlas.orientation[1, :, x - 2 : x + 3, y - 2 : y + 3, z - 2 : z + 3].reshape(3, -1)
    assert np.abs(near[0]).max() > 0.95
    crossing = (atlas.weight[0] > 0.15) & (atlas.weight[1] > 0.15)
    assert crossing.sum() * 8 / 1000 > 10  # millilitres


def test_regions_are_on_their_sides_and_lobes_do_not_overlap() -> None:
    x = mni.coordinates(mni.structures())[0]
    assert (x[regions.region("thalamus", side="left").array] < 0).all()
    total = sum(regions.region(name).array.astype(int) for name in regions.LOBES)
    assert total.max() == 1
    with pytest.raises(UsageError, match="plic"):
        regions.region("amygdalum")


@pytest.mark.parametrize("side", tract.SIDES)
def test_the_stored_population_is_the_computed_one(side: tract.Side) -> None:
    stored, computed = tract.population(side), tract.atlas(side).probability
    assert stored.same_grid(computed)
    np.testing.assert_allclose(stored.array, computed.array, atol=1e-6)
