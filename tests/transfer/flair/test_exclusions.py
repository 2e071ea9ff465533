"""What is bright for another reason: cortex, septum, flow, infarcts at the surface, one-sided masses, and
what the caller excludes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ichnos.registration.transform import Transform
from ichnos.transfer.flair.brightness import Brightness
from ichnos.transfer.flair.exclusions import in_white_matter, reaching_surface, without_excluded
from ichnos.transfer.flair.template_maps import TemplateMaps
from ichnos.volume import Affine, Volume

SHAPE = (60, 48, 9)
GRID = Volume(np.zeros(SHAPE, np.float32), np.diag([2.0, 2.0, 5.0, 1.0]))  # 0.02 mL a voxel
ONE, ZERO = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
DEEP = TemplateMaps(ONE, ZERO, ONE, ZERO, 30 * ONE, ONE, ZERO, 20 * ONE)  # deep white matter everywhere
LOOK = Brightness(white_spread=0.04, cortex=1.2, lesion=1.6, threshold=1.3)
# x = 59 - x in voxels: the grid's middle is the midline
EXAM_FROM_MNI = Transform.of(Affine(np.array([[1, 0, 0, 59.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])))


def _spot(x: slice, y: slice = slice(20, 26), z: slice = slice(3, 6)) -> np.ndarray:
    spot = np.zeros(SHAPE, bool)
    spot[x, y, z] = True
    return spot


LESION = _spot(slice(12, 18))


def _kept(lesion: np.ndarray, maps: TemplateMaps = DEEP, even: np.ndarray | None = None) -> np.ndarray:
    shown = np.where(lesion, 1.6, 1.0) if even is None else even
    return in_white_matter(shown, lesion, LOOK, maps, GRID)[0]


def test_a_bright_part_of_deep_white_matter_is_kept_whole() -> None:
    assert np.array_equal(_kept(LESION), LESION)


@pytest.mark.parametrize(
    "maps",
    [
        replace(DEEP, cerebrum=ZERO),  # under the tentorium
        replace(DEEP, brain=ZERO),
        replace(DEEP, nuclei=ONE),
        replace(DEEP, depth_mm=2 * ONE),  # at the surface
        replace(DEEP, white=0.25 * ONE),  # hardly white matter
        replace(DEEP, cortex=ONE, depth_mm=8 * ONE),
        replace(DEEP, midline_mm=2 * ONE, ventricle=ONE),  # the septum
    ],
)
def test_the_same_part_elsewhere_is_something_else(maps: TemplateMaps) -> None:
    assert not _kept(LESION, maps).any()
    assert np.array_equal(
        in_white_matter(np.where(LESION, 1.6, 1.0), LESION, LOOK, maps, GRID)[1],
        LESION & (maps.cerebrum > 0) & (maps.brain > 0),
    )


def test_a_part_without_a_candidate_in_it_is_left_out() -> None:
    even = np.where(LESION, 1.6, 1.0)
    kept, left_out = in_white_matter(even, np.zeros(SHAPE, bool), LOOK, DEEP, GRID)
    assert not kept.any()
    assert np.array_equal(left_out, LESION)


def test_flow_inside_dark_fluid_is_no_lesion() -> None:
    ventricle = _spot(slice(8, 22), slice(16, 30), slice(0, 9))
    flow = _spot(slice(13, 16), slice(21, 24))
    even = np.where(flow, 1.6, np.where(ventricle, 0.2, 1.0))
    assert not _kept(flow, even=even).any()


def test_an_exam_without_anything_bright_has_nothing() -> None:
    kept, left_out = in_white_matter(ONE, np.zeros(SHAPE, bool), LOOK, DEEP, GRID)
    assert not kept.any()
    assert not left_out.any()
    assert not reaching_surface(np.zeros(SHAPE, bool), DEEP, GRID).any()


def test_a_large_part_near_the_surface_is_an_infarct_and_a_deep_or_small_one_is_not() -> None:
    large, small = _spot(slice(5, 15), slice(10, 20)), _spot(slice(40, 43), slice(40, 43), slice(4, 5))
    superficial = replace(DEEP, depth_mm=5 * ONE)
    found = reaching_surface(large | small, superficial, GRID)
    assert found[large].all()
    assert not found[small].any()
    assert not reaching_surface(large, DEEP, GRID).any()


def _without(kept: np.ndarray, excluded: np.ndarray, partners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return without_excluded(kept, excluded, GRID, EXAM_FROM_MNI, partners=partners)


def test_a_large_part_needs_a_partner_in_the_other_hemisphere_and_a_small_one_does_not() -> None:
    nothing = np.zeros(SHAPE, bool)
    large = _spot(slice(6, 18), slice(14, 30), slice(2, 7))  # 19 mL on the left
    kept, dropped = _without(large, nothing, nothing)
    assert not kept.any()
    assert np.array_equal(dropped, large)
    both, none_dropped = _without(large | large[::-1], nothing, nothing)
    assert np.array_equal(both, large | large[::-1])
    assert not none_dropped.any()
    dim, _ = _without(large, nothing, large[::-1])  # the partner may be dim
    assert np.array_equal(dim, large)
    small = _spot(slice(12, 16), slice(20, 24))
    assert np.array_equal(_without(small, nothing, nothing)[0], small)


def test_what_lies_in_or_just_beside_an_excluded_region_goes_and_the_rest_stays() -> None:
    clot = _spot(slice(20, 28))
    rim = _spot(slice(28, 29)) | _spot(slice(19, 20))
    far = _spot(slice(44, 48), slice(34, 38))
    kept, dropped = _without(rim | far, clot, np.ones(SHAPE, bool))
    assert np.array_equal(kept, far)
    assert np.array_equal(dropped, rim)


def test_nothing_kept_stays_nothing() -> None:
    nothing = np.zeros(SHAPE, bool)
    kept, dropped = _without(nothing, LESION, nothing)
    assert not kept.any()
    assert not dropped.any()
