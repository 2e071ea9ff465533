"""The corticospinal atlas: where it runs, which side is which, what it never crosses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ichnos.anatomy import bundles, mni, regions, tract
from ichnos.anatomy.tract_levels import BODY_PARTS, variation_mm
from ichnos.errors import UsageError


@pytest.mark.parametrize("side", tract.SIDES)
def test_the_tract_passes_its_stations_in_order_and_on_its_own_side(side: tract.Side) -> None:
    atlas = tract.atlas(side)
    inside = atlas.mask.array
    sign = -1 if side == "left" else 1
    x = mni.coordinates(atlas.mask)[0]
    assert (sign * x[inside] > 0).all()
    for station in regions.STATIONS:
        crossed = inside & regions.region(station, side=side).array
        assert crossed.sum() > 60, station
    plic = inside & regions.region("plic", side=side).array
    at_capsule = inside & (np.abs(mni.coordinates(atlas.mask)[2] - 8) < 4)
    assert plic.sum() > 0.8 * at_capsule.sum()


def test_left_mirrors_right_and_lies_in_white_matter_and_brainstem() -> None:
    left, right = (tract.atlas(side).mask.array for side in tract.SIDES)
    assert np.array_equal(left, right[::-1])
    codes = mni.structures().array[left | right]
    assert not np.isin(codes, (0, mni.CSF, mni.VENTRICLE)).any()
    assert np.isin(codes, (mni.WHITE, mni.BRAINSTEM)).mean() > 0.85


def test_the_distance_is_negative_inside_and_grows_by_a_millimetre_per_millimetre() -> None:
    distance = tract.atlas("right").distance_mm
    row = distance.array[:, int(distance.index((0, -16, 20))[1]), int(distance.index((0, -16, 20))[2])]
    start = int(distance.index((25, -16, 20))[0])
    assert row[start] < -4
    outside = row[start : start + 18]
    assert np.allclose(np.diff(outside), 1, atol=0.05)
    assert distance.array.max() == tract.FAR_MM


def test_probability_is_high_in_the_middle_and_zero_far_away() -> None:
    atlas = tract.atlas("left")
    probability = atlas.probability.array
    assert probability.max() > 0.95
    assert probability.min() == 0
    assert probability[atlas.distance_mm.array > 18].max() == 0
    below = mni.coordinates(atlas.mask)[2] < 40
    assert probability[below & (atlas.distance_mm.array < -2)].mean() > 0.9


def test_people_vary_more_at_the_cortex_than_in_the_capsule() -> None:
    position, thickness = variation_mm([65.0, 5.0])
    assert position[0] > 2 * position[1]
    assert (thickness > 0).all()
    share = tract.population("right")
    undecided = (share.array > 0.1) & (share.array < 0.9)
    decided = share.array >= 0.9
    z = mni.coordinates(share)[2]
    ratio = [
        (undecided & near).sum() / decided[near].sum() for near in (np.abs(z - 52) < 3, np.abs(z - 8) < 3)
    ]
    assert ratio[0] > ratio[1]


def test_orientation_is_a_unit_field_that_points_down_in_the_capsule() -> None:
    atlas = tract.atlas("right")
    inside = atlas.mask.array
    arrows = atlas.orientation.array[inside]
    assert np.allclose(np.linalg.norm(arrows, axis=1), 1, atol=1e-3)
    capsule = atlas.orientation.array[inside & regions.region("plic").array]
    assert (capsule[:, 2] < -0.6).all()
    assert (tract.atlas("left").orientation.array[::-1][inside][:, 0] == -arrows[:, 0]).all()


def test_courses_are_somatotopic() -> None:
    leg, hand, face = (tract.course(BODY_PARTS[part]) for part in ("leg", "hand", "face"))
    assert leg[0, 0] < hand[0, 0] < face[0, 0]  # the leg is medial at the cortex
    assert leg[0, 2] > hand[0, 2] > face[0, 2]  # and highest
    level = [line[np.abs(line[:, 2] - 8).argmin(), 1] for line in (leg, hand, face)]
    assert level[0] < level[1] < level[2]  # and behind the face in the capsule


def test_courses_run_inside_the_tract() -> None:
    distance = tract.atlas("left").distance_mm
    for position in BODY_PARTS.values():
        line = tract.course(position, side="left")
        index = tuple(np.round(distance.index(line[:, :3])).astype(int).T)
        assert (distance.array[index] < 2.5).all()


@pytest.mark.parametrize("side", tract.SIDES)
def test_the_stored_population_is_the_computed_one(side: tract.Side) -> None:
    stored, computed = tract.population(side), tract.atlas(side).probability
    assert stored.same_grid(computed)
    np.testing.assert_allclose(stored.array, computed.array, atol=0.0021)


def test_a_stored_population_is_read_back(tmp_path: Path) -> None:
    file = tract.store_population(tmp_path / "population.npz")
    with np.load(file) as stored:
        assert stored["right"].max() == 250
        assert (stored["stop"] - stored["start"] == stored["right"].shape).all()


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
