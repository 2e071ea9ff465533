"""The pictures of a reading and the volumes of its viewer: sides, heights, grey values, and thinning."""

from __future__ import annotations

import base64
import gzip
import io

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageColor

from ichnos.report.pictures import outlined_in, slice_pictures
from ichnos.report.viewer import ct_nifti, labels_nifti, niivue_script, viewer_grid
from ichnos.targets import TARGETS
from ichnos.volume import Volume

SHAPE = (90, 110, 20)
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def _head() -> Volume:
    """A head of 30 HU whose left half is brighter, in air; RAS, so that left is first."""
    x, y, _ = np.indices(SHAPE)
    inside = ((x - 45) / 35) ** 2 + ((y - 55) / 45) ** 2 < 1
    hu = np.where(inside, np.where(x < 45, 60.0, 20.0), -1000.0)
    return Volume(hu.astype(np.float32), AFFINE)


def _mask(x: slice, z: slice) -> Volume:
    array = np.zeros(SHAPE, bool)
    array[x, 50:60, z] = True
    return Volume(array, AFFINE)


BRAIN = _head().map_array(lambda a: a > 0)
CLOT = _mask(slice(20, 32), slice(8, 11))


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_the_patients_left_is_on_the_right_of_the_picture() -> None:
    picture = _pixels(slice_pictures(_head(), {"brain": BRAIN})[0].png)
    middle = picture[picture.shape[0] // 2].mean(axis=1)
    quarter = len(middle) // 4
    assert middle[3 * quarter] > middle[quarter] + 80


def test_blood_is_shown_whole_with_a_slice_beyond_and_marked() -> None:
    pictures = slice_pictures(_head(), {"brain": BRAIN, "ICH": CLOT})
    assert [p.height_mm for p in pictures] == [35, 40, 45, 50, 55]
    assert [p.shows_blood for p in pictures] == [False, True, True, True, False]


def test_an_outline_has_the_colour_of_its_target_and_lies_on_its_side() -> None:
    picture = _pixels(slice_pictures(_head(), {"brain": BRAIN, "ICH": CLOT})[2].png)
    near = np.abs(picture - np.array(ImageColor.getrgb(TARGETS["ICH"].colour))).sum(axis=2) < 40
    assert near.sum() > 20
    assert np.nonzero(near)[1].min() > picture.shape[1] / 2  # the clot is on the patient's left


def test_without_blood_an_even_choice_of_slices_is_shown() -> None:
    pictures = slice_pictures(_head(), {"brain": _mask(slice(20, 70), slice(3, 18))})
    heights = [p.height_mm for p in pictures]
    assert (heights[0], heights[-1]) == (15, 85)
    assert len(heights) <= 12
    assert not any(p.shows_blood for p in pictures)


def test_a_large_bleed_is_thinned_to_the_most_slices_asked_for() -> None:
    pictures = slice_pictures(_head(), {"ICH": _mask(slice(20, 32), slice(0, 20))}, most=6)
    assert len(pictures) == 6
    assert (pictures[0].height_mm, pictures[-1].height_mm) == (0, 95)


def test_empty_masks_and_masks_that_are_never_drawn_have_no_outline() -> None:
    empty = _mask(slice(0), slice(0))
    assert outlined_in({"ICH": empty, "PHE": CLOT, "unknown": CLOT}) == ["PHE"]


def test_voxels_that_are_no_numbers_are_shown_as_air() -> None:
    hu = _head()
    damaged = hu.map_array(lambda a: np.where(np.indices(SHAPE)[0] < 45, np.nan, a))
    picture = _pixels(slice_pictures(damaged, {"brain": BRAIN})[0].png)
    row = picture[picture.shape[0] // 2, -picture.shape[1] // 3 : -20]
    assert row.max() < 10


def _opened(encoded: str) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(encoded)))


def test_the_viewers_ct_keeps_the_window_and_clips_beyond() -> None:
    hu = _head()
    grid = viewer_grid(hu)
    shown = _opened(ct_nifti(hu, grid))
    assert shown.get_data_dtype() == np.uint8
    assert np.allclose(shown.affine, grid.affine)
    values = shown.get_fdata()
    assert (values.min(), values.max()) == (-100.0, 60.0)
    assert set(np.unique(np.round(values))) >= {20.0, 60.0}


def test_the_viewers_grid_holds_the_head_and_no_more_than_travels() -> None:
    hu = _head()
    grid = viewer_grid(hu)
    assert all(step >= own for step, own in zip(grid.spacing_mm, (1.0, 1.0, 1.5), strict=True))
    fine = hu.resampled((0.7, 0.7, 0.7), fill=-1000.0)
    assert np.prod(viewer_grid(fine).shape) <= 6_200_000


def test_masks_travel_on_the_viewers_grid_and_empty_ones_stay_at_home() -> None:
    hu = _head()
    grid = viewer_grid(hu)
    encoded = labels_nifti({"ICH": CLOT, "IVH": _mask(slice(0), slice(0))}, grid)
    assert list(encoded) == ["ICH"]
    shown = _opened(encoded["ICH"])
    ml = np.count_nonzero(shown.get_fdata()) * np.abs(np.linalg.det(shown.affine)) / 1000
    assert ml == pytest.approx(CLOT.array.sum() * CLOT.voxel_ml, rel=0.1)


def test_the_viewers_script_cannot_close_the_page_it_stands_in() -> None:
    pytest.importorskip("nilearn")
    script = niivue_script()
    assert len(script) > 100_000
    assert "</script" not in script
