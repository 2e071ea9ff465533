"""Who judges a follow-up: the judged model, by its own readings of both CTs, or people who outlined both.

Both may judge the same pair, each under its own name: what the model says of all pairs is then corrected by
what people say of some (`ichnos.audit.lot`). One outline alone leaves the pair to the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ichnos.audit.judge import JudgedPair
from ichnos.audit.lot import WantedOutline, pairs_to_outline
from ichnos.audit.readings import ReadPatient, read_pipeline
from ichnos.audit.score import Score
from ichnos.clinical.expansion import DEFAULT_DEFINITION, DEFINITIONS
from ichnos.cohort import Exam
from ichnos.formats import bids
from ichnos.transfer.followup import blood_volumes_ml, expansion_label
from ichnos.transfer.makers import TransferOptions, given_mask
from ichnos.transfer.run import CohortTransfer, transfer_cohort

BOTH_CTS: tuple[Exam, ...] = ("ct", "followup")
_PEOPLE = "people"  # below the folder of transfers: by outlines alone, for every model


def outlined_exams(root: Path, patient_id: str) -> tuple[Exam, ...]:
    """Return which of a patient's two CTs have a person's outline of the haematoma."""
    return tuple(
        exam for exam in BOTH_CTS
        if any(
            bids.derivative_path(
                root, patient_id, pipeline="manual", label="haematoma", kind=kind, exam=exam
            ).is_file()
            for kind in bids.MAP_KINDS
        )
    )  # fmt: skip


def followup_by_model(
    person: ReadPatient, row: Mapping[str, Any], home: Path, root: Path
) -> list[JudgedPair]:
    """Return the pair as the model itself judges it; none where only people's outlines say anything.

    Transfer takes an outline where there is one, so that its numbers are the model's own only where there was
    none; else they are taken from what the model read on both CTs.
    """
    outlined = outlined_exams(root, person.patient.id)
    own = _own_numbers(person, root) if outlined else None
    both = len(outlined) == len(BOTH_CTS)
    if own is None and both:
        return []
    numbers = dict(row) if own is None else own
    return [
        JudgedPair(person, "followup", str(row["verdict"]), numbers, home, judge="model", mapped=not both)
    ]


def _own_numbers(person: ReadPatient, root: Path) -> dict[str, Any] | None:
    """Return the volume at follow-up and the label as the model's own readings of both CTs have them."""
    options = TransferOptions(str(root), (read_pipeline(person.reading.model),))
    before, after = (given_mask(person.patient, "haematoma", exam, options) for exam in BOTH_CTS)
    if before is None or after is None:
        return None
    volumes = {f"followup_{name}": ml for name, ml in blood_volumes_ml(after).items()}
    volumes |= blood_volumes_ml(before)
    label = expansion_label(DEFINITIONS[DEFAULT_DEFINITION], volumes)
    return {"followup_ich_ml": round(volumes["followup_ich"], 3), f"expanded {DEFAULT_DEFINITION}": label}


def transferred_by_people(
    people: list[ReadPatient], root: Path, out: Path, *, workers: int, progress: bool
) -> tuple[CohortTransfer | None, list[JudgedPair]]:
    """Transfer the follow-ups whose CTs people outlined both, from these outlines alone, and pair them."""
    able = [
        person for person in people
        if "followup" in person.patient.exams and outlined_exams(root, person.patient.id) == BOTH_CTS
    ]  # fmt: skip
    if not able:
        return None, []
    home = out / _PEOPLE
    done = transfer_cohort(
        root,
        ["expansion"],
        settings=TransferOptions(str(root)),
        out=home,
        workers=workers,
        progress=progress,
        patients={person.patient.id for person in able},
    )
    rows = {str(row["id"]): row for row in done.rows if row["verdict"] != "refuse"}
    found = [(person, rows.get(f"{person.patient.id}-expansion")) for person in able]
    return done, [
        JudgedPair(person, "followup", str(row["verdict"]), row, home, judge="person")
        for person, row in found
        if row is not None
    ]


def wanted_outlines(scores: list[Score], root: Path) -> list[WantedOutline]:
    """Return the pairs of the lot that wait for a person, with the CTs that lack an outline."""
    found = []
    for score in pairs_to_outline(scores):
        there = outlined_exams(root, score.patient)
        missing = tuple(exam for exam in BOTH_CTS if exam not in there)
        if missing:
            found.append(WantedOutline(score.patient, missing, score.month))
    return found
