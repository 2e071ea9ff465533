"""What tissues look like on one FLAIR exam: the receive field evened out, white matter at 1, few voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichnos.errors import InputRefused
from ichnos.transfer.flair.brightness import even_brightness, learned_brightness, white_peak
from ichnos.transfer.flair.template_maps import TemplateMaps
from ichnos.volume import Volume

SHAPE = (48, 56, 14)
AFFINE = np.diag([3.0, 3.0, 6.0, 1.0])
X, Y, Z = np.indices(SHAPE)
AWAY = np.sqrt(((X - 23.5) / 20) ** 2 + ((Y - 27.5) / 24) ** 2 + ((Z - 6.5) / 6) ** 2)


def _maps() -> TemplateMaps:
    """Return a ball of white matter in a shell of cortex."""
    white, cortex = (AWAY < 0.8).astype(np.float32), ((AWAY >= 0.8) & (AWAY < 1)).astype(np.float32)
    zero, one = np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.float32)
    depth = np.clip(60 * (1 - AWAY), 0, None).astype(np.float32)
    return TemplateMaps(white, cortex, white + cortex, zero, depth, one, zero, 20 * one)


def _exam(*, lesions: bool = False, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    """Return brightness with white matter at 1, cortex at 1.15, and dark outside."""
    maps = _maps()
    exam = maps.white + 1.15 * maps.cortex
    if lesions:
        exam = np.where(np.abs(X - 23.5) + np.abs(Y - 20) < 4, 1.7, exam)
    return exam + np.random.default_rng(seed).normal(0, noise, SHAPE) * (exam > 0)


@pytest.mark.parametrize("scale", [0.5, 1.0, 800.0])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_neither_scale_nor_offset_nor_a_smooth_field_changes_what_is_seen(
    scale: float, offset: float
) -> None:
    field = np.exp(0.25 * np.cos(np.pi * X / 48) + 0.15 * np.sin(np.pi * Y / 56))
    flair = Volume((offset + scale * field * _exam()).astype(np.float32), AFFINE)
    even = even_brightness(flair, _maps())
    white = even[_maps().white > 0.5]
    assert float(np.median(white)) == pytest.approx(1.0, abs=0.03)
    halves = [even[(AWAY < 0.7) & side].mean() for side in (X < 18, X > 30)]
    assert halves[0] == pytest.approx(halves[1], rel=0.05)  # 0.7 and 1.4 before


def test_an_exam_that_the_template_misses_is_refused() -> None:
    maps = _maps()
    elsewhere = TemplateMaps(*(np.zeros_like(maps.white) for _ in range(8)))
    with pytest.raises(InputRefused, match="the MNI template and the FLAIR exam do not overlap"):
        even_brightness(Volume(_exam().astype(np.float32), AFFINE), elsewhere)


@given(spread=st.floats(0.02, 0.08), share=st.floats(0.0, 0.35), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_lesions_do_not_pull_the_peak_of_white_matter(spread: float, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bright = rng.random(8000) < share
    values = np.where(bright, rng.normal(1.8, 0.15, 8000), rng.normal(1.0, spread, 8000))
    assert white_peak(values) == pytest.approx(1.0, abs=0.5 * spread + 0.01)


def test_lesions_are_learned_where_they_are_seen() -> None:
    brightness, candidates = learned_brightness(_exam(lesions=True), _maps())
    assert brightness.lesion == pytest.approx(1.7, abs=0.05)
    assert brightness.cortex == pytest.approx(1.15, abs=0.03)
    assert brightness.white_spread == pytest.approx(0.02, abs=0.01)
    assert brightness.threshold == pytest.approx((1 + brightness.lesion) / 2, abs=0.05)
    assert candidates.any()
    assert (_exam(lesions=True, noise=0.0)[candidates] > 1.6).all()


def test_without_lesions_a_usual_one_is_assumed_and_hardly_anything_is_a_candidate() -> None:
    brightness, candidates = learned_brightness(_exam(), _maps())
    assert brightness.lesion == 1.6
    assert candidates.mean() < 1e-3


def test_too_little_white_matter_and_cortex_give_usual_values() -> None:
    maps = _maps()
    empty = TemplateMaps(*(np.zeros_like(maps.white) for _ in range(8)))
    brightness, candidates = learned_brightness(_exam(), empty)
    assert (brightness.white_spread, brightness.cortex) == (0.1, 1.15)
    assert not candidates.any()
