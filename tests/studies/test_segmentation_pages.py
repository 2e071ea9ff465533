"""From rows of readings to the page: the statistics find what was put in, and every cell that they cannot
fill says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from builders.trainable_cohort import BRAIN_HU, TRACT_HU, head, write_trainable_cohort
from ichnos.clinical.injury import INJURY_GRADES
from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.tables import Cell
from ichnos.formats import bids
from ichnos.learning.segmentation.validation import Validation
from ichnos.studies.murray2024 import effects
from ichnos.studies.murray2024 import reading as murray_reading
from ichnos.studies.murray2024 import study as murray
from ichnos.studies.murray2024.design import TRACT_WAYS
from ichnos.studies.murray2024.effects import benefit_by_grade_table
from ichnos.studies.murray2024.page import _reading_design, murray_page
from ichnos.studies.murray2024.tables import injury_table
from ichnos.studies.ryu2025 import associations, threshold
from ichnos.studies.ryu2025 import reading as ryu_reading
from ichnos.studies.ryu2025.associations import association_table
from ichnos.studies.ryu2025.design import RISK_FACTORS, WHITE_MATTER_WAYS
from ichnos.studies.ryu2025.page import ryu_page
from ichnos.studies.ryu2025.tables import grade_cuts
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.labels import StudyLabels, with_validation
from ichnos.studies.shared.page import StudyPage
from ichnos.studies.shared.record import StudyRecord
from ichnos.studies.shared.rows import adjusted_effect
from ichnos.studies.shared.training import worst_cases


def cells(page: StudyPage, table: str, measure: str) -> dict[str, Cell]:
    found = next(t for t in page.tables if t.name == table)
    row = next(r for r in found.rows if str(r[0]).startswith(measure))
    return dict(zip(found.columns, row, strict=True))


def value(cell: Cell) -> float:
    assert isinstance(cell, Estimate)
    return cell.value


def trial(patients: int) -> tuple[list[dict[str, Any]], Cohort]:
    """Outcomes drawn with -4 points for an untouched tract; one way to grade is right, another wrong at
    random.
    """
    rng = np.random.default_rng(0)
    rows, people = [], []
    for number in range(patients):
        grade, surgery, age = int(rng.integers(4)), bool(rng.integers(2)), float(rng.uniform(50, 80))
        motor = 8 + (-4, -2, -1, 0)[grade] - 2 * (grade == 2) * surgery + rng.normal(0, 1)
        mrs = int(np.clip(round(4 - (1.2 if grade == 0 else 0) + rng.normal(0, 1.2)), 0, 6))
        guess = int(rng.integers(4))
        row: dict[str, Any] = {
            "id": f"{number:03d}",
            "split": "external",
            "centre": "D",
            "ich_ml": float(rng.uniform(30, 60)),
            "ivh_ml": float(rng.integers(2)),
            "side": "left",
        }
        for way, told in (("pairs", grade), ("truth", grade), ("affine", guess), ("thread", grade)):
            row |= {f"{way}_grade": told, f"{way}_load_ml": told + 0.1, f"{way}_weighted_load_ml": told + 0.2}
            row |= {f"{way}_loss": told / 3, f"{way}_soft": told + rng.normal(0, 0.1)}
        rows.append(row)
        facts = {
            "arm": "surgery" if surgery else "medical",
            "age_years": age,
            "gcs": float(rng.integers(8, 16)),
            "nihss_motor_180d": motor,
            "mrs_365d": float(mrs),
        }
        people.append(Patient(row["id"], "D", "external", facts=facts))
    return rows, Cohort(tuple(people))


def murray_record(rows: list[dict[str, Any]], ways: list[str]) -> StudyRecord:
    facts = {"simulated": True, "tracts": True, "refused": 3, "ways": ways}
    return StudyRecord("murray2024", {"patients": rows}, facts, {"smoke": 0})


@pytest.fixture(scope="module")
def trial_page() -> Iterator[StudyPage]:
    """The page of a trial; ordinal models, which are slow, in the table of outcomes alone."""
    patch = pytest.MonkeyPatch()
    quick = {name: how for name, how in effects._OUTCOMES.items() if how[0] != "ordinal"}
    patch.setattr(effects, "_OUTCOMES", quick)
    patch.setattr(effects, "_BY_GRADE", ("motor NIHSS at 180 days",))
    rows, cohort = trial(200)
    truths = {row["id"]: {"injury": INJURY_GRADES[row["truth_grade"]]} for row in rows}
    told = [row | murray._row_facts(cohort, row["id"]) for row in rows]
    yield murray_page(murray_record(murray._with_truth(told, truths), ["affine"]))
    patch.undo()


def test_the_trial_finds_the_effects_that_were_drawn(trial_page: StudyPage) -> None:
    page, guessed = trial_page, TRACT_WAYS["affine"]
    motor = cells(page, "outcome", "motor NIHSS at 180 days: no risk")
    assert abs(value(motor["limit"]) + 4) < 0.8
    assert value(motor[guessed]) > -1.5, "grades at random tell nothing"
    surgery = cells(page, "outcome", "motor NIHSS: surgery")
    assert abs(value(surgery["limit"]) + 2) < 0.8
    assert value(cells(page, "outcome", "mRS at 365 days: no risk")["limit"]) < 0.4
    kappa = cells(page, "injury", "weighted kappa")
    assert value(kappa["limit"]) == 1.0
    assert abs(value(kappa[guessed])) < 0.25
    assert (
        cells(page, "murray2024", "Dice, both")[guessed]
        == "no patient with such a side and a tract to compare with"
    )
    assert "3 pair(s) were refused" in page.design[0]


def test_the_page_of_tracts_alone_has_no_table_of_a_trial() -> None:
    facts = {"simulated": True, "tracts": True, "trial": False, "refused": 0, "ways": ["affine"]}
    row = {
        "id": "1",
        "split": "test",
        "label_left": True,
        "affine_left_dice": 0.5,
        "affine_true_left_dice": 0.75,
    }
    page = murray_page(StudyRecord("murray2024", {"patients": [row]}, facts, {"smoke": 0}))
    assert [table.name for table in page.tables] == ["murray2024"]
    assert value(cells(page, "murray2024", "Dice, both")[TRACT_WAYS["affine"]]) == 0.5
    assert value(cells(page, "murray2024", "Dice with the true tract")[TRACT_WAYS["affine"]]) == 0.75
    assert not any("trial has" in sentence for sentence in page.design)


def test_a_way_that_graded_nobody_says_so() -> None:
    rows, _ = trial(12)
    table = injury_table(rows, {"deformable": "atlas"})
    first = dict(zip(table.columns, table.rows[0], strict=True))
    assert first["atlas"] == "the first grades holds 0 value(s); at least 2 are needed"


def test_injury_adds_to_age_gcs_volume_and_ivh(trial_page: StudyPage) -> None:
    ways = TRACT_WAYS
    for predictor in ("lesion load", "largest loss of cross-section", "grade", "expected grade"):
        row = cells(trial_page, "added_value", f"motor NIHSS at 180 days: {predictor}")
        assert "p < 0.001" in str(row["limit"]), "outcome was drawn from the grade"
        assert "p < 0.001" not in str(row[ways["affine"]]), "grades at random add nothing"
    good = str(cells(trial_page, "added_value", "mRS 0 to 3 at 365 days: grade")["limit"])
    assert "ΔAUC +" in good
    assert "R²" in good
    assert "n 200" in good


def test_surgery_acts_where_it_was_drawn_to_act(trial_page: StudyPage) -> None:
    test = str(cells(trial_page, "interaction", "motor NIHSS at 180 days: surgery x grade")["limit"])
    assert "p < 0.001" in test
    start = "motor NIHSS at 180 days: surgery where graded"
    inside = cells(trial_page, "interaction", f"{start} haematoma infiltration")["limit"]
    outside = cells(trial_page, "interaction", f"{start} no risk")["limit"]
    assert isinstance(inside, Estimate)
    assert isinstance(outside, Estimate)
    assert inside.high < 0
    assert abs(outside.value) < 0.8 < abs(inside.value)


def test_expected_outcomes_are_those_of_the_arms_and_no_advice(trial_page: StudyPage) -> None:
    table = next(t for t in trial_page.tables if t.name == "expected_benefit")
    row = dict(
        zip(table.columns, next(r for r in table.rows if r[0] == "haematoma infiltration"), strict=True)
    )
    gain = row["motor NIHSS: difference"]
    assert isinstance(gain, Estimate)
    assert gain.value == pytest.approx(
        value(row["motor NIHSS: surgery"]) - value(row["motor NIHSS: medical"])
    )
    assert gain.value == pytest.approx(-2, abs=0.8)
    share = row["share with mRS 0 to 3: medical"]
    assert isinstance(share, Estimate)
    assert 0 < share.low < share.value < share.high < 1
    assert "no conclusion about a patient" in table.note
    assert "recommend" not in table.note


def test_a_small_grade_has_no_effect_of_its_own() -> None:
    rows, _ = trial(40)
    facts = {"arm": "medical", "gcs": 13.0, "age_years": 60.0, "nihss_motor_180d": 4.0, "mrs_365d": 3.0}
    table = benefit_by_grade_table([row | facts for row in rows], {})
    assert "in both arms, are the least" in str(table.rows[0][2])


def test_the_trial_alone_takes_the_simulation_s_injuries(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, cohort = trial(60)
    truths = {
        row["id"]: {"injury": INJURY_GRADES[row["truth_grade"]], "ich_ml": str(row["ich_ml"]), "ivh_ml": "0"}
        | {"tract_blood_load_ml": "0.5", "tract_largest_loss": str(row["truth_loss"])}
        for row in rows
    }
    monkeypatch.setattr(murray, "truth_rows", lambda cohort: truths)
    record = murray.run(cohort, Path("unused"), StudyBudget(parts=("trial",)))
    assert (record.facts["ways"], record.facts["tracts"]) == ([], False)
    assert [row["true_grade"] for row in record.rows["patients"]] == [row["truth_grade"] for row in rows]
    assert record.rows["patients"][0]["truth_load_ml"] == 0.5
    assert "No network was trained" in _reading_design(record, [])[0]
    monkeypatch.setattr(murray, "truth_rows", lambda cohort: {})
    with pytest.raises(InputRefused, match="takes injuries from a simulation's table"):
        murray.run(cohort, Path("unused"), StudyBudget(parts=("trial",)))


def test_volumes_are_compared_calibrated_and_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(associations, "_IMPUTATIONS", 2)
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    people = []
    for number in range(90):
        split, mri = ("validation" if number < 20 else "external"), float(rng.gamma(1.5, 6))
        known = number < 60  # the others have a CT alone
        row: dict[str, Any] = {
            "id": f"{number:02d}",
            "split": split,
            "centre": "BE"[number % 3 == 0],
            "vendor": "GE" if number % 2 else "SIEMENS",
        }
        row |= {
            "slices_ml": 0.5 * mri + 1,
            "volume_ml": mri + rng.normal(0, 0.3),
            "threshold_ml": float(rng.gamma(1.5, 6)),
        }
        row |= {"registered_ml": mri if known else None, "true_ml": mri, "label_dice": 0.8 if known else None}
        row |= {f"{way}_dice": 0.6 if known else None for way in WHITE_MATTER_WAYS}
        rows.append(row)
        age = 60 + 8 * np.log1p(mri) + rng.normal(0, 3)
        facts = {
            "age_years": age,
            "fazekas_periventricular": float(min(3, mri // 6)),
            "fazekas_deep": float(min(3, mri // 8)),
        }
        facts |= {name: float(rng.integers(2)) for name in RISK_FACTORS[2:-1]} | {
            "nihss": 4.0 + number % 5,
            "infarct_ml": float(5 * (number % 4)),
        }
        facts |= {"mrs_90d": float(rng.integers(7)), "sex": "fm"[number % 2]}
        if number % 9 == 0:
            del facts["smoking"]  # not known of everybody
        people.append(Patient(row["id"], row["centre"], split, facts=facts))  # type: ignore[arg-type]
    flair = {
        row["id"]: {"leukoaraiosis_flair_ml": row["true_ml"]}
        for row in rows
        if row["registered_ml"] is not None
    }
    labels = StudyLabels(Cohort(tuple(people)), ("transfer",), flair, 0)
    told = [row | ryu_reading.patient_facts(p, {}, labels) for row, p in zip(rows, people, strict=True)]
    facts = {"simulated": True, "refused": 0, "cut_hu": 18.0, "ways": ["slices", "volume", "threshold"]}
    page = ryu_page(StudyRecord("ryu2025", {"patients": told}, facts, {"smoke": 0}))
    ways = WHITE_MATTER_WAYS
    plain, calibrated = (
        cells(page, "ryu2025", f"CCC, {kind}")[ways["slices"]]
        for kind in ("volume against MRI", "calibrated")
    )
    assert value(plain) < 0.8
    assert value(calibrated) > 0.999, "half the volume and 1 mL too much is a line"
    assert value(cells(page, "ryu2025", "r, volume against MRI")[ways["slices"]]) > 0.999
    assert abs(value(cells(page, "ryu2025", "Dice")[ways["volume"]]) - 0.6) < 1e-9
    assert value(cells(page, "ryu2025", "rho")[ways["volume"]]) > 0.8
    assert value(cells(page, "groups", "CCC, vendor GE (n = 20)")[ways["volume"]]) > 0.95
    assert value(cells(page, "groups", "CCC, acute infarct above 10 mL (n = 10)")[ways["volume"]]) > 0.95
    by_age = cells(page, "associations", "ln(1 + mL) per unit of age")
    assert abs(value(by_age["limit"]) - 0.1) < 0.03
    assert len(page.pictures) == 1
    assert value(cells(page, "fazekas", "weighted kappa, deep")[ways["volume"]]) > 0.8
    assert value(cells(page, "centres", "Dice against the registered label, E")[ways["volume"]]) > 0.5
    assert "Q " in str(cells(page, "heterogeneity", "CCC between vendors")[ways["volume"]])
    note = next(t.note for t in page.tables if t.name == "associations")
    assert "multiple imputations" in note
    assert "earlier_stroke" in note.partition("Not in the cohort")[2]
    assert isinstance(cells(page, "associations", "ln(1 + mL) per unit of male")["limit"], Estimate)


def test_grades_follow_cuts_of_the_validation_patients() -> None:
    cuts = grade_cuts([1.0, 2.0, 3.0, 10.0, 12.0], [0, 0, 1, 2, 2])
    assert cuts[0] <= 3.0 < cuts[1] <= 10.0
    assert cuts[2] == np.inf, "a grade that nobody has is never given"


def test_brant_speaks_where_the_odds_differ_between_cuts() -> None:
    rng = np.random.default_rng(3)
    volume = rng.uniform(0, 20, 300)
    rows = [
        {"true_ml": ml, "age_years": rng.uniform(50, 80), "nihss": rng.integers(10), "sex": "fm"[k % 2]}
        | {"mrs_90d": int(ml > 10) * 3 + int(rng.integers(3))}
        for k, ml in enumerate(volume)
    ]
    table = association_table(rows)
    row = next(dict(zip(table.columns, r, strict=True)) for r in table.rows if "Brant" in str(r[0]))
    assert "χ²" in str(row["limit"])
    assert "nothing was imputed" in table.note


def test_a_fifth_of_the_training_patients_validates_where_nobody_does() -> None:
    people = Cohort(tuple(Patient(f"{n}", split="train") for n in range(10)))
    assert [p.split for p in with_validation(people)].count("validation") == 2
    told = Cohort((Patient("a", split="train"), Patient("b", split="validation")))
    assert with_validation(told) is told


def test_the_worst_cases_are_those_of_the_weights_that_were_kept(tmp_path: Path) -> None:
    work = tmp_path / "training" / "twin"
    (work / "worst").mkdir(parents=True)
    assert worst_cases("twin", tmp_path) == []
    lines = []
    for step, score in ((10, 0.7), (20, 0.9), (30, 0.8)):
        lines.append(json.dumps(asdict(Validation(step, score, {}, {}, patients=1))))
        (work / "worst" / f"step-{step:06d}.png").write_bytes(f"of {step}".encode())
    (work / "validation.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (picture,) = worst_cases("twin", tmp_path)
    assert picture.png == b"of 20"


class Echo:
    """A network that answers with the label itself, each mask on the scan's grid."""

    def __init__(self, masks: dict[str, Any]) -> None:
        self.masks = masks

    def __call__(self, scan: Any) -> Echo:
        return self

    def mask(self, name: str) -> Any:
        return self.masks[name]


def test_the_reader_of_tracts_measures_each_way_against_the_label(tmp_path: Path, monkeypatch: Any) -> None:
    cohort = write_trainable_cohort(tmp_path, ("train", "test"))
    _, blood, tract = head(1)  # on the left
    sides = {
        f"tract_{side}": tract.with_array(tract.array == k) for k, side in enumerate(("left", "right"), 1)
    }
    monkeypatch.setattr(murray_reading, "predictor_of", lambda folder, device: Echo(sides))
    shifted = {
        side: sides[f"tract_{side}"].map_array(lambda a: np.roll(a, 1, axis=1)) for side in ("left", "right")
    }
    monkeypatch.setattr(murray_reading, "register_ct_to_mni", lambda ct, **how: None)
    monkeypatch.setattr(murray_reading, "carried_atlas", lambda ct, placed: shifted)
    reader = murray_reading.TractReader(
        StudyLabels(cohort, ("manual",), {}, 0),
        {"pairs": "a", "thread": "b"},
        "cpu",
        voxels={"thread": (6.0, 6.0, 6.0)},
    )
    row = reader(cohort.patients[1], tmp_path)
    assert 0 < row["thread_grid_left_dice"] < 1, "no network at these voxels can do better"
    assert "pairs_grid_left_dice" not in row
    assert row["pairs_left_dice"] == row["thread_right_dice"] == 1.0
    assert 0.3 < row["affine_left_dice"] < 1.0
    assert row["side"] == "left"
    assert row["label_left"]
    assert not any("_true_" in name for name in row)
    assert "label_left_dice" not in row, (
        "without the simulation's truth the label has nothing to be compared with"
    )
    reached = murray_reading.worse_side(
        {"left": sides["tract_left"].with_array(blood.array > 0), "right": sides["tract_right"]}, blood, None
    )
    assert INJURY_GRADES[reached["grade"]] == "complete interruption"
    assert 2 < reached["soft"] <= 3, "displaced, the tract is not interrupted everywhere"
    assert murray_reading.worse_side({"left": None, "right": sides["tract_right"]}, blood, None) == {}
    assert INJURY_GRADES[row["pairs_grade"]] == "no risk", "the drawn tract leaves the clot out"


def test_the_reader_of_leukoaraiosis_measures_each_way(tmp_path: Path, monkeypatch: Any) -> None:
    cohort = write_trainable_cohort(tmp_path, ("train", "external"))
    ct, _, tract = head(1)
    lesions = tract.with_array((tract.array > 0).astype(np.uint8))  # as dark as the tract is drawn
    for number in ("00", "01"):
        _, _, own = head(int(number))
        drawn = own.with_array((own.array > 0).astype(np.uint8))
        bids.write_derivative(
            tmp_path, number, drawn, pipeline="transfer", label="leukoaraiosis", kind="mask"
        )

    class Everywhere:
        def share_on(self, atlas: Any, grid: Any) -> Any:
            return grid.with_array(
                (np.asarray(grid.array) > -50).astype(np.float32) * (np.asarray(grid.array) < 200)
            )

    monkeypatch.setattr(threshold, "register_ct_to_mni", lambda ct, kind: Everywhere())
    monkeypatch.setattr(ryu_reading, "predictor_of", lambda folder, device: Echo({"leukoaraiosis": lesions}))
    labels = StudyLabels(cohort, ("transfer",), {}, 0)
    cut_hu = threshold.chosen_threshold(labels, tmp_path, StudyBudget(smoke=True))
    assert TRACT_HU < cut_hu < BRAIN_HU
    ways, voxels = {"slices": "a", "volume": "b"}, {"volume": (6.0, 6.0, 6.0)}
    row = ryu_reading.WhiteMatterReader(labels, ways, cut_hu, "cpu", voxels)(cohort.patients[1], tmp_path)
    assert 0 < row["volume_grid_dice"] < 1
    assert "slices_grid_dice" not in row
    assert row["slices_dice"] == 1.0
    assert row["threshold_dice"] > 0.6
    assert row["true_ml"] is None
    assert row["registered_ml"] == round(float((lesions.array > 0).sum()) * ct.voxel_ml, 4)


def test_an_effect_that_few_patients_do_not_determine_is_said_without_the_formula() -> None:
    # x orders y without an exception
    table = pd.DataFrame({"y": [0.0, 1, 2, 0, 1, 2, 0, 1], "x": [0.0, 1, 2, 0, 1, 2, 0, 1]})
    with pytest.raises(InputRefused, match="8 patients do not determine it: too few, or too alike"):
        adjusted_effect("ordinal", "y ~ x", table, "x", of="patients")
    with pytest.raises(InputRefused, match="2 patients do not determine it"):
        adjusted_effect("linear", "y ~ x", table.head(2), "x", of="patients")
