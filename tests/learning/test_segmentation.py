"""The training loop learns, goes on after a kill to the same numbers, and stops with a name when the loss
is not finite.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from ichnos import networks
from ichnos.errors import InputRefused, UsageError
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.settings import LoopSettings, changed
from ichnos.learning.loop.steps import Step
from ichnos.learning.segmentation.losses import dice_and_cross_entropy
from ichnos.learning.segmentation.objective import (
    Batch,
    SegmentationLoss,
    SegmentationSettings,
    train_segmentation,
)
from ichnos.models import NetworkSpec, Preprocessing, TargetSpec

SETTINGS = SegmentationSettings(
    network=NetworkSpec(
        name="unet",
        arguments={
            "input_channels": 1,
            "num_classes": 2,
            "dim": 3,
            "features_per_stage": [4, 8],
            "strides": [1, 2],
            "n_conv_per_stage": 1,
            "n_conv_per_stage_decoder": 1,
        },
    ),
    preprocessing=Preprocessing(spacing_mm=(4, 4, 4), windows_hu=((0, 80),), patch=(8, 8, 8)),
    targets=(TargetSpec(name="bright"), TargetSpec(name="never_known")),
    loop=LoopSettings(steps=60, learning_rate=1e-2, warm_up_steps=5, ema_decay=0.9, validations=0),
)


def batch_at(step: int) -> Batch:
    """Bright voxels are the target; the second target is never known and full of nonsense."""
    generator = torch.Generator().manual_seed(step)
    image = (
        (torch.rand(2, 1, 2, 2, 2, generator=generator) * 2 - 1)
        .repeat_interleave(4, 2)
        .repeat_interleave(4, 3)
        .repeat_interleave(4, 4)
    )
    truth = torch.cat([(image > 0.3).float(), torch.rand(2, 1, 8, 8, 8, generator=generator)], dim=1)
    return Batch(image, truth, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


def test_it_learns_what_is_known(tmp_path: Path) -> None:
    network = train_segmentation(changed(SETTINGS, {"steps": 600}), batch_at, tmp_path)
    batch = batch_at(10_000)
    found = network(batch.image)[:, 0] > 0
    truth = batch.truth[:, 0] > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9


def test_a_killed_training_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    whole = train_segmentation(SETTINGS, batch_at, tmp_path / "whole")

    class Killed(Exception):
        pass

    def batch_until_killed(step: int) -> Batch:
        if step == 23:
            raise Killed
        return batch_at(step)

    with pytest.raises(Killed):
        train_segmentation(
            SETTINGS, batch_until_killed, tmp_path / "killed", resources=Resources(checkpoint_every_s=0)
        )
    resumed = train_segmentation(SETTINGS, batch_at, tmp_path / "killed")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_other_settings_do_not_go_on_with_a_training(tmp_path: Path) -> None:
    train_segmentation(changed(SETTINGS, {"steps": 1}), batch_at, tmp_path)
    with pytest.raises(UsageError, match="other settings"):
        train_segmentation(SETTINGS, batch_at, tmp_path)


def test_a_loss_that_is_not_finite_is_named_and_the_checkpoint_survives(tmp_path: Path) -> None:
    def poisoned(step: int) -> Batch:
        batch = batch_at(step)
        return Batch(batch.image * float("nan"), batch.truth, batch.known) if step == 5 else batch

    with pytest.raises(InputRefused, match="not finite at step 5"):
        train_segmentation(SETTINGS, poisoned, tmp_path, resources=Resources(checkpoint_every_s=0))
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert content["step"] == 5
    assert all(torch.isfinite(v).all() for v in content["network"].values())


def test_no_global_random_state_is_touched(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train_segmentation(changed(SETTINGS, {"steps": 2}), batch_at, tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_an_unknown_target_gives_no_gradient() -> None:
    logits = torch.zeros(1, 2, 4, 4, 4, requires_grad=True)
    loss = dice_and_cross_entropy(logits, torch.ones(1, 2, 4, 4, 4), torch.tensor([[1.0, 0.0]]))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].abs().sum() > 0
    assert logits.grad[:, 1].abs().sum() == 0


@pytest.mark.parametrize(("done", "extra"), [(0.0, 1.0), (0.25, 0.5), (0.5, 0.0), (0.9, 0.0)])
def test_the_extra_weight_of_a_targets_own_voxels_is_gone_at_half_time(done: float, extra: float) -> None:
    torch.manual_seed(0)
    network = networks.build(SETTINGS.network.name, **SETTINGS.network.arguments)

    def loss(sparse_weight: float, share_done: float) -> float:
        how = changed(SETTINGS, {"sparse_weight": sparse_weight})
        step = Step(3, share_done, nullcontext)
        return float(SegmentationLoss(how, batch_at)(network, step).value.detach())

    with_all, without = loss(0.5, 0.0), loss(0.0, 0.0)
    assert with_all > without + 0.1
    assert loss(0.5, done) == pytest.approx(without + extra * (with_all - without), rel=1e-5)
