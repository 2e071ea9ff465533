"""Train the first network against the clock, from looks at patients who are simulated meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ichnos.errors import IchnosError
from ichnos.learning.segmentation.losses import COORDINATE_WEIGHT, dice_and_cross_entropy
from ichnos.learning.virtual.accelerated.looks import (
    GRID,
    LOOK_TARGETS,
    STEP_MM,
    HeadLook,
    LookBatch,
    LookStore,
    batch_of,
    look_pair,
    recentring,
    single_look,
)
from ichnos.learning.virtual.accelerated.optimisers import OptimiserName
from ichnos.learning.virtual.accelerated.phantom import Phantom
from ichnos.learning.virtual.accelerated.production import PatientJob, Production
from ichnos.learning.virtual.accelerated.timed import Clock, Rhythm, TimedTraining
from ichnos.learning.virtual.default_model import DEFAULT_TARGETS, HEAD_WINDOWS_HU
from ichnos.models import NetworkSpec, Preprocessing

AXES = ("mni_x", "mni_y", "mni_z")
BRAIN_HU = 34.0  # to which the median of a scan's soft core is moved
FIRST_PREPROCESSING = Preprocessing(
    spacing_mm=(STEP_MM, STEP_MM, STEP_MM),
    windows_hu=HEAD_WINDOWS_HU,
    patch=GRID,
    recentred_hu=BRAIN_HU,
)
# Patches grow while the first share of the time is over; each with how many looks make a batch. A step costs
# what its voxels cost, so small batches give more of them; every further size costs a search for its
# convolutions.
GROWTH: tuple[tuple[float, tuple[int, int, int], int], ...] = (
    (0.35, (48, 64, 48), 12),
    (1.01, GRID, 8),
)
_SPARSE_UNTIL, _SPARSE_WEIGHT = 0.6, 0.5  # the own-voxel term fades until then
_HARD_TARGETS = ("ICH", "IVH", "PHE", "leukoaraiosis", "tract_left", "tract_right")
_FOCAL_TARGETS = ("IVH", "PHE")
_FEED_HEAD_START_S = 5.0
_FOCAL_WEIGHT, _CONSISTENCY_WEIGHT = 0.15, 0.15
CALIBRATION_START = 10_000_000  # numbers of patients of training heads that only choose thresholds
FINE_START = 20_000_000  # numbers of the refinement's patients


@dataclass(frozen=True)
class FirstPlan:
    """How the first network is trained."""

    features: tuple[int, ...] = (16, 48, 96, 128, 160)
    growth: tuple[tuple[float, tuple[int, int, int], int], ...] = GROWTH
    optimiser: OptimiserName = "adamw"
    pairs_per_patient: int = 3
    wild_share: float = 0.5
    capacity: int = 5000  # looks kept
    least_looks: int = 48  # before the first step
    held_out_patients: int = 32
    calibration_patients: int = 24
    spacing_mm: float = 1.5
    next_spacing_mm: float | None = 1.0  # of the patients that are made towards the end, for the refinement
    next_lead_s: float = 40.0
    feed_share: float = 0.25  # of the time, at most, that goes into scanning phantoms
    channels_last: bool = False
    compiled: bool = False
    seed: int = 0


def first_network(plan: FirstPlan) -> NetworkSpec:
    """Return the call that builds the first network."""
    stages = len(plan.features)
    return NetworkSpec(
        name="unet",
        arguments={
            "input_channels": len(FIRST_PREPROCESSING.windows_hu),
            "num_classes": len(DEFAULT_TARGETS),
            "dim": 3,
            "features_per_stage": list(plan.features),
            "strides": [1] + [2] * (stages - 1),
            "n_conv_per_stage": [1, 1] + [2] * (stages - 2),
            "n_conv_per_stage_decoder": [1] * (stages - 1),
        },
    )


def first_image(hu: Tensor) -> Tensor:
    """Turn HU (n, x, y, z) of whole heads into channels, as `inference.input_channels` does."""
    shift = recentring(hu, BRAIN_HU).view(-1, 1, 1, 1)
    return windowed(hu + shift, FIRST_PREPROCESSING.windows_hu)


def windowed(hu: Tensor, windows_hu: tuple[tuple[float, float], ...]) -> Tensor:
    """Turn HU (n, x, y, z) into one channel per window.

    >>> windowed(torch.tensor([[[[0.0, 40.0, 90.0]]]]), ((0, 80),)).flatten().tolist()
    [-1.0, 0.0, 1.0]
    """
    return torch.stack([((hu - low) * (2 / (high - low)) - 1).clamp(-1, 1) for low, high in windows_hu], 1)


@dataclass
class Feed:
    """Keeps processes busy, and turns the phantoms that arrive into looks."""

    production: Production
    plan: FirstPlan
    device: str
    first_number: int = 0
    patients: int = 0
    seconds: float = 0.0
    held_out: list[HeadLook] = field(default_factory=list)
    calibration: list[HeadLook] = field(default_factory=list)
    _asked: int = 0

    def __post_init__(self) -> None:
        self.store = LookStore(self.plan.capacity, self.device, to_hu=BRAIN_HU)
        self.rng = np.random.default_rng([self.plan.seed, 1])
        self.generator = torch.Generator(self.device).manual_seed(self.plan.seed)
        self._asked = self.first_number
        start = self.plan.spacing_mm
        first = [PatientJob(n, start) for n in range(self._asked, self._asked + self.production.workers)]
        self._asked += len(first)
        self.production.ask(first)
        self.production.ask([PatientJob(n, start, held_out=True) for n in range(self.plan.held_out_patients)])
        self.production.ask(
            [PatientJob(CALIBRATION_START + n, start) for n in range(self.plan.calibration_patients)]
        )

    def pump(self, *, most: int = 1, wait_s: float = 0.0, spacing_mm: float | None = None) -> int:
        """Scan up to `most` phantoms that are ready, and ask for more; return how many came."""
        began = time.monotonic()
        if self.production.waiting() < self.production.workers:
            step = spacing_mm or self.plan.spacing_mm
            count, own = self.production.workers, step == self.plan.spacing_mm
            jobs = [
                PatientJob(n, step) if own else PatientJob(FINE_START + n, step, followup=False)
                for n in range(self._asked, self._asked + count)
            ]
            self.production.ask(jobs)
            self._asked += count
        came = 0
        while came < most:
            ready = self.production.taken(self.device, wait_s=wait_s, spacing_mm=self.plan.spacing_mm)
            if ready is None:
                break
            try:
                self._scan(*ready)
            except (ArithmeticError, ValueError, IndexError, RuntimeError) as error:
                self.production.failed(ready[0], repr(error))
            came += 1
        self.seconds += time.monotonic() - began
        return came

    def _scan(self, job: PatientJob, phantom: Phantom) -> None:
        """Scan one phantom as often as its purpose asks for."""
        if job.held_out or job.number >= CALIBRATION_START:
            looks = self.held_out if job.held_out else self.calibration
            rng = np.random.default_rng([self.plan.seed, 2, job.number])
            looks += [single_look(phantom, rng, self.generator, wild=False) for _ in range(2)]
            return
        for _ in range(self.plan.pairs_per_patient):
            self.store.add(look_pair(phantom, self.rng, self.generator, wild_share=self.plan.wild_share))
        self.patients += 1


def step_loss(logits: Tensor, batch: LookBatch, done: float) -> Tensor:
    """Return the loss of a step.

    It is `multi_target_loss` on slices: channels chosen by a list cost a sort on the way back.
    """
    masks, positions = logits[:, : len(LOOK_TARGETS)].float(), logits[:, len(LOOK_TARGETS) :].float()
    sparse = _SPARSE_WEIGHT * max(0.0, 1 - done / _SPARSE_UNTIL)
    known = torch.ones(masks.shape[:2], device=masks.device)
    loss = dice_and_cross_entropy(masks, batch.truth, known, sparse_weight=sparse)
    loss = loss + COORDINATE_WEIGHT * _displacement(positions, batch.mni)
    share = torch.sigmoid(masks)
    loss = loss + _FOCAL_WEIGHT * _focal(masks, share, batch.truth)
    return loss + _CONSISTENCY_WEIGHT * min(1.0, 2 * done) * _disagreement(share)


def _displacement(positions: Tensor, mni: Tensor) -> Tensor:
    """Return the mean absolute error of positions where they are known."""
    inside = torch.isfinite(mni)
    error = torch.where(inside, positions - mni.nan_to_num(), 0.0).abs()
    return error.sum() / inside.sum().clamp(min=1)


def _focal(logits: Tensor, share: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy weighted by the squared error, over the target's own volume: for small pools of blood."""
    total = logits.new_zeros(())
    for name in _FOCAL_TARGETS:
        k = LOOK_TARGETS.index(name)
        entropy = nn.functional.binary_cross_entropy_with_logits(logits[:, k], truth[:, k], reduction="none")
        weighted = (share[:, k] - truth[:, k]) ** 2 * entropy
        total = total + weighted.sum() / (truth[:, k].sum() + 200.0)
    return total / len(_FOCAL_TARGETS)


def _disagreement(share: Tensor) -> Tensor:
    """Return how far the two scans of each head are read apart: 1 - soft Dice, mean over targets."""
    first, second = share[0::2], share[1::2]
    apart = ((first - second) ** 2).sum((2, 3, 4))
    size = (first**2 + second**2).sum((2, 3, 4)).detach()
    return (apart / (size + 50.0)).mean()


def difficulty(logits: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - soft Dice of the lesions and tracts that each look holds, mean over them."""
    at = [LOOK_TARGETS.index(name) for name in _HARD_TARGETS]
    p, t = torch.sigmoid(logits[:, at].float()), truth[:, at]
    dice = (2 * (p * t).sum((2, 3, 4)) + 5) / ((p**2 + t**2).sum((2, 3, 4)) + 5)
    return 1 - dice.mean(1)


@dataclass(frozen=True)
class StepNote:
    """What one step was like, for a log."""

    step: int
    done: float
    loss: float
    patients: int
    looks: int
    steps_per_s: float
    patch: tuple[int, int, int]


def _check_finite(network: nn.Module, step: int) -> None:
    if not all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters()):
        raise IchnosError(f"weights are not finite at step {step}; train with a lower learning rate")


def train_first(
    plan: FirstPlan,
    feed: Feed,
    training: TimedTraining,
    clock: Clock,
    *,
    note: Callable[[StepNote], None] = lambda note: None,
    note_every_s: float = 15.0,
) -> None:
    """Train until the clock's time is spent."""
    while feed.store.size < plan.least_looks and not clock.over:
        feed.pump(most=4, wait_s=0.5)
    forward = torch.compile(training.network) if plan.compiled else training.network
    rng = np.random.default_rng([plan.seed, 3, training.step])
    lines = Rhythm(note_every_s, training.step)
    while not clock.over and feed.store.size:
        _pump_in_time(plan, feed, clock)
        done = clock.done
        patch, loss = _first_step(plan, feed, training, forward, done, rng)
        if (rate := lines.steps_per_s(training.step)) is not None:
            _check_finite(training.network, training.step)
            state = (feed.patients, feed.store.size, rate, patch)
            note(StepNote(training.step, done, float(loss.detach()), *state))


def _pump_in_time(plan: FirstPlan, feed: Feed, clock: Clock) -> None:
    """Scan phantoms that are ready, within the share of the time that is for it; late ones are finer."""
    late = plan.next_spacing_mm and clock.seconds - clock.spent_s < plan.next_lead_s
    room = feed.seconds < plan.feed_share * clock.spent_s + _FEED_HEAD_START_S
    feed.pump(most=int(room), spacing_mm=plan.next_spacing_mm if late else None)


def _first_step(
    plan: FirstPlan,
    feed: Feed,
    training: TimedTraining,
    forward: Callable[[Tensor], Tensor],
    done: float,
    rng: np.random.Generator,
) -> tuple[tuple[int, int, int], Tensor]:
    """Learn from patches of the size that is due; return the size and the loss."""
    _, patch, count = next(row for row in plan.growth if done < row[0])
    chosen = feed.store.pick(count, rng)
    batch = batch_of(feed.store, chosen, patch, rng, feed.generator)
    image = training.laid_out(windowed(batch.hu, FIRST_PREPROCESSING.windows_hu))
    with torch.autocast(torch.device(training.device).type, torch.bfloat16):
        logits = forward(image)
    loss = step_loss(logits, batch, done)
    training.update(loss, done)
    if training.step % 8 == 0:
        feed.store.remember(chosen, difficulty(logits.detach(), batch.truth).cpu().numpy())
    return patch, loss
