"""Transfer on simulated pairs whose truth is known: accuracy, verdicts on pairs that were broken on purpose, time.

    python benchmarks/transfer.py [--patients 40] [--cohort FOLDER] [--heads FOLDER]

A folder of label maps (--heads) makes patients of different anatomy; without one all are variations of the MNI head. A cohort that is
there already is used; patients that were measured before are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.cohort import Patient
from ichnos.formats import bids, nifti
from ichnos.registration import Registration, Transform, assess, register
from ichnos.runs import apply
from ichnos.transfer.followup import transfer_followup
from ichnos.transfer.verdict import judge_pair, measure_pair
from ichnos.volume import Affine, Volume, volume_ml

REPOSITORY = Path(__file__).resolve().parents[1]


def main(patients: int = 4, cohort: Path | None = None, heads: Path | None = None, report: Path | None = None) -> list[dict[str, Any]]:
    """Simulate (or take) a cohort, measure every pair, return the table."""
    root = cohort or REPOSITORY / "build" / "bench-transfer"
    if not any(root.glob("sub-*")):
        _simulate(root, patients, heads)
    people = _patients(root)[:patients]
    if len(people) < 2:
        raise SystemExit("two patients at least are needed: a wrong pairing takes the next one's exam")
    task = partial(measure, root=str(root), next_of={p.id: people[(k + 1) % len(people)].id for k, p in enumerate(people)})
    out = report or root / "derivatives" / "benchtransfer"
    done = apply(task, people, out=out, settings={"version": 2}, name="benchmark", progress=True)
    for failure in done.failures:
        print(f"{failure.id} was not measured: {failure.why}", file=sys.stderr)
    done.save_table(out / "pairs.tsv")
    return table(done.rows)


def _simulate(root: Path, patients: int, heads: Path | None) -> None:
    from ichnos.simulation.cohort import Making, simulate_cohort
    from ichnos.simulation.presets import free_design

    design = free_design(patients=patients, centres=list("ABCDE"), exams=["ct", "followup", "flair"], haematoma_share=0.8)
    simulate_cohort(design, root, seed=11, making=Making(anatomy=str(heads) if heads else None, oracle_samples=0))


def _patients(root: Path) -> list[Patient]:
    """Return the patients whose three exams are there; a cohort that is still being made has no table yet."""
    ids = sorted(folder.name.removeprefix("sub-") for folder in root.glob("sub-*"))
    exams = ("ct", "flair", "followup")
    return [Patient(i) for i in ids if all(bids.exam_path(root, i, exam).is_file() for exam in exams)]


def measure(patient: Patient, folder: Path, *, root: str, next_of: Mapping[str, str]) -> dict[str, Any]:
    """Measure one patient's pairs: FLAIR and follow-up as they are, and FLAIR broken in four ways."""
    home = Path(root)
    ct, flair, followup = (nifti.load(bids.exam_path(home, patient.id, exam)) for exam in ("ct", "flair", "followup"))
    row: dict[str, Any] = {}
    began = time.perf_counter(), time.process_time()
    rigid = register(ct, flair)
    row["rigid_s"], row["rigid_cpu_s"] = time.perf_counter() - began[0], time.process_time() - began[1]
    truth = _truth(home, patient.id, "flair")
    brain = _derivative(home, patient.id, "brain", "dseg")
    row.update(_errors(rigid, truth, brain, "rigid"))
    row.update(_verdict("right", ct, flair, rigid))
    row.update(_broken(ct, flair, rigid, nifti.load(bids.exam_path(home, next_of[patient.id], "flair"))))
    row.update(_deformable(ct, flair, rigid, truth, brain, home, patient.id))
    row.update(_followup(ct, followup, home, patient.id))
    return row


def _deformable(
    ct: Volume, flair: Volume, rigid: Registration, truth: Transform, brain: Volume, home: Path, patient_id: str
) -> dict[str, Any]:
    blood = _derivative(home, patient_id, "haematoma", "dseg")
    began = time.perf_counter(), time.process_time()
    found = register(ct, flair, kind="deformable", start=rigid.transform, exclude=blood.with_array(blood.array > 0))
    row: dict[str, Any] = {"deformable_s": time.perf_counter() - began[0], "deformable_cpu_s": time.process_time() - began[1]}
    row.update(_errors(found, truth, brain, "deformable"))
    lesions, on_ct = _derivative(home, patient_id, "leukoaraiosis", "mask", "flair"), _derivative(home, patient_id, "leukoaraiosis", "mask")
    for name, transform in (("truth", truth), ("rigid", rigid.transform), ("deformable", found.transform)):
        row[f"{name}_la_dice"] = _dice(transform.pull_share(lesions, ct).array >= 0.5, on_ct.array > 0) if volume_ml(on_ct) > 1 else None
    return row


def _errors(found: Registration, truth: Transform, brain: Volume, name: str) -> dict[str, Any]:
    """Return target registration errors over the brain (mm), and the overlap of the true ventricles with themselves as carried over."""
    points = brain.world(np.argwhere(brain.array > 0)[::499])
    error = np.linalg.norm(found.transform.map(points) - truth.map(points), axis=1)
    ventricles = brain.with_array((brain.array == 2).astype(np.float32))
    carried = (~truth @ found.transform).pull(ventricles, brain).array >= 0.5
    return {
        f"{name}_tre_median_mm": float(np.median(error)),
        f"{name}_tre_p95_mm": float(np.percentile(error, 95)),
        f"{name}_ventricle_dice": _dice(carried, ventricles.array > 0),
        f"{name}_jacobian_min": found.jacobian_min,
    }


def _broken(ct: Volume, flair: Volume, rigid: Registration, stranger: Volume) -> dict[str, Any]:
    """Judge pairs that are broken on purpose."""
    flipped = flair.with_array(np.ascontiguousarray(flair.array[::-1]))
    shift = np.eye(4)
    shift[:3, 3] = (0, 16, 12)  # 20 mm
    shifted = Transform.of(Affine(shift)) @ rigid.transform
    half = np.array(flair.array)
    half[: flair.shape[0] // 2] = 0
    missing = flair.with_array(half)
    return {
        **_verdict("wrong_patient", ct, stranger, register(ct, stranger)),
        **_verdict("flipped", ct, flipped, register(ct, flipped)),
        **_verdict("shifted", ct, flair, assess(shifted, ct, flair)),
        **_verdict("half_missing", ct, missing, assess(rigid.transform, ct, missing)),
    }


def _verdict(name: str, ct: Volume, partner: Volume, found: Registration) -> dict[str, Any]:
    numbers = measure_pair(ct, partner, found)
    row = numbers.as_row()
    kept = ("margin", "least_margin", "mirror_margin", "head_overlap", "brain_coverage")
    return {name: judge_pair(numbers).level, **{f"{name}_{key}": row[key] for key in kept}}


def _followup(ct: Volume, followup: Volume, home: Path, patient_id: str) -> dict[str, Any]:
    """Compare the growth mask with the truth: blood at follow-up, where there was none, in the skull's own frame."""
    before = _derivative(home, patient_id, "haematoma", "dseg")
    after = _derivative(home, patient_id, "haematoma", "dseg", "followup")
    true_later = _derivative(home, patient_id, "expansion", "dseg")
    if not np.isin(before.array, (1, 2)).any():
        return {"growth_error_ml": None, "growth_dice": None, "followup_dice": None, "label_right": None}
    began = time.perf_counter()
    found = transfer_followup(ct, followup, blood=before, followup_blood=after)
    true_new = np.isin(true_later.array, (1, 2)) & ~np.isin(before.array, (1, 2))
    later = np.isin(found.followup_blood.array, (1, 2))
    return {
        "followup_s": time.perf_counter() - began,
        "growth_error_ml": float(volume_ml(found.growth) - np.count_nonzero(true_new) * ct.voxel_ml),
        "growth_dice": _dice(found.growth.array, true_new) if np.count_nonzero(true_new) * ct.voxel_ml > 1 else None,
        "followup_dice": _dice(later, np.isin(true_later.array, (1, 2))),
    }


def _truth(home: Path, patient_id: str, exam: str) -> Transform:
    """Return the true map from CT mm to the exam's mm."""
    who = bids.subject(patient_id)
    matrix = np.loadtxt(home / "derivatives" / "truth" / who / f"{who}_from-{exam}_to-ct_xfm.txt")
    return Transform.of(~Affine(matrix))


def _derivative(home: Path, patient_id: str, label: str, kind: bids.Kind, exam: Any = "ct") -> Volume:
    return nifti.load(bids.derivative_path(home, patient_id, pipeline="truth", label=label, kind=kind, exam=exam))


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


BROKEN = ("wrong_patient", "flipped", "shifted", "half_missing")


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sum the patients up: medians and 95th percentiles, and how many broken pairs were caught."""
    out: list[dict[str, Any]] = [{"name": "pairs", "value": len(rows), "unit": ""}]
    medians = (
        ("rigid_tre_median_mm", "mm", "at most 1.0"),
        ("deformable_tre_median_mm", "mm", ""),
        ("rigid_ventricle_dice", "", ""),
        ("deformable_ventricle_dice", "", "at least 0.90"),
        ("truth_la_dice", "", "what the true transform gives: no registration can do better"),
        ("rigid_la_dice", "", "at least 0.80"),
        ("deformable_la_dice", "", "at least 0.80"),
        ("followup_dice", "", ""),
        ("growth_dice", "", ""),
        ("rigid_s", "s", ""),
        ("rigid_cpu_s", "s", ""),
        ("deformable_s", "s", ""),
        ("deformable_cpu_s", "s", "rigid and deformable at most 45"),
    )
    for name, unit, wanted in medians:
        out.append({"name": f"{name}, median", **_median(rows, name), "unit": unit, "wanted": wanted})
    tre = [row["rigid_tre_p95_mm"] for row in rows]
    out.append(
        {
            "name": "rigid_tre_p95_mm, 95th percentile of pairs",
            "value": float(np.percentile(tre, 95)),
            "unit": "mm",
            "wanted": "at most 2.5",
        }
    )
    growth = [abs(row["growth_error_ml"]) for row in rows if row.get("growth_error_ml") is not None]
    out.append(
        {
            "name": "growth |error|, median",
            "value": float(np.median(growth)) if growth else None,
            "n": len(growth),
            "unit": "mL",
            "wanted": "at most 1.5",
        }
    )
    for name in BROKEN:
        caught = [row[name] == "refuse" for row in rows]
        out.append({"name": f"verdict fails: {name}", "value": float(np.mean(caught)), "n": len(caught), "unit": "", "wanted": "0.95"})
    every = [row[name] == "refuse" for row in rows for name in BROKEN]
    out.append(
        {"name": "verdict fails: all broken", "value": float(np.mean(every)), "n": len(every), "unit": "", "wanted": "at least 0.95"}
    )
    for level in ("refuse", "warn"):
        false = [row["right"] == level for row in rows]
        out.append(
            {
                "name": f"verdict {level}s a right pair",
                "value": float(np.mean(false)),
                "n": len(false),
                "unit": "",
                "wanted": "at most 0.05",
            }
        )
    return out


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    values = [row[name] for row in rows if row.get(name) is not None and np.isfinite(row[name])]
    return {"value": float(np.median(values)) if values else None, "n": len(values)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--cohort", type=Path)
    parser.add_argument("--heads", type=Path, help="folder of label maps; default: ../shared/data/heads where it is there")
    parser.add_argument("--report", type=Path, help="folder for the table of pairs")
    given = parser.parse_args()
    beside = REPOSITORY.parent / "shared" / "data" / "heads"
    from run import table as drawn

    print(drawn(main(given.patients, given.cohort, given.heads or (beside if beside.is_dir() else None), given.report)))
