"""What a registration looks at: heads, windows, and images it cannot use."""

from __future__ import annotations

import numpy as np
import pytest

from ichnos.errors import InputRefused
from ichnos.registration.contrast import contrast_of, view
from ichnos.volume import Volume

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])


def head(look: str, *, scale: float = 1.0) -> Volume:
    """Return a ball of brain in a shell of skull, in HU or as an MRI."""
    x, y, z = np.indices((70, 80, 36))
    distance = np.sqrt(((x - 35) * 2) ** 2 + ((y - 40) * 2) ** 2 + ((z - 18) * 4) ** 2)
    levels = {"ct": (35.0, 900.0, -1000.0), "mri": (300.0, 20.0, 0.0)}[look]
    array = np.select([distance < 55, distance < 61], levels[:2], levels[2])
    return Volume((array * scale).astype(np.float32), AFFINE)


@pytest.mark.parametrize("look", ["ct", "mri"])
def test_contrast_is_told_from_the_values_and_the_head_is_found(look: str) -> None:
    image = head(look)
    assert contrast_of(image) == look
    seen = view(image, spacing_mm=4.0)
    assert seen.contrast == look
    assert 0 <= seen.image.array.min() < seen.image.array.max() <= 1
    radius = (3 * seen.head.array.sum() * 64 / (4 * np.pi)) ** (1 / 3)
    assert 54 < radius < 70


def test_an_mri_looks_the_same_whatever_its_scale() -> None:
    plain, bright = (view(head("mri", scale=s), spacing_mm=4.0).image.array for s in (1.0, 7.0))
    assert np.allclose(plain, bright, atol=1e-4)


def test_a_view_keeps_the_place_of_the_head() -> None:
    seen = view(head("ct"), spacing_mm=3.0)
    middle = seen.head.world(np.argwhere(seen.head.array)).mean(axis=0)
    assert np.allclose(middle, (70, 80, 72), atol=1.5)


@pytest.mark.parametrize(
    ("array", "cause"),
    [
        (np.zeros((20, 20, 20)), "nothing to register"),
        (np.full((20, 20, 20), np.nan), "not finite"),
        (np.ones((20, 20, 20, 3)), "one three-dimensional image"),
        (np.arange(200.0).reshape(10, 10, 2), "at least three slices"),
    ],
)
def test_images_of_no_use_are_refused(array: np.ndarray, cause: str) -> None:
    with pytest.raises(InputRefused, match=cause):
        view(Volume(array, np.eye(4) * [2, 2, 2, 1]), spacing_mm=2.0)
