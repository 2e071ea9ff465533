"""The training loop: schedule, averaging, settings by name, validation, time limit, what a log follows."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ichnos.errors import InputRefused, UsageError
from ichnos.learning.loop import checkpoints
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.settings import LoopSettings, changed, learning_rate
from ichnos.learning.loop.steps import Loss, Progress, Step
from ichnos.learning.loop.training import train, update_average
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.models import NetworkSpec

SPEC = NetworkSpec(
    name="vit",
    arguments={
        "image_size": [8, 8],
        "patch_size": 8,
        "input_channels": 1,
        "width": 8,
        "depth": 1,
        "heads": 1,
        "dropout": 0.2,
    },
)
HOW = LoopSettings(steps=8, validations=4, warm_up_steps=2, learning_rate=1e-2, precision="fp32")
ONES = torch.ones(4, 1, 8, 8)


def loss_of(network: torch.nn.Module, step: Step) -> Loss:
    """Drive the first logit to one; what is followed is the step's number."""
    out = network(ONES * (1 + step.number % 3))
    return Loss((out[:, 0] - 1).square().mean(), {"number": float(step.number), "never": math.nan})


@given(
    steps=st.integers(1, 5000),
    warm=st.integers(0, 300),
    rate=st.floats(1e-6, 1.0),
    schedule=st.sampled_from(["cosine", "constant", "ukan"]),
)
def test_a_learning_rate_is_positive_and_bounded(steps: int, warm: int, rate: float, schedule: str) -> None:
    how = LoopSettings(steps=steps, warm_up_steps=warm, learning_rate=rate, schedule=schedule)  # type: ignore[arg-type]
    rates = [learning_rate(how, step) for step in {0, steps // 3, steps // 2, steps - 1}]
    highest = 2.05 * rate if schedule == "ukan" else rate * (1 + 1e-9)
    assert all(0 < value <= highest for value in rates)


def test_the_cosine_falls_after_the_warm_up_and_ends_at_a_hundredth() -> None:
    how = LoopSettings(steps=1000, learning_rate=1.0)
    rates = [learning_rate(how, step) for step in range(1000)]
    assert how.warm_up == 100
    assert rates[:100] == sorted(rates[:100])
    assert rates[99] == 1.0
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=1e-4)


@given(steps=st.integers(1, 100_000), validations=st.integers(0, 50))
def test_validations_are_spread_over_the_training(steps: int, validations: int) -> None:
    every = LoopSettings(steps=steps, validations=validations).validate_every
    if validations == 0:
        assert every == 0
    else:
        assert 1 <= every <= steps
        assert steps // every >= min(validations, steps)


@given(count=st.integers(1, 5000), epochs=st.integers(1, 50), batch=st.integers(1, 64))
def test_every_example_is_seen_once_an_epoch(count: int, epochs: int, batch: int) -> None:
    steps = LoopSettings(epochs=epochs, batch=batch).for_examples(count).steps
    assert epochs * count <= steps * batch < epochs * (count + batch)


def test_settings_are_changed_by_name_or_path_and_refused_by_sentence() -> None:
    own = TrainSettings()
    by_name, by_path = changed(own, {"steps": 5}), changed(own, {"loop.steps": 5})
    assert by_name == by_path
    assert by_name.loop.steps == 5
    assert own.loop.steps == 2000, "the settings themselves stay"
    for change, says in (
        ({"steps": 0}, "steps = 0: Input should be greater than 0"),
        ({"steps": "many"}, "steps = 'many'"),
        ({"depth": 3}, "there is no setting 'depth'"),
        ({"foreground_share": 2}, "foreground_share = 2"),
        ({"validations": 0}, "1 validation or more"),
    ):
        with pytest.raises(UsageError, match=says):
            changed(own, change)


def test_settings_survive_a_file() -> None:
    own = TrainSettings().changed(targets="ICH,tract", steps=7, patch=(16, 16, 8), cl_dice_weight=0.5)
    assert TrainSettings.model_validate_json(own.model_dump_json()) == own


def test_the_network_of_the_best_validation_is_returned(tmp_path: Path) -> None:
    seen: dict[int, torch.Tensor] = {}
    scores = {2: 0.1, 4: 0.9, 6: 0.3, 8: 0.2}

    def validate(network: torch.nn.Module, step: int) -> float:
        assert not network.training
        seen[step] = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
        return scores[step]

    reports: list[Progress] = []
    best = train(SPEC, HOW, loss_of, tmp_path, validate=validate, resources=Resources(report=reports.append))
    assert torch.equal(torch.cat([p.detach().flatten() for p in best.parameters()]), seen[4])
    assert sorted(seen) == [2, 4, 6, 8]
    assert [r.score for r in reports] == [None, 0.1, None, 0.9, None, 0.3, None, 0.2]
    assert reports[-1].step == reports[-1].steps == 8
    assert reports[-1].seconds_left == 0
    assert set(reports[-1].measures) == {"number"}, "what is NaN is not followed"


def test_patience_ends_a_training(tmp_path: Path) -> None:
    steps: list[int] = []

    def validate(network: torch.nn.Module, step: int) -> float:
        steps.append(step)
        return -float(step)

    how = changed(HOW, {"validations": 8, "patience": 3})
    train(SPEC, how, loss_of, tmp_path, validate=validate)
    assert steps == [1, 2, 3, 4]
    train(SPEC, how, loss_of, tmp_path, validate=validate)
    assert steps == [1, 2, 3, 4], "a training that has ended is not taken up again"


def test_a_training_stops_when_its_time_is_over_and_resumes(tmp_path: Path) -> None:
    def slowly(network: torch.nn.Module, step: Step) -> Loss:
        time.sleep(0.05)
        return loss_of(network, step)

    train(SPEC, HOW, slowly, tmp_path / "cut", resources=Resources(seconds=0.12))
    reached = checkpoints.reached(tmp_path / "cut")
    assert 1 <= reached < 8
    cut = train(SPEC, HOW, loss_of, tmp_path / "cut")
    whole = train(SPEC, HOW, loss_of, tmp_path / "whole")
    for a, b in zip(cut.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b), "dropout too depends on the step alone"
    files = [(tmp_path / name / checkpoints.CHECKPOINT).read_bytes() for name in ("cut", "whole")]
    assert files[0] == files[1], "a checkpoint does not show that its training was cut"


def test_initial_weights_are_where_a_training_starts(tmp_path: Path) -> None:
    first = train(SPEC, HOW, loss_of, tmp_path / "first")
    still = changed(HOW, {"steps": 1, "learning_rate": 1e-12, "ema_decay": 0.0})
    again = train(SPEC, still, loss_of, tmp_path / "again", initial=first.state_dict())
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_other_data_or_another_network_is_another_training(tmp_path: Path) -> None:
    train(SPEC, HOW, loss_of, tmp_path, data="one")
    for spec, how, data in (
        (SPEC, HOW, "two"),
        (SPEC, changed(HOW, {"seed": 1}), "one"),
        (NetworkSpec(name="vit", arguments=SPEC.arguments | {"width": 16}), HOW, "one"),
    ):
        with pytest.raises(UsageError, match="other settings or other data"):
            train(spec, how, loss_of, tmp_path, data=data)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(SPEC, HOW, loss_of, tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(InputRefused, match=r"checkpoint\.pt is damaged"):
        train(SPEC, HOW, loss_of, tmp_path)


def test_a_gradient_is_clipped_unless_the_limit_is_zero(tmp_path: Path) -> None:
    norms: dict[float, float] = {}
    for limit in (1e-3, 0.0):
        kept: list[torch.nn.Module] = []

        def watched(network: torch.nn.Module, step: Step, kept: list[torch.nn.Module] = kept) -> Loss:
            kept.append(network)
            return Loss(1000 * network(ONES).square().mean())

        how = changed(HOW, {"steps": 1, "gradient_clip": limit, "validations": 0})
        train(SPEC, how, watched, tmp_path / str(limit))
        gradients = [p.grad.flatten() for p in kept[0].parameters() if p.grad is not None]
        norms[limit] = float(torch.cat(gradients).norm())
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[0.0] > 1


@given(decay=st.floats(0, 0.999))
def test_an_average_lies_between_what_it_was_and_what_it_sees(decay: float) -> None:
    slow, fast = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        slow.weight.fill_(0.0)
        fast.weight.fill_(1.0)
        assert fast.running_mean is not None
        fast.running_mean.fill_(5.0)
    update_average(slow, fast, decay=decay)
    assert slow.weight.detach() == pytest.approx(1 - decay, abs=1e-6)
    assert slow.running_mean is not None
    assert slow.running_mean.tolist() == [5.0, 5.0], "buffers are copied"
