"""Predictions joined to the cohorts that hold the ground truth: who is evaluated, on what, and who is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ichnos.cohort import Cohort, Fact, Patient, Split
from ichnos.errors import InputRefused
from ichnos.evidence.leakage import Evaluated, LeakageProof, leakage_proof, read_training
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.evidence.pack.predictions import (
    PREDICTIONS_TABLE,
    Layer,
    Predictions,
    layer_name,
    read_predictions,
)
from ichnos.evidence.pack.readings import holds_readings, read_readings, with_derived_columns
from ichnos.formats import bids

_SPLITS: tuple[Split, ...] = ("train", "validation", "test", "external")
_TRUTH_PIPELINES = ("manual", "truth")  # whose tables add facts, in this order
_OWN_COLUMNS = ("patient", "centre", "split")


@dataclass(frozen=True)
class EvaluationCase:
    """One patient to be measured: where ground truth and prediction lie."""

    id: str
    centre: str
    split: str
    truth: Mapping[str, Layer] = field(default_factory=dict)  # "haematoma ICH" -> mask on the CT grid
    predicted: Mapping[str, Layer] = field(default_factory=dict)
    ct: Path | None = None  # to draw failures on
    grade_injury: bool = False  # grade the tract's injury on the true masks too
    # true masks whose volume the cohort's table does not hold -> the column of facts that it becomes
    facts_ml: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that is known before the first number is computed."""

    name: str  # of the predictions
    plan: EvidencePlan
    cases: tuple[EvaluationCase, ...]
    tuning: tuple[EvaluationCase, ...]  # of the validation split: no prediction of theirs is measured
    # pandas: one row per case, the cohort's facts and the predictions' columns (prefixed "predicted_")
    table: Any
    # pandas: the same for patients of the validation split, to choose thresholds and fit calibration on
    calibration_table: Any
    proof: LeakageProof
    predictions: Predictions
    without_prediction: tuple[str, ...]  # patients of the evaluated splits that have none
    flow: Mapping[str, int]  # how many patients were there, and why some left
    cohorts: tuple[str, ...]

    @property
    def claims(self) -> Mapping[str, float]:
        """Return the numbers that the model's card claims."""
        return self.predictions.claims


def gather(
    folder: str | Path, cohorts: Sequence[Cohort], plan: EvidencePlan, *, training: str | Path | None = None
) -> Evaluation:
    """Join predictions and cohorts, check leakage, and say who is missing."""
    everyone = Cohort(tuple(patient for cohort in cohorts for patient in _with_truth_table(cohort)))
    patients = {patient.id: patient for patient in everyone}
    predictions = open_predictions(Path(folder), patients, plan)
    rows = predictions.rows
    _same_side(rows, patients)
    evaluated = [p for p in everyone if p.split in plan.splits and p.id in rows]
    if not evaluated:
        raise InputRefused(_nobody(predictions, plan, everyone, folder))
    images = read_training(training) if training else predictions.training
    tuning = [p for p in everyone if p.split == "validation" and p.split not in plan.splits and p.id in rows]
    missing = tuple(p.id for p in everyone if p.split in plan.splits and p.id not in rows)
    table, tuning_table = _joined(evaluated, rows), _joined(tuning, rows)
    return Evaluation(
        name=predictions.name,
        plan=plan,
        cases=tuple(_case(p, predictions, plan, _unknown_ml(plan, table)) for p in evaluated),
        tuning=tuple(_case_to_tune(p, plan, _unknown_ml(plan, tuning_table)) for p in tuning),
        table=table,
        calibration_table=tuning_table,
        proof=leakage_proof([_evaluated(p, rows[p.id]) for p in evaluated], images),
        predictions=predictions,
        without_prediction=missing,
        flow=_flow(everyone, evaluated, missing, predictions),
        cohorts=tuple(cohort.root.resolve().name if cohort.root else "cohort" for cohort in cohorts),
    )


def open_predictions(folder: Path, patients: Mapping[str, Patient], plan: EvidencePlan) -> Predictions:
    """Read a folder of either kind; a table that names patients of no cohort is refused."""
    if (folder / PREDICTIONS_TABLE).is_file():
        predictions = read_predictions(folder, patients, plan)
        strangers = sorted(set(predictions.rows) - set(patients))
        if strangers:
            raise InputRefused(
                f"{len(strangers)} predicted patient(s) are in none of the cohorts:"
                f" {', '.join(strangers[:5])}; give the cohort that holds them"
            )
        return predictions
    if holds_readings(folder):
        return read_readings(folder, patients, plan)
    raise InputRefused(
        f"{folder} holds no readings (<scan>/reading.json) and no {PREDICTIONS_TABLE}; give the folder that"
        " `ichnos read` wrote, or a folder of predictions as docs/evidence.md shows it"
    )


def _nobody(predictions: Predictions, plan: EvidencePlan, everyone: Cohort, folder: str | Path) -> str:
    splits = ", ".join(s or "(none)" for s in plan.splits)
    if predictions.refused and not predictions.rows:
        patient, reason = next(iter(predictions.refused.items()))
        return f"none of {len(predictions.refused)} scan(s) was read; the first, {patient}: {reason}"
    others = sorted({p.split or "(none)" for p in everyone if p.id in predictions.rows})
    instead = f"; the predicted patients are of the split {', '.join(others)}" if others else ""
    notes = " ".join(("", *predictions.notes))
    return f"no patient of the splits {splits} has a prediction in {folder}{instead}; see --splits{notes}"


def _flow(
    everyone: Cohort, evaluated: Sequence[Patient], missing: Sequence[str], predictions: Predictions
) -> dict[str, int]:
    refused = [patient for patient in missing if patient in predictions.refused]
    flow = {"patients in the cohorts": len(everyone)}
    flow |= {f"in split {s}": n for s in _SPLITS if (n := len(everyone.of_split(s)))}
    flow |= {
        "in the evaluated splits": len(evaluated) + len(missing),
        "of these without a prediction": len(missing),
    }
    if refused:
        flow["of these, scans that were refused"] = len(refused)
    return flow | {"evaluated": len(evaluated)}


def _with_truth_table(cohort: Cohort) -> Cohort:
    """Add what derivatives/{manual,truth}/participants.tsv holds (volumes, grades, signs) to the facts;
    the cohort goes first.
    """
    facts: dict[str, dict[str, Fact]] = {}
    for pipeline in _TRUTH_PIPELINES:
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
    complete = dict(facts)
    if "signs" in facts:
        signs = set(str(facts["signs"] or "").split())
        complete.setdefault("blend_sign", float("blend" in signs))
        complete.setdefault("hypodensity", float(bool(signs & {"hypodensity", "black_hole", "swirl"})))
    if isinstance(volume := facts.get("ivh_ml"), float):
        complete.setdefault("ivh", float(volume > 0))
    return complete


def _same_side(rows: Mapping[str, Mapping[str, Fact]], patients: Mapping[str, Patient]) -> None:
    for name in ("split", "centre"):
        for patient, row in rows.items():
            predicted, known = row.get(name) or "", getattr(patients[patient], name)
            if predicted and known and predicted != known:
                raise InputRefused(
                    f"patient {patient} is of {name} {predicted} for the predictions and of {known} for the"
                    " cohort; settle which"
                )


def _evaluated(patient: Patient, row: Mapping[str, Fact]) -> Evaluated:
    sources = tuple(s.strip() for s in str(row.get("sources") or "").split(";") if s.strip())
    split = str(row.get("split") or patient.split)
    model_hash, sha256 = (str(row.get(name) or "") for name in ("model_hash", "sha256"))
    return Evaluated(patient.id, patient.centre, split, model_hash, sources, sha256)


def _unknown_ml(plan: EvidencePlan, table: Any) -> dict[str, str]:
    """Return which true masks give volumes that the table of a cohort does not hold."""
    baseline, followup = plan.volume_columns
    columns = {
        "haematoma ICH": baseline,
        "expansion ICH": followup,
        "haematoma IVH": plan.ivh_columns[0],
        "expansion IVH": plan.ivh_columns[1],
        "haematoma PHE": "phe_ml",
        "leukoaraiosis": "leukoaraiosis_ml",
    }
    return {name: fact for name, fact in columns.items() if fact not in table.columns}


def _true_masks(patient: Patient, plan: EvidencePlan) -> dict[str, Layer]:
    return {
        layer_name(target, label): Layer(path, code)
        for target, path in patient.targets.items()
        if target in plan.targets
        for label, code in plan.labels_of(target).items()
    }


def _case_to_tune(patient: Patient, plan: EvidencePlan, facts_ml: Mapping[str, str]) -> EvaluationCase:
    truth = _true_masks(patient, plan)
    return EvaluationCase(patient.id, patient.centre, patient.split, truth, facts_ml=facts_ml)


def _case(
    patient: Patient, predictions: Predictions, plan: EvidencePlan, facts_ml: Mapping[str, str]
) -> EvaluationCase:
    row = predictions.rows[patient.id]
    return EvaluationCase(
        patient.id,
        patient.centre,
        patient.split,
        _true_masks(patient, plan),
        predictions.layers.get(patient.id, {}),
        patient.exams.get("ct"),
        any(name.startswith("injury_") for name in row),
        facts_ml,
    )


def _joined(patients: Sequence[Patient], rows: Mapping[str, Mapping[str, Fact]]) -> Any:
    import pandas as pd

    records = []
    for p in patients:
        predicted = {
            f"predicted_{name}": _number(value)
            for name, value in rows[p.id].items()
            if name not in _OWN_COLUMNS and not name.startswith("mask_")
        }
        record = {"patient": p.id, "centre": p.centre, "split": p.split, **p.facts, **predicted}
        records.append(with_derived_columns(record))
    return pd.DataFrame.from_records(records)


def _number(value: Fact) -> Fact:
    if value is None or not isinstance(value, str):
        return value
    if value.strip() in ("", "n/a", "NaN", "nan"):
        return None
    try:
        return float(value)
    except ValueError:
        return value
