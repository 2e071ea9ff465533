"""Training against the clock: rates, clocks, moving averages, and files to resume from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ichnos.errors import InputRefused
from ichnos.learning.virtual.accelerated.timed import Clock, TimedTraining, rate_share


def _training(*, seed: int = 1, **settings: float) -> TimedTraining:
    torch.manual_seed(seed)
    return TimedTraining(nn.Linear(3, 2), optimiser="adamw", device="cpu", **settings)  # type: ignore[arg-type]


def _learn(training: TimedTraining, steps: int, *, done: float = 0.2) -> None:
    for step in range(steps):
        image = torch.full((2, 3), 1.0 + step)
        training.update((training.network(image) ** 2).mean(), done)


def _vector(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@given(st.floats(0, 1))
def test_a_rate_is_a_share_of_its_peak(done: float) -> None:
    assert 0.01 <= rate_share(done) <= 1.0


@given(st.floats(0.45, 1), st.floats(0.45, 1))
def test_after_the_plateau_the_rate_never_rises(first: float, second: float) -> None:
    sooner, later = sorted((first, second))
    assert rate_share(later) <= rate_share(sooner) + 1e-12


def test_time_that_runs_over_keeps_the_last_rate() -> None:
    assert rate_share(1.3) == rate_share(1.0) == pytest.approx(0.01)


def test_the_rate_has_no_jump_where_its_parts_meet() -> None:
    for edge in (0.03, 0.45):
        assert rate_share(edge - 1e-6) == pytest.approx(rate_share(edge + 1e-6), abs=1e-3)


def test_a_clock_counts_its_own_share_alone() -> None:
    clock = Clock(seconds=10.0, before=0.2, until=0.6)
    clock.start()
    clock._began -= 5.0
    assert clock.done == pytest.approx(0.4, abs=1e-3)
    assert clock.spent_s == pytest.approx(5.0, abs=0.1)
    assert not clock.over


def test_a_clock_that_ran_out_is_over_and_never_more_than_done() -> None:
    clock = Clock(seconds=1.0)
    clock.start()
    clock._began -= 100.0
    assert clock.over
    assert clock.done == 1.0


def test_a_clock_without_time_is_over_at_once() -> None:
    clock = Clock(seconds=0.0)
    clock.start()
    assert clock.over


def test_the_average_follows_the_network_slowly() -> None:
    training = _training(average_decay=0.9)
    start = _vector(training.network)
    _learn(training, 3)
    moved, followed = _vector(training.network) - start, _vector(training.average) - start
    assert 0 < float(followed.norm()) < float(moved.norm())


def test_an_average_that_forgets_at_once_is_the_network() -> None:
    training = _training(average_decay=0.0)
    _learn(training, 2)
    assert torch.allclose(_vector(training.average), _vector(training.network), atol=1e-6)


def test_the_average_takes_no_gradient() -> None:
    training = _training()
    assert not any(parameter.requires_grad for parameter in training.average.parameters())
    assert not training.average.training


def test_steps_are_counted() -> None:
    training = _training()
    _learn(training, 4)
    assert (training.step, training.own_steps) == (4, 4)


def test_equal_seeds_learn_equal_weights() -> None:
    first, second = _training(), _training()
    _learn(first, 3)
    _learn(second, 3)
    assert torch.equal(_vector(first.network), _vector(second.network))


def test_a_huge_gradient_moves_no_farther_than_a_clipped_one() -> None:
    steps = []
    for factor in (1.0, 1e6):
        torch.manual_seed(1)
        training = TimedTraining(nn.Linear(3, 2), optimiser="sgd", device="cpu")
        start = _vector(training.network)
        training.update(factor * 100 * training.network(torch.ones(2, 3)).sum(), 0.2)
        steps.append(float((_vector(training.network) - start).norm()))
    assert steps[1] == pytest.approx(steps[0], rel=0.05)


def test_facts_and_steps_survive_the_file(tmp_path: Path) -> None:
    training = _training()
    _learn(training, 2)
    training.save(tmp_path / "new" / "state.safetensors", {"done": 0.5, "patients": 12})
    again = _training(seed=9)
    facts = again.resume(tmp_path / "new" / "state.safetensors", training.average.state_dict())
    assert facts == {"done": 0.5, "patients": 12.0, "step": 2.0}
    assert (again.step, again.own_steps) == (2, 0)
    assert torch.allclose(_vector(again.network), _vector(training.network), atol=1e-3)
    assert torch.equal(_vector(again.average), _vector(training.average))


def test_a_resumed_optimiser_starts_gently(tmp_path: Path) -> None:
    training = _training()
    _learn(training, 2)
    training.save(tmp_path / "state.safetensors", {})
    moved = []
    for resumed in (False, True):
        again = _training()
        if resumed:
            again.resume(tmp_path / "state.safetensors", training.average.state_dict())
        start = _vector(again.network)
        _learn(again, 1)
        moved.append(float((_vector(again.network) - start).norm()))
    assert moved[1] < 0.1 * moved[0]


def test_a_file_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    training = _training()
    training.save(tmp_path / "state.safetensors", {})
    other = TimedTraining(nn.Linear(5, 2), optimiser="sgd", device="cpu")
    with pytest.raises(InputRefused, match=r"state\.safetensors holds another network"):
        other.resume(tmp_path / "state.safetensors", training.average.state_dict())


def test_tensors_with_two_names_are_stored_once(tmp_path: Path) -> None:
    layer = nn.Linear(3, 3)
    shared = TimedTraining(nn.Sequential(layer, layer), optimiser="sgd", device="cpu")
    shared.save(tmp_path / "state.safetensors", {})
    from safetensors.torch import load_file

    assert len(load_file(str(tmp_path / "state.safetensors"))) == 2


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_image_laid_out_keeps_its_values(channels_last: bool) -> None:
    training = TimedTraining(nn.Conv3d(2, 2, 1), optimiser="sgd", device="cpu", channels_last=channels_last)
    image = torch.arange(2 * 27.0).reshape(1, 2, 3, 3, 3)
    laid = training.laid_out(image)
    assert torch.equal(laid, image)
    assert laid.is_contiguous(memory_format=torch.channels_last_3d) is channels_last
