"""One loop for trainings that are not segmentations: classifiers, generators, forecasts. It goes on after
a kill to the same numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ichnos.errors import InputRefused
from ichnos.learning.loop.checkpoints import State, best_network, resume, save, save_best, start
from ichnos.models import NetworkSpec
from ichnos.networks.diffusion import update_average


class Course(BaseModel):
    """Everything that decides the numbers of such a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkSpec
    steps: int = Field(gt=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warm_up_steps: int = Field(default=20, ge=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    gradient_clip: float = Field(default=1.0, gt=0)
    validate_every: int = Field(default=0, ge=0)  # steps; 0: never
    seed: int = 0
    precision: Literal["fp32"] = "fp32"
    data: str = ""  # what it is trained on, in words or as a hash: other data are another training


def optimise(
    course: Course,
    loss_of: Callable[[nn.Module, int], Tensor],
    out: Path,
    *,
    device: str = "cpu",
    seconds: float = math.inf,
    validate: Callable[[nn.Module], float] | None = None,
    checkpoint_every_s: float = 60.0,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> nn.Module:
    """Train until the last step or for so many seconds; return the averaged network of the best validation,
    or the last without any.

    `loss_of(network, step)` draws the step's batch itself, a pure function of the step. Of the scores of
    `validate`, greater is better.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = resume(course, out, device) or start(course, device)
    began = saved = time.monotonic()
    while state.step < course.steps and time.monotonic() - began < seconds:
        loss = _step(state, course, loss_of)
        report(state.step, loss)
        if validate is not None and course.validate_every and state.step % course.validate_every == 0:
            _validated(state, validate, out)
        if time.monotonic() - saved > checkpoint_every_s:
            save(state, course, out)
            saved = time.monotonic()
    if (
        validate is not None
        and state.step == course.steps
        and (not course.validate_every or state.step % course.validate_every)
    ):
        _validated(state, validate, out)
    save(state, course, out)
    return best_network(state, out, device)


def _step(state: State, course: Course, loss_of: Callable[[nn.Module, int], Tensor]) -> float:
    for group in state.optimiser.param_groups:
        group["lr"] = _rate(course, state.step)
    state.network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(course.seed * 1_000_003 + state.step)  # dropout of this step, inside a fork
        loss = loss_of(state.network, state.step)
    if not torch.isfinite(loss):
        raise InputRefused(
            f"the loss is not finite at step {state.step}; the last good checkpoint is kept. Check the data"
            " of that step, or train with a lower learning rate"
        )
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(state.network.parameters(), course.gradient_clip)
    state.optimiser.step()
    state.step += 1
    update_average(state.average, state.network, decay=min(course.ema_decay, state.step / (state.step + 9)))
    return float(loss.detach())


def _rate(course: Course, step: int) -> float:
    """Warm up linearly, then fall as a cosine to a hundredth."""
    if step < course.warm_up_steps:
        return course.learning_rate * (step + 1) / course.warm_up_steps
    done = (step - course.warm_up_steps) / max(1, course.steps - course.warm_up_steps)
    return course.learning_rate * (0.01 + 0.495 * (1 + math.cos(math.pi * min(1.0, done))))


def _validated(state: State, validate: Callable[[nn.Module], float], out: Path) -> None:
    score = validate(state.average.eval())
    if score > state.best_score:
        state.best_score, state.best_step = score, state.step
        save_best(state, out)
