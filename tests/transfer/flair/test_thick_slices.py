"""What a drawn mask on thick slices becomes on the slices of another exam."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ichnos.registration.transform import IDENTITY, Transform
from ichnos.transfer.flair import given_hyperintensities, leukoaraiosis_on_ct
from ichnos.transfer.flair.thick_slices import between_slices, softened
from ichnos.volume import Affine, Volume, volume_ml


@pytest.fixture(scope="module")
def scene() -> tuple[Volume, Volume, Volume, Transform]:
    """Return a FLAIR of 5 mm, its true mask, the true mask on a CT of 5 mm that lies otherwise, and the
    map from CT to FLAIR.
    """
    side = np.arange(-36.0, 36.0)
    x, y, z = np.meshgrid(side, side, side, indexing="ij")
    blobs = [((-14, 4, 2), (5, 13, 4)), ((13, -6, 7), (4, 9, 6)), ((2, 18, -9), (7, 4, 3))]
    inside = [
        sum(((p - c) / r) ** 2 for p, c, r in zip((x, y, z), centre, radii, strict=True)) < 1
        for centre, radii in blobs
    ]
    affine = np.eye(4)
    affine[:3, 3] = -36.0
    fine = Volume(np.any(inside, axis=0).astype(np.float32), affine)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", (14, 4, -6), degrees=True).as_matrix()
    turn[:3, 3] = (3, -4, 2.3)
    flair_from_ct = Transform.of(Affine(turn))
    seen = IDENTITY.pull_share(fine, fine.grid_with_spacing((1, 1, 5)))
    noise = np.random.default_rng(3).normal(0, 3, seen.shape)
    flair = seen.with_array((100 + 75 * seen.array + noise).astype(np.float32))
    ct = flair_from_ct.pull_share(fine, fine.grid_with_spacing((0.8, 0.8, 5)))
    return flair, seen.with_array(seen.array >= 0.5), ct.with_array(ct.array >= 0.5), flair_from_ct


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_a_hard_mask_reaches_the_ct_better_than_by_neighbours(
    scene: tuple[Volume, Volume, Volume, Transform],
) -> None:
    flair, mask, truth, flair_from_ct = scene
    nearest = flair_from_ct.pull(mask.astype(np.uint8), truth, interpolation="nearest").array > 0
    between = flair_from_ct.pull_share(mask.astype(np.float32), truth).array >= 0.5
    found = leukoaraiosis_on_ct(
        given_hyperintensities(mask.astype(np.uint8), flair), flair_from_ct=flair_from_ct, ct=truth
    )
    assert dice(found.mask.array, truth.array) > dice(between, truth.array) + 0.02
    assert dice(found.mask.array, truth.array) > dice(nearest, truth.array) + 0.03
    assert volume_ml(found.share) == pytest.approx(2.35, rel=0.1)  # the three ellipsoids


def test_softening_keeps_the_mask_and_thin_slices_stay_as_they_are(
    scene: tuple[Volume, Volume, Volume, Transform],
) -> None:
    flair, mask, _, _ = scene
    soft = softened(mask, flair)
    assert np.array_equal(soft.array >= 0.5, mask.array)
    assert np.count_nonzero((soft.array > 0.05) & (soft.array < 0.95)) > 50
    thin = Volume(flair.array, np.diag([1.0, 1, 1, 1]))
    assert set(np.unique(softened(mask.with_array(mask.array), thin).array)) == {0.0, 1.0}
    assert between_slices(thin) is thin
    # a brightness that does not bear the mask out
    flat = flair.with_array(np.full(flair.shape, 100.0, np.float32))
    assert set(np.unique(softened(mask, flat).array)) == {0.0, 1.0}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_layers_average_to_their_slices_along_any_axis(axis: int) -> None:
    share = np.random.default_rng(0).uniform(0, 1, (6, 7, 8)).astype(np.float32)
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 4.0
    thick = Volume(share, np.diag([*spacing, 1.0]))
    fine = between_slices(thick)
    assert fine.spacing_mm == (1.0, 1.0, 1.0)
    back = IDENTITY.pull_share(fine, thick)
    assert np.abs(back.array - share).mean() < 0.05
    assert np.allclose(fine.centre_mm, thick.centre_mm)
