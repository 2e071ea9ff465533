"""How fast a machine makes patients, scans them and learns: measured before the long run is planned."""

from __future__ import annotations

import time
from dataclasses import replace

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
            _time_steps(feed, plan, patch, count, device, last, echo)
        feed.pump(most=8)
    for features in _WIDTHS if len(plan.features) == len(_WIDTHS[0]) else ():
        _, patch, count = plan.growth[-1]
        _time_steps(feed, replace(plan, features=features), patch, count, device, True, echo)
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


def _time_steps(
    feed: Feed,
    plan: FirstPlan,
    patch: tuple[int, int, int],
    count: int,
    device: str,
    channels_last: bool,
    echo: Echo,
    *,
    steps: int = 8,
    compiled: bool = False,
) -> None:
    spec = first_network(plan)
    training = TimedTraining(
        networks.build(spec.name, **spec.arguments),
        optimiser="adamw",
        device=device,
        channels_last=channels_last,
    )
    rng = np.random.default_rng(0)
    forward = torch.compile(training.network) if compiled else training.network
    times, batches = [], []
    for _ in range(steps):
        _wait(device)
        start = time.monotonic()
        batch = batch_of(feed.store, feed.store.pick(count, rng), patch, rng, feed.generator)
        _wait(device)
        batches.append(time.monotonic() - start)
        image = training.laid_out(windowed(batch.hu, FIRST_PREPROCESSING.windows_hu))
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            logits = forward(image)
        loss = step_loss(logits, batch, 0.5)
        training.update(loss, 0.5)
        _wait(device)
        times.append(time.monotonic() - start)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else 0.0
    echo(
        f"features {plan.features[0]}.. patch {patch} batch {count} channels_last {channels_last}"
        f"{' compiled' if compiled else ''}, first step {times[0]:.1f} s:"
        f" {1000 * float(np.median(times)):.0f} ms a step,"
        f" of it {1000 * float(np.median(batches)):.0f} ms batch; {memory:.1f} GiB"
    )


def time_compiled(feed: Feed, device: str, echo: Echo) -> None:
    """Report the milliseconds of a step of the compiled network, and how long compiling takes."""
    for last in (True, False):
        _, patch, count = feed.plan.growth[-1]
        _time_steps(feed, feed.plan, patch, count, device, last, echo, compiled=True)


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
