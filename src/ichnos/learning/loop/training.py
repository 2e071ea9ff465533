"""The training loop of ichnos: schedule, averaging, validation, checkpoints, teams of processes.

A training brings its network, its settings and a function that returns the loss of a step; everything else is
the same for segmentation, classifiers, generators and forecasts. A step's batch is a pure function of its
number, so a training that was killed resumes from its checkpoint to the same numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ichnos.errors import InputRefused
from ichnos.learning.loop import checkpoints
from ichnos.learning.loop.checkpoints import TrainingKey, TrainingState
from ichnos.learning.loop.precision import with_precision
from ichnos.learning.loop.settings import LoopSettings, learning_rate
from ichnos.learning.loop.steps import Loss, LossOf, Step, autocast
from ichnos.learning.loop.team import ALONE, Team
from ichnos.models import NetworkSpec

_SMOOTHING = 0.98  # of the running means that a log shows


Validate = Callable[[nn.Module, int], float]  # (averaged network, step) -> score, higher is better


@dataclass(frozen=True)
class Progress:
    """The state of a running training after a step."""

    step: int
    loss: float
    steps: int
    seconds_left: float
    measures: dict[str, float] = field(default_factory=dict)  # running means, as Dice per target
    score: float | None = None  # of the validation after this step, if there was one

    def __str__(self) -> str:
        """Return one line for a log.

        >>> print(Progress(step=3, loss=0.5, steps=9, seconds_left=1.0, measures={"ICH": 0.81}))
        step 3/9 loss 0.500 | ICH 0.81
        """
        measures = " ".join(f"{name} {value:.2f}" for name, value in self.measures.items())
        return f"step {self.step}/{self.steps} loss {self.loss:.3f}" + (f" | {measures}" if measures else "")


def train(
    network: NetworkSpec,
    settings: LoopSettings,
    loss_of: LossOf,
    out: Path,
    *,
    data: str = "",
    device: str = "cpu",
    seconds: float = math.inf,
    initial: dict[str, Tensor] | None = None,
    validate: Validate | None = None,
    team: Team = ALONE,
    checkpoint_every_s: float = 60.0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> nn.Module:
    """Train until the last step, until validation stops improving, or until `seconds` are over.

    Returns the averaged network: that of the best validation, or the last one where there is no validation.
    `out` keeps the last good checkpoint, and the same call resumes from it; `data` is a fingerprint of
    whatever else decides the numbers, and with another one nothing is resumed. `initial` weights are where a
    new training starts. A loss that is not finite stops with an error. All members of a team call `validate`.

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
    out.mkdir(parents=True, exist_ok=True)
    settings = with_precision(settings, network, loss_of, out, device=device, team=team)
    key = TrainingKey(network=network, loop=settings.model_dump(), data=data)
    state = checkpoints.resume(key, settings, out, device) or checkpoints.start(
        network, settings, device, initial
    )
    run = _Run(settings, state, team.shared(state.network), loss_of, validate, out, device, team)
    started = saved = time.monotonic()
    first, kept = state.step, state.step
    while state.step < settings.steps and not run.stalled:
        loss = run.step()
        elapsed = time.monotonic() - started
        over = team.any(elapsed >= seconds)
        score = run.validated(last=over)
        left = elapsed / (state.step - first) * (settings.steps - state.step)
        left = min(left, max(0.0, seconds - elapsed))
        report(Progress(state.step, loss, settings.steps, left, dict(run.measures), score))
        if team.leads and (score is not None or time.monotonic() - saved > checkpoint_every_s):
            checkpoints.save_checkpoint(state, key, out)
            saved, kept = time.monotonic(), state.step
        if over:
            break
    if team.leads and kept < state.step:
        checkpoints.save_checkpoint(state, key, out)
    team.wait()
    return checkpoints.best_network(state, out, device)


@dataclass(eq=False)
class _Run:
    """One call of `train`."""

    settings: LoopSettings
    state: TrainingState
    network: nn.Module  # of the state, shared with the team
    loss_of: LossOf
    validate: Validate | None
    out: Path
    device: str
    team: Team
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def stalled(self) -> bool:
        """Say whether validation has stopped improving."""
        return self.settings.patience > 0 and self.state.stale >= self.settings.patience

    def step(self) -> float:
        """Take a step; return its loss."""
        state, settings = self.state, self.settings
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(settings, state.step)
        self.network.train()
        loss = self._loss()
        if self.team.any(not bool(torch.isfinite(loss.value))):
            raise InputRefused(
                f"the loss is not finite at step {state.step}; the last good checkpoint is kept. Check the"
                " data of that step, or train with a lower learning rate"
            )
        state.optimiser.zero_grad(set_to_none=True)
        state.scaler.scale(loss.value).backward()
        state.scaler.unscale_(state.optimiser)
        if settings.gradient_clip:
            nn.utils.clip_grad_norm_(state.network.parameters(), settings.gradient_clip)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        update_average(
            state.average, state.network, decay=min(settings.averaging, (state.step + 1) / (state.step + 10))
        )
        state.step += 1
        self._follow(loss.measures)
        return float(loss.value.detach())

    def _loss(self) -> Loss:
        """Return the loss of the next step; dropout depends on seed and step alone."""
        state, settings = self.state, self.settings
        kind = torch.device(self.device).type
        forward = partial(autocast, kind, settings.precision)
        number = state.step * self.team.size + self.team.rank
        devices = [torch.cuda.current_device()] if kind == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(settings.seed * 1_000_003 + number)
            return self.loss_of(self.network, Step(number, state.step / settings.steps, forward))

    def _follow(self, measures: Mapping[str, float]) -> None:
        for name, value in measures.items():
            if value == value:
                before = self.measures.get(name, value)
                self.measures[name] = _SMOOTHING * before + (1 - _SMOOTHING) * value

    def validated(self, *, last: bool) -> float | None:
        """Validate where it is due, and keep the network if it is the best so far."""
        state, every = self.state, self.settings.validate_every
        due = every > 0 and (last or state.step % every == 0 or state.step == self.settings.steps)
        if self.validate is None or not due:
            return None
        score = self.team.from_leader(self.validate(state.average.eval(), state.step))
        if score > state.best_score:
            state.best_score, state.best_step, state.stale = score, state.step, 0
            if self.team.leads:
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
