"""Measures of made clots whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from ichnos.reading.measures.blood import abc2_ml, density_signs, sphericity
from ichnos.volume import Volume, sphere


def _clot(radius_mm: float = 20.0) -> Volume:
    return sphere(radius_mm=radius_mm, spacing_mm=1.0)


def test_abc2_of_a_box_is_half_its_diagonals() -> None:
    mask = Volume(np.zeros((50, 50, 20), bool), np.diag([1.0, 1.0, 5.0, 1.0]))
    mask.array[10:40, 20:30, 5:9] = True
    a = np.hypot(29, 9) + 1
    b = 2 * 29 * 9 / np.hypot(29, 9) + 1  # the extent of a rectangle at right angles to its diagonal
    assert abc2_ml(mask) == pytest.approx(a * b * 20 / 2000, rel=1e-6)


def test_abc2_of_nothing_is_undefined() -> None:
    assert np.isnan(abc2_ml(_clot().map_array(np.zeros_like)))


def test_a_ball_is_round_and_a_rod_is_not() -> None:
    rod = Volume(np.zeros((10, 10, 120), bool), np.eye(4))
    rod.array[2:8, 2:8, 5:115] = True
    assert sphericity(_clot()) == pytest.approx(1.0, abs=0.04)
    assert sphericity(rod) < 0.7


def test_a_dark_hole_inside_is_a_black_hole_and_a_dark_half_is_a_blend() -> None:
    mask = _clot()
    rng = np.random.default_rng(0)
    even = mask.with_array((65 + rng.normal(0, 3, mask.shape)).astype(np.float32))
    x, y, z = np.indices(mask.shape) - np.array(mask.shape)[:, None, None, None] // 2
    hole = even.with_array(
        np.where((x + 2) ** 2 + y**2 + z**2 < 7**2, even.array - 35, even.array).astype(np.float32)
    )
    half = even.with_array(np.where(x > 4, even.array - 25, even.array).astype(np.float32))
    assert (density_signs(even, mask).black_hole, density_signs(even, mask).blend) == (False, False)
    assert (density_signs(hole, mask).black_hole, density_signs(hole, mask).blend) == (True, False)
    assert (density_signs(half, mask).black_hole, density_signs(half, mask).blend) == (False, True)
    assert all(
        isinstance(sign, bool)
        for sign in (density_signs(half, mask).blend, density_signs(hole, mask).black_hole)
    )


def test_signs_of_a_tiny_clot_are_undefined_and_not_absent() -> None:
    mask = _clot(3.0)
    assert density_signs(mask.astype(np.float32), mask).black_hole is None
