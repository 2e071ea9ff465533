"""With what a network is trained: device, processes, time, folders. None of it is a setting of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ichnos.formats.bids import TRUSTED_PIPELINES
from ichnos.learning.loop.steps import Progress
from ichnos.learning.loop.team import ALONE, Team


@dataclass(frozen=True)
class Resources:
    """What a training may use; the numbers stay the same, save for rounding on another device."""

    device: str = "cpu"
    workers: int = 0  # threads that make batches ahead
    seconds: float = float("inf")
    checkpoint_every_s: float = 60.0
    team: Team = ALONE
    pipelines: tuple[str, ...] = TRUSTED_PIPELINES  # folders under derivatives/, best first
    anatomies: tuple[Path, ...] = ()  # label maps for simulated patients; none: the MNI head
    cases: Path | None = None  # shared prepared patients; None: in the folder of the training
    cache: Path | None = None  # for heads made ready
    command: str = ""  # for the Model's provenance
    prepared: Callable[[str], None] = field(default=lambda patient: None)  # called with each patient's id
    warn: Callable[[str], None] = field(default=lambda sentence: None)  # called with what a user should know
    report: Callable[[Progress], None] = field(default=lambda progress: None)  # called after each step


ON_CPU = Resources()  # one process on the processor, for as long as it takes
