"""The folder that `ichnos read` wrote, as predictions: masks, measures, and what was refused.

Each scan has a folder with reading.json and one file per mask. Only readings of the baseline CT are compared,
because a cohort's ground truth lies on its grid.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ichnos.clinical.injury import INJURY_GRADES
from ichnos.cohort import SIMULATED_ONLY, Fact
from ichnos.errors import InputRefused
from ichnos.evidence.leakage import read_training
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.evidence.pack.predictions import Layer, Predictions, layer_name
from ichnos.targets import targets_in

RECORD = "reading.json"
_ARMS = ("medical", "surgery")
_SUBJECT = re.compile(r"sub-(?P<patient>[A-Za-z0-9]+)(_ses-(?P<session>[A-Za-z0-9]+))?.*")
_BASELINE = ("baseline", None)  # session of the exam whose grid holds the ground truth


def holds_readings(folder: Path) -> bool:
    """Say whether a folder is one that `ichnos read` wrote."""
    return next(folder.glob(f"*/{RECORD}"), None) is not None


def read_readings(folder: Path, patients: Mapping[str, object], plan: EvidencePlan) -> Predictions:
    """Gather the readings of known patients; other scans, follow-ups and refusals are counted and named."""
    rows: dict[str, dict[str, Fact]] = {}
    layers: dict[str, dict[str, Layer]] = {}
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    found = _sorted_records(folder, patients)
    for patient, (home, record) in found.read.items():
        rows[patient], missing = _columns(record)
        layers[patient] = _layers(home, record, plan)
        for column, reason in missing.items():
            reasons[column][reason] += 1
    limits = {str(limit) for _, record in found.read.values() for limit in record.get("limits", ())}
    training = folder / "training.csv"
    return Predictions(
        name=folder.resolve().name,
        rows=rows,
        layers=layers,
        training=read_training(training) if training.is_file() else None,
        refused=found.refused,
        reasons={column: count.most_common(1)[0][0] for column, count in reasons.items()},
        origins=tuple(sorted(limit for limit in limits if SIMULATED_ONLY in limit)),
        notes=_notes(found.later, found.others),
    )


@dataclass
class _Found:
    """What a folder of readings holds."""

    read: dict[str, tuple[Path, Mapping[str, Any]]] = field(default_factory=dict)  # by patient
    refused: dict[str, str] = field(default_factory=dict)  # patient -> reason
    others: list[str] = field(default_factory=list)  # scans of no known patient
    later: int = 0  # readings of other exams than the baseline CT


def _sorted_records(folder: Path, patients: Mapping[str, object]) -> _Found:
    found = _Found()
    for home, record in _records(folder):
        patient, session = patient_named(home.name, patients)
        if session not in _BASELINE:
            found.later += 1
        elif patient is None:
            found.others.append(home.name)
        elif patient in found.read or patient in found.refused:
            raise InputRefused(
                f"{folder} holds two readings of patient {patient}; keep one, so that the patient counts once"
            )
        elif record.get("status") != "read":
            found.refused[patient] = str(record.get("refusal") or "no reason was given")
        else:
            found.read[patient] = home, record
    return found


def patient_named(name: str, patients: Mapping[str, object]) -> tuple[str | None, str | None]:
    """Return the patient (None: not in the cohorts) and the session that a reading's folder names.

    >>> [patient_named(name, {"A1": 0}) for name in ("sub-A1_ses-followup", "A1", "B2")]
    [('A1', 'followup'), ('A1', None), (None, None)]
    """
    if name in patients:
        return name, None
    match = _SUBJECT.fullmatch(name)
    if match is None:
        return None, None
    patient = match["patient"]
    return (patient if patient in patients else None), match["session"]


def _records(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for file in sorted(folder.glob(f"*/{RECORD}")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputRefused(
                f"{file} cannot be read ({error}); run ichnos read again on that scan"
            ) from None
        if not isinstance(record, dict) or "status" not in record:
            raise InputRefused(f"{file} is not the record of a reading; give the folder of `ichnos read`")
        yield file.parent, record


def _columns(record: Mapping[str, Any]) -> tuple[dict[str, Fact], dict[str, str]]:
    """Return the measures of a reading as columns (percentages as shares), and why others have no value."""
    provenance = record.get("provenance") or {}
    row: dict[str, Fact] = {"model_hash": str(provenance.get("model_sha256") or "")}
    missing: dict[str, str] = {}
    for finding in record.get("findings", ()):
        if not finding.get("measures"):
            missing[str(finding["target"])] = str(finding.get("sentence", ""))
        for measure in finding.get("measures", ()):
            name, scale = str(measure["name"]), 0.01 if measure.get("unit") == "%" else 1.0
            row[name] = _value(measure.get("value"), scale)
            if row[name] is None:
                missing[name] = str(measure.get("reason", ""))
            if measure.get("low") is not None and measure.get("high") is not None:
                row |= {f"{name}_low": scale * measure["low"], f"{name}_high": scale * measure["high"]}
                row[f"{name}_interval"] = str(measure.get("interval", ""))
    return row, missing


def _value(value: object, scale: float) -> Fact:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float):
        return scale * value
    if isinstance(value, str):
        return float(value) if re.fullmatch(r"-?\d+(\.\d+)?", value) else value
    return None


def _layers(home: Path, record: Mapping[str, Any], plan: EvidencePlan) -> dict[str, Layer]:
    files = {str(name): home / str(file) for name, file in (record.get("masks") or {}).items()}
    lost = [file for file in files.values() if not file.is_file()]
    if lost:
        raise InputRefused(f"{home / RECORD} names {lost[0].name}, which is not there; read that scan again")
    found: dict[str, Layer] = {}
    for target in plan.targets:
        for label, code in plan.labels_of(target).items():
            mask = next((t.name for t in targets_in(target) if code is None or t.code == code), target)
            if mask in files:
                found[layer_name(target, label)] = Layer(files[mask])
    return found


def _notes(later: int, others: list[str]) -> tuple[str, ...]:
    notes = []
    if later:
        notes.append(
            f"{later} reading(s) of exams other than the baseline CT were left out: the ground truth lies on"
            " the grid of the baseline CT."
        )
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        notes.append(
            f"{len(others)} reading(s) belong to no patient of the cohorts: {', '.join(others[:3])}{more}."
        )
    return tuple(notes)


def worse_grade(left: object, right: object) -> str | None:
    """Return the worse of two grades of tract injury; None where one is not known.

    >>> worse_grade("no risk", "PHE infiltration")
    'PHE infiltration'
    """
    grades = [grade for grade in INJURY_GRADES if grade in (left, right)]
    return grades[-1] if left in INJURY_GRADES and right in INJURY_GRADES else None


def with_derived_columns(row: dict[str, Any]) -> dict[str, Any]:
    """Return a joined row with what follows from several measures: the worse tract injury, and the outcome
    forecast for the patient's own arm of treatment (medical where the cohort does not say).

    >>> with_derived_columns({"arm": "surgery", "predicted_mrs_0_3_365d_surgery": 0.4})
    {'arm': 'surgery', 'predicted_mrs_0_3_365d_surgery': 0.4, 'predicted_mrs_0_3_365d': 0.4}
    """
    derived: dict[str, Any] = {}
    sides = [row.get(f"predicted_injury_{side}") for side in ("left", "right")]
    if (injury := worse_grade(*sides)) is not None:
        derived["predicted_injury"] = injury
    arm = str(row.get("arm") or _ARMS[0])
    for outcome in ("nihss_motor_180d", "mrs_0_3_365d"):
        for part in ("", "_low", "_high", "_interval"):
            value = row.get(f"predicted_{outcome}_{arm}{part}")
            if value is not None:
                derived[f"predicted_{outcome}{part}"] = value
    return {**row, **{name: value for name, value in derived.items() if name not in row}}
