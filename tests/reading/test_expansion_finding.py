"""The finding "expansion": probability, band and mask say the same, and what cannot be forecast is
withheld with its reason.
"""

from __future__ import annotations

import numpy as np
import pytest

from ichnos.prognosis.growth import CLINICAL, IMAGE, GrowthModel, GrowthParameters, GrowthVariant
from ichnos.reading.expansion import expansion_mask, grown_mask, probable_ml, read_expansion
from ichnos.reading.masks import Masks
from ichnos.volume import Volume, sphere, volume_ml

BRAIN = sphere(radius_mm=60, spacing_mm=2.0)
AT_MM = (np.indices(BRAIN.shape) - (np.array(BRAIN.shape).reshape(3, 1, 1, 1) - 1) / 2) * 2.0


def ball(x_mm: float, radius_mm: float) -> Volume:
    away = (AT_MM[0] - x_mm) ** 2 + AT_MM[1] ** 2 + AT_MM[2] ** 2
    return BRAIN.with_array(away <= radius_mm**2)


def scene(*, bleeds: bool = True) -> tuple[Masks, Volume]:
    none, ventricles = BRAIN.map_array(np.zeros_like), ball(-4, 6)
    ich = ball(22, 14) if bleeds else none
    masks = Masks(ich, none, none, none, BRAIN, ventricles, none, none, frozenset({"ICH", "brain"}))
    hu = BRAIN.with_array(
        np.where(ich.array, 60.0, 30.0) + np.random.default_rng(0).normal(0, 2, BRAIN.shape)
    )
    return masks, hu


def law(*, highest_ml: float = 100.0, growing: float = 1.0) -> GrowthModel:
    n = len(IMAGE)
    parameters = GrowthParameters(
        growing=(growing, *[0.0] * n),
        gain=(-0.4, 0.0),
        gain_sd=0.5,
        stable_mean=0.02,
        stable_sd=0.05,
        ventricles_alone=(-3.0, -2.0),
    )
    wide = GrowthVariant(
        name="image",
        features=IMAGE,
        centre=(0.0,) * n,
        scale=(1.0,) * n,
        low=(0.0, *[-100.0] * (n - 1)),
        high=(float(np.log(highest_ml)), *[1000.0] * (n - 1)),
        parameters=parameters,
        refits=(parameters.model_copy(update={"growing": (growing + 0.5, *[0.0] * n)}),),
    )
    return GrowthModel(
        cohort="made",
        patients=100,
        expanded=30,
        simulated=True,
        code_version="0",
        command="",
        fitted="2026-01-01",
        variants=(wide,),
    )


def test_probability_median_band_and_mask_agree() -> None:
    masks, hu = scene()
    finding = read_expansion(law(growing=3.0), masks, hu)
    assert finding.status == "read"
    volume, risk = finding.measure("followup_volume"), finding.measure("expansion_probability")
    assert isinstance(volume.value, float)
    assert isinstance(risk.value, float)
    assert risk.value > 80  # likely to expand, so the median must have grown by more than 6 mL
    assert volume.value > volume_ml(masks.ich) + 6
    grown = expansion_mask(finding, masks)
    assert grown is not None
    assert volume_ml(grown) == pytest.approx(volume.value, abs=masks.ich.voxel_ml)
    assert not (grown.array & masks.ventricles.array).any()
    assert (masks.ich.array & ~grown.array).sum() == 0
    assert "simulated" in finding.sentence


def test_a_network_forecast_draws_the_mask_where_it_expects_blood() -> None:
    masks, hu = scene()
    outward = np.clip(1 - np.hypot(AT_MM[0] - 40, np.hypot(AT_MM[1], AT_MM[2])) / 20, 0, 1) * 0.6
    forecast = BRAIN.with_array(np.maximum(masks.ich.array * 1.0, outward).astype(np.float32))
    finding = read_expansion(law(growing=3.0), masks, hu, forecast=forecast)
    even, drawn = expansion_mask(finding, masks), expansion_mask(finding, masks, forecast=forecast)
    assert even is not None
    assert drawn is not None
    assert volume_ml(drawn) == pytest.approx(volume_ml(even), abs=1e-6)
    assert AT_MM[0][drawn.array].mean() > AT_MM[0][even.array].mean() + 1
    assert probable_ml(forecast) > volume_ml(masks.ich)


def test_a_smaller_volume_shrinks_the_mask() -> None:
    masks, _ = scene()
    smaller = grown_mask(masks.ich, 5.0, brain=masks.brain, ventricles=masks.ventricles)
    assert volume_ml(smaller) == pytest.approx(5.0, abs=masks.ich.voxel_ml)
    assert not (smaller.array & ~masks.ich.array).any()


def test_what_cannot_be_forecast_is_withheld_with_its_reason() -> None:
    masks, hu = scene()
    for finding, why in (
        (read_expansion(None, masks, hu), "no growth model"),
        (read_expansion(law(highest_ml=5.0), masks, hu), "the model was fitted on"),
    ):
        assert finding.status == "withheld"
        assert why in finding.sentence
        assert finding.measure("expansion_probability").value is None
        assert expansion_mask(finding, masks) is None
    empty, hu = scene(bleeds=False)
    assert read_expansion(law(), empty, hu).status == "none found"


def with_clinical_variant() -> GrowthModel:
    """Return a model whose richer variant also knows the time from onset and anticoagulation."""
    plain = law()
    (image,) = plain.variants
    n = len(IMAGE)
    parameters = image.parameters.model_copy(update={"growing": (-0.5, *[0.0] * n, -1.0, 1.0)})
    clinical = GrowthVariant(
        name="image+clinical",
        features=(*IMAGE, *CLINICAL),
        centre=(0.0,) * (n + 2),
        scale=(1.0,) * (n + 2),
        low=(*image.low, float(np.log(0.5)), 0.0),
        high=(*image.high, float(np.log(24.0)), 1.0),
        parameters=parameters,
        refits=(parameters,),
    )
    return plain.model_copy(update={"variants": (image, clinical)})


def test_a_forecast_without_facts_is_wider_and_says_why() -> None:
    masks, hu = scene()
    model = with_clinical_variant()
    blind = read_expansion(model, masks, hu)
    known = read_expansion(model, masks, hu, facts={"onset_to_ct_h": 6.0, "anticoagulation": 0})
    for name in ("followup_volume", "expansion_probability"):
        wide, narrow = blind.measure(name), known.measure(name)
        assert wide.low < narrow.low  # type: ignore[operator]
        assert wide.high > narrow.high  # type: ignore[operator]
        assert "widened" in wide.interval
        assert "widened" not in narrow.interval
    assert "the time from onset and anticoagulation are not known" in blind.sentence
    half = read_expansion(model, masks, hu, facts={"onset_to_ct_h": 6.0})
    assert "because anticoagulation is not known" in half.sentence
