"""Normalised mutual information: its range, its invariances, and what it refuses to compare."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ichnos.registration.contrast import View
from ichnos.registration.similarity import samples, similarity, similarity_at
from ichnos.registration.transform import Transform
from ichnos.volume import Affine, Volume

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def structured() -> View:
    rng = np.random.default_rng(4)
    smooth = ndimage.gaussian_filter(rng.normal(size=(40, 40, 40)), 2.5)
    array = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    image = Volume(array.astype(np.float32), AFFINE)
    return View(image, image.with_array(np.ones(image.shape, bool)), "mri")


def shifted(mm: float) -> Transform:
    matrix = np.eye(4)
    matrix[0, 3] = mm
    return Transform.of(Affine(matrix))


def points(fixed: View, **options: object) -> object:
    return samples(fixed, count=4000, rng=np.random.default_rng(0), **options)  # type: ignore[arg-type]


def test_an_image_tells_most_about_itself_and_less_the_further_it_is_moved(structured: View) -> None:
    chosen = points(structured)
    values = [similarity(shifted(mm), chosen, structured) for mm in (0.0, 3.0, 9.0, 24.0)]
    assert values[0] == pytest.approx(2.0)
    assert values == sorted(values, reverse=True)
    assert all(1 <= value <= 2 for value in values)


def test_unrelated_images_tell_nothing(structured: View) -> None:
    rng = np.random.default_rng(9)
    noise = structured.image.with_array(rng.uniform(size=structured.image.shape).astype(np.float32))
    assert similarity(Transform(), points(structured), View(noise, structured.head, "mri")) < 1.06


def test_inverted_grey_values_change_nothing(structured: View) -> None:
    inverted = structured.image.with_array(1 - structured.image.array)
    plain = similarity(shifted(3.0), points(structured), structured)
    other = similarity(shifted(3.0), points(structured), View(inverted, structured.head, "mri"))
    assert other == pytest.approx(plain, abs=0.02)


def test_matrix_and_transform_give_the_same(structured: View) -> None:
    chosen = points(structured)
    pose = shifted(5.0)
    assert similarity_at(pose.affine.matrix, chosen, structured) == pytest.approx(
        similarity(pose, chosen, structured)
    )


def test_images_that_hardly_meet_are_not_compared(structured: View) -> None:
    assert similarity(shifted(100.0), points(structured), structured) == 0.0


def test_no_point_is_drawn_where_the_exam_is_excluded(structured: View) -> None:
    half = np.zeros(structured.image.shape, np.uint8)
    half[:20] = 1
    chosen = points(structured, exclude=structured.image.with_array(half))
    assert chosen.points[:, 0].min() > 19 * 3  # type: ignore[attr-defined]
