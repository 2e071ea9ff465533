"""What a study may spend, and on what."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ichnos.studies.shared.recipe import StudyRecipe


def silent(sentence: str) -> None:
    """Say nothing."""


def not_known() -> float:
    """Return that the time spent is not kept."""
    return math.nan


@dataclass(frozen=True)
class StudyBudget:
    """How much a study may spend, and on what."""

    scale: float | None = None  # share of the paper's patients; None: the cohort is the user's own
    device: str = "cpu"
    recipe: StudyRecipe = field(default_factory=StudyRecipe)
    seeds: int = 1  # with which each classifier is trained
    parts: tuple[str, ...] = ()  # of the study; (): all of them
    smoke: bool = False  # every stage at its smallest: the numbers mean nothing
    workers: int = 1
    seed: int = 0
    # for what can be made again: source heads of simulated patients
    cache: Path | None = field(default=None, compare=False)
    nnunet: bool = False  # train nnU-Net itself too, as one more arm
    # one sentence as each stage begins
    say: Callable[[str], None] = field(default=silent, compare=False)
    # minutes so far, earlier calls among them
    spent: Callable[[], float] = field(default=not_known, compare=False)

    def does(self, part: str) -> bool:
        """Say whether a part of the study is asked for.

        >>> StudyBudget(parts=("outlines",)).does("expansion"), StudyBudget().does("expansion")
        (False, True)
        """
        return not self.parts or part in self.parts


def time_spent(budget: StudyBudget) -> dict[str, float]:
    """Return the wall time of all calls, if the caller keeps it.

    >>> time_spent(StudyBudget(spent=lambda: 12.34)), time_spent(StudyBudget())
    ({'wall time of all calls, minutes': 12.3}, {})
    """
    minutes = budget.spent()
    return {"wall time of all calls, minutes": round(minutes, 1)} if math.isfinite(minutes) else {}


def hardware_of(budget: StudyBudget) -> str:
    """Return the class of the machine.

    >>> hardware_of(StudyBudget(device="cuda"))
    '1 GPU'
    """
    import torch

    if budget.device != "cpu":
        return "1 GPU"
    return f"{torch.get_num_threads()} CPU core(s) of {platform.machine()}, {budget.workers} worker(s)"
