"""Forecasting the follow-up lesion: what each learner can and cannot do, and how it is scored."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ichnos.cohort import Patient
from ichnos.errors import InputRefused
from ichnos.formats import bids
from ichnos.inference.crops import REGION_SHAPE, REGION_SPACING_MM
from ichnos.learning.expansion.forecast import forecast_map, train_forecaster, warp_loss
from ichnos.learning.expansion.forecast_scores import (
    best_threshold,
    score,
    uniform_dilation,
)
from ichnos.learning.expansion.pairs import LesionPair, pair_of, synthetic_pair
from ichnos.learning.expansion.settings import CURVE, ForecastSettings
from ichnos.learning.expansion.synthetic import registered_baseline, registered_followup
from ichnos.learning.loop.settings import changed
from ichnos.networks import build
from ichnos.reading.expansion import signed_distance_mm
from ichnos.registration import write_transform
from ichnos.registration.transform import Transform
from ichnos.volume import Affine, Volume

MM = np.stack(
    np.meshgrid(
        *[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(REGION_SHAPE, REGION_SPACING_MM, strict=True)],
        indexing="ij",
    )
)


def pair(name: str, *, grow_mm: float = 5.0, shift_mm: float = 0.0, radius_mm: float = 13.0) -> LesionPair:
    """A ball that grows; its follow-up may also lie further to the right."""
    ball = (np.linalg.norm(MM, axis=0) <= radius_mm).astype(np.float32)
    away = np.linalg.norm(MM - np.array([shift_mm, 0, 0]).reshape(3, 1, 1, 1), axis=0)
    later = np.maximum(ball, (away <= radius_mm + grow_mm).astype(np.float32))
    hu = np.where(ball > 0, 65.0, 30.0).astype(np.float32)
    return LesionPair(name, hu, ball, np.zeros_like(ball), np.ones(ball.shape, bool), later)


@pytest.mark.slow
def test_the_network_learns_where_blood_comes_and_the_warp_learns_to_swell(tmp_path) -> None:  # type: ignore[no-untyped-def]
    known = [pair(f"p{k}", radius_mm=10 + k) for k in range(4)]
    new = pair("new", radius_mm=12.5)
    still = score(new, new.blood)
    assert still.growth_dice == 0
    assert still.volume_error_ml < -5
    found = {}
    for kind, steps in (("forecast", 60), ("warp", 40)):
        how = ForecastSettings(kind=kind, width=8)  # type: ignore[arg-type]
        how = changed(how, {"steps": steps, "learning_rate": 5e-3})
        network = train_forecaster(known, how, tmp_path / kind)
        maps = [forecast_map(network, p, kind) for p in known]  # type: ignore[arg-type]
        cut = best_threshold(known, maps)
        found[kind] = score(new, forecast_map(network, new, kind), threshold=cut)  # type: ignore[arg-type]
    assert found["forecast"].growth_dice > 0.6
    assert found["warp"].growth_dice > 0.2
    assert abs(found["forecast"].volume_error_ml) < abs(still.volume_error_ml)


def test_the_smoothness_term_reaches_the_gradient_and_nothing_new_appears_by_warping() -> None:
    network = build("affine_warp", input_channels=2, features_per_stage=[4, 8])
    loss = warp_loss(network, [pair("a")], "cpu")
    loss.backward()
    assert network.move.bias.grad is not None  # type: ignore[union-attr]
    with torch.no_grad():
        network.move.bias[:] = 0.3  # type: ignore[index,union-attr]
    network.zero_grad()
    from ichnos.learning.expansion import forecast as expansion

    before, expansion._SMOOTHNESS = expansion._SMOOTHNESS, 100.0
    try:
        strong = warp_loss(network, [pair("a")], "cpu")
    finally:
        expansion._SMOOTHNESS = before
    assert float(strong.detach()) > float(warp_loss(network, [pair("a")], "cpu").detach()) + 10


def test_growth_is_compared_as_a_set() -> None:
    p = pair("a", grow_mm=4, shift_mm=6)
    perfect = score(p, p.later)
    assert (perfect.growth_dice, perfect.lesion_dice, perfect.volume_error_ml) == (1.0, 1.0, 0.0)
    # a signed difference would have rewarded what is missing
    shrunk = (np.linalg.norm(MM, axis=0) <= 8).astype(np.float32)
    assert score(p, shrunk).growth_dice == 0
    assert np.isnan(score(pair("b", grow_mm=0), p.later).growth_dice)
    even = uniform_dilation(p, float(p.later.sum() / p.blood.sum()))
    assert even.sum() == pytest.approx(p.later.sum(), abs=1)
    assert 0.3 < score(p, even).growth_dice < 1


def test_a_synthetic_follow_up_has_its_volume_and_moves_the_ct_along() -> None:
    p = replace(pair("a"), later_hu=pair("a").hu)
    made = synthetic_pair(p, 1.68, np.random.default_rng(0))
    assert made.later.sum() == pytest.approx(1.68 * p.blood.sum(), rel=0.01)
    assert ((p.blood > 0.5) & (made.later < 0.5)).sum() == 0
    assert made.synthetic
    assert made.later_hu is not None
    ring = (made.later > 0.5) & (signed_distance_mm(p.blood > 0.5, REGION_SPACING_MM) > 1)
    assert made.later_hu[ring].mean() > p.hu[ring].mean() + 10  # blood has come to lie where tissue was


def test_synthetic_pairs_alone_are_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = synthetic_pair(pair("a"), 1.33, np.random.default_rng(0))
    with pytest.raises(InputRefused, match="none of a real follow-up"):
        train_forecaster([made], ForecastSettings(kind="warp"), tmp_path)


@pytest.mark.parametrize("factor", [1.33, 2.0])
def test_a_registered_follow_up_has_its_volume_and_its_blood_where_the_mask_is(factor: float) -> None:
    pytest.importorskip("picsl_greedy")
    p = pair("a")
    made = registered_followup(p, factor, np.random.default_rng(0))
    assert made.later.sum() == pytest.approx(factor * p.blood.sum(), rel=0.01)
    assert made.later_hu is not None
    inside = made.later > 0.5
    assert (made.later_hu[inside] > 47).mean() > 0.85, "the CT has come along"
    far = signed_distance_mm(inside, p.spacing_mm) > 15
    assert np.abs(made.later_hu[far] - p.hu[far])[p.hu[far] > -500].mean() < 1


def test_a_registered_baseline_is_smaller_and_keeps_the_real_follow_up() -> None:
    pytest.importorskip("picsl_greedy")
    p = pair("a")
    made = registered_baseline(p, 1.5)
    assert made.blood.sum() == pytest.approx(p.blood.sum() / 1.5, rel=0.01)
    assert np.array_equal(made.later, p.later)
    assert ((p.blood < 0.5) & (made.blood > 0.5)).sum() == 0
    rim = (p.blood > 0.5) & (made.blood < 0.5)
    assert made.hu[rim].mean() < p.hu[rim].mean() - 8
    with pytest.raises(InputRefused, match="is not > 1"):
        registered_baseline(p, 0.9)


def test_patients_of_the_inner_fold_choose_the_network_and_leave_a_curve(tmp_path) -> None:  # type: ignore[no-untyped-def]
    settings = changed(
        ForecastSettings(width=2, shape=(16, 16, 8), patch=(16, 16, 8)),
        {"steps": 4, "validations": 2, "precision": "fp32"},
    )
    small = [crop(pair(f"p{k}", radius_mm=8 + k)) for k in range(4)]
    train_forecaster(small[:2], settings, tmp_path, validation=small[2:])
    lines = [json.loads(line) for line in (tmp_path / CURVE).read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(0 <= line["growth_dice"] <= 1 and 0 < line["threshold"] < 1 for line in lines)
    with pytest.raises(InputRefused, match="sub-p0 is trained on and validates"):
        train_forecaster(small[:2], settings, tmp_path / "b", validation=small[:1])


def crop(p: LesionPair) -> LesionPair:
    """The middle of a pair, quick to learn from."""
    middle = tuple(
        slice(n // 2 - half, n // 2 + half) for n, half in zip(REGION_SHAPE, (8, 8, 4), strict=True)
    )
    names = ("hu", "ich", "ivh", "brain", "later")
    return replace(p, later_hu=None, oracle=None, **{name: getattr(p, name)[middle] for name in names})


def test_a_pair_holds_the_real_follow_up_ct_on_the_baseline_grid(tmp_path) -> None:  # type: ignore[no-untyped-def]
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    at = np.stack(np.meshgrid(*[np.arange(n) - n / 2 for n in (64, 64, 32)], indexing="ij"))
    radius = np.linalg.norm(at * np.array([2.0, 2.0, 4.0]).reshape(3, 1, 1, 1), axis=0)
    clot, later = radius < 12, radius < 18
    rng = np.random.default_rng(0)
    tissue = rng.normal(30, 5, clot.shape)
    ct = Volume(np.where(clot, 65, tissue).astype(np.int16), affine)
    moved = affine.copy()
    moved[0, 3] = 10.0  # the patient lies 10 mm to the right a day later
    followup = Volume(np.where(later, 65, tissue).astype(np.int16), moved)
    patient = Patient("0", "A", "train")
    for exam, volume in (("ct", ct), ("followup", followup)):
        bids.write_exam(tmp_path, patient.id, exam, volume)  # type: ignore[arg-type]
    for label, mask in (("haematoma", clot), ("expansion", later)):
        volume = ct.with_array(mask.astype(np.uint8))
        bids.write_derivative(tmp_path, patient.id, volume, pipeline="manual", label=label, kind="dseg")
    bids.write_cohort([patient], tmp_path, name="one")
    shift = np.eye(4)
    shift[0, 3] = 10.0
    home = tmp_path / "derivatives" / "transfer" / "sub-0"
    home.mkdir(parents=True)
    write_transform(Transform.of(Affine(shift)), home / "sub-0_from-ct_to-followup_xfm.h5")
    cohort = bids.read_cohort(tmp_path)
    found = pair_of(cohort, cohort.patients[0], spacing_mm=(2.0, 2.0, 4.0), shape=(40, 40, 16))
    assert found is not None
    assert found.later_hu is not None
    grown = (found.later > 0.9) & (found.blood < 0.1)
    assert found.later_hu[grown].mean() > 55
    assert found.hu[grown].mean() < 40
    assert found.later.shape == (40, 40, 16)
    assert found.voxel_ml == pytest.approx(0.016)
