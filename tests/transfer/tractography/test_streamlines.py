"""Densities, the atlas's share, and files of streamlines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ichnos.anatomy.tract import atlas, course, population
from ichnos.errors import InputRefused
from ichnos.registration import Displacement, Transform
from ichnos.transfer.tractography import TRACT_CUT_OFF, Tract, density_on_ct, save_streamlines
from ichnos.transfer.tractography.regions import CAPSULE, PONS, regions_on
from ichnos.transfer.tractography.streamlines import SHADOW_SHARE, FibreField, atlas_share
from ichnos.volume import Affine, Volume, sphere

AFFINE = np.array([[2.0, 0, 0, -60], [0, 2.0, 0, -70], [0, 0, 2.0, -60], [0, 0, 0, 1]])
GRID = Volume(np.zeros((60, 50, 70), np.uint8), AFFINE)


def field(mni_from_exam: Transform, shadow: Volume | None = None) -> FibreField:
    nothing = np.zeros((*GRID.shape, 1), np.float32)
    return FibreField(GRID, nothing, np.ones(GRID.shape, bool), mni_from_exam, shadow)


def test_the_atlas_moves_with_the_anatomy() -> None:
    still = atlas_share(field(Transform()), "left", GRID)
    shift = np.eye(4)
    shift[0, 3] = -8.0  # the exam's tissue lies 8 mm further to the right than the template's
    moved = atlas_share(field(Transform.of(Affine(shift))), "left", GRID)
    assert np.allclose(moved[4:], still[:-4], atol=1e-5)


def test_a_local_push_carries_the_atlas_with_it() -> None:
    push = np.zeros((*GRID.shape, 3), np.float32)
    heights = GRID.world(np.argwhere(GRID.array == 0))[:, 2].reshape(GRID.shape)
    push[..., 1] = -6.0 * (np.abs(heights - 8) < 12)
    bent = Transform.of(Displacement(Volume(push, AFFINE)))
    share = atlas_share(field(bent), "right", GRID)
    level = round(float(GRID.index((0, 0, 8.0))[2]))
    y = GRID.world(np.argwhere(GRID.array == 0))[:, 1].reshape(GRID.shape)[:, :, level]
    still = atlas_share(field(Transform()), "right", GRID)[:, :, level]
    centre = [(s * y).sum() / s.sum() for s in (share[:, :, level], still)]
    assert centre[0] - centre[1] == pytest.approx(6.0, abs=0.5)


def test_in_the_shadow_of_a_haematoma_the_atlas_has_no_veto() -> None:
    far = GRID.world(np.argwhere(GRID.array == 0)).reshape(*GRID.shape, 3)
    blood = GRID.with_array((np.linalg.norm(far - (-30, 0, 10), axis=-1) < 10).astype(np.uint8))
    share = atlas_share(field(Transform(), blood), "left", GRID)
    assert (share[blood.array > 0] >= SHADOW_SHARE).all()
    away = np.linalg.norm(far - (-30, 0, 10), axis=-1) > 16
    assert np.allclose(share[away], atlas_share(field(Transform()), "left", GRID)[away])


def test_an_empty_shadow_changes_nothing() -> None:
    with_none, with_empty = (atlas_share(field(Transform(), s), "left", GRID) for s in (None, GRID))
    assert np.array_equal(with_none, with_empty)


@pytest.mark.slow  # the regions of a side take some seconds to make
def test_regions_lie_on_their_side_and_in_order() -> None:
    regions = regions_on(GRID, Transform(), "right")
    points = GRID.world(np.argwhere(regions.level > 0))
    assert points[:, 0].min() >= -2
    heights = [GRID.world(np.argwhere(regions.level == code))[:, 2].mean() for code in (PONS, CAPSULE)]
    assert heights[0] < heights[1]
    assert not (regions.corridor & regions.forbidden).any()
    assert regions.corridor[regions.seeds & ~regions.forbidden].all()


def made_tract() -> Tract:
    lines = tuple(course(p, side="left")[:, :3] for p in (-0.5, 0.0, 0.5))
    return Tract("left", lines, population("left"), 3, False)


def test_the_mask_is_what_reaches_the_cut_off_and_lies_about_the_tract() -> None:
    tract = made_tract()
    assert np.array_equal(tract.mask.array, tract.density.array >= TRACT_CUT_OFF)
    assert tract.mask.array[atlas("left").distance_mm.array < -2][:100].any()


def test_density_on_a_ct_keeps_its_volume_whatever_the_slices() -> None:
    thick = Volume(np.zeros((60, 50, 28), np.uint8), AFFINE @ np.diag([1, 1, 2.5, 1]))
    tract = made_tract()
    on_ct = density_on_ct(tract, exam_from_ct=Transform(), ct=thick)
    whole = float(tract.density.array.sum()) * tract.density.voxel_ml
    assert float(on_ct.array.sum()) * on_ct.voxel_ml == pytest.approx(whole, rel=0.03)


def test_streamlines_come_back_from_their_file(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    save_streamlines(made_tract(), tmp_path / "left.tck", reference=GRID)
    back = nibabel.streamlines.load(tmp_path / "left.tck").streamlines
    assert len(back) == 3
    assert np.allclose(back[1], made_tract().streamlines[1], atol=1e-3)


def test_streamlines_in_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"\.tck or \.trx"):
        save_streamlines(made_tract(), tmp_path / "left.vtk", reference=sphere(radius_mm=5))
