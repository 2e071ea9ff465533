"""The edge of hyperintensities: unbiased for sharp lesions, wider for those that fade out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ichnos.transfer.flair.brightness import Brightness
from ichnos.transfer.flair.template_maps import TemplateMaps
from ichnos.transfer.flair.volume_cut import grown_to_volume, volume_cut

SHAPE = (48, 48, 8)
LOOK = Brightness(white_spread=0.04, cortex=1.2, lesion=1.6, threshold=1.3)


def white_matter() -> TemplateMaps:
    """Return maps of an exam that shows nothing but deep white matter."""
    one, zero = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    return TemplateMaps(one, zero, one, zero, 30 * one, one, zero, 20 * one)


def exam(blur: float, seed: int = 0) -> tuple[np.ndarray, float]:
    """Return white matter with one lesion, blurred at its edge, and the lesion's volume in voxels."""
    x, y, _ = np.indices(SHAPE)
    share = (np.hypot(x - 24, y - 24) < 7).astype(float)
    share = ndimage.gaussian_filter(share, (blur, blur, 0))
    noise = np.random.default_rng(seed).normal(0, 0.04, SHAPE)
    return 1 + 0.6 * share + noise, float(share.sum())


@pytest.mark.parametrize("blur", [0.0, 1.0, 2.0])
def test_the_volume_is_that_of_the_shares_however_soft_the_edge(blur: float) -> None:
    even, volume = exam(blur)
    kept, cut = grown_to_volume(
        even > 1.3, even, LOOK, white_matter(), barred=np.zeros(SHAPE, bool), spacing_mm=(1, 1, 5)
    )
    assert kept.sum() == pytest.approx(volume, rel=0.08)
    assert 1.1 < cut < 1.5


def test_a_dim_halo_is_counted_that_half_way_leaves_out() -> None:
    even, _ = exam(0.0)
    x, y, _ = np.indices(SHAPE)
    halo = (np.hypot(x - 24, y - 24) >= 7) & (np.hypot(x - 24, y - 24) < 10)
    even[halo] += 0.27  # a little less than half-way
    half_way = even > 1.3
    kept, cut = grown_to_volume(
        half_way & ~halo, even, LOOK, white_matter(), barred=np.zeros(SHAPE, bool), spacing_mm=(1, 1, 5)
    )
    assert cut < 1.3
    assert kept.sum() > 1.3 * (half_way & ~halo).sum()


def test_barred_voxels_and_exams_without_lesions_stay_out() -> None:
    even, _ = exam(0.0)
    barred = np.zeros(SHAPE, bool)
    barred[24:] = True
    seeds = (even > 1.3) & ~barred
    kept, _ = grown_to_volume(seeds, even, LOOK, white_matter(), barred=barred, spacing_mm=(1, 1, 5))
    assert not (kept & barred).any()
    nothing = np.zeros(SHAPE, bool)
    assert grown_to_volume(nothing, even, LOOK, white_matter(), barred=barred, spacing_mm=(1, 1, 5)) == (
        pytest.approx(nothing),
        LOOK.threshold,
    )


def test_the_cut_falls_as_the_surroundings_brighten() -> None:
    dark = np.r_[np.full(80, 1.0), np.full(20, 1.6)]
    bright = np.r_[np.full(80, 1.2), np.full(20, 1.6)]
    assert volume_cut(bright, lesion=1.6) <= 1.2 < 1.6
    assert volume_cut(dark, lesion=1.6) < 1.6
