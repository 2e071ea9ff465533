"""The default weights, from prepared heads to Model folders, against the clock."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ichnos import networks
from ichnos.learning.virtual.accelerated.first_network import (
    CALIBRATION_START,
    FINE_START,
    FIRST_PREPROCESSING,
    Feed,
    FirstPlan,
    first_image,
    first_network,
    train_first,
)
from ichnos.learning.virtual.accelerated.looks import LOOK_TARGETS, HeadLook
from ichnos.learning.virtual.accelerated.optimisers import OptimiserName
from ichnos.learning.virtual.accelerated.phantom import Phantom
from ichnos.learning.virtual.accelerated.production import PatientJob, Production
from ichnos.learning.virtual.accelerated.scores import Counts, TargetScore, score_table
from ichnos.learning.virtual.accelerated.second_network import (
    RefinerFeed,
    RefinerScan,
    SecondPlan,
    refined_shares,
    refiner_image,
    refiner_network,
    refiner_scan,
    train_second,
)
from ichnos.learning.virtual.accelerated.timed import Clock, TimedTraining
from ichnos.learning.virtual.default_model import DEFAULT_TARGETS, LIMITS
from ichnos.learning.virtual.refinement import HOW, NAMES, REFINED_TARGETS
from ichnos.models import COORDINATE_MM, Manifest, Model, Provenance, TargetSpec, load_model, save_model
from ichnos.models.manifest import NetworkSpec
from ichnos.models.store import REFINEMENT, sha256

STATE = "first_state.safetensors"  # the unaveraged network, from which a later call goes on
VOXEL_ML = float(np.prod(FIRST_PREPROCESSING.spacing_mm)) / 1000
_KEPT_THRESHOLDS = (
    "ICH",
    "IVH",
)  # what is sure is asked for: density draws the border
_VERSION = "0.2"
_SHOW_EVERY_S = 15.0
_LAST_WAIT_S = 20.0  # for patients of the validation that come late
Echo = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One call: what goes in, where it goes, how long it may take."""

    heads: Path  # prepared
    out: Path  # the model's folder
    first_minutes: float
    second_minutes: float
    workers: int = 15
    slots: int = 160
    device: str = "cuda"
    command: str = ""
    held_out_heads: int = 4
    first: FirstPlan = field(default_factory=FirstPlan)
    second: SecondPlan = field(default_factory=SecondPlan)
    save_every_s: float = 60.0
    first_until: float = 1.0  # share of the first network's schedule at which this call ends

    @property
    def spacings_mm(self) -> tuple[float, float]:
        """Return the voxel sizes of the patients: the first network's and the refinement's."""
        return self.first.spacing_mm, self.second.spacing_mm


def train_first_part(run: Run, production: Production, echo: Echo) -> tuple[Model, nn.Module]:
    """Train the first network for its minutes; write its Model folder and return it with the network."""
    plan = run.first
    training = _training(first_network(plan), plan.seed, plan.optimiser, run.device, plan.channels_last)
    before = _resumed(run, training)
    patients = int(before.get("patients", 0))
    feed = Feed(production, plan, run.device, first_number=patients)
    clock = Clock(run.first_minutes * 60, before=before.get("done", 0.0), until=run.first_until)

    def save(points: tuple[TargetSpec, ...], validation: dict[str, float]) -> Model:
        return _save_first(run, training, clock, patients + feed.patients, points, validation)

    clock.start()
    echo(f"first network: {sum(p.numel() for p in training.network.parameters()):,} weights")
    log = _Log(clock, echo, partial(save, DEFAULT_TARGETS, {}), run.save_every_s)
    train_first(plan, feed, training, clock, note=log, note_every_s=_SHOW_EVERY_S)
    missing = _missing_after_a_wait(feed, production)
    points, validation = _first_points(training.average, feed, run.device, echo)
    echo(f"missing held-out looks: {missing}; scanning took {feed.seconds:.0f} s in all")
    for failure in production.failures:
        echo(f"not simulated: {failure}")
    return save(points, validation), training.average


def _training(
    spec: NetworkSpec, seed: int, optimiser: OptimiserName, device: str, channels_last: bool
) -> TimedTraining:
    torch.manual_seed(seed)
    network = networks.build(spec.name, **spec.arguments)
    return TimedTraining(network, optimiser=optimiser, device=device, channels_last=channels_last)


@dataclass
class _Log:
    """Shows each note of a training, and saves its model now and then."""

    clock: Clock
    echo: Echo
    save: Callable[[], Model]
    every_s: float
    _saved: float = field(default_factory=time.monotonic)

    def __call__(self, row: object) -> None:
        self.echo(f"{self.clock.spent_s:6.1f} s | {row}")
        if time.monotonic() - self._saved > self.every_s:
            self.save()
            self._saved = time.monotonic()


def _missing_after_a_wait(feed: Feed, production: Production) -> int:
    """Wait for looks at held-out heads that are still being made; return how many never came."""
    wanted = feed.plan.held_out_patients * 2
    while len(feed.held_out) < wanted and production.waiting():
        if not feed.pump(most=1, wait_s=2.0):
            break
    return max(0, wanted - len(feed.held_out))


def _resumed(run: Run, training: TimedTraining) -> dict[str, float]:
    state = run.out.parent / STATE
    if not state.is_file():
        return {}
    return training.resume(state, load_model(run.out).network(device=run.device).state_dict())


def _first_points(
    network: nn.Module, feed: Feed, device: str, echo: Echo
) -> tuple[tuple[TargetSpec, ...], dict[str, float]]:
    """Choose thresholds on unseen patients of training heads, and score heads that were held out at them."""
    chosen = _counted(network, feed.calibration or feed.held_out, device)
    held_out = _counted(network, feed.held_out or feed.calibration, device)
    thresholds = chosen[0].thresholds()
    scores = held_out[0].scores(thresholds)
    echo(f"\nFirst network, {len(feed.held_out)} scans of held-out heads, on its own grid")
    echo(score_table(scores))
    echo(f"MNI position: mean error {held_out[1]:.2f} mm\n")
    points = tuple(
        target.model_copy(update={"threshold": thresholds.get(target.name, target.threshold)})
        for target in DEFAULT_TARGETS
    )
    return points, _measures(scores) | {"mni_error_mm": round(held_out[1], 2)}


def _measures(scores: Sequence[TargetScore]) -> dict[str, float]:
    return {f"dice_{s.name}": round(s.median_dice, 3) for s in scores if s.scans}


def first_measures(network: nn.Module, feed: Feed, device: str) -> dict[str, float]:
    """Return the median Dice per target of held-out heads, at probabilities of 0.5."""
    return _measures(_counted(network, feed.held_out, device)[0].scores(dict.fromkeys(LOOK_TARGETS, 0.5)))


def _counted(network: nn.Module, looks: Sequence[HeadLook], device: str) -> tuple[Counts, float]:
    counts, errors = Counts(LOOK_TARGETS, VOXEL_ML), []
    for look in looks:
        with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16):
            out = network(first_image(look.hu[None].float()))[0].float()
        truth = look.degrees >= 128
        counts.add(torch.sigmoid(out[: len(LOOK_TARGETS)]), truth)
        away = (out[len(LOOK_TARGETS) :] - look.mni.float())[:, truth[0]].norm(dim=0)
        errors.append(float(away.mean()) * COORDINATE_MM)
    return counts, float(np.nanmean(errors))


def _save_first(
    run: Run,
    training: TimedTraining,
    clock: Clock,
    patients: int,
    points: tuple[TargetSpec, ...],
    validation: dict[str, float],
) -> Model:
    training.save(run.out.parent / STATE, {"done": clock.done, "patients": patients})
    manifest = Manifest(
        name="ichnos-multi",
        version=_VERSION,
        limits=LIMITS,
        network=first_network(run.first),
        preprocessing=FIRST_PREPROCESSING,
        targets=points,
        provenance=_provenance(run, training.step, patients, validation),
    )
    return _saved_in_half_precision(run.out, training.average, manifest)


def _provenance(run: Run, steps: int, patients: int, validation: dict[str, float]) -> Provenance:
    data = {file.name: sha256(file) for file in sorted(run.heads.glob("*.npz"))}
    return Provenance.of_today(
        command=run.command,
        seeds=(run.first.seed, run.second.seed),
        steps=steps,
        data={**data, "patients simulated": str(patients)},
        hardware=_hardware(run.device),
        validation=validation,
    )


def _saved_in_half_precision(folder: Path, network: nn.Module, manifest: Manifest) -> Model:
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return save_model(folder, plain.to("cpu", torch.float16), manifest)


def _hardware(device: str) -> str:
    if device == "cpu":
        return f"{torch.get_num_threads()} CPU core(s)"
    return f"1 {torch.cuda.get_device_name()}, patients simulated on the CPU cores beside it"


def train_second_part(run: Run, production: Production, model: Model, first: nn.Module, echo: Echo) -> Model:
    """Train the refinement of a model for its minutes; write it into the model's folder."""
    plan = run.second
    training = _training(refiner_network(plan), plan.seed + 1, "adamw", run.device, plan.channels_last)
    feed = RefinerFeed(plan, run.device)
    supply = _Supply(run, production, first, feed)
    clock = Clock(run.second_minutes * 60)

    def save(points: tuple[TargetSpec, ...], validation: dict[str, float]) -> Model:
        provenance = _provenance(run, training.step, feed.patients, validation)
        manifest = _refiner_manifest(run, model, points, provenance)
        return _saved_in_half_precision(model.folder / REFINEMENT, training.average, manifest)

    log = _Log(clock, echo, partial(save, REFINED_TARGETS, {}), run.save_every_s)
    clock.start()
    train_second(plan, feed, supply.pump, training, clock, note=log, note_every_s=_SHOW_EVERY_S)
    until = time.monotonic() + _LAST_WAIT_S
    while supply.missing and time.monotonic() < until:
        supply.pump(1.0)
    return save(*_second_points(training.average, supply, echo))


def _refiner_manifest(
    run: Run, model: Model, points: tuple[TargetSpec, ...], provenance: Provenance
) -> Manifest:
    return Manifest(
        name=f"{model.manifest.name}-refinement",
        version=_VERSION,
        limits=LIMITS,
        network=refiner_network(run.second),
        preprocessing=HOW,
        targets=points,
        provenance=provenance,
        refines=model.manifest.weights_sha256,
    )


@dataclass
class _Supply:
    """Asks for fine phantoms and turns them into the refinement's scans."""

    run: Run
    production: Production
    first: nn.Module
    feed: RefinerFeed
    held_out: list[RefinerScan] = field(default_factory=list)
    calibration: list[RefinerScan] = field(default_factory=list)
    missing: int = 0  # patients for validation and thresholds that have not come yet
    _asked: int = FINE_START

    def __post_init__(self) -> None:
        step = self.run.second.spacing_mm
        self.rng = np.random.default_rng([self.run.second.seed, 6])
        self.generator = torch.Generator(self.run.device).manual_seed(self.run.second.seed + 6)
        self._ask(self.production.workers)
        held = [
            PatientJob(n, step, held_out=True, followup=False)
            for n in range(self.run.second.held_out_patients)
        ]
        own = [
            PatientJob(CALIBRATION_START + n, step, followup=False)
            for n in range(self.run.second.calibration_patients)
        ]
        self.production.ask([*held, *own])
        self.missing = len(held) + len(own)

    def _ask(self, count: int) -> None:
        step = self.run.second.spacing_mm
        self.production.ask(
            [PatientJob(n, step, followup=False) for n in range(self._asked, self._asked + count)]
        )
        self._asked += count

    def pump(self, wait_s: float) -> None:
        """Turn one phantom that is ready into scans, and ask for more."""
        if self.production.waiting() < self.production.workers:
            self._ask(self.production.workers)
        plan = self.run.second
        ready = self.production.taken(self.run.device, spacing_mm=plan.spacing_mm, wait_s=wait_s)
        if ready is None:
            return
        began = time.monotonic()
        try:
            self._scan(*ready)
        except (ArithmeticError, ValueError, IndexError, RuntimeError) as error:
            self.production.failed(ready[0], repr(error))
        self.feed.seconds += time.monotonic() - began

    def _scan(self, job: PatientJob, phantom: Phantom) -> None:
        plan = self.run.second
        if job.held_out or CALIBRATION_START <= job.number < FINE_START:
            self.missing -= 1
            rng = np.random.default_rng([plan.seed, 7, job.number])
            scan = refiner_scan(phantom, self.first, rng, self.generator, wild=False)
            if scan is not None:
                (self.held_out if job.held_out else self.calibration).append(scan)
            return
        for _ in range(plan.scans_per_patient):
            wild = bool(self.rng.random() < plan.wild_share)
            scan = refiner_scan(phantom, self.first, self.rng, self.generator, wild=wild)
            if scan is not None:
                self.feed.add(scan)
        self.feed.patients += 1


def _second_points(
    network: nn.Module, supply: _Supply, echo: Echo
) -> tuple[tuple[TargetSpec, ...], dict[str, float]]:
    chosen = _refined_counts(network, supply.calibration or supply.held_out, supply.run)
    thresholds = chosen[1].thresholds() | {
        target.name: target.threshold for target in REFINED_TARGETS if target.name in _KEPT_THRESHOLDS
    }
    first, second = _refined_counts(network, supply.held_out or supply.calibration, supply.run)
    echo(f"\nFirst network on the refinement's grid, {len(supply.held_out)} scans of held-out heads, at 0.5")
    echo(score_table(first.scores(dict.fromkeys(NAMES, 0.5))))
    echo("\nWith the refinement")
    scores = second.scores(thresholds)
    echo(score_table(scores))
    points = tuple(
        target.model_copy(update={"threshold": thresholds[target.name]}) for target in REFINED_TARGETS
    )
    return points, _measures(scores)


def _refined_counts(network: nn.Module, scans: Sequence[RefinerScan], run: Run) -> tuple[Counts, Counts]:
    """Count scans before and after the refinement, whole."""
    first, second = Counts(NAMES, 1.0), Counts(NAMES, 1.0)
    for scan in scans:
        truth = scan.truth > 127
        first.add(torch.sigmoid(scan.logits.float() / 16), truth, scan.voxel_ml)
        share = refined_shares(network, refiner_image(scan), scan.box, run.second.patch)
        second.add(share, truth, scan.voxel_ml)
    return first, second


_TOY_FIRST = FirstPlan(
    features=(4, 8, 8),
    growth=((0.5, (24, 24, 24), 2), (1.01, (32, 40, 32), 2)),
    pairs_per_patient=1,
    capacity=8,
    least_looks=2,
    held_out_patients=1,
    calibration_patients=1,
    spacing_mm=3.0,
    next_spacing_mm=2.0,
    next_lead_s=1.0,
    channels_last=False,
)
_TOY_SECOND = SecondPlan(
    features=(4, 8),
    batch=2,
    patch=(32, 32, 8),
    scans_per_patient=1,
    capacity=8,
    least_scans=1,
    spacing_mm=2.0,
    held_out_patients=1,
    calibration_patients=1,
    channels_last=False,
)


def toy_run(run: Run) -> Run:
    """Return a run with tiny networks, coarse patients and few of everything: to try it out without a GPU."""
    return replace(run, workers=1, slots=6, first=_TOY_FIRST, second=_TOY_SECOND, save_every_s=5.0)
