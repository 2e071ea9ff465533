"""The best possible answer, computed from the law."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from builders.ball_phantom import seeded
from ichnos.simulation.disease import law, oracle
from ichnos.simulation.patient import SIGNS


@pytest.fixture(scope="module")
def draws() -> law.Draws:
    """Two hundred patients."""
    return law.draw(200, seeded(1))


def test_the_posterior_is_a_distribution_whose_mean_follows_what_is_visible(draws: law.Draws) -> None:
    posterior = oracle.activity_posterior(draws)
    assert posterior.shape == (200, len(oracle.activity_grid()))
    assert torch.allclose(posterior.sum(1), torch.ones(200), atol=1e-5)
    mean = (posterior * oracle.activity_grid()).sum(1)
    assert float(torch.corrcoef(torch.stack([mean, draws.activity]))[0, 1]) > 0.5


@pytest.mark.parametrize("sign", SIGNS)
def test_a_sign_never_makes_expansion_less_probable(draws: law.Draws, sign: str) -> None:
    column = SIGNS.index(sign)
    without, present = draws.signs.clone(), draws.signs.clone()
    without[:, column], present[:, column] = False, True
    low, high = (oracle.expansion_probability(replace(draws, signs=s)) for s in (without, present))
    assert (high > low).all()


def test_hours_without_growth_make_it_less_probable(draws: law.Draws) -> None:
    late = replace(draws, onset_to_ct_h=draws.onset_to_ct_h * 4)
    assert (oracle.expansion_probability(late) < oracle.expansion_probability(draws)).all()


def test_probabilities_lie_between_nought_and_one(draws: law.Draws) -> None:
    probability = oracle.expansion_probability(draws)
    assert float(probability.min()) > 0
    assert float(probability.max()) < 1


def test_resampled_volumes_expand_as_often_as_the_closed_form_says() -> None:
    one = law.draw(1, seeded(9))
    later = oracle.resampled_followup_ml(one, 4000, seeded(2))
    expanded = later - one.ich_ml > law.expansion_limit_ml(one.ich_ml)
    assert float(expanded.float().mean()) == pytest.approx(float(oracle.expansion_probability(one)), abs=0.03)
    assert later.shape == (4000,)


def test_ties_count_half_in_the_ranking() -> None:
    outcome = torch.tensor([True, True, False, False])
    assert oracle.ranking_auc(torch.ones(4), outcome) == 0.5
    assert oracle.ranking_auc(torch.tensor([0.9, 0.8, 0.2, 0.1]), outcome) == 1.0
    assert oracle.ranking_auc(torch.tensor([0.9, 0.2, 0.2, 0.1]), outcome) == 0.875
