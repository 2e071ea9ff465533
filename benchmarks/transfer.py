"""Transfer on simulated pairs whose truth is known: accuracy, verdicts on pairs that were broken on purpose,
time.

    python benchmarks/transfer.py [--patients 40] [--minutes M] [--cohort FOLDER] [--heads FOLDER]

A folder of label maps (--heads) makes patients of different anatomy; without one all are variations of the
MNI head. Each patient is made when its turn comes and measured in stages: the run may be cut at any moment,
and goes on with the next stage; after `--minutes` none is begun. `--rows` prints the table of what is there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from _transfer_measures import BROKEN, STAGES, Pair
from ichnos.cohort import Exam, Patient
from ichnos.formats import bids
from ichnos.runs import Ledger, Summary, apply
from ichnos.runs.staging import move_into
from ichnos.simulation.cohort.design import RenderSettings, Subject, free_design, subjects
from ichnos.simulation.cohort.exam_files import protocol_of
from ichnos.simulation.cohort.write import write_patient

REPOSITORY = Path(__file__).resolve().parents[1]
VERSION = {"version": 7}  # of what a row says; another one wants another folder
TRACT_EVERY = 6  # every so many patients have a diffusion exam: it takes longer than all else
EXAMS: tuple[Exam, ...] = ("ct", "flair", "followup")


@dataclass(frozen=True)
class Step:
    """One stage of one patient's measurement: short, so that little is lost when a run is cut."""

    patient: Patient | Subject
    stranger: Patient | Subject
    stage: str

    @property
    def id(self) -> str:
        """Return its name in the ledger."""
        return f"{self.patient.id}-{self.stage}"


def main(
    patients: int = 2, cohort: Path | None = None, heads: Path | None = None, *, minutes: float = float("inf")
) -> list[dict[str, Any]]:
    """Measure every pair of a cohort that is there, or of one that is made on the way; return the table."""
    root = cohort or REPOSITORY / "build" / "bench-transfer"
    everyone: Sequence[Patient | Subject] = _there(root) if cohort else _subjects(max(patients, 40))
    if len(everyone) < 2:
        raise SystemExit("two patients at least are needed: a wrong pairing takes the next one's exam")
    render = None if cohort else RenderSettings(anatomy=str(heads) if heads else None, oracle_samples=0)
    steps = [
        Step(p, everyone[(k + 1) % len(everyone)], stage)
        for k, p in enumerate(everyone[:patients])
        for stage in STAGES
    ]
    out = root / "derivatives" / "benchtransfer"
    run = partial(
        apply,
        partial(measured, root=root, out=out, render=render),
        out=out,
        settings=VERSION,
        name="benchmark",
        progress=False,
    )
    stop, known = time.monotonic() + 60 * minutes, Ledger(out, "benchmark").finished()
    for step in steps:
        if step.id not in known and time.monotonic() < stop:
            print(
                f"patient {1 + everyone.index(step.patient)} of {patients}, {_told(step, run([step]))}",
                file=sys.stderr,
                flush=True,
            )
    ledger = Ledger(out, "benchmark")
    finished = ledger.finished()  # read, not claimed: the table can be seen while another process measures
    rows = _joined([{"id": step.id, **finished[step.id]["row"]} for step in steps if step.id in finished])
    if not rows:
        raise SystemExit("no patient has been measured yet")
    restless = {p.id: protocol_of(p, "ct").motion_mm > 0 for p in everyone if isinstance(p, Subject)}
    rows = [{**row, "restless": restless.get(row["id"], False)} for row in rows]
    Summary(tuple(rows), (), 0, 0.0, ledger.path).save_table(out / "pairs.tsv")
    return table(rows)


def _told(step: Step, done: Summary) -> str:
    return (
        f"{step.stage}: {f'failed, {done.failures[0].why}' if done.failures else 'done'} in"
        f" {done.seconds:.0f} s"
    )


def _joined(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per patient of what its stages told."""
    patients: dict[str, dict[str, Any]] = {}
    for row in rows:
        who, _, _ = str(row["id"]).rpartition("-")
        patients[who] = {**patients.get(who, {}), **row, "id": who}
    return list(patients.values())


def _subjects(patients: int) -> list[Subject]:
    """Return who is made: always the same of so many, five centres, one in five without a haematoma."""
    made = subjects(
        free_design(patients=patients, centres=list("ABCDE"), exams=list(EXAMS), haematoma_share=0.8), seed=11
    )
    return [
        replace(s, exams=(*s.exams, "diffusion")) if k % TRACT_EVERY == 0 else s for k, s in enumerate(made)
    ]


def _there(root: Path) -> list[Patient]:
    ids = sorted(folder.name.removeprefix("sub-") for folder in root.glob("sub-*"))
    return [Patient(i) for i in ids if all(bids.exam_path(root, i, exam).is_file() for exam in EXAMS)]


def measured(
    step: Step, folder: Path, *, root: Path, out: Path, render: RenderSettings | None
) -> dict[str, Any]:
    """Return what a stage tells; make the patient, and the one after, if they are not there yet."""
    for one in (step.patient, step.stranger) if step.stage == "broken" else (step.patient,):
        if isinstance(one, Subject) and render is not None:
            _make(one, root, render)
    return STAGES[step.stage](Pair(root, step.patient.id, step.stranger.id, out), folder)


def _make(subject: Subject, root: Path, render: RenderSettings) -> None:
    if (root / bids.subject(subject.id)).is_dir():
        return
    aside = root / ".making"
    shutil.rmtree(aside, ignore_errors=True)
    write_patient(subject, aside, render=render, cache=REPOSITORY / "build" / "heads")
    exams = aside / bids.subject(subject.id)
    waiting = aside / "exams"
    exams.rename(waiting)  # the truth first: a patient whose exams are there is whole
    for child in [c for c in aside.iterdir() if c != waiting]:
        move_into(child, root / child.name)
    waiting.rename(root / bids.subject(subject.id))


# ---- the table
# ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of the table: what is taken from the rows, and how it is summed up."""

    name: str
    unit: str = ""
    wanted: str = ""
    sum_up: Callable[[Any], Any] = np.median


def _p95(values: Any) -> Any:
    return np.percentile(values, 95)


_LINES = (
    Line("rigid_tre_median_mm", "mm", "at most 1.0"),
    Line("rigid_tre_p95_mm", "mm", "at most 2.5", _p95),
    Line("deformable_tre_median_mm", "mm"),
    Line("deformable_tre_p95_mm", "mm", "", _p95),
    Line("rigid_ventricle_dice"),
    Line("deformable_ventricle_dice", "", "at least 0.90"),
    Line("nearest_la_dice", "", "a nearest-neighbour mask by the true transform"),
    Line("truth_la_dice", "", "by the true transform: no registration can do better"),
    Line("rigid_la_dice", "", "at least 0.80"),
    Line("deformable_la_dice", "", "at least 0.80"),
    Line("own_la_dice", "", "at least 0.70"),
    Line("own_la_flair_dice", "", "on the FLAIR itself"),
    Line("own_la_flair_bias", "%", "volume on the FLAIR against the truth"),
    Line("tract_left_dice", "", "at least 0.60"),
    Line("tract_right_dice", "", "at least 0.60"),
    Line("diffusion_tre_median_mm", "mm"),
    Line("followup_dice"),
    Line("growth_dice"),
    Line("rigid_cpu_s", "s"),
    Line("deformable_cpu_s", "s", "rigid and deformable at most 45"),
    Line("verdict_cpu_s", "s"),
    Line("wmh_cpu_s", "s", "at most 20"),
    Line("tract_cpu_s", "s", "at most 120"),
    Line("followup_cpu_s", "s"),
)
LOADS_ML = (1.0, 3.0, 8.0, 1000.0)


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sum the patients up; Dice of leukoaraiosis only over those with at least 1 mL on the CT, and by load
    as well.
    """
    out: list[dict[str, Any]] = [{"name": "pairs", "value": len(rows), "unit": ""}]
    seen = [row for row in rows if row.get("la_ml", 0) >= LOADS_ML[0]]
    out += [_summed(line.name, seen if "_la_" in line.name else rows, line) for line in _LINES]
    for low, high in pairwise(LOADS_ML):
        part = [row for row in rows if low <= row.get("la_ml", 0) < high]
        names = ("truth_la_dice", "rigid_la_dice", "own_la_dice")
        out += [_summed(f"{name}, {low:g} to {high:g} mL", part, Line(name)) for name in names]
    moved = [row for row in rows if row["restless"]]
    still = [row for row in rows if not row["restless"]]
    for who, part in (("head lay still in the CT", still), ("head moved in the CT", moved)):
        out += [_summed(f"{line.name}, {who}", part, line) for line in _LINES[:2]]
    growth = [
        {"error": abs(row["growth_error_ml"])} for row in rows if row.get("growth_error_ml") is not None
    ]
    out.append(_summed("growth |error|", growth, Line("error", "mL", "at most 1.5")))
    sides = [
        row[f"tract_{side}_swapped"]
        for row in rows
        for side in ("left", "right")
        if f"tract_{side}_swapped" in row
    ]
    out.append({"name": "tracts swapped", "value": sum(sides), "n": len(sides), "unit": "", "wanted": "0"})
    return out + _verdicts(rows)


def _summed(name: str, rows: Sequence[Mapping[str, Any]], line: Line) -> dict[str, Any]:
    values = [
        row[line.name] for row in rows if row.get(line.name) is not None and np.isfinite(row[line.name])
    ]
    how = "95th percentile" if line.sum_up is _p95 else "median"
    value = float(line.sum_up(values)) if values else None
    return {
        "name": f"{name}, {how}",
        "value": value,
        "n": len(values),
        "unit": line.unit,
        "wanted": line.wanted,
    }


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    def share(name: str, levels: Sequence[str], level: str, wanted: str = "") -> dict[str, Any]:
        return {
            "name": name,
            "value": float(np.mean([found == level for found in levels])) if levels else None,
            "n": len(levels),
            "unit": "",
            "wanted": wanted,
        }

    broken = {name: [row[name] for row in rows if name in row] for name in BROKEN}
    right = [row["right"] for row in rows if "right" in row]
    return [
        *[share(f"verdict fails: {name}", levels, "refuse") for name, levels in broken.items()],
        share("verdict fails: all broken", list(chain(*broken.values())), "refuse", "at least 0.95"),
        share("verdict fails: a right pair", right, "refuse", "at most 0.05"),
        share("verdict warns: a right pair", right, "warn"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--cohort", type=Path)
    parser.add_argument(
        "--heads", type=Path, help="folder of label maps; default: ../shared/data/heads where it is there"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so many")
    parser.add_argument(
        "--rows", action="store_true", help="measure nothing; print the table of what has been measured"
    )
    given = parser.parse_args()
    beside = REPOSITORY.parent / "shared" / "data" / "heads"
    from run import table as drawn

    heads = given.heads or (beside if beside.is_dir() else None)
    print(drawn(main(given.patients, given.cohort, heads, minutes=0 if given.rows else given.minutes)))
