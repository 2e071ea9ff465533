"""Crops around a haematoma, and tiles over images of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichnos.errors import InputRefused
from ichnos.inference.crops import haematoma_region, published_crops, published_slices, roi_grid
from ichnos.inference.sliding import slide, tiles
from ichnos.volume import Volume, centroid_mm

SHAPE = (48, 48, 12)
AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])


def bleed(*, half: tuple[int, int, int] = (8, 6, 2), at: tuple[int, int, int] = (20, 26, 6)) -> Volume:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(c - h, c + h) for c, h in zip(at, half, strict=True))] = True
    return Volume(mask, AFFINE)


def scan(mask: Volume) -> Volume:
    return Volume(np.where(mask.array, 60.0, 30.0).astype(np.float32), AFFINE)


def test_three_slices_show_the_box_of_the_bleed_and_not_its_size() -> None:
    small, large = bleed(), bleed(half=(16, 12, 4))
    one, two = (published_crops(scan(mask), mask, size=32) for mask in (small, large))
    assert len(one) == len(two) == 3
    for crop in (*one, *two):
        assert crop.image.shape == crop.mask.shape == (32, 32)
        assert crop.mask.min() > 0.9, "a box is filled by a box, whatever its size"
        assert crop.image.mean() == pytest.approx((60 - 45) / 45, abs=0.05)


def test_slices_for_a_network_are_the_crops_three_times_over() -> None:
    mask = bleed()
    slices, crops = published_slices(scan(mask), mask, size=16), published_crops(scan(mask), mask, size=16)
    for channels, crop in zip(slices, crops, strict=True):
        assert channels.shape == (3, 16, 16)
        assert all(np.array_equal(channel, crop.image) for channel in channels)


def test_the_largest_part_is_cropped_and_the_islands_are_left() -> None:
    both = bleed().array.copy()
    both[44:46, 2:4, 5:7] = True
    whole, alone = Volume(both, AFFINE), bleed()
    seen = [published_crops(scan(whole), mask, size=24) for mask in (whole, alone)]
    assert all(np.allclose(a.mask, b.mask) for a, b in zip(*seen, strict=True))


def test_a_bleed_too_small_for_the_published_grid_is_refused() -> None:
    speck = np.zeros((60, 60, 60), np.float32)
    speck[30, 30, 30] = 0.2  # the share of a voxel
    grid = np.diag([0.5, 0.5, 0.5, 1.0])
    mask = Volume(speck, grid)
    with pytest.raises(InputRefused, match="no slice to be classified by"):
        published_crops(Volume(np.zeros_like(speck), grid), mask)


@given(
    shape=st.tuples(*[st.integers(4, 20)] * 3), step=st.tuples(*[st.sampled_from([0.5, 1.0, 2.5, 5.0])] * 3)
)
@settings(deadline=None, max_examples=20)
def test_a_region_lies_around_the_centre_of_the_bleed(
    shape: tuple[int, int, int], step: tuple[float, float, float]
) -> None:
    mask = bleed()
    grid = roi_grid(mask, spacing_mm=step, shape=shape)
    assert grid.shape == shape
    assert grid.spacing_mm == pytest.approx(step)
    middle = (np.array(shape) - 1) / 2
    assert grid.world(middle[None])[0] == pytest.approx(centroid_mm(mask), abs=1e-6)


def test_a_region_shows_air_beyond_the_scan_and_masks_from_minus_one_to_one() -> None:
    mask = bleed(at=(8, 8, 3), half=(4, 4, 2))
    nothing = mask.with_array(np.zeros(SHAPE, bool))
    region = haematoma_region(scan(mask), mask, nothing, spacing_mm=(1.0, 1.0, 5.0), shape=(40, 40, 12))
    assert region.shape == (4, 40, 40, 12)
    assert region[0, 0, 0, 0] == -1.0, "air, beyond the corner of the scan"
    assert (region[2].min(), region[2].max()) == (-1.0, 1.0)
    assert (region[3] == -1.0).all(), "no ventricular blood"


@given(
    shape=st.tuples(*[st.integers(1, 17)] * 3),
    patch=st.tuples(*[st.integers(2, 9)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
)
@settings(deadline=None, max_examples=30)
def test_what_changes_nothing_gives_the_image_back(
    shape: tuple[int, int, int], patch: tuple[int, int, int], overlap: float
) -> None:
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    out = slide(image, lambda tile: tile, patch=patch, channels=1, overlap=overlap)
    assert out.shape == image.shape
    assert np.allclose(out, image, atol=1e-5)


@given(n=st.integers(1, 60), p=st.integers(1, 20), overlap=st.floats(0, 0.9))
def test_tiles_cover_every_voxel_and_stay_inside(n: int, p: int, overlap: float) -> None:
    n = max(n, p)
    covered = np.zeros(n, int)
    for (at,) in tiles((n,), (p,), overlap):
        assert 0 <= at.start < at.stop <= n
        assert at.stop - at.start == p
        covered[at] += 1
    assert covered.min() >= 1
