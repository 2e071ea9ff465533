"""Volumes come from the true masks where a cohort's table has none, in the validation split too."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.growing_cohort import write_growing_cohort
from evidence.made_cohort import write_predictions
from ichnos.clinical.expansion import DEFINITIONS
from ichnos.evidence.pack.cases import measure_cases
from ichnos.evidence.pack.evaluation import Evaluation, gather
from ichnos.evidence.pack.pack import write_evidence
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.formats import bids

PLAN = EvidencePlan(bootstrap_repeats=100, vector_figures=False)


@pytest.fixture(scope="module")
def outlined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of outlines without volumes in its table; every second haematoma grows."""
    root = tmp_path_factory.mktemp("outlined")
    write_growing_cohort(root / "cohort", splits=("validation", "validation", "test", "test", "test", "test"))
    rows = [{"patient": str(k), "expansion_probability": 0.2 + 0.1 * k} for k in range(6)]
    write_predictions(root / "predictions", rows)
    return root


def gathered(root: Path, plan: EvidencePlan = PLAN) -> Evaluation:
    return gather(root / "predictions", [bids.read_cohort(root / "cohort")], plan)


def test_both_splits_are_measured_without_any_prediction_of_theirs(outlined: Path, tmp_path: Path) -> None:
    evaluation = gathered(outlined)
    for cases, name, count in ((evaluation.cases, "evaluate", 4), (evaluation.tuning, "tune", 2)):
        rows = measure_cases(cases, PLAN, tmp_path, name=name, progress=False).rows
        assert len(rows) == count
        grown = {row["id"]: row["true_ich_followup_ml"] / row["true_ich_ml"] for row in rows}
        definition = DEFINITIONS["33%-or-6ml"]
        grew = [float(definition(10.0, 10.0 * ratio, 0.0, 0.0)) for _, ratio in sorted(grown.items())]
        assert grew == [0.0, 1.0] * (count // 2), "every second one has grown"


def test_a_table_that_holds_the_volumes_is_believed(outlined: Path, tmp_path: Path) -> None:
    cohort = bids.read_cohort(outlined / "cohort")
    told = {"ich_ml": 11.0, "ich_followup_ml": 12.0, "ivh_ml": 0.0, "ivh_followup_ml": 0.0, "phe_ml": 1.0}
    for patient in cohort:
        patient.facts.update(told)  # type: ignore[attr-defined]
    evaluation = gather(outlined / "predictions", [cohort], PLAN)
    assert not {"haematoma ICH", "expansion ICH"} & set(evaluation.cases[0].facts_ml)
    assert len(measure_cases(evaluation.tuning, PLAN, tmp_path, name="tune", progress=False).rows) == 0


def test_expansion_is_judged_from_outlines_alone(outlined: Path, tmp_path: Path) -> None:
    pack = write_evidence(
        outlined / "predictions",
        [bids.read_cohort(outlined / "cohort")],
        tmp_path / "out",
        plan=PLAN,
        progress=False,
    )
    area = pack.numbers()["sections"]["expansion"]["auc"]
    assert (area["n"], area["events"]) == (4, 2)
    assert area["value"] == 0.75, "of the pairs 2-3, 2-5, 4-3, 4-5 three are in order"
