"""From rows of readings to the page: the statistics find what was put in, and every cell that they cannot
fill says why.
"""

from __future__ import annotations

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
from ichnos.models import Manifest, Model, NetworkSpec, Preprocessing, Provenance
from ichnos.studies.murray2024 import reading as murray_reading
from ichnos.studies.murray2024 import study as murray
from ichnos.studies.murray2024.design import TRACT_PLANS, TRACT_WAYS
from ichnos.studies.ryu2025 import reading as ryu_reading
from ichnos.studies.ryu2025 import study as ryu
from ichnos.studies.ryu2025 import threshold
from ichnos.studies.ryu2025.design import RISK, WHITE_MATTER_PLANS, WHITE_MATTER_WAYS
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.labels import StudyLabels, with_validation
from ichnos.studies.shared.page import StudyPage
from ichnos.studies.shared.rows import adjusted_effect


def made_models(names: Any) -> dict[str, Model]:
    manifest = Manifest(
        name="m",
        version="1",
        limits=(),
        network=NetworkSpec(name="unet"),
        preprocessing=Preprocessing(spacing_mm=(1, 1, 1), windows_hu=((0, 80),), patch=(8, 8, 8)),
        targets=(),
        provenance=Provenance(
            code_version="0", command="", seeds=(0,), steps=1, data={}, hardware="", trained="2026-01-01"
        ),
    )
    return {name: Model(Path("nowhere"), manifest) for name in names}


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
            "side": "left",
        }
        for way, told in (("pairs", grade), ("truth", grade), ("affine", guess), ("thread", grade)):
            row |= {f"{way}_grade": told, f"{way}_load_ml": told + 0.1, f"{way}_weighted_load_ml": told + 0.2}
        rows.append(row)
        facts = {
            "arm": "surgery" if surgery else "medical",
            "age_years": age,
            "nihss_motor_180d": motor,
            "mrs_365d": float(mrs),
        }
        people.append(Patient(row["id"], "D", "external", facts=facts))
    return rows, Cohort(tuple(people))


def test_the_trial_finds_the_effects_that_were_drawn(tmp_path: Path, monkeypatch: Any) -> None:
    rows, cohort = trial(240)
    truths = {row["id"]: {"injury": INJURY_GRADES[row["truth_grade"]]} for row in rows}
    monkeypatch.setattr(murray, "truth_rows", lambda cohort: truths)
    labels = StudyLabels(cohort, ("transfer",), {}, 3)
    page = murray.tract_page(rows, labels, made_models(TRACT_PLANS), tmp_path, StudyBudget())
    ways = TRACT_WAYS
    motor = cells(page, "outcome", "motor NIHSS at 180 days: no risk")
    assert abs(value(motor[ways["pairs"]]) + 4) < 0.8
    assert value(motor[ways["pairs"]]) == value(motor["limit"]), (
        "who grades as the truth does finds what the truth finds"
    )
    assert value(motor[ways["affine"]]) > -1.5, "grades at random tell nothing"
    surgery = cells(page, "outcome", "motor NIHSS: surgery")
    assert abs(value(surgery[ways["pairs"]]) + 2) < 0.8
    assert value(cells(page, "outcome", "mRS at 365 days: no risk")[ways["pairs"]]) < 0.4
    kappa = cells(page, "injury", "weighted kappa")
    assert value(kappa[ways["pairs"]]) == 1.0
    assert abs(value(kappa[ways["affine"]])) < 0.25
    assert (
        cells(page, "injury", "weighted kappa")[ways["deformable"]]
        == "the first grades holds 0 value(s); at least 2 are needed"
    )
    assert (
        cells(page, "murray2024", "Dice, both")[ways["pairs"]]
        == "no patient with such a side and a tract to compare with"
    )
    assert "3 pair(s) were refused" in page.design[0]


def test_volumes_are_compared_calibrated_and_grouped(tmp_path: Path, monkeypatch: Any) -> None:
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    people = []
    for number in range(90):
        split, mri = ("validation" if number < 20 else "external"), float(rng.gamma(1.5, 6))
        known = number < 60  # the others have a CT alone
        row: dict[str, Any] = {
            "id": f"{number:02d}",
            "split": split,
            "centre": "B",
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
        facts |= {name: float(rng.integers(2)) for name in RISK[1:]} | {
            "nihss": 4.0 + number % 5,
            "infarct_ml": float(5 * (number % 4)),
        }
        people.append(Patient(row["id"], "B", split, facts=facts | {"mrs_90d": float(rng.integers(7))}))  # type: ignore[arg-type]
    flair = {
        row["id"]: {"leukoaraiosis_flair_ml": row["true_ml"]}
        for row in rows
        if row["registered_ml"] is not None
    }
    monkeypatch.setattr(ryu_reading, "truth_rows", lambda cohort: {})
    page = ryu.white_matter_page(
        rows,
        StudyLabels(Cohort(tuple(people)), ("transfer",), flair, 0),
        made_models(WHITE_MATTER_PLANS),
        18.0,
        tmp_path,
        StudyBudget(),
    )
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


def test_a_fifth_of_the_training_patients_validates_where_nobody_does() -> None:
    people = Cohort(tuple(Patient(f"{n}", split="train") for n in range(10)))
    assert [p.split for p in with_validation(people)].count("validation") == 2
    told = Cohort((Patient("a", split="train"), Patient("b", split="validation")))
    assert with_validation(told) is told


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
        StudyLabels(cohort, ("manual",), {}, 0), {"pairs": "a", "thread": "b"}, "cpu"
    )
    row = reader(cohort.patients[1], tmp_path)
    assert row["pairs_left_dice"] == row["thread_right_dice"] == 1.0
    assert 0.3 < row["affine_left_dice"] < 1.0
    assert row["side"] == "left"
    assert "label_left_dice" not in row, (
        "without the simulation's truth the label has nothing to be compared with"
    )
    reached = murray_reading.worse_side(
        {"left": sides["tract_left"].with_array(blood.array > 0), "right": sides["tract_right"]}, blood, None
    )
    assert INJURY_GRADES[reached["grade"]] == "complete interruption"
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
    row = ryu_reading.WhiteMatterReader(labels, {"slices": "a", "volume": "b"}, cut_hu, "cpu")(
        cohort.patients[1], tmp_path
    )
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
