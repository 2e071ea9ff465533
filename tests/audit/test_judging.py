"""Stored readings are held against transferred partner exams; every score has a known answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.audited import MODEL, box, grid, measure, store_reading
from builders.audited_site import Site, build_site, transferred
from ichnos.audit.readings import people_read, readings_by_scan, short_name
from ichnos.audit.run import audit_cohort
from ichnos.errors import InputRefused
from ichnos.formats import bids


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return build_site(tmp_path)


def test_readings_are_found_by_their_scan_whatever_their_folder_is_called(site: Site) -> None:
    (people,) = people_read(bids.read_cohort(site.root).patients, readings_by_scan(site.readings)).values()
    assert people[0].reading.folder.name == "first"
    assert people[0].followup is not None
    assert people[0].followup.folder.name == "later"


def test_each_quantity_is_scored_as_it_was_read(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = transferred(site, monkeypatch)
    done = audit_cohort(site.root, site.readings, tmp_path / "out")
    by_name = {score.quantity: score for score in done.scores}
    volume = by_name["followup_volume"]
    assert (volume.predicted, volume.truth, volume.held) == (6.0, 7.5, True)
    assert (volume.scanner, volume.centre, volume.month, volume.model) == ("X", "north", "2026-03", MODEL)
    assert by_name["expansion_probability"].loss == pytest.approx(0.36)
    assert by_name["leukoaraiosis_volume"].held is False
    assert by_name["leukoaraiosis_dice"].predicted == 1.0
    assert by_name["growth_dice"].predicted == pytest.approx(2 * 2 / (2 + 4))  # two of four slabs of growth
    assert calls[0]["given"] == ("manual", f"read{short_name(MODEL)[:8]}")


def test_blood_that_was_read_is_given_to_transfer_but_is_no_label(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transferred(site, monkeypatch)
    audit_cohort(site.root, site.readings, tmp_path / "out")
    assert bids.find_target(site.root, "A1", "haematoma") is None
    assert bids.find_target(site.root, "A1", "haematoma", (f"read{short_name(MODEL)[:8]}",)) is not None


def test_a_second_run_counts_nothing_twice(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transferred(site, monkeypatch)
    first = audit_cohort(site.root, site.readings, tmp_path / "out")
    table = first.table.read_bytes()
    again = audit_cohort(site.root, site.readings, tmp_path / "out")
    assert (again.done_now, again.table.read_bytes()) == (0, table)


def test_a_torn_ledger_line_is_done_again_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transferred(site, monkeypatch)
    first = audit_cohort(site.root, site.readings, tmp_path / "out")
    ledger = tmp_path / "out" / ".ichnos" / "audit" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-40])  # killed while the last line was written
    again = audit_cohort(site.root, site.readings, tmp_path / "out")
    assert sorted(again.scores, key=lambda s: s.key) == sorted(first.scores, key=lambda s: s.key)


def test_a_refused_pair_gives_no_score_and_is_named(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transferred(site, monkeypatch, expansion="refuse")
    done = audit_cohort(site.root, site.readings, tmp_path / "out")
    assert not [s for s in done.scores if s.partner == "followup"]
    assert done.refused == (("A1-expansion", "doubt"),)
    transferred(site, monkeypatch)  # a person overrules it
    assert [
        s for s in audit_cohort(site.root, site.readings, tmp_path / "out").scores if s.partner == "followup"
    ]
    transferred(site, monkeypatch, expansion="refuse")  # and takes that back
    done = audit_cohort(site.root, site.readings, tmp_path / "out")
    assert not [s for s in done.scores if s.partner == "followup"]


def test_another_model_adds_rows_and_replaces_none(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transferred(site, monkeypatch)
    before = audit_cohort(site.root, site.readings, tmp_path / "out").scores
    store_reading(
        site.readings / "new", site.ct, (measure("followup_volume", 7.0, 6.0, 8.0),), model="cd" * 32
    )
    after = audit_cohort(site.root, site.readings, tmp_path / "out").scores
    assert set(before) < set(after)
    assert {score.model for score in after} == {MODEL, "cd" * 32}


def test_the_injury_of_a_transferred_tract_is_graded_with_the_blood_that_was_read(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bids.write_exam(site.root, "A1", "diffusion", grid(50.0))
    labels = np.where(box(site.ct, 8).array > 0, 1, 0).astype(np.uint8)
    transferred(site, monkeypatch)
    home = tmp_path / "out" / "transfer" / short_name(MODEL)
    bids.write_derivative(
        home, "A1", site.ct.with_array(labels), pipeline="transfer", label="tract", kind="dseg"
    )
    scores = {s.quantity: s for s in audit_cohort(site.root, site.readings, tmp_path / "out").scores}
    assert scores["tract_left_dice"].predicted == 1.0
    assert "injury_left" not in scores  # this reading outlined no oedema


def test_a_persons_outline_judges_the_haematoma(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transferred(site, monkeypatch)
    bids.write_derivative(site.root, "A1", box(site.ct, 8), pipeline="manual", label="haematoma", kind="dseg")
    scores = {s.quantity: s for s in audit_cohort(site.root, site.readings, tmp_path / "out").scores}
    assert scores["ich_dice"].predicted == 1.0
    assert scores["ich_volume"].partner == "reader"


def test_nobody_read_is_refused(site: Site, tmp_path: Path) -> None:
    (other := tmp_path / "elsewhere").mkdir()
    store_reading(other / "x", grid(12.0), (measure("ich_volume", 1.0, 0.5, 2.0),))
    with pytest.raises(InputRefused, match="none of the 1 patients"):
        audit_cohort(site.root, other, tmp_path / "out")
    with pytest.raises(InputRefused, match="holds no reading"):
        audit_cohort(site.root, tmp_path / "nothing", tmp_path / "out")
