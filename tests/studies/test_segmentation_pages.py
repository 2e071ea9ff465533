"""From rows of readings to the page: the statistics find what was put in, and every cell that they cannot fill says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ichnos.cohort import Cohort, Patient
from ichnos.evidence.intervals import Estimate
from ichnos.evidence.tables import Cell
from ichnos.models import Manifest, Model, NetworkSpec, Preprocessing, Provenance
from ichnos.studies import murray2024, ryu2025
from ichnos.studies.page import Effort, StudyPage
from ichnos.studies.segmenting import Labels, with_validation


def made_models(names: Any) -> dict[str, Model]:
    manifest = Manifest(
        name="m",
        version="1",
        limits=(),
        network=NetworkSpec(name="unet"),
        preprocessing=Preprocessing(spacing_mm=(1, 1, 1), windows_hu=((0, 80),), patch=(8, 8, 8)),
        targets=(),
        provenance=Provenance(code_version="0", command="", seeds=(0,), steps=1, data={}, hardware="", trained="2026-01-01"),
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
    """Outcomes drawn with -4 points for an untouched tract; one way to grade is right, another wrong at random."""
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
        facts = {"arm": "surgery" if surgery else "medical", "age_years": age, "nihss_motor_180d": motor, "mrs_365d": float(mrs)}
        people.append(Patient(row["id"], "D", "external", facts=facts))
    return rows, Cohort(tuple(people))


def test_the_trial_finds_the_effects_that_were_drawn(tmp_path: Path, monkeypatch: Any) -> None:
    rows, cohort = trial(240)
    truths = {row["id"]: {"injury": murray2024.GRADES[row["truth_grade"]]} for row in rows}
    monkeypatch.setattr(murray2024, "truth_rows", lambda cohort: truths)
    labels = Labels(cohort, ("transfer",), {}, 3)
    page = murray2024.page(rows, labels, made_models(murray2024.PLANS), tmp_path, Effort(), 0.0)
    ways = murray2024.WAYS
    motor = cells(page, "outcome", "motor NIHSS at 180 days: no risk")
    assert abs(value(motor[ways["pairs"]]) + 4) < 0.8
    assert value(motor[ways["pairs"]]) == value(motor["limit"]), "who grades as the truth does finds what the truth finds"
    assert value(motor[ways["affine"]]) > -1.5, "grades at random tell nothing"
    surgery = cells(page, "outcome", "motor NIHSS: surgery")
    assert abs(value(surgery[ways["pairs"]]) + 2) < 0.8
    assert value(cells(page, "outcome", "mRS at 365 days: no risk")[ways["pairs"]]) < 0.4
    kappa = cells(page, "injury", "weighted kappa")
    assert value(kappa[ways["pairs"]]) == 1.0
    assert abs(value(kappa[ways["affine"]])) < 0.25
    assert cells(page, "injury", "weighted kappa")[ways["deformable"]] == "the first grades holds 0 value(s); at least 2 are needed"
    assert cells(page, "murray2024", "Dice, both")[ways["pairs"]] == "no patient with such a side and a tract to compare with"
    assert "3 pair(s) were refused" in page.design[0]


def test_volumes_are_compared_calibrated_and_grouped(tmp_path: Path, monkeypatch: Any) -> None:
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    people = []
    for number in range(90):
        split, mri = ("validation" if number < 20 else "external"), float(rng.gamma(1.5, 6))
        known = number < 60  # the others have a CT alone
        row: dict[str, Any] = {"id": f"{number:02d}", "split": split, "centre": "B", "vendor": "GE" if number % 2 else "SIEMENS"}
        row |= {"slices_ml": 0.5 * mri + 1, "volume_ml": mri + rng.normal(0, 0.3), "threshold_ml": float(rng.gamma(1.5, 6))}
        row |= {"registered_ml": mri if known else None, "true_ml": mri, "label_dice": 0.8 if known else None}
        row |= {f"{way}_dice": 0.6 if known else None for way in ryu2025.WAYS}
        rows.append(row)
        age = 60 + 8 * np.log1p(mri) + rng.normal(0, 3)
        facts = {"age_years": age, "fazekas_periventricular": float(min(3, mri // 6)), "fazekas_deep": float(min(3, mri // 8))}
        facts |= {name: float(rng.integers(2)) for name in ryu2025.RISK[1:]} | {
            "nihss": 4.0 + number % 5,
            "infarct_ml": float(5 * (number % 4)),
        }
        people.append(Patient(row["id"], "B", split, facts=facts | {"mrs_90d": float(rng.integers(7))}))  # type: ignore[arg-type]
    flair = {row["id"]: {"leukoaraiosis_flair_ml": row["true_ml"]} for row in rows if row["registered_ml"] is not None}
    monkeypatch.setattr(ryu2025, "truth_rows", lambda cohort: {})
    page = ryu2025.page(
        rows, Labels(Cohort(tuple(people)), ("transfer",), flair, 0), made_models(ryu2025.PLANS), 18.0, tmp_path, Effort(), 0.0
    )
    ways = ryu2025.WAYS
    plain, calibrated = (cells(page, "ryu2025", f"CCC, {kind}")[ways["slices"]] for kind in ("volume against MRI", "calibrated"))
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
