"""The training loop of ichnos: schedule, averaging, validation, checkpoints, teams of processes.

A training brings its network, its settings and a function that returns the loss of a step; everything else is
the same for segmentation, classifiers, generators and forecasts. A step's batch is a pure function of its
number, so a training that was killed resumes from its checkpoint to the same numbers.

>>> import tempfile
>>> size = {"image_size": [8, 8], "patch_size": 8, "width": 8, "heads": 1, "depth": 1}
>>> spec = NetworkSpec(name="vit", arguments=size | {"input_channels": 1})
>>> def loss_of(network, step):
...     return Loss(network(torch.ones(1, 1, 8, 8)).square().mean())
>>> with tempfile.TemporaryDirectory() as folder:
...     trained = train(spec, LoopSettings(steps=3, validations=0), loss_of, Path(folder))
>>> trained.training
False
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ichnos.errors import InputRefused
from ichnos.learning.loop import checkpoints
from ichnos.learning.loop.checkpoints import TrainingKey, TrainingState
from ichnos.learning.loop.precision import with_precision
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.loop.settings import LoopSettings, learning_rate
from ichnos.learning.loop.steps import Loss, LossOf, Progress, Step, Validate, autocast
from ichnos.models import NetworkSpec

_SMOOTHING = 0.98  # of the running means that a log shows


def train(
    network: NetworkSpec,
    settings: LoopSettings,
    loss_of: LossOf,
    out: Path,
    *,
    data: str = "",
    initial: dict[str, Tensor] | None = None,
    validate: Validate | None = None,
    resources: Resources = ON_CPU,
) -> nn.Module:
    """Train until the last step, until validation stops improving, or until the time is over.

    Returns the averaged network: that of the best validation, or the last one where there is no validation.
    `out` keeps the last good checkpoint, and the same call resumes from it; `data` is a fingerprint of
    whatever else decides the numbers, and with another one nothing is resumed. `initial` weights are where a
    new training starts. All members of a team call `validate`.
    """
    out.mkdir(parents=True, exist_ok=True)
    device, team = resources.device, resources.team
    settings = with_precision(settings, network, loss_of, out, device=device, team=team)
    key = TrainingKey(network=network, loop=settings.model_dump(), data=data)
    state = checkpoints.resume(key, settings, out, device)
    state = state or checkpoints.start(network, settings, device, initial)
    _Run(key, settings, state, loss_of, validate, out, resources).to_the_end()
    return checkpoints.best_network(state, out, device)


@dataclass(eq=False)
class _Run:
    """One call of `train`."""

    key: TrainingKey
    settings: LoopSettings
    state: TrainingState
    loss_of: LossOf
    validate: Validate | None
    out: Path
    resources: Resources
    measures: dict[str, float] = field(default_factory=dict)

    @cached_property
    def network(self) -> nn.Module:
        """Return the network of the state, shared with the team."""
        return self.resources.team.shared(self.state.network)

    def to_the_end(self) -> None:
        """Take steps until the last one, until nothing improves, or until the time is over."""
        state, resources = self.state, self.resources
        started = saved = time.monotonic()
        first, kept, over = state.step, state.step, False
        while state.step < self.settings.steps and not self.stalled and not over:
            loss = self.step()
            elapsed = time.monotonic() - started
            over = resources.team.any(elapsed >= resources.seconds)
            score = self.validated(last=over)
            left = self._seconds_left(elapsed, taken=state.step - first)
            resources.report(
                Progress(state.step, loss, self.settings.steps, left, dict(self.measures), score)
            )
            if score is not None or time.monotonic() - saved > resources.checkpoint_every_s:
                self._save()
                saved, kept = time.monotonic(), state.step
        if kept < state.step:
            self._save()
        resources.team.wait()

    @property
    def stalled(self) -> bool:
        """Say whether validation has stopped improving."""
        return self.settings.patience > 0 and self.state.stale >= self.settings.patience

    def _seconds_left(self, elapsed: float, *, taken: int) -> float:
        by_steps = elapsed / taken * (self.settings.steps - self.state.step)
        return min(by_steps, max(0.0, self.resources.seconds - elapsed))

    def _save(self) -> None:
        if self.resources.team.leads:
            checkpoints.save_checkpoint(self.state, self.key, self.out)

    def step(self) -> float:
        """Take a step; return its loss. A loss that is not finite stops with an error."""
        state, settings = self.state, self.settings
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(settings, state.step)
        self.network.train()
        loss = self._loss()
        if self.resources.team.any(not bool(torch.isfinite(loss.value))):
            raise InputRefused(
                f"the loss is not finite at step {state.step}; the last good checkpoint is kept. Check the"
                " data of that step, or train with a lower learning rate"
            )
        self._descend(loss.value)
        decay = min(settings.averaging, (state.step + 1) / (state.step + 10))
        update_average(state.average, state.network, decay=decay)
        state.step += 1
        self._follow(loss.measures)
        return float(loss.value.detach())

    def _loss(self) -> Loss:
        """Return the loss of the next step; dropout depends on seed and step alone."""
        state, settings, team = self.state, self.settings, self.resources.team
        kind = torch.device(self.resources.device).type
        forward = partial(autocast, kind, settings.precision)
        number = state.step * team.size + team.rank
        devices = [torch.cuda.current_device()] if kind == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(settings.seed * 1_000_003 + number)
            return self.loss_of(self.network, Step(number, state.step / settings.steps, forward))

    def _descend(self, loss: Tensor) -> None:
        """Move the weights against the gradient, whose norm is clipped."""
        state, longest = self.state, self.settings.gradient_clip
        state.optimiser.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()
        state.scaler.unscale_(state.optimiser)
        if longest:
            nn.utils.clip_grad_norm_(state.network.parameters(), longest)
        state.scaler.step(state.optimiser)
        state.scaler.update()

    def _follow(self, measures: Mapping[str, float]) -> None:
        for name, value in measures.items():
            if value == value:
                before = self.measures.get(name, value)
                self.measures[name] = _SMOOTHING * before + (1 - _SMOOTHING) * value

    def validated(self, *, last: bool) -> float | None:
        """Validate where it is due, and keep the network if it is the best so far."""
        state, every, team = self.state, self.settings.validate_every, self.resources.team
        due = every > 0 and (last or state.step % every == 0 or state.step == self.settings.steps)
        if self.validate is None or not due:
            return None
        score = team.from_leader(self.validate(state.average.eval(), state.step))
        if score > state.best_score:
            state.best_score, state.best_step, state.stale = score, state.step, 0
            if team.leads:
                checkpoints.save_best(state, self.out)
        else:
            state.stale += 1
        return score


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, *, decay: float) -> None:
    """Move the averaged weights towards the network's; buffers are copied.

    >>> slow, fast = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> for layer, value in ((slow, 0.0), (fast, 1.0)):
    ...     _ = nn.init.constant_(layer.weight, value)
    >>> update_average(slow, fast, decay=0.75)
    >>> float(slow.weight.detach())
    0.25
    """
    move = get_ema_multi_avg_fn(decay)
    move(list(average.parameters()), list(network.parameters()), None)
    for held, current in zip(average.buffers(), network.buffers(), strict=True):
        held.copy_(current)
