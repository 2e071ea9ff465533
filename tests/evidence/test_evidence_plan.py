"""The plan that is read, and the sections on numbers and grades for data at their edges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ichnos.errors import UsageError
from ichnos.evidence.pack.plan import EvidencePlan, load_plan
from ichnos.evidence.pack.readings import patient_named, with_derived_columns, worse_grade
from ichnos.evidence.pack.sections.agreement import agreement_of
from ichnos.evidence.pack.sections.measures import value_pairs


def test_without_a_file_the_plan_is_the_default_and_the_call_overrides() -> None:
    assert load_plan(None) == EvidencePlan()
    changed = load_plan(None, expansion="6ml", splits=("external",))
    assert (changed.expansion, changed.splits) == ("6ml", ("external",))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_stored_plan_is_read_again_and_the_call_goes_first(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(EvidencePlan(tolerance_mm=3.0, seed=7).model_dump_json().encode(encoding))
    assert load_plan(path) == EvidencePlan(tolerance_mm=3.0, seed=7)
    assert load_plan(path, expansion="revised").expansion == "revised"


def test_a_plan_may_be_toml(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('splits = ["test"]\n[[regressions]]\nkind = "linear"\nformula = "a ~ b"\n')
    plan = load_plan(path)
    assert plan.splits == ("test",)
    assert plan.regressions[0].formula == "a ~ b"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("plan.json", {"tolerance": 2}, "tolerance: Extra inputs are not permitted"),
        ("plan.json", {"tolerance_mm": -1}, "tolerance_mm: Input should be greater than 0"),
        ("plan.json", {"bootstrap_repeats": 5}, "greater than or equal to 100"),
        (
            "plan.json",
            {"expansion": "90%"},
            "expansion definition '90%' is unknown; choose one of 33%-or-6ml",
        ),
        ("plan.toml", {"not": "toml"}, "is not valid"),
    ],
)
def test_a_plan_that_cannot_be_followed_says_which_field(
    name: str, content: dict[str, object], why: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UsageError, match=why):
        load_plan(tmp_path / name)


def test_values_are_paired_only_where_both_are_numbers() -> None:
    table = pd.DataFrame({"p": [1.0, "2", "x", None], "t": [1.5, 2.5, 3.5, 4.5]})
    pairs = value_pairs(table, "p", "t")
    assert pairs is not None
    assert [column.tolist() for column in pairs] == [[1.0, 2.0], [1.5, 2.5]]
    assert value_pairs(table, "p", "absent") is None
    assert value_pairs(table[2:], "p", "t") is None


@pytest.mark.parametrize(
    ("predicted", "truth", "why"),
    [
        ([1.0, 2, 3, 4], [1.0, 2, 3, 5], "not estimated: 4 case(s), 5 are needed"),
        ([2.0] * 6, [1.0, 2, 3, 4, 5, 6], "not estimated: every predicted value is 2.00"),
        ([1.0, 2, 3, 4, 5, 6], [0.0] * 6, "not estimated: every true value is 0.00"),
    ],
)
def test_too_few_or_constant_values_are_said_in_words(
    predicted: list[float], truth: list[float], why: str
) -> None:
    tables, figures, numbers = agreement_of("s", "Volume", np.array(predicted), np.array(truth), unit="mL")
    assert tables[0].rows == (("Agreement", why),)
    assert figures == []
    assert numbers == {"n": len(predicted), "why": why}


def test_volumes_are_compared_on_the_logarithmic_scale_too_and_other_numbers_are_not() -> None:
    rng = np.random.default_rng(1)
    truth = np.exp(rng.normal(3, 0.5, 20))
    predicted = truth * np.exp(rng.normal(0, 0.1, 20))
    volumes = agreement_of("s", "Volume", predicted, truth, unit="mL")[2]
    points = agreement_of("s", "NIHSS", predicted, truth, unit="points")[2]
    assert set(volumes) - {key.replace("points", "mL") for key in points} == {
        f"{name} of ln(1 + mL)" for name in ("Concordance (CCC)", "ICC(2,1)", "Pearson r")
    }
    assert volumes["Mean absolute error (mL)"] == pytest.approx(np.abs(predicted - truth).mean())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-A1", ("A1", None)),
        ("sub-A1_ses-baseline_ct", ("A1", "baseline")),
        ("sub-A1_ses-followup", ("A1", "followup")),
        ("A1", ("A1", None)),
        ("sub-Z9", (None, None)),
        ("scan of A1", (None, None)),
    ],
)
def test_a_readings_folder_names_its_patient(name: str, expected: tuple[str | None, str | None]) -> None:
    assert patient_named(name, {"A1": 0}) == expected


@pytest.mark.parametrize(
    ("left", "right", "worse"),
    [
        ("no risk", "complete interruption", "complete interruption"),
        ("haematoma infiltration", "PHE infiltration", "haematoma infiltration"),
        ("no risk", None, None),
        ("no risk", "unknown", None),
    ],
)
def test_the_worse_grade_needs_both_sides(left: str, right: str | None, worse: str | None) -> None:
    assert worse_grade(left, right) == worse_grade(right, left) == worse


def test_the_forecast_is_that_of_the_patients_own_arm_and_never_overwrites() -> None:
    row = {f"predicted_mrs_0_3_365d_{arm}": p for arm, p in (("medical", 0.2), ("surgery", 0.4))}
    assert with_derived_columns(row)["predicted_mrs_0_3_365d"] == 0.2
    assert with_derived_columns({**row, "arm": "surgery"})["predicted_mrs_0_3_365d"] == 0.4
    assert with_derived_columns({**row, "predicted_mrs_0_3_365d": 0.9})["predicted_mrs_0_3_365d"] == 0.9
    assert "predicted_mrs_0_3_365d" not in with_derived_columns({**row, "arm": "radiotherapy"})
