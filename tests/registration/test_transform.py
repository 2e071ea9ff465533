"""The algebra of transforms, what they do to images, and files that other programs read."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import pytest

from ichnos.errors import InputRefused, UsageError
from ichnos.registration import IDENTITY, Displacement, Transform, read_transform, write_transform
from ichnos.volume import Affine, Box, Volume, centroid_mm, sphere, volume_ml

POINTS = np.random.default_rng(0).uniform(-30, 30, (200, 3))


def turned(degrees: float = 20.0) -> Transform:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return Transform.of(Affine(np.array([[c, -s, 0, 3.0], [s, c, 0, -2], [0, 0, 1, 5], [0, 0, 0, 1]])))


def wavy(amplitude_mm: float = 3.0) -> Transform:
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = -48
    at = Volume(np.zeros((25, 25, 25)), affine).world(np.indices((25, 25, 25)).transpose(1, 2, 3, 0))
    field = amplitude_mm * np.sin(at[..., [1, 2, 0]] / 18)
    return Transform.of(Displacement(Volume(field.astype(np.float32), affine)))


@pytest.mark.parametrize(
    "transform", [IDENTITY, turned(), wavy(), turned() @ wavy(), wavy() @ turned() @ wavy(1.0)]
)
def test_inverse_takes_points_back(transform: Transform) -> None:
    back = (~transform @ transform).map(POINTS)
    assert np.abs(back - POINTS).max() < 0.05


def test_product_applies_the_right_one_first() -> None:
    both = turned() @ wavy()
    np.testing.assert_allclose(both.map(POINTS), turned().map(wavy().map(POINTS)))
    assert len((turned() @ turned(-20)).parts) == 1


def test_pull_brings_a_ball_to_where_the_inverse_maps_its_centre() -> None:
    ball = sphere(radius_mm=8, spacing_mm=1.0, centre_mm=(10, 5, -4)).astype(np.float32)
    grid = Volume(
        np.zeros((60, 60, 60)), np.array([[1.0, 0, 0, -30], [0, 1, 0, -30], [0, 0, 1, -30], [0, 0, 0, 1]])
    )
    for transform in (turned(), wavy(), turned() @ wavy()):
        pulled = transform.pull(ball, grid)
        expected = (~transform).map(np.array([10.0, 5, -4]))
        assert np.linalg.norm(centroid_mm(pulled.with_array(pulled.array > 0.5)) - expected) < 0.5


def test_affine_pull_and_warped_pull_agree() -> None:
    ball = sphere(radius_mm=8, spacing_mm=1.5).astype(np.float32)
    grid = ball.padded((4, 4, 4), (4, 4, 4))
    still = Transform.of(Displacement(Volume(np.zeros((3, 3, 3, 3), np.float32), np.diag([20.0, 20, 20, 1]))))
    np.testing.assert_allclose(
        (turned() @ still).pull(ball, grid).array, turned().pull(ball, grid).array, atol=1e-4
    )


def test_labels_neither_mix_nor_lose_volume() -> None:
    ball = sphere(radius_mm=12, spacing_mm=1.0)
    labels = ball.with_array(
        np.where(ball.array, np.where(ball.array.cumsum(0) > 12, 7, 3), 0).astype(np.uint8)
    )
    grid = ball.padded((6, 6, 6), (6, 6, 6))
    moved = (turned() @ wavy(1.0)).pull_labels(labels, grid.with_array(np.zeros(grid.shape, np.uint8)))
    assert set(np.unique(moved.array)) == {0, 3, 7}
    for label in (3, 7):
        whole = volume_ml(labels.with_array(labels.array == label))
        assert abs(volume_ml(moved.with_array(moved.array == label)) - whole) < 0.15 * whole


def test_thin_sheet_becomes_a_share_of_a_thick_slice() -> None:
    sheet = np.zeros((20, 20, 40), np.uint8)
    sheet[:, :, 12] = 1
    thick = Volume(np.zeros((20, 20, 8), np.uint8), np.diag([1.0, 1, 5, 1]))
    share = IDENTITY.pull_share(Volume(sheet, np.eye(4)), thick)
    assert share.array[10, 10].sum() == pytest.approx(0.2, abs=0.05)
    assert abs(volume_ml(share) - volume_ml(Volume(sheet, np.eye(4)))) < 0.05


def test_jacobian_tells_how_volume_changes() -> None:
    affine = np.diag([2.0, 2, 2, 1])
    at = Volume(np.zeros((12, 12, 12)), affine).world(np.indices((12, 12, 12)).transpose(1, 2, 3, 0))
    grown = Displacement(Volume((0.1 * at).astype(np.float32), affine))
    np.testing.assert_allclose(grown.jacobian.array, 1.1**3, rtol=1e-4)


@pytest.mark.parametrize("name", ["t.tfm", "t.h5", "t.mat", "t.txt"])
def test_files_round_trip(tmp_path: Path, name: str) -> None:
    transform = turned() if name.endswith(".mat") else turned() @ wavy() if name != "t.txt" else turned()
    again = read_transform(write_transform(transform, tmp_path / name))
    np.testing.assert_allclose(again.map(POINTS), transform.map(POINTS), atol=2e-3)


def test_itk_maps_the_same_points(tmp_path: Path) -> None:
    import SimpleITK as sitk

    transform = turned() @ wavy()
    itk = sitk.ReadTransform(str(write_transform(transform, tmp_path / "t.h5")))
    flip = np.array([-1.0, -1, 1])
    theirs = np.array([itk.TransformPoint((p * flip).tolist()) for p in POINTS[:50]]) * flip
    np.testing.assert_allclose(theirs, transform.map(POINTS[:50]), atol=2e-3)


def test_a_transform_makes_the_same_file_at_any_time_and_place(tmp_path: Path) -> None:
    first = write_transform(turned() @ wavy(), tmp_path / "a.h5").read_bytes()
    time.sleep(1.1)  # HDF5 would note the second
    assert write_transform(turned() @ wavy(), tmp_path / "b.h5").read_bytes() == first
    assert platform.system().encode() not in first
    assert platform.release().encode() not in first


def test_nifti_warp_round_trip_and_its_limits(tmp_path: Path) -> None:
    again = read_transform(write_transform(wavy(), tmp_path / "w.nii.gz"))
    np.testing.assert_allclose(again.map(POINTS), wavy().map(POINTS), atol=1e-4)
    with pytest.raises(UsageError, match="one displacement field"):
        write_transform(turned() @ wavy(), tmp_path / "x.nii.gz")
    with pytest.raises(UsageError, match="affine map only"):
        write_transform(wavy(), tmp_path / "x.mat")
    (tmp_path / "bad.tfm").write_text("no transform")
    with pytest.raises(InputRefused, match="cannot be read as a transform"):
        read_transform(tmp_path / "bad.tfm")


def test_a_field_that_is_not_one_is_refused() -> None:
    with pytest.raises(InputRefused, match="axes"):
        Displacement(Volume(np.zeros((4, 4, 4)), np.eye(4)))
    with pytest.raises(InputRefused, match="not finite"):
        Displacement(Volume(np.full((4, 4, 4, 3), np.nan), np.eye(4)))


def test_a_share_is_looked_for_only_where_the_mask_reaches_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mask = sphere(radius_mm=7, spacing_mm=1.5, centre_mm=(12.0, -9.0, 6.0)).astype(np.float32)
    grid = Volume(
        np.zeros((60, 64, 14), np.uint8),
        np.array([[1.0, 0, 0, -30], [0, 1, 0.3, -35], [0, -0.1, 5.0, -33], [0, 0, 0, 1]]),
    )
    u = Volume(np.full((4, 4, 4, 3), 3.0, np.float32), np.diag([25.0, 25, 25, 1]))
    moved = Transform.of(Affine(np.diag([-1.0, 1.1, 1, 1])), Displacement(u))
    share = moved.pull_share(mask, grid)
    assert 0 < np.count_nonzero(share.array) < 0.1 * share.array.size
    monkeypatch.setattr(Transform, "_reach", lambda self, mask, grid: Box((0, 0, 0), grid.shape))
    assert np.array_equal(share.array, moved.pull_share(mask, grid).array)
