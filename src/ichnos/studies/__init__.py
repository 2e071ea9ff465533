"""studies: the four papers, each a module that reads like its methods section and ends in one page beside the
paper's own table.

A study is a module with four names: `run(cohort, out, effort) -> StudyPage`, `SMOKE`, the smallest design
that exercises every stage, `FEWEST` patients that a group keeps at a small scale, and `SMALL_MINUTES` of
training.

>>> study("unheard")
Traceback (most recent call last):
ichnos.errors.UsageError: there is no study called 'unheard'; there are abramova2024, murray2024, ryu2025,
yu2025
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from ichnos.cohort import Cohort
from ichnos.errors import UsageError
from ichnos.simulation.cohort.design import Design
from ichnos.studies.page import Effort, StudyPage

# Name -> what it asks, in one line. `ichnos.studies.NAME` is imported when it is run.
STUDIES: dict[str, str] = {
    "murray2024": (
        "can the corticospinal tract be read from CT, and does its injury tell who recovers and who gains"
        " from surgery?"
    ),
    "ryu2025": "can leukoaraiosis be measured on CT as FLAIR measures it?",
    "abramova2024": "what will the haematoma look like tomorrow?",
    "yu2025": "will the haematoma grow?",
}


class Study(Protocol):
    """What a module of a study offers."""

    SMOKE: Design  # few patients; the cohort of `--smoke`
    FEWEST: int  # patients that each group of the paper's design keeps however small the scale
    SMALL_MINUTES: (
        float  # of training for each network where a small share of the patients is simulated on processors
    )

    def run(self, cohort: Cohort, out: Path, effort: Effort) -> StudyPage:
        """Do the whole study on a cohort; `out` keeps models and what can be taken up again. The page is
        written by the caller.
        """
        ...


def study(name: str) -> Study:
    """Return a study by the name of its paper."""
    if name not in STUDIES:
        raise UsageError(f"there is no study called {name!r}; there are {', '.join(sorted(STUDIES))}")
    return cast(Study, importlib.import_module(f"ichnos.studies.{name}.study"))
