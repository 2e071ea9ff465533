"""Synthetic images are judged against a floor, copies are found however moved, and membership is betrayed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import Auc
from ichnos.evidence.metrics.synthetic.copies import (
    find_copies,
    membership_auc,
    nearest_similarity,
    similarity_limit,
)
from ichnos.evidence.metrics.synthetic.distances import (
    frechet_distance,
    frechet_over_floor,
    kernel_distance,
    kernel_over_floor,
)
from ichnos.evidence.metrics.synthetic.judge import ImageSet, classifier_auc, judge_synthetic

SIDE = 64


def slices(rng: np.random.Generator, count: int, *, bright: float = 0.7) -> np.ndarray:
    """Make slices (count, SIDE, SIDE) of a textured brain with one irregular bleed each, and noise."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    out = []
    for _ in range(count):
        texture = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), rng.uniform(3, 6))
        edge = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 5)
        texture, edge = 0.12 * texture / texture.std(), 0.12 * edge / edge.std()
        (cx, cy), radius = rng.uniform(-0.12, 0.12, 2), rng.uniform(0.12, 0.3)
        stretch, angle = rng.uniform(0.6, 1.6), rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
        distance = np.hypot(u / stretch, v * stretch) / radius
        bleed = 1 / (1 + np.exp(8 * distance - 8 + 8 * edge))
        image = -0.3 + texture + bleed * (bright + 0.5 * texture) + rng.normal(0, 0.05, (SIDE, SIDE))
        out.append(np.clip(image, -1, 1))
    return np.array(out, np.float32)


def copied(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift by up to 6 px, turn by up to 15 degrees, rescale by up to 10 %, perhaps mirror, and add noise."""
    angle, scale, shift = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(0.9, 1.1), rng.uniform(-6, 6, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    middle = np.full(2, (SIDE - 1) / 2)
    moved = ndimage.affine_transform(image, turn, middle - turn @ (middle + shift), order=1, mode="nearest")
    moved = moved[:, ::-1] if rng.random() < 0.5 else moved
    return np.clip(moved + rng.normal(0, 0.05, moved.shape), -1, 1).astype(np.float32)


def flat_features(images: np.ndarray) -> np.ndarray:
    return np.stack([images.mean((1, 2)), images.std((1, 2)), images[:, 16:48, 16:48].mean((1, 2))], axis=1)


def test_the_floor_of_equal_images_holds_zero_and_a_shift_stands_above_it() -> None:
    rng = np.random.default_rng(0)
    real, alike, apart = rng.normal(size=(400, 6)), rng.normal(size=(200, 6)), rng.normal(1, 1, (200, 6))
    patients = [str(k // 2) for k in range(400)]
    for judge in (frechet_over_floor, kernel_over_floor):
        same = judge(alike, real, patients, features="made", rng=rng)
        other = judge(apart, real, patients, features="made", rng=rng)
        assert same.distance.low <= same.floor.high
        assert other.distance.low > other.floor.high
        assert same.features == "made"
        assert same.images == 200


def test_too_few_images_for_their_features_are_refused_with_the_floor() -> None:
    rng = np.random.default_rng(1)
    real = rng.normal(size=(60, 128))
    with pytest.raises(InputRefused, match="cannot tell a distance of 0 from the floor"):
        frechet_over_floor(
            rng.normal(size=(30, 128)), real, [str(k) for k in range(60)], features="made", rng=rng
        )
    with pytest.raises(InputRefused, match="too few for a distance"):
        kernel_over_floor(real[:5], real, [str(k) for k in range(60)], features="made", rng=rng)
    with pytest.raises(InputRefused, match="at least 2 images"):
        frechet_distance(real[:1], real)


def test_halves_never_share_a_patient() -> None:
    rng = np.random.default_rng(2)
    real = np.repeat(rng.normal(size=(20, 4)), 10, axis=0)  # ten slices of each patient are alike
    patients = [str(k // 10) for k in range(200)]
    with pytest.raises(InputRefused, match="real against real"):  # twenty patients are few
        kernel_over_floor(real[:100], real, patients, features="made", rng=rng)
    alone = kernel_over_floor(real[:100], real, [str(k) for k in range(200)], features="made", rng=rng)
    assert alone.images == 100  # split by image, the same slices would look like many patients


def test_the_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    rng = np.random.default_rng(3)
    values = [kernel_distance(rng.normal(size=(40, 3)), rng.normal(size=(40, 3))) for _ in range(60)]
    assert np.mean(values) == pytest.approx(0, abs=0.05)


def test_moved_copies_are_found_and_other_patients_are_not_called_copies() -> None:
    rng = np.random.default_rng(4)
    originals, others, fresh = slices(rng, 24), slices(rng, 24), slices(rng, 24)
    copies = np.array([copied(image, rng) for image in originals])
    check = find_copies(copies, originals, others)
    assert check.copies.value > 0.85
    assert check.median_synthetic > check.median_others
    assert (nearest_similarity(fresh, originals) >= check.similarity).mean() <= 1 / 24
    assert membership_auc(copies, originals, others).value > 0.85


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_95_of_100_copies_are_found_at_one_false_alarm_of_100(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    rng = np.random.default_rng(5)
    originals, others, fresh = slices(rng, 150), slices(rng, 150), slices(rng, 300)
    copies = np.array([copied(originals[k], rng) for k in rng.integers(0, 150, 200)])
    check = find_copies(copies, originals, others)
    false = float((nearest_similarity(fresh, originals) >= check.similarity).mean())
    with capsys.disabled():
        sys.stdout.write(f" copies found {check.copies.value:.3f}, false alarms {false:.3f}\n")
    assert check.copies.value >= 0.95
    assert false <= 0.01


def test_an_unmoved_image_is_its_own_nearest() -> None:
    originals = slices(np.random.default_rng(6), 6)
    assert nearest_similarity(originals[2:3], originals)[0] == pytest.approx(1, abs=0.02)


def test_the_limit_lies_in_the_tail_of_the_others() -> None:
    others = np.random.default_rng(7).normal(0.6, 0.05, 300)
    assert (others >= similarity_limit(others)).mean() <= 0.02


def test_fewer_others_set_a_more_careful_limit() -> None:
    above = []
    for seed in range(300):
        limit = similarity_limit(np.tanh(np.random.default_rng(seed).normal(0.7, 0.05, 30)))
        above.append(float(stats.norm.sf(np.arctanh(limit), 0.7, 0.05)))
    assert np.mean(np.array(above) <= 0.01) == pytest.approx(0.95, abs=0.04)


def test_all_images_are_aligned_unless_some_are_asked_for_each_with_all_originals() -> None:
    rng = np.random.default_rng(4)
    originals, others = slices(rng, 50), slices(rng, 45)
    copies = np.stack([copied(image, rng) for image in originals])
    every, found = (find_copies(copies, originals, others, most=most) for most in (None, 25))
    assert (every.copies.n, every.false_alarms.n) == (50, 45)
    assert (found.copies.n, found.false_alarms.n) == (25, 25)
    assert found.copies.value > 0.8, "a copy of any original is found, though not all copies are looked at"
    assert membership_auc(originals[:30], originals, others, most=25).n == 50


def test_a_search_without_images_is_refused() -> None:
    images = slices(np.random.default_rng(8), 2)
    with pytest.raises(InputRefused, match="no synthetic image"):
        find_copies(images[:0], images, images)
    with pytest.raises(InputRefused, match="20 are the least"):
        find_copies(images, images, images)


def test_a_classifier_needs_both_outcomes() -> None:
    x = np.random.default_rng(9).normal(size=(10, 2))
    with pytest.raises(InputRefused, match="one outcome only"):
        classifier_auc(x, np.ones(10), x, np.r_[np.zeros(5), np.ones(5)])


def test_one_call_judges_distance_novelty_and_use() -> None:
    rng = np.random.default_rng(10)
    dim, bright = slices(rng, 20, bright=0.4), slices(rng, 20, bright=0.9)
    outcomes = np.r_[np.zeros(20), np.ones(20)]
    names = tuple(f"p{k}" for k in range(40))
    originals = ImageSet(np.concatenate([dim, bright]), outcomes, names)
    held = ImageSet(
        np.concatenate([slices(rng, 20, bright=0.4), slices(rng, 20, bright=0.9)]), outcomes, names
    )
    synthetic = ImageSet(slices(rng, 20, bright=0.9), np.ones(20))
    verdict = judge_synthetic(
        synthetic, originals, held, features=flat_features, features_name="mean and spread", rng=rng
    )
    assert not isinstance(verdict.trained_on_synthetic, str)
    assert not isinstance(verdict.trained_on_real, str)
    assert verdict.trained_on_synthetic.value > 0.8  # bright against dim is learnt from synthetic images
    assert not isinstance(verdict.copies, str)
    assert verdict.copies.copies.value <= 0.1
    assert not isinstance(verdict.membership, str)
    assert verdict.membership.low < 0.6
    assert isinstance(verdict.frechet, str) or verdict.frechet.features == "mean and spread"


def test_the_use_of_one_synthetic_class_is_judged_beside_real_images_of_the_other() -> None:
    rng = np.random.default_rng(11)
    dim, bright = slices(rng, 20, bright=0.4), slices(rng, 20, bright=0.9)
    outcomes, names = np.r_[np.zeros(20), np.ones(20)], tuple(f"p{k}" for k in range(40))
    everyone = ImageSet(np.concatenate([dim, bright]), outcomes, names)
    taught = ImageSet(bright, np.ones(20), names[20:])  # a generator of one class has seen these alone
    synthetic = ImageSet(slices(rng, 20, bright=0.9), np.ones(20))

    def judged(classified: ImageSet | None) -> tuple[object, object]:
        how = {"features": flat_features, "features_name": "mean and spread", "rng": rng}
        verdict = judge_synthetic(synthetic, taught, everyone, classified=classified, **how)
        return verdict.trained_on_synthetic, verdict.trained_on_real

    assert all("one outcome only" in str(found) for found in judged(None))
    for found in judged(everyone):
        assert isinstance(found, Auc)
        assert found.value > 0.8
