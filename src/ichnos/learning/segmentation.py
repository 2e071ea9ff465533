"""Learn to segment several targets in one pass: one loop for any network, any mixture of simulated patients and cohort data.

A batch is a pure function of the step's number, so a training that was killed goes on from its checkpoint to the same numbers.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from ichnos import networks
from ichnos.errors import InputRefused, UsageError
from ichnos.learning.losses import dice_and_cross_entropy
from ichnos.models import NetworkSpec, Preprocessing, TargetSpec

CHECKPOINT = "checkpoint.pt"


class Settings(BaseModel):
    """Everything that decides the numbers of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkSpec
    preprocessing: Preprocessing
    targets: tuple[TargetSpec, ...]
    steps: int = Field(gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warm_up_steps: int = Field(default=200, ge=0)
    positive_weight: float = Field(default=3.0, gt=0)  # of the cross-entropy at the start; annealed to 1 so that probabilities stay honest
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    gradient_clip: float = Field(default=5.0, gt=0)
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Input and truth of one step, on the device of the network."""

    image: torch.Tensor  # (batch, window, x, y, z), -1..1
    truth: torch.Tensor  # (batch, target, x, y, z), degree 0..1
    known: torch.Tensor  # (batch, target), 1 where the target's truth is known


@dataclass
class Progress:
    """What a running training tells at each step."""

    step: int
    loss: float
    steps: int
    seconds_left: float
    dice: dict[str, float] = field(default_factory=dict)  # per target, running mean over the crops in which it occurs


@dataclass
class _State:
    network: torch.nn.Module
    average: torch.nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0


def train(
    settings: Settings,
    batch_at: Callable[[int], Batch],
    out: Path,
    *,
    device: str = "cpu",
    bf16: bool = False,
    seconds: float = float("inf"),
    checkpoint_every_s: float = 60.0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> torch.nn.Module:
    """Train until the settings' last step, or until `seconds` are over; return the averaged network.

    `out` keeps the last good checkpoint; the same call goes on from there. A loss that is not finite stops with a named error.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = _resume(settings, out, device) or _start(settings, device)
    started = saved = time.monotonic()
    first = state.step
    dice: dict[str, float] = {}
    while state.step < settings.steps and time.monotonic() - started < seconds:
        batch = batch_at(state.step)
        loss, logits = _step(state, batch, settings, device, bf16)
        _follow(dice, logits, batch, settings)
        state.step += 1
        elapsed = time.monotonic() - started
        left = elapsed / (state.step - first) * (settings.steps - state.step)
        report(Progress(state.step, loss, settings.steps, min(left, max(0.0, seconds - elapsed)), dict(dice)))
        if time.monotonic() - saved > checkpoint_every_s:
            _save(state, settings, out)
            saved = time.monotonic()
    _save(state, settings, out)
    return state.average.eval()


def _step(state: _State, batch: Batch, settings: Settings, device: str, bf16: bool) -> tuple[float, torch.Tensor]:
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(settings, state.step)
    state.network.train()
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
        out = state.network(batch.image)
    logits: torch.Tensor = out[0] if isinstance(out, (list, tuple)) else out
    anneal = 1 - state.step / settings.steps
    loss = dice_and_cross_entropy(logits, batch.truth, batch.known, positive_weight=1 + (settings.positive_weight - 1) * anneal)
    if not torch.isfinite(loss):
        raise InputRefused(
            f"the loss is not finite at step {state.step}; the last good checkpoint is kept. Check the data of that step, "
            "or train with a lower learning rate"
        )
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), settings.gradient_clip)
    state.optimiser.step()
    _average(state, settings)
    return float(loss.detach()), logits.detach()


def learning_rate(settings: Settings, step: int) -> float:
    """Warm up linearly, then fall as a cosine to a hundredth."""
    if step < settings.warm_up_steps:
        return settings.learning_rate * (step + 1) / settings.warm_up_steps
    done = (step - settings.warm_up_steps) / max(1, settings.steps - settings.warm_up_steps)
    cosine = 0.5 * (1 + torch.cos(torch.tensor(min(1.0, done) * torch.pi)).item())
    return settings.learning_rate * (0.01 + 0.99 * cosine)


def _average(state: _State, settings: Settings) -> None:
    decay = min(settings.ema_decay, (state.step + 1) / (state.step + 10))
    with torch.no_grad():
        for slow, fast in zip(state.average.parameters(), state.network.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)
        for slow_buffer, fast_buffer in zip(state.average.buffers(), state.network.buffers(), strict=True):
            slow_buffer.copy_(fast_buffer)


def _follow(dice: dict[str, float], logits: torch.Tensor, batch: Batch, settings: Settings) -> None:
    predicted, truth = logits > 0, batch.truth > 0.5
    for channel, target in enumerate(settings.targets):
        seen = batch.known[:, channel] > 0
        p, t = predicted[seen, channel], truth[seen, channel]
        if t.any():
            value = float(2 * (p & t).sum() / (p.sum() + t.sum()))
            dice[target.name] = value if target.name not in dice else 0.98 * dice[target.name] + 0.02 * value


def _start(settings: Settings, device: str) -> _State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # the initial weights only, inside a fork: no global state is left behind
        network = networks.build(settings.network.name, **settings.network.arguments).to(device)
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    return _State(network, average, optimiser)


def _save(state: _State, settings: Settings, out: Path) -> None:
    partial = out / f"{CHECKPOINT}.partial"
    content: dict[str, Any] = {
        "settings": settings.model_dump_json(),
        "step": state.step,
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
    }
    torch.save(content, partial)
    os.replace(partial, out / CHECKPOINT)


def _resume(settings: Settings, out: Path, device: str) -> _State | None:
    file = out / CHECKPOINT
    if not file.is_file():
        return None
    content = torch.load(file, map_location=device, weights_only=True)
    if Settings.model_validate_json(content["settings"]) != settings:
        raise UsageError(f"{out} holds a training with other settings; give another folder, or the same settings to go on with it")
    state = _start(settings, device)
    state.network.load_state_dict(content["network"])
    state.average.load_state_dict(content["average"])
    state.optimiser.load_state_dict(content["optimiser"])
    state.step = content["step"]
    return state
