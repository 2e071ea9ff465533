"""What the tract atlas adds on real people: lesion masks in MNI space against NIHSS and the Rankin scale.

Each lesion is laid over the population atlas. Tract load, weighted load and the largest loss of cross-section
(`clinical.injury` defines them; the worse side counts) are then asked for what they add to age, sex and
volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from ichnos.errors import InputRefused
from ichnos.runs import apply
from ichnos.studies.lesions.injuries import measured_lesion
from ichnos.studies.lesions.people import LesionCase, lesion_cases
from ichnos.studies.lesions.tables import nihss_table, people_table, rank_table, rankin_table, side_table
from ichnos.studies.shared.page import StudyPage

FEWEST_PEOPLE = 30
_LIMITS = (
    "The people had ischaemic strokes: what holds for an infarct need not hold for a haematoma.",
    "NIHSS counts language, gaze and neglect too; a motor score would suit the tract better.",
    "A mask in MNI space has been deformed onto a template: its volume is not the patient's own.",
)
_VERSION = {"atlas": "tract population of 2026-11", "measures": 1}


def lesion_study(
    folder: Path, out: Path, *, workers: int = 1, say: Callable[[str], None] = lambda sentence: None
) -> StudyPage:
    """Measure every lesion of a data set (resumed where an earlier call stopped) and return the page.

    `folder` holds participants.tsv and lesions/, as `people.lesion_cases` reads them.
    """
    cases = _enough_cases(folder)
    say(f"laying {len(cases)} lesions over the tract atlas")
    done = apply(
        measured_lesion,
        cases,
        out=out,
        settings=_VERSION,
        name="lesions",
        workers=workers,
        progress=False,
    )
    measured = {str(row["id"]): row for row in done.rows}
    rows = [_joined(case, measured[case.id]) for case in cases if case.id in measured]
    say("fitting the models")
    table = people_table(rows)
    failed = len(done.failures)
    unread = (f"{failed} masks could not be read and are left out.",) if failed else ()
    return StudyPage(
        "lesions",
        "Lesions of the corticospinal tract and the deficit of real people",
        "Own analysis; no paper is reproduced",
        (*_design(len(rows), rows), *unread),
        (nihss_table(table), side_table(table), rank_table(table), rankin_table(table)),
        limits=_LIMITS,
        provenance={"people": len(rows), "failed masks": failed},
    )


def _enough_cases(folder: Path) -> list[LesionCase]:
    cases = lesion_cases(folder)
    if len(cases) < FEWEST_PEOPLE:
        raise InputRefused(
            f"{folder} holds {len(cases)} people with a lesion and an NIHSS; at least {FEWEST_PEOPLE} are"
            " needed"
        )
    return list(cases)


def _joined(case: LesionCase, row: dict[str, float]) -> dict[str, float]:
    facts = {"age": case.age_years, "male": case.male, "nihss": case.nihss, "rankin": case.rankin}
    return {**facts, **{name: value for name, value in row.items() if name != "id"}}


def _design(people: int, rows: list[dict[str, float]]) -> tuple[str, ...]:
    with_rankin = sum(not math.isnan(row["rankin"]) for row in rows)
    return (
        f"{people} people with an acute ischaemic stroke, a lesion mask in MNI space and an NIHSS;"
        f" {with_rankin} with a Rankin grade at discharge.",
        "Tract load is the share-weighted volume of the population atlas that the lesion takes; weighted load"
        " counts a level by the widest cross-section over its own; the largest loss is the greatest share of"
        " any level's cross-section. The worse side counts.",
        "Linear models of ln(1 + NIHSS), common odds models of the Rankin scale, rank correlations, and AUC.",
    )
