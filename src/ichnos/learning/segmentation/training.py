"""From a cohort to a Model: prepare the patients, check that they may be learnt from, train, keep the best
network with its provenance.
"""

from __future__ import annotations

import datetime
import hashlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

import ichnos
from ichnos.cohort import Cohort
from ichnos.errors import UsageError
from ichnos.evidence.leakage import TrainingImage, write_training
from ichnos.learning.loop import checkpoints
from ichnos.learning.loop.team import ALONE, Team
from ichnos.learning.segmentation.augmentation import Augmentation
from ichnos.learning.segmentation.batches import Ahead, BatchAt, CohortBatches, Mixed
from ichnos.learning.segmentation.cases import (
    PIPELINES,
    Case,
    Grid,
    check_cases,
    check_leakage,
    fingerprint,
    prepare,
)
from ichnos.learning.segmentation.fine_tuning import model_called, network_alike, seen_alike, weights_from
from ichnos.learning.segmentation.loop import Batch, Precision, Progress, Settings, train
from ichnos.learning.segmentation.planning import planned_network
from ichnos.learning.segmentation.validation import Validation, Validator, history
from ichnos.models import (
    Manifest,
    Model,
    NetworkSpec,
    Preprocessing,
    Provenance,
    TargetSpec,
    load_model,
    save_model,
)

WINDOWS_HU = ((-20.0, 100.0), (0.0, 40.0), (20.0, 80.0), (-1000.0, 1000.0))
_LOOK_MARGIN = 8  # voxels that a look at a simulated patient is larger than a patch
_GENTLY = 8e-4  # learning rate of a training that begins from weights
_MEASURED_STEPS = 6  # from which the number of steps in a stretch of time is foreseen


@dataclass(frozen=True)
class Plan:
    """What to train, and how; a training goes on only under the same plan."""

    targets: tuple[TargetSpec, ...]
    network: str = "unet"
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    patch: tuple[int, int, int] = (64, 64, 64)  # z of 1: a network of slices
    windows_hu: tuple[tuple[float, float], ...] = WINDOWS_HU
    width: int = 16  # features of the first stage
    batch: int = 2
    steps: int = 2000
    validations: int = 10  # spread over the training
    validate_on: int = 0  # patients of those set aside; 0: all
    patience: int = 0
    learning_rate: float = 2e-3
    precision: Precision = "fp32"
    cl_dice_weight: float = 0.0
    rim_weight: float = 0.0
    foreground_share: float = 0.6
    simulated_share: float = 0.0
    deep_supervision: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    start: str = ""  # the Model that the training begins from (`begun_from`): its folder, or `default`

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise UsageError(
                f"there is no precision {self.precision!r}; give {', '.join(get_args(Precision))}"
            )
        if min(self.steps, self.batch, self.width, self.validations) < 1:
            counts = (
                f"steps {self.steps}, batch {self.batch}, width {self.width}, validations {self.validations}"
            )
            raise UsageError(f"{counts} were asked for; each must be 1 or more")
        if not (0 <= self.simulated_share < 1 and 0 <= self.foreground_share <= 1):
            shares = (
                f"simulated_share {self.simulated_share:g} and foreground_share {self.foreground_share:g}"
            )
            raise UsageError(
                f"{shares} were asked for; give 0 to 1, and the simulated one below 1: validation needs"
                " patients"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the targets."""
        return tuple(target.name for target in self.targets)

    def begun_from(self, start: str) -> Plan:
        """Return the plan with the network and the way to see a scan of a model, whose weights it begins
        with.
        """
        model = model_called(start)
        how = seen_alike(model)
        return replace(
            self,
            network=model.manifest.network.name,
            spacing_mm=how.spacing_mm,
            patch=how.patch,
            windows_hu=how.windows_hu,
            learning_rate=_GENTLY,
            start=start,
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how the network sees a scan."""
        return Preprocessing(spacing_mm=self.spacing_mm, windows_hu=self.windows_hu, patch=self.patch)


@dataclass(frozen=True)
class Means:
    """With what to train; none of it changes the numbers, save for rounding on another device."""

    device: str = "cpu"
    workers: int = 0  # threads that make batches ahead
    seconds: float = float("inf")
    team: Team = ALONE
    pipelines: tuple[str, ...] = PIPELINES  # where targets are looked for
    anatomies: tuple[Path, ...] = ()  # label maps for simulated patients; none: the MNI head
    cases: Path | None = (
        None  # for prepared patients, where several trainings share them; None: in the folder of the training
    )
    cache: Path | None = None  # for heads made ready
    command: str = ""
    prepared: Callable[[str], None] = field(
        default=lambda patient: None
    )  # told each patient whom it begins to prepare
    report: Callable[[Progress], None] = field(default=lambda progress: None)


def train_on_cohort(
    cohort: Cohort, out: Path, plan: Plan, *, work: Path, means: Means | None = None
) -> Model:
    """Train on the cohort's split `train`, stop by its split `validation`, write a Model to `out`.

    `work` keeps prepared patients, checkpoints, validations and pictures of the worst cases; the same call
    goes on from there.
    """
    means = means or Means()
    cases = usable_cases(cohort, plan, work, means)
    settings = settings_of(plan, cases)
    source = _batches(plan, cases, means)
    validate = _validator(plan, cases, work, means)
    try:
        network = train(
            settings,
            source,
            work,
            device=means.device,
            seconds=means.seconds,
            initial=(
                weights_from(model_called(plan.start), settings.network, plan.targets, seed=plan.seed)
                if plan.start
                else None
            ),
            validate=validate,
            team=means.team,
            report=means.report,
        )
    finally:
        close(source)
    if means.team.leads:
        images = [TrainingImage(f"sub-{c.id}", c.id, c.centre, c.split, (), c.voxels_sha256) for c in cases]
        write_training(images, work / "training.csv")
        told = manifest_of(settings, plan, cases, history(work), means, name=out.name)
        save_model(out, network, told.model_copy(update={"targets": validate.points(network, plan.targets)}))
    means.team.wait()
    return load_model(out)


def usable_cases(cohort: Cohort, plan: Plan, work: Path, means: Means) -> tuple[Case, ...]:
    """Prepare the patients of the training and validation splits, or say why nothing can be learnt from
    them.
    """
    check_leakage(cohort)
    grid, kept = Grid(plan.names, plan.spacing_mm), means.cases or work / "cases"
    if means.team.leads:
        prepare(
            cohort.of_split("train", "validation"),
            grid,
            kept,
            pipelines=means.pipelines,
            advance=means.prepared,
        )
    means.team.wait()
    cases = prepare(cohort.of_split("train", "validation"), grid, kept, pipelines=means.pipelines)
    check_cases(cases, plan.names)
    return cases


def settings_of(plan: Plan, cases: Sequence[Case]) -> Settings:
    """Return the settings of the loop for a plan and its cases."""
    network = (
        network_alike(model_called(plan.start), plan.targets, deep_supervision=plan.deep_supervision)
        if plan.start
        else planned_network(
            plan.network,
            channels=len(plan.windows_hu),
            targets=len(plan.targets),
            patch=plan.patch,
            spacing_mm=plan.spacing_mm,
            width=plan.width,
            deep_supervision=plan.deep_supervision,
        )
    )
    drawn = asdict(plan)
    told = hashlib.sha256(
        f"{fingerprint(cases)} {drawn['batch']} {drawn['foreground_share']} {drawn['augmentation']}".encode()
    )
    told.update(str(plan.simulated_share).encode())
    told.update("".join(_parents(plan)[-1:]).encode())
    return Settings(
        network=network,
        preprocessing=plan.preprocessing,
        targets=plan.targets,
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        warm_up_steps=min(200, plan.steps // 10),
        ema_decay=min(0.999, max(0.0, 1 - 10 / plan.steps)),
        seed=plan.seed,
        precision=plan.precision,
        cl_dice_weight=plan.cl_dice_weight,
        rim_weight=plan.rim_weight,
        validate_every=max(1, plan.steps // max(1, plan.validations)),
        validate_on=plan.validate_on,
        patience=plan.patience,
        data=told.hexdigest(),
    )


def steps_within(cohort: Cohort, plan: Plan, *, work: Path, means: Means, seconds: float) -> Plan:
    """Return the plan with as many steps as fit into a stretch of time, measured on a few; validations take a
    quarter of it at most.

    Where two validations of everyone set aside, the last one and that of the operating points, would take
    longer, fewer are looked at. A training that `work` holds already keeps its numbers, so that it goes on at
    the same learning rates.
    """
    known = checkpoints.planned(work)
    if known is not None:
        steps, every = int(known["steps"]), int(known["validate_every"])
        return replace(
            plan, steps=steps, validations=max(1, steps // every), validate_on=int(known["validate_on"])
        )
    cases = usable_cases(cohort, plan, work, means)
    trial = replace(plan, steps=_MEASURED_STEPS)
    settings = settings_of(trial, cases).model_copy(update={"validate_every": 0})
    source, folder = _batches(trial, cases, means), work / "trial"
    times: list[float] = []
    try:
        for file in folder.glob("*.pt"):
            file.unlink()
        network = train(
            settings,
            source,
            folder,
            device=means.device,
            checkpoint_every_s=1e9,
            report=lambda progress: times.append(time.monotonic()),
        )
    finally:
        close(source)
    step_s = float(np.median(np.diff(times)))  # the first of a source that makes patients takes long, once
    began = time.monotonic()
    _validator(replace(plan, validate_on=1), cases, folder, means)(network, 0)
    patient_s = max(1e-6, time.monotonic() - began)
    everyone = sum(case.split == "validation" for case in cases)
    asked = min(plan.validate_on or everyone, everyone)
    patients = int(np.clip(0.25 * seconds / (2 * patient_s), 1, asked))
    rounds = int(
        np.clip(0.25 * seconds / (patients * patient_s) - 1, 1, plan.validations)
    )  # beside the operating points
    left = max(0.0, 0.95 * seconds - (rounds + 1) * patients * patient_s)
    return replace(
        plan,
        steps=max(1, int(left / step_s)),
        validations=rounds,
        validate_on=0 if patients == everyone else patients,
    )


def _validator(plan: Plan, cases: Sequence[Case], out: Path, means: Means) -> Validator:
    held = spread([case for case in cases if case.split == "validation"], plan.validate_on)
    return Validator(held, plan.names, plan.preprocessing, out, device=means.device, flat=plan.patch[2] == 1)


def spread(held: Sequence[Case], count: int) -> list[Case]:
    """Return so many of the cases, evenly spread over them; all for a count of 0.

    >>> spread(list("abcdefg"), 3)  # any sequence
    ['a', 'd', 'g']
    """
    if not 0 < count < len(held):
        return list(held)
    return (
        [held[round(at)] for at in np.linspace(0, len(held) - 1, count)]
        if count > 1
        else [held[len(held) // 2]]
    )


def _batches(plan: Plan, cases: Sequence[Case], means: Means) -> BatchAt:
    flat = plan.patch[2] == 1
    real: BatchAt = CohortBatches(
        [case for case in cases if case.split == "train"],
        plan.names,
        plan.preprocessing,
        size=plan.batch,
        foreground_share=plan.foreground_share,
        augmentation=plan.augmentation,
        flat=flat,
        device=means.device,
        seed=plan.seed,
    )
    if means.workers:
        real = Ahead(real, means.workers, means.team.size)
    return (
        Mixed(real, simulated_batches(plan, means), plan.simulated_share)
        if plan.simulated_share > 0
        else real
    )


def close(source: object) -> None:
    """End threads and processes of a source of batches, where it has any."""
    for part in (source, getattr(source, "real", None), getattr(source, "simulated", None)):
        if hasattr(part, "close"):
            part.close()


def simulated_batches(plan: Plan, means: Means) -> Chosen:
    """Return batches of patients who are simulated meanwhile, with the plan's targets."""
    from ichnos.learning.virtual.batches import Population, Schedule, SimulatedBatches

    if len(set(plan.spacing_mm)) > 1 or plan.patch[2] == 1 or not 2 <= plan.spacing_mm[0] <= 6:
        raise UsageError(
            "simulated patients can be mixed in at one voxel size of 2 to 6 mm in all directions, and"
            f" spacing {plan.spacing_mm} with patch {plan.patch} was asked for; give --spacing 2,2,2 with a"
            " patch of three sides, or --simulated-share 0"
        )
    schedule = Schedule(
        plan.patch, spacing_mm=plan.spacing_mm[0], size=plan.batch, side=max(plan.patch) + _LOOK_MARGIN
    )
    population = Population(heads=means.anatomies, seed=plan.seed, cache=means.cache)
    drawn = (
        TargetSpec(name="brain"),
        *[t for t in plan.targets if t.name != "brain"],
    )  # it says where a head is cut off
    channels = [[t.name for t in drawn].index(name) for name in plan.names]
    return Chosen(SimulatedBatches(population, schedule, drawn, plan.windows_hu), channels, means.device)


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some channels of another source's batches, moved to the device of the network."""

    batch_at: BatchAt
    channels: list[int]
    device: str

    def __call__(self, number: int) -> Batch:
        batch = self.batch_at(number)
        truth, known = batch.truth[:, self.channels], batch.known[:, self.channels]
        return Batch(batch.image.to(self.device), truth.to(self.device), known.to(self.device))

    def close(self) -> None:
        close(self.batch_at)


def manifest_of(
    settings: Settings,
    plan: Plan,
    cases: Sequence[Case],
    found: Sequence[Validation],
    means: Means,
    *,
    name: str,
) -> Manifest:
    """Return what the model says of itself."""
    best = max(found, key=lambda row: row.score, default=None)
    assert best is not None  # the loop validates at its end
    arguments = dict(settings.network.arguments)
    if "deep_supervision" in arguments:
        arguments["deep_supervision"] = False  # for training alone; the weights are the same
    learnt = sum(case.split == "train" for case in cases)
    shares = (
        f", {plan.simulated_share:.0%} of batches from simulated patients" if plan.simulated_share else ""
    )
    validation = {f"dice_{target}": value for target, value in best.dice.items()}
    validation |= {f"false_ml_{target}": value for target, value in best.false_ml.items()}
    return Manifest(
        name=name,
        version="1",
        limits=(
            (
                f"Trained on {learnt} patients{shares}; checked on {best.patients} others of the same cohort,"
                " by whom the best step (by Dice at 0.5) and the operating points were chosen: its Dice"
                " there is a little too good."
            ),
            "Its probabilities have not been calibrated.",
            "Patients, scanners and diseases that this cohort does not hold were never seen.",
        ),
        network=NetworkSpec(name=settings.network.name, arguments=arguments),
        preprocessing=settings.preprocessing,
        targets=settings.targets,
        provenance=Provenance(
            code_version=ichnos.__version__,
            command=means.command,
            seeds=(plan.seed,),
            steps=best.step,
            data={"cases (patients, masks, grid)": fingerprint(cases)},
            parents=_parents(plan),
            hardware=_hardware(means),
            trained=datetime.datetime.now(datetime.UTC).date().isoformat(),
            validation=validation,
        ),
    )


def _parents(plan: Plan) -> tuple[str, ...]:
    """Return the weights that the training begins from, and those before them."""
    if not plan.start:
        return ()
    earlier = model_called(plan.start).manifest
    return (*earlier.provenance.parents, earlier.weights_sha256)


def _hardware(means: Means) -> str:
    each = (
        "1 GPU" if means.device != "cpu" else f"{torch.get_num_threads()} CPU core(s), {platform.machine()}"
    )
    return each if means.team.size == 1 else f"{means.team.size} processes, each {each}"
