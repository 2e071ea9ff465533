"""From readings to evidence in one step: the folder that `ichnos read` wrote against a cohort's truth."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from builders.readable_head import head, model, rule
from builders.tiny_model import tiny_model
from ichnos.cli.main import run
from ichnos.cohort import SIMULATED_ONLY, Fact, Patient
from ichnos.errors import InputRefused
from ichnos.evidence.leakage import TrainingImage, write_training
from ichnos.evidence.pack.evaluation import gather
from ichnos.evidence.pack.pack import Pack, write_evidence
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.formats import bids
from ichnos.inference import Predictor
from ichnos.reading import read_scan, refused
from ichnos.reading.save import write_record
from ichnos.volume import Volume

QUICK = EvidencePlan(bootstrap_repeats=100, gallery=1, vector_figures=False)
BLEEDS = {"A1": True, "A2": True, "A3": False, "A4": True}  # A4 is refused


@dataclass(frozen=True)
class Read:
    """Where readings and cohort lie."""

    readings: Path
    cohort: Path


def _truth(scan: Volume, *, clot: bool) -> tuple[Volume, Volume, Volume]:
    """Return the true blood, tract and leukoaraiosis of a made head, by the HU that it was made of."""
    hu = np.round(np.asarray(scan.array), 1)
    blood = np.where(np.isin(hu, (57, 67)), 1, np.where(hu == 25, 3, 0)) if clot else np.zeros(hu.shape)
    tract = np.where(np.isin(hu, (33.5, 57)), 1, np.where(hu == 37.5, 2, 0))
    return tuple(scan.with_array(a.astype(np.uint8)) for a in (blood, tract, hu == 20))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def read_cohort_folders(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Write four made heads with truth, three readings, one refusal, a follow-up and a stranger."""
    root = tmp_path_factory.mktemp("readings")
    cohort, readings = root / "cohort", root / "readings"
    people = []
    predictor = Predictor(model(), backend=rule)
    for name, clot in BLEEDS.items():
        scan = head(clot=clot)
        blood, tract, white = _truth(scan.volume, clot=clot)
        noise = np.random.default_rng(0).normal(0, 1, scan.volume.shape)  # no two slices are alike
        bids.write_exam(
            cohort, name, "ct", scan.volume.with_array((scan.volume.array + noise).astype(np.float32))
        )
        for volume, label, kind in (
            (blood, "haematoma", "dseg"),
            (tract, "tract", "dseg"),
            (white, "leukoaraiosis", "mask"),
        ):
            bids.write_derivative(cohort, name, volume, pipeline="truth", label=label, kind=kind)  # type: ignore[arg-type]
        facts: dict[str, Fact] = {
            "age_years": 70.0,
            "arm": "medical",
            "mrs_365d": 2.0,
            "nihss_motor_180d": 3.0,
        }
        people.append(Patient(name, "A", "test", facts=facts))
        home = readings / f"sub-{name}_ses-baseline"
        if name == "A4":
            reading = refused(name, "the scan has 4 slices; at least 10 are needed")
        else:
            reading = read_scan(replace(scan, facts={"age_years": 70.0, "gcs": 13.0}), predictor, name=name)
        origin = {"limits": (SIMULATED_ONLY, "Its probabilities have not been calibrated.")}
        write_record(replace(reading, record=reading.record.model_copy(update=origin)), home)
    bids.write_cohort(people, cohort, name="made")
    shutil.copytree(readings / "sub-A1_ses-baseline", readings / "sub-A1_ses-followup")
    shutil.copytree(readings / "sub-A1_ses-baseline", readings / "STUDY-9")
    return Read(readings, cohort)


@pytest.fixture(scope="module")
def pack(read_cohort_folders: Read, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    out = tmp_path_factory.mktemp("evidence") / "out"
    cohort = bids.read_cohort(read_cohort_folders.cohort)
    return write_evidence(read_cohort_folders.readings, [cohort], out, plan=QUICK, progress=False)


def _compared(pack: Pack) -> dict[str, dict[str, str]]:
    with (pack.out / "tables" / "compared.csv").open(newline="") as stream:
        return {row["What"]: row for row in csv.DictReader(stream)}


def test_the_page_says_that_the_model_was_trained_on_simulated_patients(pack: Pack) -> None:
    (flag,) = [flag for flag in pack.flags if flag.name == "simulated_training"]
    assert (flag.level, SIMULATED_ONLY in flag.text) == ("note", True)
    assert flag.text in pack.page.read_text(encoding="utf-8")


def test_masks_of_a_reading_are_compared_with_the_label_maps_of_the_cohort(pack: Pack) -> None:
    compared = _compared(pack)
    for name in ("haematoma ICH", "haematoma PHE", "leukoaraiosis", "tract left", "tract right"):
        assert compared[f"mask: {name}"]["Patients"] == "3"
    numbers = json.loads((pack.out / "evidence.json").read_text())["sections"]
    assert numbers["haematoma_ich"]["dice"]["value"] > 0.95
    assert numbers["haematoma_ich"]["dice"]["n"] == 2  # one patient has no bleed: undefined, not one
    assert pack.failures == ()


def test_injury_is_graded_on_the_true_masks_by_the_definition_of_readings(pack: Pack) -> None:
    compared = _compared(pack)
    for name in (
        "grade: Tract injury, left",
        "grade: Tract injury, worse side",
        "measure: Tract in blood, left",
    ):
        assert compared[name] == {"What": name, "Patients": "3", "Remark": "compared"}


def test_outcome_forecasts_are_those_of_the_patients_own_arm(pack: Pack, read_cohort_folders: Read) -> None:
    cohort = bids.read_cohort(read_cohort_folders.cohort)
    table = gather(read_cohort_folders.readings, [cohort], QUICK).table.set_index("patient")
    assert table.loc["A1", "predicted_mrs_0_3_365d"] == table.loc["A1", "predicted_mrs_0_3_365d_medical"]
    assert 0 < table.loc["A1", "predicted_mrs_0_3_365d"] < 1  # a percentage became a share
    assert _compared(pack)["outcome: mRS 0 to 3 at 365 days"]["Patients"] == "2"  # who bled


def test_what_cannot_be_compared_is_named_with_the_reason(pack: Pack) -> None:
    compared = _compared(pack)
    assert compared["measure: Volume at follow-up"]["Remark"] == "the cohort has no column ich_followup_ml"
    assert compared["grade: Fazekas, deep"]["Remark"] == "the cohort has no column fazekas_deep"
    page = pack.page.read_text(encoding="utf-8")
    assert "A4: the scan has 4 slices" in page
    assert "1 reading(s) of exams other than the baseline CT were left out" in page
    assert "belong to no patient of the cohorts: STUDY-9" in page
    assert pack.cases == 3


def test_an_interval_given_with_a_measure_is_checked_for_coverage(pack: Pack) -> None:
    with (pack.out / "tables" / "intervals.csv").open(newline="") as stream:
        rows = {row["Measure"]: row for row in csv.DictReader(stream)}
    row = rows["Motor NIHSS at 180 days"]
    assert row["n"] == "2"
    assert "80 %" in row["The interval is"]


def test_two_readings_of_one_patient_are_refused(read_cohort_folders: Read, tmp_path: Path) -> None:
    twice = tmp_path / "twice"
    shutil.copytree(read_cohort_folders.readings, twice)
    shutil.copytree(twice / "sub-A1_ses-baseline", twice / "A1")
    with pytest.raises(InputRefused, match="two readings of patient A1"):
        gather(twice, [bids.read_cohort(read_cohort_folders.cohort)], QUICK)


def test_a_mask_that_a_reading_names_and_lacks_is_refused(read_cohort_folders: Read, tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(read_cohort_folders.readings, torn)
    (torn / "sub-A2_ses-baseline" / "ICH.nii.gz").unlink()
    with pytest.raises(InputRefused, match=r"names ICH\.nii\.gz, which is not there"):
        gather(torn, [bids.read_cohort(read_cohort_folders.cohort)], QUICK)


def test_a_folder_of_neither_kind_says_what_is_wanted(read_cohort_folders: Read, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"holds no readings .* and no predictions\.csv"):
        gather(tmp_path, [bids.read_cohort(read_cohort_folders.cohort)], QUICK)


def test_readings_of_another_split_say_which(read_cohort_folders: Read) -> None:
    cohort = bids.read_cohort(read_cohort_folders.cohort)
    plan = QUICK.model_copy(update={"splits": ("external",)})
    with pytest.raises(InputRefused, match="the predicted patients are of the split test"):
        gather(read_cohort_folders.readings, [cohort], plan)


def test_evaluate_reads_first_when_it_is_given_a_model(
    read_cohort_folders: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, plan = tiny_model(tmp_path / "model").folder, tmp_path / "out", tmp_path / "plan.json"
    plan.write_text(QUICK.model_copy(update={"targets": ("leukoaraiosis",), "lesions": ()}).model_dump_json())
    call = ["evaluate", "--model", str(folder), str(read_cohort_folders.cohort), "--plan", str(plan)]
    assert run([*call, "-o", str(out), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["cases"] == len(BLEEDS)
    assert numbers["sections"]["compared"]["mask: leukoaraiosis"]["patients"] == len(BLEEDS)
    record = out / "readings" / "sub-A1_ses-baseline" / "reading.json"
    assert json.loads(record.read_text())["provenance"]["model_name"] == "tiny"


def test_a_leak_is_refused_before_anybody_is_read(
    read_cohort_folders: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_training([TrainingImage("sub-A1", "A1")], tmp_path / "training.csv")
    folder = tiny_model(tmp_path / "model").folder
    call = ["evaluate", "--model", str(folder), str(read_cohort_folders.cohort), "-o", str(tmp_path / "out")]
    assert run([*call, "--training", str(tmp_path / "training.csv")]) != 0
    assert "A1 are patients both trained on and evaluated" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_evaluate_without_a_cohort_says_what_to_give(
    read_cohort_folders: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(read_cohort_folders.readings), "-o", str(tmp_path / "out")]) == 3
    assert "no cohort was given" in capsys.readouterr().err


@pytest.mark.slow
def test_simulate_read_evaluate_in_three_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort, readings, out = (str(tmp_path / name) for name in ("cohort", "readings", "evidence"))
    assert run(["simulate", cohort, "--preset", "yu2025", "--scale", "0.002", "--voxel-mm", "2"]) == 0
    assert run(["read", cohort, "-o", readings]) == 0
    capsys.readouterr()
    assert run(["evaluate", readings, cohort, "-o", out, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["cases"] == 2  # the external patients
    assert numbers["sections"]["compared"]["mask: haematoma ICH"]["patients"] == 2
    assert numbers["sections"]["compared"]["outcome: expansion"]["patients"] == 2
