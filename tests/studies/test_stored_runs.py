"""What all studies share: recipes, curves, stored runs, checklists, parts, and the command around them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ichnos.cli.main import run
from ichnos.cli.study import StudySettings, _groups, _render
from ichnos.errors import InputRefused, UsageError
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.studies import design_named, stored_run_page
from ichnos.studies.designs import DESIGNS
from ichnos.studies.murray2024.design import tract_plans
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.curves import (
    TrainingCurve,
    _arms,
    curve_figures,
    curve_of_lines,
    curves_csv,
    unsettled,
)
from ichnos.studies.shared.page import PngPicture, write_page, write_results
from ichnos.studies.shared.recipe import StudyRecipe, check_networks, study_recipe
from ichnos.studies.shared.record import StudyRecord, load_record, save_record
from ichnos.studies.shared.rows import cells_of, plain_cells
from ichnos.studies.shared.training import _arm_plan, _asked
from ichnos.studies.yu2025.outlines import outline_networks

CURVE = TrainingCurve(
    "warp, group-0", "growth Dice of the inner fold", (10, 20, 30, 40), (0.1, 0.4, 0.5, 0.5)
)


def abramova(**facts: object) -> StudyRecord:
    """A run of two patients with a score of every method."""
    methods = (
        "warp",
        "warp + synthetic",
        "ours",
        "ours + synthetic",
        "no growth",
        "uniform dilation",
        "oracle",
    )
    scores = [
        {
            "method": m,
            "patient": str(k),
            "growth_dice": 0.1 * (n + k),
            "lesion_dice": 0.9,
            "volume_error_ml": 1.0,
        }
        for n, m in enumerate(methods)
        for k in range(4)
    ]
    known = {
        "simulated": True,
        "patients": 4,
        "cohort": 5,
        "groups": 2,
        "median growth, mL": 7.25,
        "region, mm": [96.0, 96.0, 96.0],
        "voxel, mm": [2.0, 2.0, 4.0],
    }
    pictures = (PngPicture("median_patient", "One patient.", b"\x89PNG pixels"),)
    provenance = {"smoke": 0, "patients": "5 train", "seed": 1, "recipe": "small"}
    return StudyRecord("abramova2024", {"scores": scores}, known | facts, provenance, (CURVE,), pictures)


def test_a_stored_run_gives_the_same_page(tmp_path: Path) -> None:
    record = abramova()
    save_record(record, tmp_path / "run")
    again = load_record(tmp_path)
    assert stored_run_page(again).tables == stored_run_page(record).tables
    assert again.curves == record.curves
    assert again.pictures[0].png == record.pictures[0].png
    assert load_record(tmp_path / "run").facts == again.facts


def test_what_is_no_stored_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="holds no stored run of a study"):
        load_record(tmp_path)
    (tmp_path / "record.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputRefused, match="is damaged"):
        load_record(tmp_path)
    save_record(abramova(), tmp_path)
    content = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    (tmp_path / "record.json").write_text(json.dumps(content | {"format": 99}), encoding="utf-8")
    with pytest.raises(InputRefused, match="run the study again"):
        load_record(tmp_path)


def test_the_command_rebuilds_a_page_and_writes_small_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_record(abramova(), tmp_path / "made" / "run")
    stored = ["--from-run", str(tmp_path / "made")]
    results = tmp_path / "results"
    arguments = ["study", "abramova2024", *stored, "-o", str(tmp_path / "page"), "--results", str(results)]
    assert run([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["study"] == "abramova2024"
    names = {file.name for file in results.iterdir()}
    assert {"forecast.csv", "ratios.csv", "tripod_ai.csv", "claim.csv", "curves.csv", "ledger.json"} <= names
    assert any(name.startswith("curve-") and name.endswith(".png") for name in names)
    assert all(file.stat().st_size < 2**20 for file in results.iterdir())
    assert "tables" not in json.loads((results / "ledger.json").read_text(encoding="utf-8"))
    for told_first in (results / "tables.md", tmp_path / "page" / "study.html"):
        assert "Its patients are simulated" in told_first.read_text(encoding="utf-8")
    assert run(["study", "yu2025", *stored, "-o", str(tmp_path / "page")]) == 3
    assert "holds a run of abramova2024, not of yu2025" in capsys.readouterr().err


def test_no_row_of_a_checklist_is_empty() -> None:
    for simulated in (True, False):
        page = stored_run_page(abramova(simulated=simulated))
        lists = {table.name: table for table in page.tables if table.name in ("tripod_ai", "claim")}
        assert set(lists) == {"tripod_ai", "claim"}
        answers = [str(row[2]) for table in lists.values() for row in table.rows]
        assert all(len(answer) > 5 and answer != "author" for answer in answers)
        assert any("patients are simulated" in answer for answer in answers) == simulated


def test_a_curve_knows_whether_it_still_rises() -> None:
    assert CURVE.flat
    rising = TrainingCurve("a", "AUC", (1, 2, 3, 4), (0.5, 0.6, 0.7, 0.8))
    assert not rising.flat
    assert rising.gain_at_end == pytest.approx(1 / 3)
    falling = TrainingCurve("a", "log loss", (1, 2, 3, 4), (0.9, 0.5, 0.4, 0.6), rises=False)
    assert falling.flat, "a loss that rises again no longer gains"
    page = stored_run_page(abramova())
    assert not any("still rose" in limit for limit in page.limits)


def test_curves_are_read_once_per_step_and_drawn_per_measure(tmp_path: Path) -> None:
    file = tmp_path / "curve.jsonl"
    assert curve_of_lines(file, "a", "auc", "AUC") is None
    lines = [{"step": 1, "auc": 0.4}, {"step": 2, "auc": None}, {"step": 1, "auc": 0.6}]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    curve = curve_of_lines(file, "a", "auc", "AUC")
    assert curve is not None
    assert (curve.steps, curve.values) == ((1,), (0.6,))
    figures = curve_figures([CURVE, curve])
    assert [figure.name[:6] for figure in figures] == ["curve-", "curve-"]
    assert figures[0].png[:4] == b"\x89PNG"
    assert curves_csv([CURVE]).count("\n") == 5


def test_a_picture_of_curves_shows_every_training_and_names_each_arm_once() -> None:
    names = [
        f"{arm}, seed {s}, fold {f}" for arm in ("ours, as is", "warp") for s in (1, 2) for f in (1, 2, 3)
    ]
    curves = [TrainingCurve(name, "AUC", (1, 2), (0.5, 0.6)) for name in (*names, "ours, group-0", "pairs")]
    arms = _arms(curves)
    assert {arm: len(those) for arm, those in arms.items()} == {
        "ours, as is": 6,
        "warp": 6,
        "ours": 1,
        "pairs": 1,
    }
    assert "0 of 14 curves had stopped rising" in curve_figures(curves)[0].caption


def test_a_recipe_s_file_changes_the_networks_it_names(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("base: small\nnetworks:\n  plain: {steps: 7}\n", encoding="utf-8")
    recipe = study_recipe(str(file))
    plan = outline_networks(StudyBudget())["plain twin"]
    assert isinstance(plan, TrainSettings)
    assert recipe.applied("plain", plan).loop.steps == 7
    assert recipe.applied("U-Mamba", plan) == plan
    with pytest.raises(UsageError, match="does not train; it trains warp"):
        check_networks(recipe, ("warp",), "abramova2024")
    file.write_text("base: huge\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no recipe of a study: base"):
        study_recipe(str(file))


def test_a_recipe_changes_what_a_start_from_weights_brings() -> None:
    plan = tract_plans(StudyBudget())["thread"]
    own = _asked("thread", plan, StudyRecipe())
    assert isinstance(own, TrainSettings)
    assert (own.preprocessing.spacing_mm, own.loop.learning_rate) == ((3.0, 3.0, 3.0), 8e-4)
    finer = StudyRecipe(networks={"thread": {"spacing_mm": [2, 2, 2], "learning_rate": 4e-4}})
    asked = _asked("thread", plan, finer)
    assert isinstance(asked, TrainSettings)
    assert (asked.preprocessing.spacing_mm, asked.loop.learning_rate) == ((2.0, 2.0, 2.0), 4e-4)
    assert asked.start == own.start
    assert asked.preprocessing.patch == own.preprocessing.patch, "what the recipe leaves is the start's"


def test_what_a_study_would_ignore_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["-o", str(tmp_path / "out")]
    for words, said in (
        (["abramova2024", "--smoke", "--with-nnunet"], "nnU-Net is no arm of what abramova2024 runs here"),
        (["murray2024", "--smoke", "--parts", "trial", "--with-nnunet"], "leave out --with-nnunet"),
        (["ryu2025", "--smoke", "--seeds", "3"], "ryu2025 trains none here"),
        (["yu2025", "--smoke", "--parts", "outlines", "--seeds", "3"], "yu2025 trains none here"),
        (["hospital", "--recipe", "published"], "hospital has no use for --recipe"),
        (["lesions", str(tmp_path), "--simulate", "0.5"], "lesions has no use for --simulate"),
        (["hospital", "--from-run", str(tmp_path)], "hospital stores no run"),
    ):
        assert run(["study", *words, *out]) == 3
        assert said in " ".join(capsys.readouterr().err.split())
    DESIGNS["yu2025"].refuse_unused((), seeds=3, nnunet=True)
    DESIGNS["ryu2025"].refuse_unused((), seeds=1, nnunet=True)


def test_every_training_of_a_study_stops_by_validation() -> None:
    plan = outline_networks(StudyBudget())["plain twin"]
    assert isinstance(plan, TrainSettings)
    assert _arm_plan(plan, StudyBudget(seed=3)).loop.patience == 4
    assert _arm_plan(plan, StudyBudget(seed=3)).loop.seed == 3
    assert _arm_plan(plan, StudyBudget(smoke=True)).loop.steps == 2
    published = outline_networks(StudyBudget(recipe=StudyRecipe(base="published")))
    assert getattr(published["U-Mamba"], "epochs", 0) == 500, "by nnU-Net itself"


def test_parts_are_known_and_a_compact_cohort_serves_some() -> None:
    yu, ryu, murray = (design_named(name) for name in ("yu2025", "ryu2025", "murray2024"))
    assert yu.parts_asked(("expansion",), compact=True) == ("expansion",)
    assert murray.parts_asked((), compact=True) == ("trial",)
    assert design_named("abramova2024").parts_asked((), compact=True) == (), "all of it"
    with pytest.raises(UsageError, match="has no part lesions"):
        yu.parts_asked(("lesions",), compact=False)
    with pytest.raises(UsageError, match="reads whole heads"):
        ryu.parts_asked((), compact=True)
    with pytest.raises(UsageError, match="a compact one serves expansion, synthesis"):
        yu.parts_asked(("outlines",), compact=True)


def test_each_part_simulates_what_it_reads() -> None:
    outlines = _groups(DESIGNS["yu2025"], StudySettings(simulate=1.0, parts=("outlines",))).groups
    assert {group.exams for group in outlines} == {("ct",)}
    whole = _groups(DESIGNS["yu2025"], StudySettings(simulate=1.0)).groups
    assert {group.exams for group in whole} == {("ct", "followup")}
    murray = DESIGNS["murray2024"]
    groups = _groups(murray, StudySettings(simulate=1.0, compact=True)).groups
    assert [(group.patients, group.exams, group.trial) for group in groups] == [(499, (), True)]
    assert len(_groups(murray, StudySettings(simulate=1.0)).groups) == 3
    pairs = _groups(murray, StudySettings(simulate=1.0, parts=("tracts",))).groups
    assert [(group.patients, group.trial) for group in pairs] == [(80, False), (20, False)]
    assert _render(murray, StudySettings(simulate=1.0, compact=True)).compact
    smoke = _render(DESIGNS["abramova2024"], StudySettings(smoke=True))
    assert (smoke.compact, smoke.oracle_samples) == (True, 4)
    for whole_heads in ("yu2025", "murray2024", "ryu2025"):
        assert not _render(DESIGNS[whole_heads], StudySettings(smoke=True)).compact


def test_cells_come_back_from_a_stored_run() -> None:
    row = {"images": "fold 1", "AUC": Estimate(0.7, float("nan"), float("nan"), 9), "made": 3}
    stored = json.loads(json.dumps(plain_cells(row)).replace("NaN", "null"))
    again = cells_of(stored)
    assert again["made"] == 3
    assert isinstance(again["AUC"], Estimate)
    assert again["AUC"].n == 9


def test_a_page_without_curves_writes_none(tmp_path: Path) -> None:
    record = abramova()
    bare = StudyRecord(record.study, record.rows, record.facts, record.provenance)
    write_results(stored_run_page(bare), tmp_path / "results")
    assert not (tmp_path / "results" / "curves.csv").exists()
    assert "growth Dice" in (tmp_path / "results" / "tables.md").read_text(encoding="utf-8")
    assert write_page(stored_run_page(bare), tmp_path / "page").is_file()


def test_a_run_that_was_too_short_says_so_and_a_settled_one_says_nothing() -> None:
    settled = TrainingCurve("a", "Dice", (1, 2, 3, 4), (0.1, 0.8, 0.8, 0.8))
    rising = TrainingCurve("b", "Dice", (1, 2, 3, 4), (0.1, 0.2, 0.4, 0.8))
    assert unsettled((settled,), smoke=False) == ()
    assert unsettled((), smoke=False) == ()
    (said,) = unsettled((settled, rising), smoke=False)
    assert said.startswith("1 of 2 curves still rose over their last quarter, by 0.4000 at most (Dice)")
    (once,) = unsettled((TrainingCurve("c", "Dice", (1,), (0.1,)),), smoke=False)
    assert once == "1 of 1 curves still rose over their last quarter: those networks had not converged."
    (smoke,) = unsettled((rising,), smoke=True)
    assert "Its numbers mean nothing" in smoke
