"""The page of Murray 2024, from a stored run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ichnos.anatomy.tract import SIDES
from ichnos.evidence.tables import Table
from ichnos.studies.designs import DESIGNS
from ichnos.studies.murray2024.design import TRACT_WAYS
from ichnos.studies.murray2024.effects import added_value_table, benefit_by_grade_table, interaction_table
from ichnos.studies.murray2024.tables import injury_table, outcome_table, overlap_table
from ichnos.studies.shared.curves import curve_figures, unsettled
from ichnos.studies.shared.page import StudyPage
from ichnos.studies.shared.record import StudyRecord
from ichnos.studies.shared.training import FROM_SHIPPED, NNUNET_ARM, NNUNET_NOT_ASKED, NNUNET_TRAINED

_LIMITS = (
    (
        "Virtual patients' outcomes are drawn from the published effects: finding them again says that a way"
        " to read the tract keeps the information, not that the effects are true."
    ),
    "The paper's integrity formula is not known; grades and loads are defined in clinical.injury.",
    (
        "`limit` is the label against the simulation's truth for overlap, and the truth's own tract and grade"
        " for injury and outcome."
    ),
)


def murray_page(record: StudyRecord) -> StudyPage:
    """Set the paper's numbers beside those of a stored run."""
    rows = record.rows["patients"]
    pairs = [row for row in rows if any(f"label_{side}" in row for side in SIDES)]
    trial = [row for row in rows if row["split"] == "external" and row.get("arm") and row.get("ich_ml")]
    ways = {way: TRACT_WAYS[way] for way in record.facts["ways"]}
    tables: list[Table] = [overlap_table(pairs, ways)] if record.facts["tracts"] else []
    with_trial = record.facts.get("trial", True)  # a run of an older version always had one
    if with_trial:
        tables += [
            injury_table(trial, ways),
            outcome_table(trial, ways),
            added_value_table(trial, ways),
            interaction_table(trial, ways),
            benefit_by_grade_table(trial, ways),
        ]
    return StudyPage(
        "murray2024",
        "The corticospinal tract on plain CT, its injury, and motor outcome",
        DESIGNS["murray2024"].paper,
        (*_reading_design(record, pairs), *(_trial_design(trial) if with_trial else ())),
        tuple(tables),
        (*curve_figures(record.curves), *record.pictures),
        (*unsettled(record.curves, smoke=record.smoke), *_LIMITS),
        record.provenance,
        record.curves,
    )


def _reading_design(record: StudyRecord, pairs: Sequence[Any]) -> tuple[str, ...]:
    if not record.facts["tracts"]:
        return ("No network was trained: the tract, its grades and loads are the simulation's own.",)
    source = (
        "the simulation's truth (a smoke run tracks one pair only)"
        if record.smoke
        else "diffusion tractography, by transfer"
    )
    nnunet = NNUNET_TRAINED if NNUNET_ARM in record.facts["ways"] else NNUNET_NOT_ASKED
    return (
        (
            f"Labels came from {source}; {record.facts['refused']} pair(s) were refused by transfer and left"
            " out. Both networks see CT alone. The first has the published shape (a 3-D U-Net taught by"
            f" pairs) and is trained in our loop: a twin of nnU-Net. The second {FROM_SHIPPED}, and adds a"
            f" centre-line term. {nnunet} {len(pairs)} patients with a tract label were held out."
        ),
        (
            "The comparators carry the atlas's tract onto the CT by an affine and by a deformable"
            " registration (blood and oedema masked)."
        ),
    )


def _trial_design(trial: Sequence[Any]) -> tuple[str, ...]:
    surgery = sum(row["arm"] == "surgery" for row in trial)
    return (
        (
            f"The trial has {len(trial)} patients with a haematoma, {surgery} of them with surgery. Grades"
            " follow the group's four levels (clinical.injury says how each is defined), on the haematoma as"
            " it was drawn: what is compared is the tract. The worse side counts. Beside the grade stand"
            " three continuous measures: the load, the load weighted by narrowness, and the largest loss of"
            " any level's cross-section. Motor NIHSS at 180 days is modelled linearly, mRS at 365 days by"
            " proportional odds and as 0 to 3 by logistic regression. Intervals are 95 %."
        ),
    )
