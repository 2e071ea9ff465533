"""What people say of a random share corrects what a biased judge says of all, and says how surely."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from ichnos.audit.monitoring.corrected import DoublyJudged, corrected_calibration, corrected_mean
from ichnos.audit.monitoring.selection import weighted_calibration, weighted_mean
from ichnos.errors import InputRefused

TRUE_SLOPE, TRUE_INTERCEPT = 1.2, 0.3


def outcomes(n: int, seed: int, *, share: float = 0.2) -> tuple[np.ndarray, DoublyJudged, np.ndarray]:
    """Return probabilities, pairs that a biased judge sees all of and people some, and the truth of all."""
    rng = np.random.default_rng(seed)
    p = expit(rng.normal(-1, 1.2, n))
    truth = rng.uniform(size=n) < expit(TRUE_INTERCEPT + TRUE_SLOPE * np.log(p / (1 - p)))
    wrong = np.where(truth, rng.uniform(size=n) < 0.05, rng.uniform(size=n) < 0.2)
    model = np.where(wrong, ~truth, truth).astype(float)
    people = np.where(rng.uniform(size=n) < share, truth, np.nan)
    return p, DoublyJudged(model, people, np.ones(n)), truth.astype(float)


def repeated(count: int = 80, n: int = 800) -> dict[str, np.ndarray]:
    """Return mean, slope and whether their intervals held, of many synthetic sites."""
    expected = outcomes(200_000, 1)[2].mean()
    rows = []
    for seed in range(count):
        p, judged, truth = outcomes(n, seed)
        mean, (_, slope) = corrected_mean(judged), corrected_calibration(judged, p)
        alone = corrected_calibration(judged, p, model_share=0.0)[1]
        by_model = corrected_calibration(judged.by_model_alone(), p, model_share=0.0)[1]
        rows.append(
            (
                mean.value - truth.mean(), mean.low <= expected <= mean.high,
                slope.value, slope.low <= TRUE_SLOPE <= slope.high, alone.value, by_model.value,
            )
        )  # fmt: skip
    names = ("mean error", "mean held", "slope", "slope held", "people alone", "model alone")
    return dict(zip(names, np.array(rows, float).T, strict=True))


@pytest.fixture(scope="module")
def sites() -> dict[str, np.ndarray]:
    return repeated()


def test_the_corrected_mean_is_unbiased_where_the_judge_is_not(sites: dict[str, np.ndarray]) -> None:
    biased = np.mean([outcomes(800, k)[1].by_model.mean() - outcomes(800, k)[2].mean() for k in range(10)])
    assert abs(biased) > 0.02
    assert abs(sites["mean error"].mean()) < 0.01


def test_the_corrected_slope_is_unbiased_where_the_judge_s_is_flat(sites: dict[str, np.ndarray]) -> None:
    assert sites["model alone"].mean() < 0.75
    assert sites["slope"].mean() == pytest.approx(TRUE_SLOPE, abs=0.1)


def test_the_judge_is_worth_something_to_the_slope(sites: dict[str, np.ndarray]) -> None:
    assert sites["slope"].std() < 0.97 * sites["people alone"].std()


def test_intervals_hold_as_often_as_they_promise(sites: dict[str, np.ndarray]) -> None:
    for name in ("mean held", "slope held"):
        assert 0.87 <= sites[name].mean() <= 1.0, name


def test_a_judge_who_errs_never_leaves_the_number_and_one_who_guesses_costs_little() -> None:
    p, judged, truth = outcomes(3000, 1)
    right = DoublyJudged(truth, judged.by_people, judged.weights)
    assert corrected_mean(right).value == pytest.approx(truth.mean(), abs=1e-9)
    noise = np.random.default_rng(2).integers(0, 2, 3000).astype(float)
    guessed = corrected_calibration(DoublyJudged(noise, judged.by_people, judged.weights), p)[1]
    alone = corrected_calibration(judged, p, model_share=0.0)[1]
    assert guessed.high - guessed.low < 1.05 * (alone.high - alone.low)


def test_everybody_outlined_gives_what_people_say() -> None:
    p, judged, truth = outcomes(400, 3)
    every = DoublyJudged(judged.by_model, truth, np.random.default_rng(3).uniform(0.5, 2, 400))
    mean, error = weighted_mean(truth, every.weights)
    found = corrected_mean(every, model_share=0.7)  # whatever the share
    assert found.value == pytest.approx(mean)
    assert (found.high - found.low) / (2 * 1.959964) == pytest.approx(error)
    intercept, slope = corrected_calibration(every, p)
    assert (intercept.value, slope.value) == pytest.approx(weighted_calibration(truth, p, every.weights))


def test_people_alone_is_the_logistic_regression_of_the_outlined_pairs() -> None:
    api = pytest.importorskip("statsmodels.api")
    p, judged, _ = outcomes(400, 5)
    own = np.isfinite(judged.by_people)
    plain = api.GLM(
        judged.by_people[own],
        api.add_constant(np.log(p / (1 - p))[own]),
        family=api.families.Binomial(),
    ).fit(cov_type="HC0")
    found = corrected_calibration(judged, p, model_share=0.0)
    assert [one.value for one in found] == pytest.approx(plain.params.tolist(), abs=1e-6)
    errors = [(one.high - one.low) / (2 * 1.959964) for one in found]
    assert errors == pytest.approx(plain.bse.tolist(), abs=1e-6)


def test_intervals_of_eighty_outlines_hold_as_often_as_they_promise() -> None:
    found = []
    for seed in range(120):
        p, judged, _ = outcomes(400, seed)
        ways = [corrected_calibration(judged, p, model_share=share)[1] for share in (None, 0.0)]
        found.append([(w.low <= TRUE_SLOPE <= w.high, w.high - w.low) for w in ways])
    (held, width), (held_alone, width_alone) = np.mean(found, axis=0)
    assert 0.88 <= held <= 0.99
    assert 0.9 <= held_alone <= 0.99
    assert width < width_alone < 1.5  # it was 2.4 where all pairs' x stood for the outlined ones'


def test_weights_count_as_so_many_patients() -> None:
    _, judged, _ = outcomes(200, 4)
    twice = DoublyJudged(
        *(np.concatenate([x, x[:50]]) for x in (judged.by_model, judged.by_people, judged.weights))
    )
    heavy = DoublyJudged(judged.by_model, judged.by_people, np.where(np.arange(200) < 50, 2.0, 1.0))
    assert corrected_mean(twice, model_share=1).value == pytest.approx(
        corrected_mean(heavy, model_share=1).value
    )


def test_what_the_outcomes_do_not_determine_is_refused() -> None:
    p = np.linspace(0.1, 0.9, 60)
    separated = (p > 0.5).astype(float)
    with pytest.raises(InputRefused, match="too few or too uneven"):
        corrected_calibration(DoublyJudged(separated, separated, np.ones(60)), p)
    with pytest.raises(InputRefused, match="no pair was outlined"):
        corrected_mean(DoublyJudged(separated, np.full(60, np.nan), np.ones(60)))
