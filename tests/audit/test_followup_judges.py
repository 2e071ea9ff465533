"""Who judged a follow-up is known, and people's outlines are added beside what the model said of itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from builders.audited import MODEL, box
from builders.audited_site import OUTLINED_ML, Site, build_site, outline, transferred
from ichnos.audit import lot
from ichnos.audit.followups import outlined_exams
from ichnos.audit.run import audit_cohort
from ichnos.audit.score import Score, scores_of_text, scores_text, standing
from ichnos.volume import volume_ml


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    found = build_site(tmp_path)
    transferred(found, monkeypatch)
    return found


def judged(site: Site, out: Path, quantity: str = "followup_volume") -> dict[str, Score]:
    """Audit and return who judged a quantity."""
    done = audit_cohort(site.root, site.readings, out)
    assert not done.failures
    return {score.judge: score for score in done.scores if score.quantity == quantity}


def test_without_an_outline_the_model_judges_itself_and_other_exams_do_not(
    site: Site, tmp_path: Path
) -> None:
    done = audit_cohort(site.root, site.readings, tmp_path / "out")
    assert {score.judge for score in done.scores if score.partner == "followup"} == {"model"}
    assert {score.judge for score in done.scores if score.partner == "flair"} == {"exam"}


def test_an_outline_that_comes_later_adds_a_judgement_and_changes_none(site: Site, tmp_path: Path) -> None:
    before = audit_cohort(site.root, site.readings, tmp_path / "out").scores
    outline(site, "ct", "followup")
    done = audit_cohort(site.root, site.readings, tmp_path / "out")
    assert set(before) < set(done.scores)
    by = {score.judge: score for score in done.scores if score.quantity == "followup_volume"}
    assert (by["model"].truth, by["person"].truth) == (7.5, OUTLINED_ML)
    assert (by["model"].held, by["person"].held) == (True, False)
    counted = [score for score in standing(done.scores) if score.quantity == "followup_volume"]
    assert counted == [by["person"]]
    again = audit_cohort(site.root, site.readings, tmp_path / "out")
    assert (again.done_now, again.scores) == (0, done.scores)


def test_a_run_killed_between_both_judgements_resumes(site: Site, tmp_path: Path) -> None:
    outline(site, "ct", "followup")
    first = audit_cohort(site.root, site.readings, tmp_path / "out").scores
    ledger = tmp_path / "out" / ".ichnos" / "audit" / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:-1]))  # the last judgement was not noted
    again = audit_cohort(site.root, site.readings, tmp_path / "out")
    assert again.done_now == 1
    assert set(again.scores) == set(first)


def test_where_both_were_outlined_from_the_start_the_model_is_asked_by_its_own_masks(
    site: Site, tmp_path: Path
) -> None:
    outline(site, "ct", "followup")
    volumes = judged(site, tmp_path / "out")
    assert volumes["person"].truth == OUTLINED_ML
    assert volumes["model"].truth == pytest.approx(volume_ml(box(site.ct, 12)), rel=1e-3)  # as was read
    growth = judged(site, tmp_path / "out", "growth_dice")
    assert set(growth) == {"person"}  # the map that transfer wrote is not the model's


@pytest.mark.parametrize("exam", ["ct", "followup"])
def test_one_outline_alone_leaves_the_pair_to_the_model(site: Site, tmp_path: Path, exam: str) -> None:
    outline(site, exam)
    assert outlined_exams(site.root, "A1") == (exam,)
    volumes = judged(site, tmp_path / "out")
    assert set(volumes) == {"model"}
    assert volumes["model"].truth == pytest.approx(volume_ml(box(site.ct, 12)), rel=1e-3)


def test_a_follow_up_that_the_model_never_read_is_judged_by_people_alone(site: Site, tmp_path: Path) -> None:
    outline(site, "ct", "followup")
    (site.readings / "later" / "reading.json").unlink()
    assert set(judged(site, tmp_path / "out")) == {"person"}


def test_the_lot_is_written_until_it_is_outlined(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wanted() -> list[dict[str, str]]:
        audit_cohort(site.root, site.readings, tmp_path / "out")
        with (tmp_path / "out" / "to_outline.csv").open(newline="") as stream:
            return list(csv.DictReader(stream))

    monkeypatch.setattr(lot, "in_lot", lambda pair: True)
    assert wanted() == [{"patient": "A1", "exams": "ct followup", "month": "2026-03"}]
    outline(site, "ct")
    assert wanted()[0]["exams"] == "followup"
    outline(site, "followup")
    assert wanted() == []


# ---- what 0.1.0 wrote


def test_a_ledger_without_judges_is_read_and_goes_on(site: Site, tmp_path: Path) -> None:
    first = audit_cohort(site.root, site.readings, tmp_path / "out").scores
    ledger = tmp_path / "out" / ".ichnos" / "audit" / "ledger.jsonl"
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    for record in records:
        for row in record.get("row", {}).get("scores", ()):
            del row["judge"]
    ledger.write_text("".join(json.dumps(record) + "\n" for record in records))
    again = audit_cohort(site.root, site.readings, tmp_path / "out")
    assert (again.done_now, again.scores) == (0, first)


def test_a_table_without_judges_takes_a_follow_up_for_the_model_s_own(site: Site, tmp_path: Path) -> None:
    scores = audit_cohort(site.root, site.readings, tmp_path / "out").scores
    rows = list(csv.DictReader(scores_text(scores).splitlines()))
    old = [name for name in rows[0] if name != "judge"]
    text = "\n".join([",".join(old), *(",".join(row[name] for name in old) for row in rows)])
    assert scores_of_text(text) == list(scores)
    assert {score.model for score in scores} == {MODEL}
