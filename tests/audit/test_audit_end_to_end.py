"""From simulated patients to verdicts: pair, read, and audit with the real transfer, as a site runs them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ichnos.audit.tuning import learnable_cohort
from ichnos.cli.main import run
from ichnos.formats import bids, nifti

TAKEN = {"ct": "2026-03-01T08:00", "followup": "2026-03-02T08:00", "flair": "2026-03-08T08:00"}
ONLY = "haematoma,leukoaraiosis,expansion"
SHOWN = {
    "flair": {"leukoaraiosis_volume", "leukoaraiosis_dice"},
    "followup": {"followup_volume", "expansion_probability", "growth_dice"},
}


def listed(cohort: Path) -> None:
    """Write the table that `ichnos pair` takes for NIfTI files."""
    rows = [("patient", "exam", "time", "file")]
    for patient in bids.read_cohort(cohort).patients:
        for exam, time in TAKEN.items():
            path = bids.exam_path(cohort, patient.id, exam)  # type: ignore[arg-type]
            rows.append((patient.id, exam, time, str(path.relative_to(cohort))))
    text = "".join("\t".join(row) + "\n" for row in rows)
    (cohort / "exams.tsv").write_text(text, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_simulated_exams_are_paired_read_transferred_and_scored(tmp_path: Path) -> None:
    cohort, pairs, scans = tmp_path / "cohort", tmp_path / "pairs", tmp_path / "scans"
    quick = ["--patients", "1", "--exams", "ct,followup,flair", "--voxel-mm", "2"]
    assert run(["simulate", str(cohort), *quick]) == 0
    listed(cohort)
    scans.mkdir()
    for path in [*cohort.glob("sub-*/ses-*/ct/*_ct.nii.gz")]:
        shutil.copyfile(path, scans / path.name)
    assert run(["read", str(scans), "-o", str(tmp_path / "readings"), "--only", ONLY]) == 0
    assert run(["pair", str(cohort), "-o", str(pairs)]) == 0
    audit = ["audit", str(pairs), "--readings", str(tmp_path / "readings"), "-o", str(tmp_path / "audit")]
    assert run([*audit, "--json"]) in (0, 2)
    check_scores(tmp_path / "audit")
    before = (tmp_path / "audit" / "scores.csv").read_bytes()
    assert run([*audit, "--json"]) in (0, 2)
    assert (tmp_path / "audit" / "scores.csv").read_bytes() == before
    check_who_learns(cohort, tmp_path)
    outlined(cohort, pairs)
    assert run([*audit, "--json"]) in (0, 2)
    check_people(tmp_path / "audit", before.decode("utf-8"))


def check_who_learns(cohort: Path, tmp_path: Path) -> None:
    """What a pair that is accepted shows may be learnt, and nothing else."""
    (patient,) = learnable_cohort(cohort, tmp_path / "readings", tmp_path / "learnt", "leukoaraiosis")
    scores = (tmp_path / "audit" / "scores.csv").read_text(encoding="utf-8")
    assert ("leukoaraiosis" in patient.targets) is (",flair," in scores)


def outlined(cohort: Path, pairs: Path) -> None:
    """Let a person outline the haematoma of both CTs as it is in truth."""
    (simulated,), (paired,) = (bids.read_cohort(root).patients for root in (cohort, pairs))
    blood: dict[str, Any] = {"label": "haematoma", "kind": "dseg"}
    for exam in ("ct", "followup"):
        true = nifti.load(bids.derivative_path(cohort, simulated.id, pipeline="truth", exam=exam, **blood))
        bids.write_derivative(pairs, paired.id, true, pipeline="manual", exam=exam, **blood)


def check_people(audit: Path, before: str) -> None:
    """People's judgement is added, and nothing that was there has changed."""
    rows = list(csv.DictReader((audit / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert all(row in rows for row in csv.DictReader(before.splitlines()))
    assert {row["judge"] for row in rows if row["partner"] == "followup"} == {"model", "person"}
    new = {row["quantity"] for row in rows if row["judge"] == "person"}
    assert {"followup_volume", "expansion_probability"} <= new


def check_scores(audit: Path) -> None:
    """Each pair that its transfer trusts is scored on each quantity once; numbers lie where they can."""
    with (audit / "scores.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    keys = [(row["pair"], row["quantity"]) for row in rows]
    assert len(keys) == len(set(keys)) > 0
    assert {row["verdict"] for row in rows} <= {"pass", "warn"}
    for partner, quantities in SHOWN.items():
        assert {row["quantity"] for row in rows if row["partner"] == partner} <= quantities
    values = np.array([[float(row["predicted"]), float(row["truth"])] for row in rows])
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    evidence = json.loads((audit / "evidence.json").read_text(encoding="utf-8"))
    assert evidence["pairs"] == len({row["pair"] for row in rows})
    assert "evidence" in (audit / "evidence.html").read_text(encoding="utf-8").lower()
