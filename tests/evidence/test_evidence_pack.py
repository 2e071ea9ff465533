"""The whole pack on a made cohort, and what happens to input that is wrong."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_cohort import Made, make, read_rows, write_predictions
from sklearn.metrics import brier_score_loss, roc_auc_score

from ichnos.cli.main import run
from ichnos.cohort import Cohort
from ichnos.errors import InputRefused, UsageError
from ichnos.evidence.leakage import TrainingImage, write_training
from ichnos.evidence.pack.pack import Pack, write_evidence
from ichnos.evidence.pack.plan import EvidencePlan, RegressionPlan
from ichnos.formats import bids, nifti
from ichnos.volume import Volume

QUICK = EvidencePlan(bootstrap_repeats=100, gallery=3, vector_figures=False)
ONE_TARGET = QUICK.model_copy(update={"targets": ("haematoma",), "gallery": 0})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Pack]:
    """Make a cohort with masks and evaluate it once."""
    root = tmp_path_factory.mktemp("whole")
    made = make(root, patients=45)
    plan = QUICK.model_copy(
        update={
            "gallery": 1,
            "regressions": (RegressionPlan(kind="linear", formula="ich_followup_ml ~ ich_ml + age_years"),),
        }
    )
    return made, write_evidence(
        made.predictions, [bids.read_cohort(made.cohort)], root / "out", plan=plan, progress=False
    )


@pytest.fixture
def facts_only(tmp_path: Path) -> Made:
    """Make a larger cohort without masks, which is quick."""
    return make(tmp_path, patients=240, masks=False)


def _run(made: Made, **changes: object) -> Pack:
    plan = QUICK.model_copy(update=changes)
    return write_evidence(
        made.predictions,
        [bids.read_cohort(made.cohort)],
        made.cohort.parent / "out",
        plan=plan,
        progress=False,
    )


def _numbers(pack: Pack) -> dict[str, object]:
    return json.loads((pack.out / "evidence.json").read_text(encoding="utf-8"))["sections"]


def test_the_pack_holds_everything(whole: tuple[Made, Pack]) -> None:
    _, pack = whole
    names = {path.name for path in pack.out.rglob("*") if path.is_file()}
    for expected in (
        "report.html",
        "methods.md",
        "cases.csv",
        "plan.json",
        "tripod_ai.csv",
        "claim.tex",
        "patients.md",
        "flow.csv",
    ):
        assert expected in names
    for stem in (
        "roc_expansion",
        "calibration_expansion",
        "decision_expansion",
        "gallery_haematoma_ich",
        "bland_altman_volume_haematoma_ich",
    ):
        assert f"{stem}.png" in names
    assert "forest_dice_haematoma_ich.png" in names
    assert pack.failures == ()


def test_the_page_stands_alone(whole: tuple[Made, Pack]) -> None:
    page = whole[1].page.read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert "Research use only" in page
    assert "nan" not in re.sub(r"<[^>]*>|base64,[^\"]*", " ", page).lower().split()


def test_printed_numbers_are_those_of_the_cases(whole: tuple[Made, Pack]) -> None:
    made, pack = whole
    with (pack.out / "cases.csv").open(newline="") as stream:
        cases = list(csv.DictReader(stream))
    dice = [float(row["haematoma ICH.dice"]) for row in cases]
    numbers = _numbers(pack)
    assert numbers["haematoma_ich"]["dice"]["value"] == pytest.approx(np.mean(dice))
    errors = [
        float(row["haematoma ICH.prediction_ml"]) - float(row["haematoma ICH.truth_ml"]) for row in cases
    ]
    assert numbers["haematoma_ich"]["volume_error_ml"]["value"] == pytest.approx(np.mean(errors))
    truth = nifti.load(bids.read_cohort(made.cohort).patients[0].targets["haematoma"])
    assert float(cases[0]["haematoma ICH.truth_ml"]) == pytest.approx((truth.array == 1).sum() * 0.02)
    assert 0.6 < numbers["expansion_ich"]["growth_dice"]["value"] < 1
    assert numbers["tract_left"]["cl_dice"]["value"] == pytest.approx(
        1.0
    )  # shifted by one of three voxels: the line still lies inside
    assert (
        numbers["haematoma_ivh"]["dice"]["value"] is None
    )  # no one bled into the ventricles: undefined, not zero and not one
    table = (pack.out / "tables" / "overlap_haematoma_ivh.md").read_text(encoding="utf-8")
    assert "All, empty masks scored" in table


def test_discrimination_and_calibration_are_those_of_scikit_learn(facts_only: Made) -> None:
    numbers = _numbers(_run(facts_only))["expansion"]
    cohort, rows = bids.read_cohort(facts_only.cohort), read_rows(facts_only.predictions)
    held = [(p, r) for p, r in zip(cohort, rows, strict=True) if p.split == "test"]
    growth = np.array([p.facts["ich_followup_ml"] - p.facts["ich_ml"] for p, _ in held])
    events = (growth > 6) | (growth > np.array([p.facts["ich_ml"] for p, _ in held]) * 0.33)
    score = np.array([float(r["expansion_probability"]) for _, r in held])
    assert numbers["auc"]["value"] == pytest.approx(roc_auc_score(events, score))
    assert numbers["calibration"]["as predicted"]["brier"] == pytest.approx(brier_score_loss(events, score))
    assert numbers["calibration"]["as predicted"]["slope"]["value"] < 1  # made too loud
    mended = numbers["calibration"]["Platt, fitted on validation"]
    assert abs(mended["slope"]["value"] - 1) < abs(
        numbers["calibration"]["as predicted"]["slope"]["value"] - 1
    )
    assert numbers["rates"]["point"]["chosen_on"] == "validation"
    assert (facts_only.cohort.parent / "out" / "figures" / "forest_auc_expansion.png").is_file()


def test_checklists_say_what_the_run_knows_and_leave_the_rest(whole: tuple[Made, Pack]) -> None:
    with (whole[1].out / "tables" / "tripod_ai.csv").open(newline="") as stream:
        answers = {row["Item"]: row["Answer"] for row in csv.DictReader(stream)}
    assert answers["17"] == answers["1"] == "author"
    assert "None of the 27 evaluated patients" in answers["12a"]
    assert "> 33 % or > 6 mL" in answers["8a"]


def test_methods_name_what_was_done(whole: tuple[Made, Pack]) -> None:
    text = (whole[1].out / "methods.md").read_text(encoding="utf-8")
    for said in (
        "DeLong",
        "Bland-Altman",
        "Passing-Bablok",
        "27 patients of 3 centres",
        "> 33 % or > 6 mL",
        "clDice",
        "linear model",
    ):
        assert said in text


def test_a_second_run_measures_nothing_again_and_gives_the_same_numbers(tmp_path: Path) -> None:
    made = make(tmp_path, patients=10)
    first = _run(made, targets=("haematoma",), gallery=0, vector_figures=True)
    assert (first.out / "figures" / "dice_haematoma_ich.pdf").read_bytes().startswith(b"%PDF")
    ledger = next(first.out.rglob("ledger.jsonl"))
    before, numbers, page = ledger.read_text(), _numbers(first), first.page.read_bytes()
    again = _run(made, targets=("haematoma",), gallery=0, vector_figures=True)
    assert ledger.read_text().count('"finished"') == before.count('"finished"') == 6
    assert _numbers(again) == numbers
    assert again.page.read_bytes() == page


def test_a_leak_refuses_before_anything_is_written(facts_only: Made) -> None:
    write_training([TrainingImage("s", sources=("P0000",))], facts_only.predictions / "training.csv")
    with pytest.raises(InputRefused, match="P0000 are evaluated patients from whom synthetic"):
        _run(facts_only)
    assert not (facts_only.cohort.parent / "out").exists()


def test_without_a_training_list_nothing_is_called_proven(facts_only: Made) -> None:
    (facts_only.predictions / "training.csv").unlink()
    pack = _run(facts_only)
    assert "leakage_unproven" in {flag.name for flag in pack.flags}
    assert "is not proven" in (pack.out / "methods.md").read_text()


def test_predictions_that_do_not_fit_the_cohort_are_refused(facts_only: Made) -> None:
    rows = read_rows(facts_only.predictions)
    for change, why in (
        ([*rows, rows[0]], "more than once"),
        ([*rows, {**rows[0], "patient": "Q1"}], "in none of the cohorts: Q1"),
        ([{**rows[0], "split": "train"}, *rows[1:]], "of split train for the predictions and of test"),
        ([{**rows[0], "mask_haematoma": "no.nii.gz"}, *rows[1:]], "correct mask_haematoma"),
        ([{"id": "x"}], "no column patient|more than once|in none"),
    ):
        write_predictions(facts_only.predictions, change)
        with pytest.raises(InputRefused, match=why):
            _run(facts_only)
    (facts_only.predictions / "predictions.csv").unlink()
    with pytest.raises(InputRefused, match=r"no predictions\.csv"):
        _run(facts_only)


def test_duplicate_patients_over_two_cohorts_are_refused(facts_only: Made, tmp_path: Path) -> None:
    cohort = bids.read_cohort(facts_only.cohort)
    with pytest.raises(InputRefused, match="more than once: P0000"):
        write_evidence(facts_only.predictions, [cohort, cohort], tmp_path / "o", plan=QUICK, progress=False)


def test_other_files_in_the_way_are_not_touched(facts_only: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.docx").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        _run(facts_only)
    assert [p.name for p in out.iterdir()] == ["thesis.docx"]


def test_scores_that_say_nothing_are_named(facts_only: Made) -> None:
    rows = read_rows(facts_only.predictions)
    write_predictions(facts_only.predictions, [{**r, "expansion_probability": 0.2} for r in rows])
    pack = _run(facts_only)
    assert "constant_score" in {flag.name for flag in pack.flags}
    assert _numbers(pack)["expansion"]["auc"]["value"] == 0.5


def test_unknown_scores_are_left_out_and_counted(facts_only: Made) -> None:
    rows = read_rows(facts_only.predictions)
    write_predictions(
        facts_only.predictions,
        [
            {**r, "expansion_probability": "nan" if i < 10 else r["expansion_probability"]}
            for i, r in enumerate(rows)
        ],
    )
    pack = _run(facts_only)
    assert (
        _numbers(pack)["expansion"]["auc"]["n"] == 144 - 6
    )  # six of the first ten patients are test patients
    assert "6 patients are left out" in pack.page.read_text(encoding="utf-8")


def test_one_outcome_only_and_missing_volumes_are_named_and_the_rest_goes_on(facts_only: Made) -> None:
    pack = _run(facts_only, expansion="12.5ml", volume_columns=("ich_ml", "ich_ml"))
    assert any("at least one case of each class" in flag.text for flag in pack.flags)
    assert (pack.out / "tables" / "grades.csv").is_file()
    other = write_evidence(
        facts_only.predictions,
        [bids.read_cohort(facts_only.cohort)],
        facts_only.cohort.parent / "other",
        plan=QUICK.model_copy(update={"volume_columns": ("before_ml", "after_ml")}),
        progress=False,
    )
    assert any("before_ml, after_ml" in flag.text for flag in other.flags)


def test_a_cohort_without_centres_is_one_group_and_flagged(facts_only: Made) -> None:
    cohort = bids.read_cohort(facts_only.cohort)
    import dataclasses

    nowhere = Cohort(tuple(dataclasses.replace(p, centre="") for p in cohort), cohort.root)
    pack = write_evidence(
        facts_only.predictions, [nowhere], facts_only.cohort.parent / "out", plan=QUICK, progress=False
    )
    assert "no_centre" in {flag.name for flag in pack.flags}
    assert not (pack.out / "tables" / "auc_centres_expansion.csv").exists()


def test_a_mask_on_another_grid_fails_alone_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(tmp_path, patients=10)
    wrong = nifti.load(made.predictions / "masks" / "P0000_haematoma.nii.gz")
    nifti.save(Volume(wrong.array[1:], wrong.affine), made.predictions / "masks" / "P0000_haematoma.nii.gz")
    (tmp_path / "plan.json").write_text(ONE_TARGET.model_dump_json())
    folders = [str(made.predictions), str(made.cohort), "-o", str(tmp_path / "out")]
    code = run(["evaluate", *folders, "--plan", str(tmp_path / "plan.json"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 2
    assert len(told["failures"]) == 1
    assert told["failures"][0].startswith("P0000: the predicted mask lies on another grid")
    assert told["sections"]["haematoma_ich"]["dice"]["n"] == 5


def test_the_command_refuses_with_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(tmp_path / "none"), str(tmp_path), "-o", str(tmp_path / "out")]) == 3
    assert "is not a folder" in capsys.readouterr().err
    made = make(tmp_path, patients=5, masks=False)
    assert (
        run(
            [
                "evaluate",
                str(made.predictions),
                str(made.cohort),
                "-o",
                str(tmp_path / "out"),
                "--expansion",
                "9ml",
            ]
        )
        == 3
    )
    assert "choose one of" in capsys.readouterr().err


def test_two_models_stand_side_by_side(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", patients=30, shift=1), make(tmp_path / "b", patients=30, shift=3)
    held = [bids.read_cohort(first.cohort)]
    pack = write_evidence(
        first.predictions, held, tmp_path / "out", plan=ONE_TARGET, against=second.predictions, progress=False
    )
    with (pack.out / "tables" / "models_masks.csv").open(newline="") as stream:
        rows = {row["Measure"]: row for row in csv.DictReader(stream)}
    assert float(rows["haematoma ICH: Dice"]["First minus second low"]) > 0
    assert rows["haematoma ICH: Dice"]["p (Holm)"] == "< 0.001"


def test_claims_that_cannot_be_true_are_flagged(facts_only: Made) -> None:
    (facts_only.predictions / "claims.json").write_text('{"dice": 0.937, "iou": 0.934}')
    assert any(flag.name == "dice_iou" and "Claimed" in flag.text for flag in _run(facts_only).flags)


def test_evidence_needs_no_torch() -> None:
    code = "import sys, ichnos.evidence.pack.pack; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
