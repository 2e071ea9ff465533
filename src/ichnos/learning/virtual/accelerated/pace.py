"""How fast a machine makes patients, scans them and learns: measured before the long run is planned."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from ichnos import networks
from ichnos.learning.virtual.accelerated.first_network import (
    FIRST_PREPROCESSING,
    Feed,
    FirstPlan,
    first_network,
    step_loss,
    train_first,
    windowed,
)
from ichnos.learning.virtual.accelerated.looks import batch_of, look_pair
from ichnos.learning.virtual.accelerated.optimisers import OPTIMISERS, OptimiserName
from ichnos.learning.virtual.accelerated.production import Production
from ichnos.learning.virtual.accelerated.timed import Clock, TimedTraining
from ichnos.learning.virtual.accelerated.weights import Echo, first_measures

_WIDTHS = ((16, 32, 64, 96, 128), (32, 64, 96, 128, 160))  # beside the plan's


def measure_pace(production: Production, plan: FirstPlan, device: str, seconds: float, echo: Echo) -> Feed:
    """Report patients a second and milliseconds of a step for several networks; return the feed."""
    feed = Feed(production, plan, device)
    began = time.monotonic()
    while feed.store.size < plan.least_looks:
        feed.pump(most=4, wait_s=0.5)
    echo(f"first {feed.store.size} looks after {time.monotonic() - began:.1f} s")
    for last in (True, False):
        for _, patch, count in plan.growth:
            echo(str(_time_steps(feed, _Trial(plan, patch, count, last), device)))
        feed.pump(most=8)
    for features in _WIDTHS if len(plan.features) == len(_WIDTHS[0]) else ():
        _, patch, count = plan.growth[-1]
        echo(str(_time_steps(feed, _Trial(replace(plan, features=features), patch, count, True), device)))
        feed.pump(most=8)
    patients, at = feed.patients, time.monotonic()
    while time.monotonic() - began < seconds:
        feed.pump(most=4, wait_s=0.2)
    rate = (feed.patients - patients) / max(1e-3, time.monotonic() - at)
    echo(
        f"{feed.patients} patients and {len(feed.held_out)} held-out looks in"
        f" {time.monotonic() - began:.0f} s; {rate:.1f} patients/s; scanning took {feed.seconds:.1f} s"
    )
    return feed


@dataclass(frozen=True)
class _Trial:
    """A network and its batches, to be timed."""

    plan: FirstPlan
    patch: tuple[int, int, int]
    count: int  # patches of a batch
    channels_last: bool
    compiled: bool = False

    def __str__(self) -> str:
        return (
            f"features {self.plan.features[0]}.. patch {self.patch} batch {self.count}"
            f" channels_last {self.channels_last}{' compiled' if self.compiled else ''}"
        )

    def training(self, device: str) -> TimedTraining:
        """Return the network with an optimiser."""
        spec = first_network(self.plan)
        network = networks.build(spec.name, **spec.arguments)
        return TimedTraining(network, optimiser="adamw", device=device, channels_last=self.channels_last)


@dataclass(frozen=True)
class _StepTimes:
    """How long each step took, and making its batch."""

    trial: _Trial
    steps_s: tuple[float, ...]
    batches_s: tuple[float, ...]
    memory_gib: float

    def __str__(self) -> str:
        return (
            f"{self.trial}, first step {self.steps_s[0]:.1f} s:"
            f" {1000 * float(np.median(self.steps_s)):.0f} ms a step,"
            f" of it {1000 * float(np.median(self.batches_s)):.0f} ms batch; {self.memory_gib:.1f} GiB"
        )


def _time_steps(feed: Feed, trial: _Trial, device: str, *, steps: int = 8) -> _StepTimes:
    training = trial.training(device)
    forward = torch.compile(training.network) if trial.compiled else training.network
    rng = np.random.default_rng(0)
    times, batches = [], []
    for _ in range(steps):
        _wait(device)
        start = time.monotonic()
        chosen = feed.store.pick(trial.count, rng)
        batch = batch_of(feed.store, chosen, trial.patch, rng, feed.generator)
        _wait(device)
        batches.append(time.monotonic() - start)
        image = training.laid_out(windowed(batch.hu, FIRST_PREPROCESSING.windows_hu))
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            logits = forward(image)
        training.update(step_loss(logits, batch, 0.5), 0.5)
        _wait(device)
        times.append(time.monotonic() - start)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else 0.0
    return _StepTimes(trial, tuple(times), tuple(batches), memory)


def time_compiled(feed: Feed, device: str, echo: Echo) -> None:
    """Report the milliseconds of a step of the compiled network, and how long compiling takes."""
    for last in (True, False):
        _, patch, count = feed.plan.growth[-1]
        echo(str(_time_steps(feed, _Trial(feed.plan, patch, count, last, compiled=True), device)))


def time_looks(feed: Feed, device: str, echo: Echo, repeats: int = 6) -> None:
    """Report how long one pair of looks takes to render."""
    ready = None
    while ready is None:
        ready = feed.production.taken(device, spacing_mm=feed.plan.spacing_mm, wait_s=1.0)
    times = []
    for k in range(repeats):
        _wait(device)
        start = time.monotonic()
        look_pair(ready[1], feed.rng, feed.generator, wild_share=float(k % 2))
        _wait(device)
        times.append(time.monotonic() - start)
    echo(f"a pair of looks: {1000 * float(np.median(times)):.0f} ms (first {1000 * times[0]:.0f})")


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def compare_optimisers(
    feed: Feed, plan: FirstPlan, device: str, seconds: float, seeds: tuple[int, ...], echo: Echo
) -> dict[OptimiserName, list[float]]:
    """Train one network by each optimiser for the same time; return Dice of held-out heads per seed."""
    results: dict[OptimiserName, list[float]] = {name: [] for name in OPTIMISERS}
    for seed in seeds:
        for name in OPTIMISERS:
            torch.manual_seed(seed)
            own = replace(plan, optimiser=name, seed=seed, next_spacing_mm=None)
            spec = first_network(own)
            training = TimedTraining(
                networks.build(spec.name, **spec.arguments),
                optimiser=name,
                device=device,
                channels_last=own.channels_last,
            )
            clock = Clock(seconds)
            clock.start()
            train_first(own, feed, training, clock)
            dice = first_measures(training.average, feed, device)
            results[name].append(float(np.mean(list(dice.values()))))
            listed = ", ".join(f"{target} {value:.2f}" for target, value in dice.items())
            echo(f"| {name} | {seed} | {training.step} | {results[name][-1]:.3f} | {listed} |")
    return results
