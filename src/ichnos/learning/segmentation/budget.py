"""How many steps fit into a stretch of time, measured on a few."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ichnos.cohort import Cohort
from ichnos.learning.loop.checkpoints import CHECKPOINT
from ichnos.learning.loop.precision import with_precision
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.settings import Precision
from ichnos.learning.segmentation.batches import batch_source, close
from ichnos.learning.segmentation.cases import TrainingCase
from ichnos.learning.segmentation.objective import SegmentationLoss, train_segmentation
from ichnos.learning.segmentation.preparation import usable_cases
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.training import (
    SETTINGS_FILE,
    resolved_settings,
    validator_of,
)

FEWEST_STEPS = 200  # below which a training is warned of: the warm-up alone takes a tenth
_LONG = 10_000  # steps for which a precision is chosen, before their number is known
_MEASURED_STEPS = 6  # of which the median is taken
_VALIDATION_SHARE = 0.25  # of the time, at most
_SPENT = 0.95  # of the time, as a step's duration varies


def settings_within(
    cohort: Cohort, settings: TrainSettings, *, work: Path, resources: Resources, seconds: float
) -> TrainSettings:
    """Return the settings with as many steps as fit into the time; validations take a quarter at most.

    A training that `work` holds keeps its steps, so that it resumes at the same learning rates.
    """
    if (work / CHECKPOINT).is_file() and (work / SETTINGS_FILE).is_file():
        begun = TrainSettings.model_validate_json((work / SETTINGS_FILE).read_text(encoding="utf-8"))
        return settings.changed(
            steps=begun.loop.steps, validations=begun.loop.validations, validate_on=begun.validate_on
        )
    cases = usable_cases(cohort, settings, work, resources)
    pace = _measured(settings, cases, work / "trial", resources)
    everyone = sum(case.split == "validation" for case in cases)
    patients, validations = _affordable_validations(settings, everyone, pace, seconds)
    left = max(0.0, _SPENT * seconds - (validations + 1) * patients * pace.patient_s)
    steps = max(1, int(left / pace.step_s))
    if steps < FEWEST_STEPS:
        resources.warn(_too_short(seconds, steps, pace))
    shared = (int(resources.team.from_leader(value)) for value in (steps, validations, patients))
    steps, validations, patients = shared
    chosen = 0 if patients == everyone else patients
    return settings.changed(steps=steps, epochs=0, validations=validations, validate_on=chosen)


@dataclass(frozen=True)
class _Pace:
    """What was measured of a training."""

    step_s: float
    patient_s: float  # of the validation of one patient


def _measured(
    settings: TrainSettings, cases: Sequence[TrainingCase], folder: Path, resources: Resources
) -> _Pace:
    network, step_s = _trial(settings, cases, folder, resources)
    began = time.monotonic()
    validator_of(settings.changed(validate_on=1), cases, folder, resources)(network, 0)
    return _Pace(step_s, max(1e-6, time.monotonic() - began))


def _affordable_validations(
    settings: TrainSettings, everyone: int, pace: _Pace, seconds: float
) -> tuple[int, int]:
    """Return on how many patients to validate, and how often beside the operating points.

    Where two validations of all patients set aside, the last one and that of the operating points, would take
    longer than their share of the time, fewer are validated on.
    """
    share_s = _VALIDATION_SHARE * seconds
    wanted = min(settings.validate_on or everyone, everyone)
    patients = int(np.clip(share_s / (2 * pace.patient_s), 1, wanted))
    rounds = share_s / (patients * pace.patient_s) - 1  # beside the operating points
    return patients, int(np.clip(rounds, 1, max(1, settings.loop.validations)))


def _too_short(seconds: float, steps: int, pace: _Pace) -> str:
    return (
        f"{seconds / 60:.3g} min are enough for {steps} steps of {pace.step_s:.2g} s; with fewer than"
        f" {FEWEST_STEPS} a network learns next to nothing, or loses what it knew. Give more time"
    )


def _trial(
    settings: TrainSettings, cases: Sequence[TrainingCase], folder: Path, resources: Resources
) -> tuple[torch.nn.Module, float]:
    """Take a few steps; return the network and the seconds of a step."""
    precision = _precision(settings, cases, folder.parent, resources)
    trial = settings.changed(steps=_MEASURED_STEPS, epochs=0, warm_up_steps=0, precision=precision)
    loop = trial.loop.model_copy(update={"validations": 0})
    resolved = resolved_settings(trial, cases).model_copy(update={"loop": loop})
    times: list[float] = []
    timed = Resources(
        resources.device, checkpoint_every_s=1e9, report=lambda progress: times.append(time.monotonic())
    )
    source = batch_source(trial, cases, resources)
    try:
        for file in folder.glob("*.pt"):
            file.unlink()
        network = train_segmentation(resolved, source, folder, resources=timed)
    finally:
        close(source)
    # the median: the first batch of a source that simulates patients takes long, once
    return network, float(np.median(np.diff(times)))


def _precision(
    settings: TrainSettings, cases: Sequence[TrainingCase], work: Path, resources: Resources
) -> Precision:
    """Choose the precision that the whole training will take, and leave the choice in its folder."""
    resolved, source = resolved_settings(settings, cases), batch_source(settings, cases, resources)
    long = resolved.loop.model_copy(update={"steps": _LONG, "epochs": 0})
    try:
        loss_of = SegmentationLoss(resolved, source)
        work.mkdir(parents=True, exist_ok=True)
        return with_precision(
            long, resolved.network, loss_of, work, device=resources.device, team=resources.team
        ).precision
    finally:
        close(source)
