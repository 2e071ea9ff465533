"""A folder of predictions, joined to the cohorts that hold the truth.

    PREDICTIONS/
      predictions.csv     one row per patient: patient, and any of centre, split, model_hash, sha256, sources,
      <name>_probability,
                          other numbers and grades, and mask_<target> with a path relative to the folder
      training.csv        the images that the model was trained on (see `ledger`); without it leakage cannot
      be disproved claims.json         numbers that the model's card claims, to be checked against each other
      and against these

A mask without a column is looked for as sub-<patient>/**/*label-<target>_{dseg,mask}.nii.gz, as derivatives
are named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ichnos.cohort import Cohort, Fact, Patient, Split
from ichnos.errors import InputRefused
from ichnos.evidence.leakage import Evaluated, LeakageProof, TrainingImage, check_leakage, read_training
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.formats import bids

_SPLITS: tuple[Split, ...] = ("train", "validation", "test", "external")


@dataclass(frozen=True)
class Case:
    """One patient to be measured: where truth and prediction lie."""

    id: str
    centre: str
    split: str
    truth: Mapping[str, Path] = field(default_factory=dict)  # target -> map on the CT grid
    predicted: Mapping[str, Path] = field(default_factory=dict)
    ct: Path | None = None  # to draw failures on


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that is known before the first number is computed."""

    name: str  # of the predictions
    plan: EvidencePlan
    cases: tuple[Case, ...]
    # pandas: one row per case, the cohort's facts and the predictions' columns (prefixed "predicted_")
    table: Any
    # pandas: the same for patients of the validation split, to choose thresholds and fit calibration on
    calibration_table: Any
    proof: LeakageProof
    claims: Mapping[str, float]
    without_prediction: tuple[str, ...]  # patients of the evaluated splits that have no row
    flow: Mapping[str, int]  # how many patients were there, and why some left
    cohorts: tuple[str, ...]


def gather(
    predictions: str | Path,
    cohorts: Sequence[Cohort],
    plan: EvidencePlan,
    *,
    training: str | Path | None = None,
) -> Study:
    """Join predictions and cohorts, check leakage, and say who is missing."""
    folder = Path(predictions)
    rows = read_predictions(folder)
    everyone = Cohort(tuple(patient for cohort in cohorts for patient in _with_truth_table(cohort)))
    patients = {patient.id: patient for patient in everyone}
    strangers = sorted(set(rows) - set(patients))
    if strangers:
        raise InputRefused(
            f"{len(strangers)} predicted patient(s) are in none of the cohorts: {', '.join(strangers[:5])};"
            " give the cohort that holds them"
        )
    _same_side(rows, patients)
    evaluated = [p for p in everyone if p.split in plan.splits and p.id in rows]
    if not evaluated:
        raise InputRefused(
            f"no patient of the splits {', '.join(s or '(none)' for s in plan.splits)} has a prediction in"
            f" {folder}"
        )
    proof = check_leakage([_evaluated(p, rows[p.id]) for p in evaluated], _training(folder, training))
    tuning = [p for p in everyone if p.split == "validation" and p.split not in plan.splits and p.id in rows]
    missing = tuple(p.id for p in everyone if p.split in plan.splits and p.id not in rows)
    flow = {"patients in the cohorts": len(everyone)}
    flow |= {f"in split {s}": n for s in _SPLITS if (n := len(everyone.of_split(s)))}
    flow |= {
        "in the evaluated splits": len(evaluated) + len(missing),
        "of these without a prediction": len(missing),
        "evaluated": len(evaluated),
    }
    return Study(
        name=folder.resolve().name,
        plan=plan,
        cases=tuple(_case(p, rows[p.id], folder, plan) for p in evaluated),
        table=_joined(evaluated, rows),
        calibration_table=_joined(tuning, rows),
        proof=proof,
        claims=_claims(folder),
        without_prediction=missing,
        flow=flow,
        cohorts=tuple(cohort.root.resolve().name if cohort.root else "cohort" for cohort in cohorts),
    )


def _with_truth_table(cohort: Cohort) -> Cohort:
    """Add what derivatives/{manual,truth}/participants.tsv holds (volumes, grades, signs) to the facts;
    the cohort goes first.
    """
    facts: dict[str, dict[str, Fact]] = {}
    for pipeline in ("manual", "truth"):
        folder = cohort.root / "derivatives" / pipeline if cohort.root else None
        if folder is not None and bids.is_cohort(folder):
            for patient in bids.read_cohort(folder):
                facts[patient.id] = {**patient.facts, **facts.get(patient.id, {})}
    return replace(
        cohort, patients=tuple(replace(p, facts=_signs({**facts.get(p.id, {}), **p.facts})) for p in cohort)
    )


def _signs(facts: dict[str, Fact]) -> dict[str, Fact]:
    """Take the yes/no columns that scores ask for from a list of signs and from the ventricular volume,
    where they are not given.
    """
    found = dict(facts)
    if "signs" in facts:
        signs = set(str(facts["signs"] or "").split())
        found.setdefault("blend_sign", float("blend" in signs))
        found.setdefault("hypodensity", float(bool(signs & {"hypodensity", "black_hole", "swirl"})))
    if isinstance(volume := facts.get("ivh_ml"), float):
        found.setdefault("ivh", float(volume > 0))
    return found


def read_predictions(folder: Path) -> dict[str, dict[str, str]]:
    """Return the rows of predictions.csv by patient; refuses a patient with two rows."""
    import csv

    path = folder / "predictions.csv"
    if not path.is_file():
        raise InputRefused(
            f"{folder} holds no predictions.csv; docs/evidence.md shows what a folder of predictions looks"
            " like"
        )
    with path.open(newline="", encoding="utf-8-sig") as stream:
        table = csv.DictReader(stream)
        found = list(table)
    if "patient" not in (table.fieldnames or ()):
        raise InputRefused(
            f"{path} has no column patient; its columns are {', '.join(table.fieldnames or ['none'])}"
        )
    rows: dict[str, dict[str, str]] = {}
    for row in found:
        patient = row["patient"].removeprefix("sub-")
        if patient in rows:
            raise InputRefused(f"{path} holds patient {patient} more than once; give one prediction for each")
        rows[patient] = row
    return rows


def _same_side(rows: Mapping[str, Mapping[str, str]], patients: Mapping[str, Patient]) -> None:
    for name in ("split", "centre"):
        for patient, row in rows.items():
            told, held = row.get(name) or "", getattr(patients[patient], name)
            if told and held and told != held:
                raise InputRefused(
                    f"patient {patient} is of {name} {told} for the predictions and of {held} for the cohort;"
                    " settle which"
                )


def _evaluated(patient: Patient, row: Mapping[str, str]) -> Evaluated:
    sources = tuple(s.strip() for s in (row.get("sources") or "").split(";") if s.strip())
    split = row.get("split") or patient.split
    return Evaluated(
        patient.id, patient.centre, split, row.get("model_hash") or "", sources, row.get("sha256") or ""
    )


def _training(folder: Path, given: str | Path | None) -> tuple[TrainingImage, ...] | None:
    path = Path(given) if given else folder / "training.csv"
    if given or path.is_file():
        return read_training(path)
    return None


def _case(patient: Patient, row: Mapping[str, str], folder: Path, plan: EvidencePlan) -> Case:
    found = {
        target: path
        for target in plan.targets
        if (path := _mask(patient.id, row, folder, target)) is not None
    }
    truth = {target: path for target, path in patient.targets.items() if target in plan.targets}
    return Case(patient.id, patient.centre, patient.split, truth, found, patient.exams.get("ct"))


def _mask(patient: str, row: Mapping[str, str], folder: Path, target: str) -> Path | None:
    named = row.get(f"mask_{target}")
    if named:
        path = folder / named
        if not path.is_file():
            raise InputRefused(
                f"the predicted {target} of patient {patient} is not at {path}; correct mask_{target} in"
                " predictions.csv"
            )
        return path
    home = folder / f"sub-{patient}"
    for kind in ("dseg", "mask"):
        hits = sorted(home.rglob(f"*label-{target}_{kind}.nii.gz")) if home.is_dir() else []
        if hits:
            return hits[0]
    return None


def _joined(patients: Sequence[Patient], rows: Mapping[str, Mapping[str, str]]) -> Any:
    import pandas as pd

    skip = ("patient", "centre", "split")
    records = []
    for p in patients:
        predicted = {
            f"predicted_{k}": _number(v)
            for k, v in rows[p.id].items()
            if k not in skip and not k.startswith("mask_")
        }
        records.append({"patient": p.id, "centre": p.centre, "split": p.split, **p.facts, **predicted})
    return pd.DataFrame.from_records(records)


def _number(text: str | None) -> float | str | None:
    if text is None or text.strip() in ("", "n/a", "NaN", "nan"):
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _claims(folder: Path) -> Mapping[str, float]:
    path = folder / "claims.json"
    return (
        {k: float(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
        if path.is_file()
        else {}
    )
