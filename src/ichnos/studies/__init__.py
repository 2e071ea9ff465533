"""Studies: the four papers, each a folder that reads like its methods section and ends in one page beside the
paper's own table.

`NAME/study.py` holds `run(cohort, out, budget) -> StudyPage`; `designs` says what it asks, on whom and at
what cost.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

from ichnos.cohort import Cohort
from ichnos.errors import UsageError
from ichnos.studies.designs import DESIGNS, StudyDesign
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.page import StudyPage

RunStudy = Callable[[Cohort, Path, StudyBudget], StudyPage]


def design_named(name: str) -> StudyDesign:
    """Return a study's design by the name of its paper.

    >>> design_named("ryu2025").question
    'Can leukoaraiosis be measured on CT as FLAIR measures it?'
    """
    if name not in DESIGNS:
        raise UsageError(f"there is no study {name!r}; give one of {', '.join(sorted(DESIGNS))}")
    return DESIGNS[name]


def study_run(design: StudyDesign) -> RunStudy:
    """Return the function that runs a study on a cohort; its page is written by the caller."""
    return cast(RunStudy, importlib.import_module(f"ichnos.studies.{design.name}.study").run)
