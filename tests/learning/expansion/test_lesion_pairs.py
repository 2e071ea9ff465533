"""Lesions at two times: grown without a network, cut into patches, scored as sets."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.learning.expansion.forecast_scores import (
    best_threshold,
    score,
    uniform_dilation,
)
from ichnos.learning.expansion.labels import labelled
from ichnos.learning.expansion.pairs import (
    LesionPair,
    grown_lesion,
    pair_of,
    pairs_fingerprint,
    patch_of,
    synthetic_pair,
)

SHAPE = (20, 18, 12)
SPACING_MM = (1.0, 1.0, 2.5)


def lesion(
    name: str = "p", *, radius_mm: float = 4.0, later_mm: float = 5.5, fluid: bool = False
) -> LesionPair:
    """Return a round haematoma that grew, in a head of soft tissue; `fluid` fills its right half."""
    x, y, z = np.indices(SHAPE).astype(np.float32)
    steps = zip((x, y, z), (9.5, 8.5, 5.5), SPACING_MM, strict=True)
    distance = np.sqrt(sum(((axis - middle) * step) ** 2 for axis, middle, step in steps))
    hu = np.full(SHAPE, 35.0, np.float32)
    if fluid:
        hu[x > 15] = 5.0
    ich = (distance <= radius_mm).astype(np.float32)
    hu[ich > 0] = 65.0
    return LesionPair(
        name,
        hu,
        ich,
        np.zeros(SHAPE, np.float32),
        np.ones(SHAPE, bool),
        (distance <= later_mm).astype(np.float32),
        spacing_mm=SPACING_MM,
    )


def test_blood_is_both_kinds_and_never_more_than_all() -> None:
    pair = lesion()
    both = LesionPair("p", pair.hu, pair.ich, pair.ich, pair.brain, pair.later, spacing_mm=SPACING_MM)
    assert both.blood.max() == 1.0
    assert np.array_equal(both.blood, pair.blood)
    assert pair.voxel_ml == pytest.approx(0.0025)


@given(factor=st.floats(1.0, 3.0), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=15)
def test_a_lesion_grows_to_the_volume_that_is_asked_for_and_keeps_what_it_was(
    factor: float, seed: int
) -> None:
    pair = lesion()
    grown = grown_lesion(pair, factor, np.random.default_rng(seed))
    assert int(grown.sum()) == round(factor * float((pair.blood > 0.5).sum()))
    assert grown[pair.blood > 0.5].all()


def test_a_lesion_does_not_grow_into_fluid_nor_out_of_the_brain() -> None:
    pair = lesion(radius_mm=3.0, fluid=True)
    everything = grown_lesion(pair, 1e6, np.random.default_rng(0))
    assert not everything[pair.hu < 15].any()
    outside = LesionPair(
        "p",
        pair.hu,
        pair.ich,
        pair.ivh,
        pair.blood > 0.5,
        pair.later,
        spacing_mm=SPACING_MM,
    )
    kept = grown_lesion(outside, 2.0, np.random.default_rng(0))
    assert np.array_equal(kept, pair.blood > 0.5), "no brain around it: it stays as it is"


def test_a_synthetic_pair_says_that_it_is_one_and_has_no_oracle() -> None:
    real = lesion()
    made = synthetic_pair(replace(real, later_hu=real.hu), 1.68, np.random.default_rng(1))
    assert made.synthetic
    assert made.oracle is None
    assert made.later_hu is not None
    assert made.later_hu.shape == SHAPE
    assert made.patient == "p", "a copy of its patient, who may not be held out from it"
    assert synthetic_pair(real, 1.68, np.random.default_rng(1)).later_hu is None, (
        "no CT that only copies have"
    )


@given(size=st.tuples(*[st.integers(4, 26)] * 3), seed=st.integers(0, 30), border=st.floats(0, 1))
@settings(deadline=None, max_examples=20)
def test_a_patch_has_its_size_and_is_cut_alike_from_every_map(
    size: tuple[int, int, int], seed: int, border: float
) -> None:
    pair = lesion()
    patch = patch_of(pair, size, np.random.default_rng(seed), border_share=border)
    assert patch.hu.shape == patch.later.shape == patch.brain.shape == size
    inside = np.array(patch.hu > -1000)
    assert inside.sum() == np.prod(np.minimum(size, SHAPE)), "beyond the region lies air"
    assert np.array_equal(patch.ich > 0, (patch.hu == 65.0)), "masks and HU belong together"
    assert not patch.later[~inside].any()


def test_patches_of_the_border_hold_some_of_the_lesion_and_some_of_the_rest() -> None:
    rng = np.random.default_rng(2)
    for _ in range(8):
        later = patch_of(lesion(), (6, 6, 4), rng, border_share=1.0).later
        assert 0 < later.mean() < 1


def test_even_dilation_keeps_to_the_brain_and_takes_the_nearest_first() -> None:
    pair = lesion()
    even = uniform_dilation(pair, 1.5)
    assert int(even.sum()) == round(1.5 * float(pair.blood.sum()))
    assert even[pair.blood > 0.5].all()
    reach = np.argwhere(even > 0.5)
    assert np.abs((reach - [9.5, 8.5, 5.5]) * SPACING_MM).max() < 8.0, "nothing far away"
    caged = replace(pair, brain=pair.blood > 0.5)
    assert np.array_equal(uniform_dilation(caged, 1.0) > 0.5, pair.blood > 0.5)


def test_a_perfect_forecast_scores_one_and_none_scores_zero() -> None:
    pair = lesion()
    perfect, none = score(pair, pair.later), score(pair, np.zeros(SHAPE, np.float32))
    assert perfect.growth_dice == perfect.lesion_dice == 1.0
    assert perfect.volume_error_ml == 0.0
    assert none.growth_dice == none.lesion_dice == 0.0
    assert none.volume_error_ml == pytest.approx(-float(pair.later.sum()) * pair.voxel_ml)


def test_growth_is_undefined_where_nothing_grew() -> None:
    still = lesion(radius_mm=4.0, later_mm=4.0)
    found = score(still, still.later)
    assert math.isnan(found.growth_dice), "undefined is NaN, never 0"
    assert found.lesion_dice == 1.0


def test_an_expected_volume_may_differ_from_the_volume_of_the_mask() -> None:
    pair = lesion()
    truth_ml = float(pair.later.sum()) * pair.voxel_ml
    assert score(pair, pair.blood, volume_ml=truth_ml + 2.0).volume_error_ml == pytest.approx(2.0)


def test_the_best_threshold_parts_growth_from_the_rest() -> None:
    pair = lesion()
    map_ = np.where(pair.later > 0.5, 0.7, 0.4).astype(np.float32)
    cut = best_threshold([pair], [map_])
    assert 0.4 <= cut < 0.7
    assert score(pair, map_, threshold=cut).growth_dice == 1.0


def test_a_fingerprint_knows_the_patients_and_their_growth() -> None:
    one = pairs_fingerprint([lesion("a"), lesion("b")])
    assert one == pairs_fingerprint([lesion("a"), lesion("b")])
    assert one != pairs_fingerprint([lesion("b"), lesion("a")])
    assert one != pairs_fingerprint([lesion("a"), lesion("b", later_mm=7.0)])


def test_a_cohort_without_a_folder_cannot_have_targets() -> None:
    patient = Patient("01", "A", "train")
    with pytest.raises(InputRefused, match=r"the cohort has no folder.*read_cohort"):
        pair_of(Cohort((patient,)), patient)
    with pytest.raises(InputRefused, match="the cohort has no folder"):
        next(labelled(Cohort((patient,))))
