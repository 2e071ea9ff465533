"""The law of the population against the published figures, and the oracle against the law."""

from __future__ import annotations

import pytest
import torch

from ichnos.errors import UsageError
from ichnos.simulation.disease import law, oracle
from ichnos.simulation.patient import SITES

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def many() -> law.Draws:
    return law.draw(20_000, torch.Generator().manual_seed(1))


def test_two_thousand_fast_patients_meet_the_cohorts() -> None:
    draws = law.draw(2000, torch.Generator().manual_seed(7))
    risk = oracle.expansion_probability(draws)
    assert 0.17 <= float(draws.expanded.float().mean()) <= 0.23
    assert 17 <= float(draws.ich_ml.median()) <= 23
    assert 0.77 <= oracle.ranking_auc(risk, draws.expanded) <= 0.86


def test_volumes_sites_and_ivh_meet_the_published_figures(many: law.Draws) -> None:
    low, middle, high = torch.quantile(many.ich_ml, torch.tensor([0.25, 0.5, 0.75])).tolist()
    assert middle == pytest.approx(20.4, abs=1.0)
    assert high - low == pytest.approx(22, abs=2.5)
    low, middle, high = torch.quantile(many.followup_ich_ml, torch.tensor([0.25, 0.5, 0.75])).tolist()
    assert middle == pytest.approx(22.7, abs=1.2)
    assert high - low == pytest.approx(26, abs=3)
    assert float(many.expanded.float().mean()) == pytest.approx(0.20, abs=0.015)
    assert float((many.ivh_ml > 0).float().mean()) == pytest.approx(0.40, abs=0.02)
    shares = torch.bincount(many.site, minlength=len(SITES)) / len(many)
    assert shares[SITES.index("putamen")] > shares[SITES.index("lobar")] > shares[SITES.index("pons")] > 0


def test_expansion_falls_with_the_hours_and_ivh_may_be_new(many: law.Draws) -> None:
    hours, expanded = many.onset_to_ct_h, many.expanded.float()
    bands = [(0, 3), (3, 6), (6, 12), (24.001, 99)]
    shares = [float(expanded[(hours >= low) & (hours < high)].mean()) for low, high in bands]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(0.28, abs=0.03)
    assert shares[-1] < 0.06
    without = many.ivh_ml == 0
    assert 0.08 <= float((many.followup_ivh_ml[without] > 0).float().mean()) <= 0.15


def test_no_growth_lies_so_near_the_limit_that_voxels_could_disagree(many: law.Draws) -> None:
    growth_ml = many.followup_ich_ml - many.ich_ml
    clear_ml = (growth_ml - law.expansion_limit_ml(many.ich_ml)).abs()
    assert bool((clear_ml >= 0.9 * (0.01 * many.ich_ml + 0.15).clamp(max=0.08 * many.ich_ml)).all())


def test_young_bleeds_may_lack_oedema_and_old_ones_have_much(many: law.Draws) -> None:
    early, late = many.onset_to_ct_h < 1.5, many.onset_to_ct_h > 12
    assert float((many.phe_ml[early] == 0).float().mean()) > 0.3
    assert float((many.phe_ml[late] == 0).float().mean()) < 0.03
    ratio = many.phe_ml / many.ich_ml
    assert float(ratio[late].median()) > 1.5 * float(ratio[early].median())
    assert float(ratio.median()) == pytest.approx(0.58, abs=0.05)


def test_a_centre_may_have_other_patients() -> None:
    old = law.PopulationMix(age_mean_years=75.0, male_share=0.3, site_share=(0, 0, 1, 0, 0, 0))
    draws = law.draw(4000, torch.Generator().manual_seed(2), old)
    assert float(draws.age_years.mean()) == pytest.approx(75, abs=1.5)
    assert float(draws.male.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert bool((draws.site == SITES.index("lobar")).all())
    with pytest.raises(UsageError, match="site_share"):
        law.PopulationMix(site_share=(1.0,))


def test_the_oracle_is_calibrated_in_every_tenth_of_risk(many: law.Draws) -> None:
    risk = oracle.expansion_probability(many)
    for tenth in torch.argsort(risk).chunk(10):
        expected = float(risk[tenth].mean())
        observed = float(many.expanded[tenth].float().mean())
        assert observed == pytest.approx(expected, abs=4 * (0.25 / len(tenth)) ** 0.5)


def test_nothing_visible_predicts_better_than_the_oracle(many: law.Draws) -> None:
    risk = oracle.expansion_probability(many)
    best = oracle.ranking_auc(risk[:6000], many.expanded[:6000])
    for simple in (many.signs.float().sum(1), many.ich_ml, -many.onset_to_ct_h, many.irregularity):
        assert oracle.ranking_auc(simple[:6000], many.expanded[:6000]) < best


def test_the_closed_form_agrees_with_drawing_again_and_again() -> None:
    """The slow twin: sample the hidden part of single patients."""
    draws = law.draw(6, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    for index in range(6):
        one = law.Draws(
            **{name: getattr(draws, name)[index : index + 1] for name in law.Draws.__dataclass_fields__}
        )
        later = oracle.resampled_followup_ml(one, 40_000, generator)
        sampled = float((later - one.ich_ml > law.expansion_limit_ml(one.ich_ml)).float().mean())
        assert float(oracle.expansion_probability(one)) == pytest.approx(sampled, abs=0.012)


def test_activity_drives_both_signs_and_growth(many: law.Draws) -> None:
    busy, quiet = many.activity > 1, many.activity < -1
    assert many.signs[busy].float().mean() > 3 * many.signs[quiet].float().mean()
    assert many.expanded[busy].float().mean() > 0.4 > 0.05 > many.expanded[quiet].float().mean()


def test_the_same_generator_state_gives_the_same_draws() -> None:
    a, b = (law.draw(50, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in law.Draws.__dataclass_fields__)
    assert not torch.equal(a.ich_ml, law.draw(50, torch.Generator().manual_seed(6)).ich_ml)


def test_auc_is_undefined_with_one_outcome() -> None:
    value = oracle.ranking_auc(torch.tensor([0.1, 0.2]), torch.tensor([True, True]))
    assert value != value
