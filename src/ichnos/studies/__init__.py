"""Studies: the four papers, each a folder that reads like its methods section and ends in one page beside the
paper's own table.

`NAME/study.py` holds `run(cohort, out, budget) -> StudyRecord`, `NAME/page.py` the page of such a stored run;
`designs` says what it asks, and on whom.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from ichnos.cohort import Cohort
from ichnos.errors import UsageError
from ichnos.studies.designs import DESIGNS, StudyDesign
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.checklist import study_checklists
from ichnos.studies.shared.page import StudyPage
from ichnos.studies.shared.record import StudyRecord

RunStudy = Callable[[Cohort, Path, StudyBudget], StudyRecord]


_PAGES = {
    "abramova2024": ("abramova2024.page", "abramova_page"),
    "murray2024": ("murray2024.page", "murray_page"),
    "ryu2025": ("ryu2025.page", "ryu_page"),
    "yu2025": ("yu2025.page", "yu_page"),
}


def design_named(name: str) -> StudyDesign:
    """Return a study's design by the name of its paper.

    >>> design_named("ryu2025").question
    'Can leukoaraiosis be measured on CT as FLAIR measures it?'
    """
    if name not in DESIGNS:
        raise UsageError(f"there is no study {name!r}; give one of {', '.join(sorted(DESIGNS))}")
    return DESIGNS[name]


def study_run(design: StudyDesign) -> RunStudy:
    """Return the function that runs a study on a cohort; the caller stores what it returns."""
    return cast(RunStudy, importlib.import_module(f"ichnos.studies.{design.name}.study").run)


def stored_run_page(record: StudyRecord) -> StudyPage:
    """Return the page of a stored run, its checklists filled."""
    module, function = _PAGES[design_named(record.study).name]
    page: StudyPage = getattr(importlib.import_module(f"ichnos.studies.{module}"), function)(record)
    tables = (*page.tables, *study_checklists(record, page))
    return replace(page, tables=tables, simulated=record.simulated)
