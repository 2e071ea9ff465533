"""Expansion and its scores, the leakage ledger, flags, summaries, and tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ichnos.clinical.expansion import DEFINITIONS
from ichnos.clinical.scores import HepPoints, ScoreColumns, bat, brain, comparators, hep
from ichnos.errors import InputRefused, UsageError
from ichnos.evidence.leakage import Evaluated, TrainingImage, leakage_proof, read_training, write_training
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.metrics.summary import by_centre, compare_models, measure_column, over_centres, summarise
from ichnos.evidence.pack.flags import check_centres, check_events, check_pair, check_prevalence, iou_of_dice
from ichnos.evidence.pack.plan import EvidencePlan, load_plan
from ichnos.evidence.tables import Table, cell_text

PATIENTS = pd.DataFrame(
    {
        "ich_ml": [8.0, 10.0, 15.0, 20.0, 40.0, np.nan],
        "onset_to_ct_h": [0.8, 2.0, 2.4, 3.5, 9.0, 1.0],
        "blend_sign": [0, 1, 1, 0, 1, 0],
        "hypodensity": ["no", "yes", "no", "yes", "yes", "no"],
        "ivh": [0, 0, 1, 1, 1, 0],
        "recurrent_ich": [0, 0, 0, 0, 1, 0],
        "anticoagulation": [0, 1, 0, 0, 1, 0],
    }
)


def test_definitions_of_expansion() -> None:
    before, after = np.array([10, 10, 10, 100, 3, 30, np.nan]), np.array([13.3, 13.4, 12, 106.1, 6.1, 36, 20])
    assert DEFINITIONS["33%-or-6ml"](before, after)[:6].tolist() == [0, 1, 0, 1, 1, 0]
    assert DEFINITIONS["6ml"](before, after)[:6].tolist() == [0, 0, 0, 1, 0, 1]
    assert DEFINITIONS["3ml"](before, after)[:6].tolist() == [1, 1, 0, 1, 1, 1]
    assert DEFINITIONS["12.5ml"](before, after)[:6].tolist() == [0] * 6
    assert np.isnan(DEFINITIONS["33%-or-6ml"](before, after)[6])
    revised = DEFINITIONS["revised"]
    assert revised([10] * 4, [10] * 4, [0, 0, 2, 2], [0.2, 0, 2.9, 3.0]).tolist() == [1, 0, 0, 1]
    assert np.isnan(revised([10], [10], [np.nan], [1.0])[0])
    with pytest.raises(UsageError, match="intraventricular"):
        revised([10], [12])


def test_bat_and_brain_by_hand() -> None:
    assert bat(PATIENTS).tolist() == [2, 5, 3, 2, 3, 2]
    #       volume + recurrent + anticoagulation + ventricles + hours
    assert brain(PATIENTS)[:5].tolist() == [0 + 5, 0 + 6 + 4, 5 + 2 + 3, 5 + 2 + 2, 7 + 4 + 6 + 2 + 0]
    assert np.isnan(brain(PATIENTS)[5])
    worst = pd.DataFrame(
        {"ich_ml": [50.0], "onset_to_ct_h": [0.5], "recurrent_ich": [1], "anticoagulation": [1], "ivh": [1]}
    )
    assert brain(worst)[0] == 24  # the published maximum


def test_hep_asks_for_its_points_and_then_counts_them() -> None:
    with pytest.raises(InputRefused, match="hep_points"):
        hep(PATIENTS)
    points = HepPoints(time={3: 2, 6: 1}, gcs={8: 4, 12: 2}, dementia=3)
    table = pd.DataFrame({"onset_to_ct_h": [2.0, 5.0, 9.0], "gcs": [7, 12, 15], "dementia": [1, 0, 0]})
    table = table.assign(current_smoking=0, antiplatelet=0, subarachnoid=0)
    assert hep(table, points=points).tolist() == [2 + 4 + 3, 1 + 2, 0]


def test_a_score_without_its_column_says_so_and_others_go_on() -> None:
    found = {c.name: c for c in comparators(PATIENTS.drop(columns="blend_sign"))}
    assert "blend_sign" in found["bat"].missing
    assert found["brain"].missing == ""
    assert found["volume"].values[:2].tolist() == [8, 10]
    renamed = PATIENTS.rename(columns={"blend_sign": "blend"})
    assert bat(renamed, ScoreColumns(blend_sign="blend")).tolist() == bat(PATIENTS).tolist()


EVALUATED = [Evaluated("A", split="test", model_hash="m"), Evaluated("B", split="test", model_hash="m")]


def test_a_clean_ledger_is_proven() -> None:
    found = leakage_proof(
        EVALUATED,
        [TrainingImage("i1", "C"), TrainingImage("s1", sources=("C", "D")), TrainingImage("i2", "D")],
    )
    assert (found.proven, found.training_patients, found.synthetic_images) == (True, 2, 1)
    assert not leakage_proof(EVALUATED, None).proven


@pytest.mark.parametrize(
    ("evaluated", "training", "why"),
    [
        (EVALUATED, [TrainingImage("i", "A")], "A are patients both trained on and evaluated"),
        (EVALUATED, [TrainingImage("s", sources=("X", "B"))], "B are evaluated patients from whom synthetic"),
        (EVALUATED, [TrainingImage("s")], "synthetic training images without sources"),
        (EVALUATED, [TrainingImage("i", "X", split="test")], "training images of the test"),
        (
            EVALUATED,
            [TrainingImage("i", "X"), TrainingImage("s", split="validation", sources=("X",))],
            "in another split than the patients",
        ),
        ([Evaluated("A", sha256="f")], [TrainingImage("i", "X", sha256="f")], "voxel by voxel"),
        ([Evaluated("A", sources=("Q",))], [], "synthetic images among the evaluated"),
        ([Evaluated("A", split="train")], None, "training or validation split"),
        ([Evaluated("A"), Evaluated("A")], None, "more than once"),
    ],
)
def test_every_kind_of_leak_is_refused_by_name(
    evaluated: list[Evaluated], training: list[TrainingImage] | None, why: str
) -> None:
    with pytest.raises(InputRefused, match=why):
        leakage_proof(evaluated, training)


def test_a_training_list_survives_its_file(tmp_path: object) -> None:
    path = tmp_path / "training.csv"  # type: ignore[operator]
    images = (
        TrainingImage("i", "C", "Brno", "train", (), "ab"),
        TrainingImage("s", "", "", "validation", ("C", "D")),
    )
    write_training(images, path)
    assert read_training(path) == images
    path.write_text("image,patient\n")
    with pytest.raises(InputRefused, match="no column split"):
        read_training(path)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_measured_pairs_of_dice_and_iou_are_never_called_impossible(dice: list[float]) -> None:
    iou = [iou_of_dice(d) for d in dice]
    found = check_pair(float(np.mean(dice)), float(np.mean(iou)), of="mean")
    assert found is None or found.level == "warn"
    assert all(check_pair(d, i, of="case") is None for d, i in zip(dice, iou, strict=True))


def test_the_published_pair_is_flagged() -> None:
    assert check_pair(0.937, 0.934, of="case").level == "alarm"  # type: ignore[union-attr]
    assert check_pair(0.937, 0.934, of="mean").level == "warn"  # type: ignore[union-attr]
    assert check_pair(0.8, 0.85, of="mean").level == "alarm"  # type: ignore[union-attr]
    assert check_pair(0.8, 0.6, of="mean").level == "alarm"  # type: ignore[union-attr]
    assert check_pair(0.9, 0.825, of="mean") is None


def test_few_events_and_shifted_prevalence_are_flagged() -> None:
    assert check_events("x", 12, 400).level == "alarm"  # type: ignore[union-attr]
    assert check_events("x", 400, 60).level == "warn"  # type: ignore[union-attr]
    assert check_events("x", 200, 300) is None
    rng = np.random.default_rng(0)
    events = rng.random(2000) < 0.2
    assert check_prevalence("x", events, np.full(2000, 0.2), None) is None
    assert "50%" in check_prevalence("x", events, np.full(2000, 0.2), 0.5).text  # type: ignore[union-attr]
    assert check_prevalence("x", events, np.full(2000, 0.35), None).name == "prevalence"  # type: ignore[union-attr]
    centres = np.repeat(["a", "b"], 1000)
    assert check_centres("x", events, centres) is None
    assert check_centres("x", np.where(centres == "a", True, events), centres).level == "note"  # type: ignore[union-attr]


def test_summaries_count_what_is_undefined_and_pool_centres() -> None:
    found = summarise([0.5, 0.7, np.nan, 0.9])
    assert (found.mean.value, found.median, found.undefined, found.mean.n) == (
        pytest.approx(0.7),
        pytest.approx(0.7),
        1,
        3,
    )
    assert summarise([np.nan]).mean.n == 0
    rng = np.random.default_rng(0)
    values, where = rng.normal(0.8, 0.05, 90), np.repeat(["a", "b", "c"], 30)
    per_centre = by_centre(values, list(where))
    pooled = over_centres(per_centre)
    assert [s.centre for s in per_centre] == ["a", "b", "c"]
    assert pooled is not None
    assert pooled.pooled.value == pytest.approx(values.mean(), abs=0.01)
    assert over_centres(per_centre[:2]) is None


def test_two_models_are_compared_by_wilcoxon_with_holm() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(0.8, 0.05, 60)
    models = (
        {"dice": first, "nsd": first},
        {"dice": first - 0.03 + rng.normal(0, 0.02, 60), "nsd": first + rng.normal(0, 0.02, 60)},
    )
    found = {d.measure: d for d in compare_models(*models, rng=rng)}
    assert found["dice"].p == pytest.approx(stats.wilcoxon(models[0]["dice"], models[1]["dice"]).pvalue)
    assert found["dice"].p_holm == pytest.approx(min(1, 2 * found["dice"].p))
    assert found["dice"].difference.low < 0.03 < found["dice"].difference.high
    assert found["nsd"].p > 0.05
    same = compare_models({"dice": first}, {"dice": first}, rng=rng)[0]
    assert np.isnan(same.p)
    with pytest.raises(InputRefused, match="share no measure"):
        compare_models({"dice": first}, {"nsd": first}, rng=rng)


def test_missing_measures_are_nan() -> None:
    rows = [{"a": {"dice": 0.5, "scored": {"dice": 0.5}}}, {"a": {"dice": None, "scored": {"dice": 1.0}}}, {}]
    assert measure_column(rows, "a", "dice").tolist()[0] == 0.5
    assert np.isnan(measure_column(rows, "a", "dice")[1:]).all()
    assert measure_column(rows, "a", "dice", scored=True)[1] == 1.0


def test_one_table_three_ways() -> None:
    table = Table(
        "t",
        "Dice & more_50%",
        ("", "Dice", "n"),
        (("All", Estimate(0.8123, 0.75, 0.86, 9), 9), ("b", float("nan"), None)),
        "a < b",
    )
    assert table.csv().splitlines() == [",Dice,Dice low,Dice high,n", "All,0.8123,0.75,0.86,9", "b,,,,"]
    assert "| All | 0.812 (0.750–0.860) | 9 |" in table.markdown()
    latex = table.latex()
    assert r"Dice \& more\_50\%" in latex
    assert "$<$" in latex
    assert latex.count("&") - latex.count(r"\&") == 2 * 3
    assert cell_text(Estimate(-0.5, -1.0, 0.25, 3)) == "-0.50 (-1.00 to 0.25)"
    assert cell_text(Estimate(0.5, float("nan"), float("nan"), 1)) == "0.500 (no interval)"


def test_plans_are_checked(tmp_path: object) -> None:
    path = tmp_path / "plan.toml"  # type: ignore[operator]
    path.write_text('tolerance_mm = 1.0\nexpansion = "6ml"\n')
    assert load_plan(path).tolerance_mm == 1.0
    assert load_plan(path, expansion="3ml", splits=("external",)).splits == ("external",)
    (tmp_path / "plan.json").write_text(EvidencePlan(seed=5).model_dump_json())  # type: ignore[operator]
    assert load_plan(tmp_path / "plan.json").seed == 5  # type: ignore[operator]
    path.write_text("tolerance = 1.0\n")
    with pytest.raises(UsageError, match="tolerance"):
        load_plan(path)
    with pytest.raises(UsageError, match="choose one of"):
        load_plan(None, expansion="4ml")
