"""Gradient tables: reading, scale, signs and order, against a phantom whose fibres are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ichnos.errors import InputRefused
from ichnos.transfer.tractography.fibres import fod_from_peaks, one_shell
from ichnos.transfer.tractography.gradient_check import check_gradients, readings
from ichnos.transfer.tractography.gradients import (
    GradientTable,
    fit_tensor,
    fsl_gradients,
    gradients_beside,
    image_axes,
)
from ichnos.volume import Volume

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.0, 0, -30], [0, 0, 2.5, -20], [0, 0, 0, 1]])

BUNDLES = np.array([(0.5, 0.3, 0.81), (-0.6, 0.7, 0.38), (0.85, -0.4, 0.34), (0.2, 0.75, -0.63)])
BUNDLES /= np.linalg.norm(BUNDLES, axis=1, keepdims=True)


def table(directions: int = 30) -> GradientTable:
    k = np.arange(directions)
    z = (k + 0.5) / directions
    turn = k * np.pi * (3 - np.sqrt(5))
    half = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)
    return GradientTable(np.r_[0.0, 0.0, np.full(directions, 1000.0)], np.r_[np.zeros((2, 3)), half])


def phantom(true: GradientTable) -> tuple[Volume, np.ndarray, np.ndarray]:
    """Return a series with four thin oblique bundles in plain tissue, the brain's mask, and where they are
    expected: 15 degrees off.
    """
    shape = (32, 32, 26)
    world = (
        np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ AFFINE[:3, :3].T
        + AFFINE[:3, 3]
    )
    signal = np.broadcast_to(np.exp(-true.b_values * 0.8e-3), (*shape, len(true))).copy()
    expected = np.zeros((*shape, 3))
    for along, through in zip(BUNDLES, ((-12, 8, 0), (10, -6, 5), (-5, -14, -2), (6, 10, -4)), strict=True):
        way = world - np.array(through)
        away = np.linalg.norm(way - (way @ along)[..., None] * along, axis=-1)
        cosine = true.directions @ along
        aside = np.cross(along, (0.3, -0.5, 0.8))
        expected[away < 5] = np.cos(np.radians(15)) * along + np.sin(np.radians(15)) * aside / np.linalg.norm(
            aside
        )
        signal[away < 5] = np.exp(-true.b_values * 1e-3 * (0.3 + 1.4 * cosine**2))
    noisy = 1000 * signal + np.random.default_rng(0).normal(0, 10, signal.shape)
    return Volume(noisy.astype(np.float32), AFFINE), np.ones(shape, bool), expected


def test_a_right_table_passes_and_the_fibre_is_found() -> None:
    true = table()
    dwi, brain, expected = phantom(true)
    checked = check_gradients(dwi, true, brain, expected)
    assert checked.verdict.level == "pass"
    middle = tuple(np.round(dwi.index((-12, 8, 0))).astype(int))
    assert abs(checked.tensor.direction[middle] @ BUNDLES[0]) > 0.98
    assert 0.6 < checked.tensor.fa[middle] < 0.9


@pytest.mark.parametrize("wrong", readings()[1:])
def test_every_misreading_is_undone(wrong: np.ndarray) -> None:
    true = table()
    dwi, brain, expected = phantom(true)
    axes = image_axes(AFFINE)
    checked = check_gradients(dwi, true.turned(axes @ np.linalg.inv(wrong) @ axes.T), brain, expected)
    weighted = ~true.unweighted
    agreement = np.abs((checked.table.directions[weighted] * true.directions[weighted]).sum(axis=1))
    assert agreement.min() > 0.999
    assert any(r.name == "bvec_reading" and r.level == "warn" for r in checked.verdict.reasons)


def test_a_right_table_stays_where_no_reading_fits_the_atlas() -> None:
    true = table()
    dwi, brain, expected = phantom(true)
    scattered = np.random.default_rng(1).normal(size=expected.shape) * expected.any(axis=-1, keepdims=True)
    scattered /= np.maximum(np.linalg.norm(scattered, axis=-1, keepdims=True), 1e-9)
    for atlas in (scattered, np.zeros_like(expected)):
        checked = check_gradients(dwi, true, brain, atlas)
        assert np.array_equal(checked.table.directions, true.directions)
        assert any(r.name == "bvec_reading" and r.level == "warn" for r in checked.verdict.reasons)


@pytest.mark.parametrize("factor", [1e-3, 1e-6, 0.1, 10.0])
def test_b_values_in_other_units_are_brought_back(factor: float) -> None:
    true = table()
    dwi, brain, expected = phantom(true)
    checked = check_gradients(dwi, true.scaled(factor), brain, expected)
    assert checked.table.b_values.max() == pytest.approx(1000, rel=0.01)
    assert any(r.name == "b_scale" and r.level == "warn" for r in checked.verdict.reasons)


def test_tables_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    true = table()
    dwi, brain, expected = phantom(true)
    with pytest.raises(InputRefused, match="equally many"):
        check_gradients(dwi, table(20), brain, expected)
    (tmp_path / "d.bval").write_text("0 1000 1000")
    with pytest.raises(InputRefused, match=r"has no d.bvec beside it"):
        gradients_beside(tmp_path / "d.nii.gz", affine=AFFINE)
    (tmp_path / "d.bvec").write_text("0 1 0\n0 0 x\n0 0 0\n")
    with pytest.raises(InputRefused, match="not a table of numbers"):
        gradients_beside(tmp_path / "d.nii.gz", affine=AFFINE)


def test_fsl_files_come_back_in_world_axes(tmp_path: Path) -> None:
    true = table()
    sign = np.array([-1.0 if np.linalg.det(AFFINE[:3, :3]) > 0 else 1.0, 1, 1])
    vectors = (true.directions @ image_axes(AFFINE)) * sign
    np.savetxt(tmp_path / "d.bvec", vectors.T)
    np.savetxt(tmp_path / "d.bval", true.b_values[None])
    read = gradients_beside(tmp_path / "d.nii.gz", affine=AFFINE)
    assert np.allclose(read.directions, true.directions, atol=1e-6)
    assert np.allclose(fsl_gradients(true.b_values, vectors, affine=AFFINE).b_values, true.b_values)


def test_the_fullest_shell_is_taken() -> None:
    two = GradientTable(
        np.r_[0, np.full(6, 700.0), np.full(12, 2000.0)],
        np.r_[np.zeros((1, 3)), np.eye(3)[np.arange(18) % 3]],
    )
    assert one_shell(two).tolist() == [True] + [False] * 6 + [True] * 12


def test_peaks_become_a_fod_that_points_the_same_way_and_nan_is_no_peak() -> None:
    from dipy.data import default_sphere
    from dipy.reconst.shm import sh_to_sf

    peaks = np.full((2, 1, 1, 9), np.nan, np.float32)
    peaks[0, 0, 0, :3] = (0.6, 0.0, 0.8)  # world
    fod = fod_from_peaks(Volume(peaks, AFFINE))
    assert not fod[1].any()
    values = sh_to_sf(fod[0, 0, 0], default_sphere, sh_order_max=8, basis_type="descoteaux07", legacy=False)
    best = image_axes(AFFINE) @ default_sphere.vertices[int(values.argmax())]
    assert abs(best @ np.array([0.6, 0.0, 0.8])) > 0.97
    with pytest.raises(InputRefused, match="peaks of shape"):
        fod_from_peaks(Volume(np.zeros((2, 2, 2, 4)), AFFINE))


def test_tensor_of_isotropic_water_has_no_direction() -> None:
    true = table()
    signal = 800 * np.exp(-true.b_values * 3e-3)
    maps = fit_tensor(np.broadcast_to(signal, (4, 4, 4, len(true))).copy(), true, np.ones((4, 4, 4), bool))
    assert maps.md.mean() == pytest.approx(3e-3, rel=0.02)
    assert maps.fa.max() < 0.02
