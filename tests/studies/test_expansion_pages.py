"""The two studies of expansion on made patients: every stage runs, every cell says something, and the
numbers are those put in.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from builders.tiny_model import tiny_model
from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.metrics.overlap import dice
from ichnos.formats import bids
from ichnos.inference import Predictor
from ichnos.inference.crops import REGION_SHAPE
from ichnos.inference.grid import through_grid
from ichnos.learning.expansion.ensemble import load_classifier
from ichnos.learning.expansion.forecast import forecast_map, load_forecaster
from ichnos.learning.expansion.generator_store import load_generator
from ichnos.learning.expansion.pairs import LesionPair
from ichnos.learning.expansion.settings import region_classifier
from ichnos.learning.expansion.slice_generator import Picture
from ichnos.models import Model, load_model
from ichnos.prognosis.growth import GrowthInputs
from ichnos.scan import Scan
from ichnos.studies.abramova2024 import study as abramova2024
from ichnos.studies.abramova2024.page import abramova_page
from ichnos.studies.abramova2024.training import synthetic_copies
from ichnos.studies.ryu2025.tables import centre_table
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.labels import StudyLabels
from ichnos.studies.shared.page import StudyPage, write_page
from ichnos.studies.shared.recipe import StudyRecipe
from ichnos.studies.shared.record import load_record, save_record
from ichnos.studies.shared.rows import plain_cells
from ichnos.studies.yu2025 import automatic, outlines, tables, training_tables
from ichnos.studies.yu2025.arms import ClassifierArm, arm_risk, classifier_arms, expansion_risks
from ichnos.studies.yu2025.people import People, Person, people_of
from ichnos.studies.yu2025.risks import (
    MethodRisk,
    known_patients,
    mean_risk,
    person_rows,
    risk_rows,
    risks_of,
)
from ichnos.volume import Volume, sphere

SMOKE = StudyBudget(smoke=True)
SHAPE, SPACING_MM = (24, 24, 16), (4.0, 4.0, 6.0)
MM = np.stack(
    np.meshgrid(
        *[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING_MM, strict=True)],
        indexing="ij",
    )
)


def made_pair(patient: Patient) -> LesionPair:
    radius = 10.0 + int(patient.id)
    ball, later = ((np.linalg.norm(MM, axis=0) <= r).astype(np.float32) for r in (radius, radius + 4))
    hu = np.where(ball > 0, 65.0 + int(patient.id), 30.0).astype(np.float32)
    oracle = np.clip(1 - (np.linalg.norm(MM, axis=0) - radius) / 8, 0, 1).astype(np.float32)
    empty, brain = np.zeros_like(ball), np.ones(ball.shape, bool)
    return LesionPair(patient.id, hu, ball, empty, brain, later, oracle=oracle, spacing_mm=SPACING_MM)


def column(page: StudyPage, table: str, row: str, name: str) -> object:
    found = next(t for t in page.tables if t.name == table)
    line = next(r for r in found.rows if str(r[0]) == row)
    return line[found.columns.index(name)]


def test_under_published_copies_are_registered_as_in_the_paper() -> None:
    pytest.importorskip("picsl_greedy")
    real, published = [made_pair(Patient("1"))], StudyBudget(recipe=StudyRecipe(base="published"))
    copies = synthetic_copies(real, np.random.default_rng(0), published)
    blood = real[0].blood.sum()
    assert [c.later.sum() / blood for c in copies[:3]] == pytest.approx([1.33, 1.68, 2.0], rel=0.02)
    assert [blood / c.blood.sum() for c in copies[3:]] == pytest.approx([1.33, 1.68, 2.0], rel=0.02)
    assert all(c.synthetic and c.later_hu is None for c in copies), "no copy has a CT that its patient lacks"
    assert synthetic_copies(real, np.random.default_rng(1), published)[0] is copies[0], "made once"
    quick = synthetic_copies(real, np.random.default_rng(0), StudyBudget())
    assert [len(copies), len(quick)] == [6, 3]


def test_abramova_leaves_patients_out_and_fills_its_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(abramova2024, "pair_of", lambda cohort, patient, **how: made_pair(patient))
    cohort = Cohort(tuple(Patient(str(k)) for k in range(4)))
    record = abramova2024.run(cohort, tmp_path, SMOKE)
    save_record(record, tmp_path / "run")
    page = abramova_page(load_record(tmp_path))
    assert page.tables == abramova_page(record).tables, "the stored run gives the same page"
    assert {curve.measure for curve in record.curves} == {"growth Dice of the inner fold"}
    assert len(record.curves) == 8, "four arms in two groups"
    shared = abramova2024.run(cohort, tmp_path / "shared", replace(SMOKE, workers=2))
    assert plain_cells({"rows": shared.rows}) == plain_cells({"rows": record.rows}), "groups side by side"
    assert any("Of 4 patients" in limit and "no part for the CT" in limit for limit in page.limits)
    still, oracle = (column(page, "forecast", name, "growth Dice") for name in ("no growth", "oracle"))
    assert isinstance(still, Estimate)
    assert isinstance(oracle, Estimate)
    assert still.value == 0
    assert oracle.value > 0.8
    even = column(page, "forecast", "uniform dilation", "growth Dice")
    assert isinstance(even, Estimate)
    assert even.value > 0.7  # these balls grow evenly
    html = write_page(page, tmp_path / "page")
    assert "0.506" in html.read_text(encoding="utf-8")
    network, kind = load_forecaster(tmp_path / "models" / "ours-synthetic-group-0")
    assert kind == "forecast"
    assert forecast_map(network, made_pair(Patient("1")), kind).shape == SHAPE
    with pytest.raises(InputRefused, match="a map around an outline that must be given"):
        Predictor(load_model(tmp_path / "models" / "warp-group-0"))
    twice = [made_pair(Patient("1")), made_pair(Patient("2")), replace(made_pair(Patient("1")), patient="3")]
    with pytest.raises(InputRefused, match="leakage: sub-1 and sub-3 have the same CT"):
        abramova2024.check_apart(twice)
    few = Cohort(tuple(Patient(str(k)) for k in range(2)))
    with pytest.raises(InputRefused, match="4 are the least"):
        abramova2024.run(few, tmp_path / "few", SMOKE)


def person(k: int, centre: str, rng: np.random.Generator) -> Person:
    outcome = float(k % 2)
    image = np.clip(rng.normal(-0.3 + 0.5 * outcome, 0.2, (32, 32)), -1, 1).astype(np.float32)
    slices = tuple(
        Picture(f"{centre}{k}-{j}", image, (image > 0).astype(np.float32), outcome, f"{centre}{k}")
        for j in range(3)
    )
    region = np.repeat(np.resize(image, (1, 48, 48, 24)), 4, axis=0).astype(np.float32)
    inputs = GrowthInputs(20.0 + k, 0.0, 0.7, 0.8, 60.0, 12.0, 14.0, 9.0, 0.1, 0.0, outcome, 0.0, 3.0, 0.0)
    facts = {"onset_to_ct_h": 3.0, "anticoagulation": 0.0}
    oracle = 0.2 + 0.6 * outcome
    return Person(
        f"{centre}{k}", centre, outcome, slices, region, inputs, 30.0 + k, 0.0, facts, oracle=oracle
    )


def test_yu_asks_every_arm_and_says_what_it_cannot_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    people = People(
        tuple(person(k, "A", rng) for k in range(8)), tuple(person(k, c, rng) for c in "DE" for k in range(6))
    )
    expansion = expansion_risks(people, tmp_path, SMOKE)
    risks = expansion.risks
    arms = {
        "as is",
        "synthesis 1:2",
        "conditional synthesis 1:2",
        "oversample 1:2",
        "weight 1:2",
        "focal 1:2",
    }
    assert {f"published, {arm}" for arm in arms} | {"ours, as is"} <= set(risks)
    of_classifiers = [c for c in expansion.curves if "generator" not in c.measure]
    assert len(of_classifiers) == 7 * 2 * 2, "two measures of seven arms in two folds"
    losses = {(c.name, c.measure) for c in expansion.curves} - {(c.name, c.measure) for c in of_classifiers}
    kinds = ("published", "conditional")
    assert losses == {
        (f"generator, seed 0, fold {k}", f"loss of the {kind} generator") for kind in kinds for k in (1, 2)
    }
    beyond = training_tables.beyond_table(people, risks)
    assert [row[1] for row in beyond.rows] == ["published, oversample 1:2"] * 2
    seeds = training_tables.seed_table(people, risks)
    assert all("one seed alone" in str(row[1]) for row in seeds.rows)
    judged = training_tables.synthetic_table([plain_cells(row) for row in expansion.synthesis])
    assert {str(row[0]).split(",")[0] for row in judged.rows} == {
        "published synthesis 1:2",
        "conditional synthesis 1:2",
    }
    assert risks["HEP"].reason  # its table of points is not built in
    assert "8 patients" in risks["ours, growth model fitted here"].reason
    areas = tables.auc_table(people, risks)
    oracle = next(r for r in areas.rows if r[0] == "oracle")
    assert oracle[areas.columns.index("AUC, D")].value == 1.0  # type: ignore[union-attr]
    pages = (areas, tables.reach_table(people, risks), tables.benefit_table(people, risks))
    assert all(cell is not None for table in pages for row in table.rows for cell in row)
    assert {row[0].split(",")[0] for row in tables.calibration_table(people, risks).rows} >= {  # type: ignore[union-attr]
        "published",
        "ours",
    }
    pictures = tables.roc_pictures(people, risks)
    assert [picture.name for picture in pictures] == ["roc-D", "roc-E"]
    assert pictures[0].png[:4] == b"\x89PNG"
    for table in (tables.operating_table(people, risks), tables.conformal_table(people, risks)):
        assert {row[0] for row in table.rows} >= {"published, as is, D", "ours, as is, E"}
    ledgers = list((tmp_path / "classifiers" / "generators").glob("*.csv"))
    assert ledgers
    assert "A" in ledgers[0].read_text(encoding="utf-8")
    assert expansion.pictures[0].png[:4] == b"\x89PNG"
    for name in ("published-asis-seed-0", "published-synthesis1to2-seed-0", "ours-asis-seed-0"):
        assert load_classifier(tmp_path / "models" / name).log_odds(
            people.external[0].ours() if "ours" in name else people.external[0].published()
        )
    assert load_generator(tmp_path / "models" / "generator-published-seed-0-fold-0")[1].kind == "published"


def test_one_class_alone_is_said_in_words_and_stops_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    people = People(
        tuple(person(2 * k, "A", rng) for k in range(4)), tuple(person(2 * k, "D", rng) for k in range(3))
    )
    arm = ClassifierArm("ours, as is", region_classifier(steps=1, features=16), published=False)
    ours = arm_risk(people, arm, tmp_path, SMOKE, seed=0)
    assert ours.reason == "0 patients expanded; 2 folds need at least 4 of each class"
    risks = {"ours, as is": ours, "oracle": MethodRisk({p.patient: p.oracle for p in people.external})}
    cells = {row[0]: row for row in tables.auc_table(people, risks).rows}
    assert cells["ours, as is"][2] == ours.reason
    assert "class" in str(cells["oracle"][2])
    assert tables.roc_pictures(people, risks) == []
    assert all(isinstance(row[2], str | float) for row in tables.reach_table(people, risks).rows)
    assert tables.conformal_table(people, risks).rows == (
        ("no method", "no classifier could be trained over folds"),
    )


def test_risks_are_averaged_over_seeds_and_stored() -> None:
    risks = [MethodRisk({"a": 0.2, "b": 0.6}, out_of_fold={"c": k / 4}) for k in (1, 3)]
    mean = mean_risk(risks)
    assert mean.risk == pytest.approx({"a": 0.2, "b": 0.6})
    assert mean.out_of_fold == {"c": 0.5}
    assert len(mean.by_seed) == 2
    failed = MethodRisk(reason="too few")
    assert mean_risk([risks[0], failed]).reason == "too few"
    again = risks_of(json.loads(json.dumps(risk_rows({"ours": mean, "HEP": failed}))))
    assert again["ours"].risk == mean.risk
    assert not again["HEP"].known


def test_people_are_cut_once_from_either_form_of_a_cohort(tmp_path: Path) -> None:
    cohort = write_expansion_cohort(tmp_path / "cohort")
    people = people_of(cohort, tmp_path / "people", SMOKE, size=32)
    assert [len(group) for group in (people.training, people.external)] == [1, 1]
    first = people.training[0]
    assert first.outcome == 1
    assert first.region.shape == (4, *REGION_SHAPE)
    assert first.slices[0].image.shape == (32, 32)
    again = people_of(cohort, tmp_path / "people", SMOKE, size=32)
    assert np.array_equal(again.training[0].region, first.region)
    known = known_patients(person_rows(people))
    assert (known.training[0].patient, known.centres) == (first.patient, ("D",))


def test_a_table_of_a_part_that_was_not_run_says_so_and_is_let_onto_the_page() -> None:
    nobody = People((), ())
    empty = (
        automatic.automatic_table(nobody, {}, {}),
        tables.conformal_table(nobody, {}),
        training_tables.beyond_table(nobody, {}),
        training_tables.seed_table(nobody, {}),
        training_tables.synthetic_table([]),
        centre_table([], [], {}),
    )
    page = StudyPage("yu2025", "Will it expand?", "Yu 2025", (), empty)
    assert all(len(table.rows) == 1 for table in page.tables)


def test_automatic_outlines_are_paired_with_the_drawn_ones() -> None:
    rng = np.random.default_rng(0)
    people = People((), tuple(person(k, "D", rng) for k in range(40)))
    drawn = {p.patient: p.outcome + rng.normal(0, 0.4) for p in people.external}
    spoilt = {patient: score + rng.normal(0, 1.5) for patient, score in drawn.items()}
    missed = {patient: score for patient, score in spoilt.items() if patient != "D0"}
    risks = {"published, as is": MethodRisk(drawn)}
    table = automatic.automatic_table(people, risks, {"published, as is": MethodRisk(missed)})
    row = dict(zip(table.columns, table.rows[0], strict=True))
    value, low, high = (
        float(part) for part in re.findall(r"[-+]\d\.\d+", str(row["drawn minus automatic, D"]))
    )
    assert 0 < low < value < high
    assert row["not outlined, D"] == "1 of 40"
    same = automatic.automatic_table(people, risks, risks)
    assert str(dict(zip(same.columns, same.rows[0], strict=True))["drawn minus automatic, D"]).startswith(
        "+0.000"
    )
    nothing = automatic.automatic_table(people, risks, {})
    assert "need the part `outlines`" in str(nothing.rows[0][1])


class Drawing:
    """A predictor whose ICH is a ball in the middle of the scan."""

    def __init__(self, radius_mm: float) -> None:
        self.radius_mm = radius_mm

    def __call__(self, scan: Scan) -> Drawing:
        self.volume = scan.volume
        return self

    def mask(self, name: str) -> Volume:
        shape, spacing = self.volume.shape, self.volume.spacing_mm
        at = np.stack([(np.indices(shape)[k] - shape[k] / 2) * spacing[k] for k in range(3)])
        return self.volume.with_array(np.linalg.norm(at, axis=0) < self.radius_mm)


def test_external_patients_are_cut_at_the_outlines_of_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = write_expansion_cohort(tmp_path / "cohort")
    external = people_of(cohort, tmp_path / "people", SMOKE, size=32).external
    rng = np.random.default_rng(0)
    people = People(tuple(person(k, "A", rng) for k in range(8)), external)
    published = next(iter(classifier_arms(people, SMOKE)))
    drawn = arm_risk(people, published, tmp_path, SMOKE, seed=0).risk
    outliner = tiny_model(tmp_path / "outliner")
    for radius_mm, again in ((12.0, True), (0.0, False)):
        drawing = Drawing(radius_mm)
        monkeypatch.setattr(automatic, "predictor_of", lambda folder, device, drawing=drawing: drawing)
        shutil.rmtree(tmp_path / "automatic", ignore_errors=True)
        risks = automatic.automatic_risks(people, cohort, outliner, tmp_path, SMOKE)
        if again:
            assert risks[published.name].risk == pytest.approx(drawn, abs=1e-3), (
                "the same outline, the same risk"
            )
            assert risks["published, oversample 1:2"].reason == "the arm could not be trained"
        else:
            assert "outlines nothing" in risks[published.name].reason


def write_expansion_cohort(root: Path) -> Cohort:
    """Write two patients with a ball that grows: one to train, one external."""
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    at = np.stack(np.meshgrid(*[np.arange(n) - n / 2 for n in (60, 60, 24)], indexing="ij"))
    away = np.linalg.norm(at * np.array([2.0, 2.0, 5.0]).reshape(3, 1, 1, 1), axis=0)
    people = [Patient("0", "A", "train"), Patient("1", "D", "external")]
    noise = np.random.default_rng(0).normal(0, 4, away.shape)
    for patient in people:
        tissue = np.select([away < 12, away < 50, away < 55], [65, 30, 900], -1000)
        ct = Volume((tissue + noise).astype(np.int16), affine)
        bids.write_exam(root, patient.id, "ct", ct)
        for label, radius in (("haematoma", 12), ("expansion", 20)):
            mask = ct.with_array((away < radius).astype(np.uint8))
            bids.write_derivative(root, patient.id, mask, pipeline="manual", label=label, kind="dseg")
    bids.write_cohort(people, root, name="two")
    return bids.read_cohort(root)


def test_p_values_are_adjusted_over_the_methods_of_a_centre() -> None:
    rng = np.random.default_rng(1)
    people = People((), tuple(person(k, "D", rng) for k in range(40)))
    signal = {p.patient: p.outcome + rng.normal(0, 0.8) for p in people.external}
    noise = {f"noise {k}": MethodRisk({p: rng.normal() for p in signal}) for k in range(4)}
    few = {"published, as is": MethodRisk(signal), "noise 0": noise["noise 0"]}
    many = {"published, as is": MethodRisk(signal), **noise}

    def adjusted(risks: dict[str, MethodRisk]) -> object:
        return next(r[4] for r in tables.auc_table(people, risks).rows if r[0] == "noise 0")

    at = {"few": adjusted(few), "many": adjusted(many)}
    as_number = {n: float(str(p).replace("< ", "")) for n, p in at.items()}
    assert as_number["few"] < as_number["many"] or as_number["many"] == 0.001


def test_outlines_are_compared_with_the_twin() -> None:
    rows = [
        {"U-Mamba dice": 0.9 + k / 100, "plain twin dice": 0.85 + k / 100, "U-Mamba iou": 0.8}
        | {"U-Mamba error_ml": 0.5, "plain twin error_ml": 0.1, "U-Mamba seconds": 2.0 + k}
        for k in range(5)
    ]
    table = outlines.outline_table(rows, {outlines.NNUNET_ROW: "it was not asked for"}, {"U-Mamba": 1.23456})
    line = next(r for r in table.rows if r[0] == "U-Mamba")
    gap = line[table.columns.index("Dice minus twin")]
    assert isinstance(gap, Estimate)
    assert gap.value == pytest.approx(0.05)
    assert line[table.columns.index("s a scan")] == "4 (3 to 5)"
    assert line[table.columns.index("GiB")] == 1.23
    other = next(r for r in table.rows if r[0] == "plain twin")
    assert other[table.columns.index("GiB")] == "not measured"
    assert "it was not asked for" in next(r for r in table.rows if r[0] == outlines.NNUNET_ROW)


def test_voxels_of_a_network_take_more_of_a_small_outline() -> None:
    """The row without a network is what its grid leaves: more of a ball of 40 mm than of one of 12 mm."""
    balls = [sphere(radius_mm=radius, spacing_mm=(0.5, 0.5, 5.0)) for radius in (6.0, 20.0)]
    small, large = (dice(ball, through_grid(ball, (3.0, 3.0, 5.0))) for ball in balls)
    assert 0.9 < large < 1
    assert small < large
    assert dice(balls[0], through_grid(balls[0], (0.5, 0.5, 5.0))) == 1
    limit = f"{outlines.GRID_LIMIT}3 x 3 x 5 mm"
    rows = [{f"{limit} dice": 0.9, f"{limit} iou": 0.8, f"{limit} error_ml": -1.0} for _ in range(4)]
    line = next(r for r in outlines.outline_table(rows, {}, {}).rows if r[0] == limit)
    assert [str(cell) for cell in line[-2:]] == ["no network", "no network"]


def test_without_an_external_patient_no_memory_is_measured() -> None:
    labels = StudyLabels(Cohort(()), outlines.OUTLINE_PIPELINES, {}, 0)
    model = cast(Model, SimpleNamespace(folder=Path("nowhere")))
    assert outlines.outlining_memory(labels, {"U-Mamba": model}, SMOKE) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["abramova2024", "yu2025"])
def test_a_smoke_run_goes_through_every_stage(name: str, tmp_path: Path) -> None:
    from ichnos.cli.main import run

    assert run(["study", name, "--smoke", "-o", str(tmp_path / name), "--quiet"]) == 0
    text = (tmp_path / name / "study.html").read_text(encoding="utf-8")
    assert "smoke run" in text
    assert (tmp_path / name / "studies.json").is_file()
