"""Learn to segment several targets in one pass: one loop for any network, any mixture of simulated patients
and cohort data.

A batch is a pure function of its number, so a training that was killed goes on from its checkpoint to the
same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field

from ichnos.errors import InputRefused
from ichnos.learning.loop import checkpoints
from ichnos.learning.loop.checkpoints import CHECKPOINT, State
from ichnos.learning.loop.losses import multi_target_loss
from ichnos.learning.loop.shape_losses import cl_dice_loss, rim_loss
from ichnos.learning.loop.team import ALONE, Team
from ichnos.models import COORDINATE_MM, NetworkSpec, Preprocessing, TargetSpec

__all__ = ["CHECKPOINT", "Batch", "Precision", "Progress", "Settings", "learning_rate", "train"]


Precision = Literal["fp32", "bf16", "fp16"]


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
    sparse_weight: float = Field(
        default=0.5, ge=0
    )  # of targets' own voxels at the start; annealed to 0 so that probabilities stay honest
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    gradient_clip: float = Field(default=5.0, gt=0)
    seed: int = 0
    precision: Precision = "fp32"  # of the network's forward pass; the loss is always fp32
    cl_dice_weight: float = Field(
        default=0.0, ge=0
    )  # of the centre-line term, for thin tubes such as the tract
    rim_weight: float = Field(default=0.0, ge=0)  # of the boundary term
    validate_every: int = Field(default=0, ge=0)  # steps; 0: never
    validate_on: int = Field(default=0, ge=0)  # patients; 0: all that are set aside
    patience: int = Field(
        default=0, ge=0
    )  # validations without a better one after which to stop; 0: go on to the last step
    data: str = ""  # fingerprint of the cases and of how they are drawn: another cohort is another training


@dataclass(frozen=True)
class Batch:
    """Input and truth of one step, on the device of the network; networks that see slices have no z."""

    image: torch.Tensor  # (batch, window, x, y, z), -1..1
    truth: (
        torch.Tensor
    )  # (batch, target, x, y, z), degree 0..1; a coordinate's in its unit, NaN where it is undefined
    known: torch.Tensor  # (batch, target), 1 where the target's truth is known


@dataclass
class Progress:
    """What a running training tells at each step."""

    step: int
    loss: float
    steps: int
    seconds_left: float
    dice: dict[str, float] = field(
        default_factory=dict
    )  # per target, running mean over the crops in which it occurs; coordinates: mm
    score: float | None = None  # of the validation after this step, if there was one

    def __str__(self) -> str:
        """Return one line for a log."""
        dice = " ".join(f"{name} {value:.2f}" for name, value in self.dice.items())
        return f"step {self.step}/{self.steps} loss {self.loss:.3f} | {dice}"


Validate = Callable[
    [torch.nn.Module, int], float
]  # (averaged network in evaluation mode, step) -> score, higher is better


def train(
    settings: Settings,
    batch_at: Callable[[int], Batch],
    out: Path,
    *,
    device: str = "cpu",
    seconds: float = float("inf"),
    initial: dict[str, torch.Tensor] | None = None,
    validate: Validate | None = None,
    team: Team = ALONE,
    checkpoint_every_s: float = 60.0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> torch.nn.Module:
    """Train until the settings' last step, until validation stops getting better, or until `seconds` are
    over; return the averaged network.

    With `validate` the network of the best validation is returned, else the last. `out` keeps the last good
    checkpoint; the same call goes on from there. Without one, `initial` weights are where it starts. A loss
    that is not finite stops with a named error. Batch number `step * team.size + team.rank` is asked of
    `batch_at`.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = checkpoints.resume(settings, out, device) or checkpoints.start(settings, device, initial)
    network = team.shared(state.network)
    started = saved = time.monotonic()
    first = state.step
    dice: dict[str, float] = {}
    while state.step < settings.steps and not _stalled(state, settings):
        batch = batch_at(state.step * team.size + team.rank)
        loss, logits = _step(state, network, batch, settings, device, team)
        _follow(dice, logits, batch, settings)
        state.step += 1
        elapsed = time.monotonic() - started
        left = elapsed / (state.step - first) * (settings.steps - state.step)
        over = team.any(elapsed >= seconds)
        score = _validated(state, settings, validate, out, team, last=over)
        report(
            Progress(
                state.step, loss, settings.steps, min(left, max(0.0, seconds - elapsed)), dict(dice), score
            )
        )
        if team.leads and (score is not None or time.monotonic() - saved > checkpoint_every_s):
            checkpoints.save(state, settings, out)
            saved = time.monotonic()
        if over:
            break
    if team.leads:
        checkpoints.save(state, settings, out)
    team.wait()
    return checkpoints.best_network(state, out, device)


def _stalled(state: State, settings: Settings) -> bool:
    return settings.patience > 0 and state.stale >= settings.patience


def _validated(
    state: State, settings: Settings, validate: Validate | None, out: Path, team: Team, *, last: bool
) -> float | None:
    """Validate where it is due; keep the network if it is the best so far. Every member of a team learns
    the same score.
    """
    due = settings.validate_every > 0 and (
        last or state.step % settings.validate_every == 0 or state.step == settings.steps
    )
    if validate is None or not due:
        return None
    score = team.from_leader(validate(state.average.eval(), state.step) if team.leads else 0.0)
    if score > state.best_score:
        state.best_score, state.best_step, state.stale = score, state.step, 0
        if team.leads:
            checkpoints.save_best(state, out)
    else:
        state.stale += 1
    return score


def _step(
    state: State, network: torch.nn.Module, batch: Batch, settings: Settings, device: str, team: Team
) -> tuple[float, torch.Tensor]:
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(settings, state.step)
    network.train()
    half = torch.float16 if settings.precision == "fp16" else torch.bfloat16
    with torch.autocast(torch.device(device).type, half, enabled=settings.precision != "fp32"):
        out = network(batch.image)
    scales: list[torch.Tensor] = list(out) if isinstance(out, (list, tuple)) else [out]
    loss = _loss(scales, batch, settings, anneal=1 - state.step / settings.steps)
    if team.any(not bool(torch.isfinite(loss))):
        raise InputRefused(
            f"the loss is not finite at step {state.step}; the last good checkpoint is kept. Check the data"
            " of that step, or train with a lower learning rate"
        )
    state.optimiser.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()
    state.scaler.unscale_(state.optimiser)
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), settings.gradient_clip)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    _average(state, settings)
    return float(loss.detach()), scales[0].detach()


def _loss(scales: list[torch.Tensor], batch: Batch, settings: Settings, *, anneal: float) -> torch.Tensor:
    """Sum the losses of all resolutions (deep supervision), each half as important as the one above it."""
    total = torch.zeros((), device=batch.image.device)
    truth = _deep(batch.truth)
    weight_sum = sum(0.5**k for k in range(len(scales)))
    for k, logits in enumerate(_deep(scale) for scale in scales):
        wanted = (
            truth
            if k == 0
            else F.adaptive_avg_pool3d(truth, (logits.shape[2], logits.shape[3], logits.shape[4]))
        )
        total = total + 0.5**k / weight_sum * _scale_loss(
            logits, wanted, batch.known, settings, anneal=anneal, finest=k == 0
        )
    return total


def _scale_loss(
    logits: torch.Tensor,
    truth: torch.Tensor,
    known: torch.Tensor,
    settings: Settings,
    *,
    anneal: float,
    finest: bool,
) -> torch.Tensor:
    coordinates = [channel for channel, target in enumerate(settings.targets) if target.kind == "coordinate"]
    sparse_weight = settings.sparse_weight * anneal
    loss = multi_target_loss(logits, truth, known, coordinates=coordinates, sparse_weight=sparse_weight)
    if finest and (settings.cl_dice_weight or settings.rim_weight):
        masks = [channel for channel in range(logits.shape[1]) if channel not in coordinates]
        probability, drawn, told = (
            torch.sigmoid(logits[:, masks].float()),
            truth[:, masks].float(),
            known[:, masks],
        )
        if settings.cl_dice_weight:
            loss = loss + settings.cl_dice_weight * cl_dice_loss(probability, drawn, told)
        if settings.rim_weight:
            loss = loss + settings.rim_weight * rim_loss(probability, drawn, told)
    return loss


def _deep(field: torch.Tensor) -> torch.Tensor:
    """Give slices (batch, channel, x, y) a depth of one."""
    return field[..., None] if field.dim() == 4 else field


def learning_rate(settings: Settings, step: int) -> float:
    """Warm up linearly, then fall as a cosine to a hundredth."""
    if step < settings.warm_up_steps:
        return settings.learning_rate * (step + 1) / settings.warm_up_steps
    done = (step - settings.warm_up_steps) / max(1, settings.steps - settings.warm_up_steps)
    cosine = 0.5 * (1 + torch.cos(torch.tensor(min(1.0, done) * torch.pi)).item())
    return settings.learning_rate * (0.01 + 0.99 * cosine)


def _average(state: State, settings: Settings) -> None:
    decay = min(settings.ema_decay, (state.step + 1) / (state.step + 10))
    with torch.no_grad():
        for slow, fast in zip(state.average.parameters(), state.network.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)
        for slow_buffer, fast_buffer in zip(state.average.buffers(), state.network.buffers(), strict=True):
            slow_buffer.copy_(fast_buffer)


def _follow(dice: dict[str, float], logits: torch.Tensor, batch: Batch, settings: Settings) -> None:
    for channel, target in enumerate(settings.targets):
        seen = batch.known[:, channel] > 0
        if target.kind == "coordinate":
            error = (logits[seen, channel] - batch.truth[seen, channel]).abs().nanmean()
            value = COORDINATE_MM * float(error)
        else:
            p, t = logits[seen, channel] > 0, batch.truth[seen, channel] > 0.5
            value = float(2 * (p & t).sum() / (p.sum() + t.sum())) if t.any() else float("nan")
        if value == value:
            dice[target.name] = value if target.name not in dice else 0.98 * dice[target.name] + 0.02 * value
