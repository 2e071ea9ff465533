"""Quiet streams stay quiet, changes are noticed and named, and what headers announce is noticed sooner."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichnos.audit.monitoring.change import ALPHA, Stream, betting_capital, ranks, watch


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_ranks_of_exchangeable_values_are_uniform_whatever_their_distribution() -> None:
    values = np.exp(3 * rng(1).normal(size=800))
    for spread in (False, True):
        p = ranks(values, rng(2), spread=spread)
        assert abs(p.mean() - 0.5) < 0.03
        assert abs(np.mean(p < 0.1) - 0.1) < 0.03


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_ranks_do_not_depend_on_the_unit(values: list[float]) -> None:
    x = np.round(np.asarray(values), 3)  # so that scaling makes no ties
    assert np.allclose(ranks(x, rng()), ranks(4 * x + 8, rng()))


def test_equal_values_are_ordered_by_chance() -> None:
    assert np.std(ranks(np.zeros(300), rng(4))) > 0.2


def test_quiet_streams_raise_no_alarm_but_seldom() -> None:
    alarms = 0
    for seed in range(40):
        draws = rng(seed)
        streams = [Stream(f"s{k}", tuple(draws.normal(size=150))) for k in range(4)]
        alarms += bool(watch(streams, seed))
    assert alarms <= 5  # 5 % of 40 is 2; more than 5 has a probability of 1 %


@pytest.mark.parametrize(("shift", "scale", "spread"), [(2.0, 1.0, False), (0.0, 4.0, True)])
def test_a_change_is_named_with_its_place(shift: float, scale: float, spread: bool) -> None:
    draws = rng(9)
    values = np.concatenate([draws.normal(size=200), shift + scale * draws.normal(size=80)])
    (alarm,) = watch([Stream("noise of the CTs", tuple(values), "HU", spread=spread)], 9)
    assert 200 <= alarm.at < 240
    assert alarm.evidence >= 1 / ALPHA
    assert alarm.after > alarm.before
    assert "noise of the CTs has changed" in alarm.text


def test_an_announced_change_is_noticed_sooner() -> None:
    delays = []
    for seed in range(8):
        draws = rng(seed)
        values = tuple(np.concatenate([draws.normal(size=150), 1.5 + draws.normal(size=100)]))
        told = tuple(n == 150 for n in range(250))
        first = [watch([Stream("x", values, expected=e)], seed) for e in ((), told)]
        delays.append([alarms[0].at if alarms else 250 for alarms in first])
    unannounced, announced = np.mean(delays, axis=0)
    assert announced < unannounced


def test_a_stream_with_less_weight_needs_more_evidence() -> None:
    draws = rng(3)
    values = tuple(np.concatenate([draws.normal(size=100), 1.5 + draws.normal(size=100)]))
    light = watch([Stream("x", values, weight=0.01), Stream("quiet", (0.0,), weight=0.99)], 1)
    heavy = watch([Stream("x", values)], 1)
    assert heavy[0].at < light[0].at


def test_capital_cannot_be_lost_for_ever() -> None:
    quiet = betting_capital(rng(5).uniform(size=2000))
    assert quiet[-1] > -1.0 - 2000 * 0.02  # jumps keep a part of the money apart
    late = betting_capital(np.concatenate([rng(5).uniform(size=500), np.full(30, 0.95)]))
    assert late[-1] - late[499] > math.log(20)


def test_nothing_to_watch_gives_no_alarm() -> None:
    assert watch([]) == []
    assert watch([Stream("empty", ())]) == []


def test_a_look_rewrites_nothing_that_earlier_looks_saw() -> None:
    refused = tuple([0.0, 0.0, 0.0, 1.0] * 15 + [1.0] * 60)
    seen = []
    for look in (110, 115, 120):  # other streams grow before it, this one at its end
        others = Stream("noise", tuple(rng(look).normal(size=look)), weight=0.5)
        seen.append([one for one in watch([others, Stream("refused", refused[:look], weight=0.5)], 3)])
    assert seen[0] == seen[1] == seen[2] != []


def test_shares_of_alpha_are_shares_of_the_whole_whatever_else_is_watched() -> None:
    x = tuple(np.concatenate([rng(1).normal(size=100), 2 + rng(2).normal(size=60)]))
    alone, beside = (
        watch([Stream("x", x, weight=0.2), *more]) for more in ([], [Stream("y", (), weight=0.5)])
    )
    assert alone == beside != []
    assert watch([Stream("x", x, weight=2.0)])[0].evidence == watch([Stream("x", x)])[0].evidence


@pytest.mark.slow
def test_of_sixty_quiet_sites_none_or_one_is_ever_alarmed_by_refusals() -> None:
    quiet = [tuple((rng(site).random(1000) < 0.05).astype(float)) for site in range(60)]
    assert sum(bool(watch([Stream("refused", x, weight=1 / 6)], site)) for site, x in enumerate(quiet)) <= 1
