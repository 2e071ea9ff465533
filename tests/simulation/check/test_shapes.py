"""Shapes of masks against bodies whose shape is known."""

from __future__ import annotations

import numpy as np
import pytest

from ichnos.simulation.check.shapes import shape_of
from ichnos.volume import Volume


def ellipsoid(half_mm: tuple[float, float, float], spacing_mm: tuple[float, float, float]) -> Volume:
    shape = [int(2 * h / s) + 6 for h, s in zip(half_mm, spacing_mm, strict=True)]
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    points = np.meshgrid(*axes, indexing="ij")
    inside = sum((p / h) ** 2 for p, h in zip(points, half_mm, strict=True)) <= 1
    return Volume(inside.astype(np.uint8), np.diag([*spacing_mm, 1.0]))


@pytest.mark.parametrize("half_mm", [(20, 10, 10), (15, 15, 8), (24, 14, 9)])
def test_an_ellipsoid_has_the_ratios_of_its_axes_and_fills_itself(
    half_mm: tuple[float, float, float],
) -> None:
    shape = shape_of(ellipsoid(half_mm, (1, 1, 1)))
    assert shape is not None
    long, middle, short = sorted(half_mm, reverse=True)
    assert shape.elongation == pytest.approx(long / middle, rel=0.04)
    assert shape.flatness == pytest.approx(middle / short, rel=0.04)
    assert shape.fill == pytest.approx(1.0, abs=0.05)
    assert shape.volume_ml == pytest.approx(4.19 * long * middle * short / 1000, rel=0.03)


def test_axes_do_not_depend_on_their_direction() -> None:
    one = shape_of(ellipsoid((20, 12, 8), (1, 1, 1)))
    other = shape_of(ellipsoid((8, 20, 12), (1, 1, 1)))
    assert one is not None
    assert other is not None
    assert one.elongation == pytest.approx(other.elongation, rel=0.01)
    assert one.flatness == pytest.approx(other.flatness, rel=0.01)


def test_thick_slices_change_the_shape_of_a_ball_but_little() -> None:
    thin, thick = (shape_of(ellipsoid((14, 14, 14), (1, 1, z))) for z in (1, 4.5))
    assert thin is not None
    assert thick is not None
    assert thick.elongation == pytest.approx(thin.elongation, abs=0.08)
    assert thick.fill == pytest.approx(thin.fill, abs=0.12)


def test_a_shell_has_little_fill_and_a_disc_is_round() -> None:
    ball, core = ellipsoid((16, 16, 16), (1, 1, 1)), ellipsoid((14, 14, 14), (1, 1, 1))
    hollow = ball.array.copy()
    pad = (np.array(ball.shape) - core.shape) // 2
    inner = tuple(slice(p, p + n) for p, n in zip(pad, core.shape, strict=True))
    hollow[inner] -= core.array
    shell = shape_of(ball.with_array(hollow))
    whole = shape_of(ball)
    assert shell is not None
    assert whole is not None
    assert shell.fill < 0.4
    assert whole.roundness == pytest.approx(1.0, abs=0.12)
    assert shell.roundness < 0.6


def test_pieces_are_counted_from_a_tenth_of_a_millilitre_and_nothing_has_no_shape() -> None:
    array = np.zeros((40, 40, 40), np.uint8)
    array[2:12, 2:12, 2:12] = 1  # 1 mL
    array[20:26, 20:26, 20:26] = 1  # 0.2 mL
    array[34:36, 34:36, 34:36] = 1  # 0.008 mL
    mask = Volume(array, np.eye(4))
    shape = shape_of(mask)
    assert shape is not None
    assert shape.pieces == 2
    assert shape_of(mask.with_array(array * 0)) is None
    speck = np.zeros_like(array)
    speck[0, 0, 0] = 1
    assert shape_of(mask.with_array(speck)) is None
