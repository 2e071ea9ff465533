"""The report is one file that needs nothing else, says what it is for, and keeps forecasts from findings."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from builders.readable_head import head, model, reading, rule
from ichnos.inference import Predictor
from ichnos.reading import Finding, Measure, Reading, Record, read_scan, refused
from ichnos.report.page import largest_slice_centre_mm, reading_page
from ichnos.verdict import Reason, Verdict
from ichnos.volume import Volume


@pytest.fixture(scope="module")
def result() -> Reading:
    return reading()


@pytest.fixture(scope="module")
def page(result: Reading) -> str:
    return reading_page(result)


def _text(page: str) -> str:
    """Return the page without scripts, styles and pictures."""
    for tag in ("script", "style"):
        page = re.sub(rf"<{tag}>.*?</{tag}>", "", page, flags=re.DOTALL)
    return re.sub(r"data:image/png;base64,[^\"]*", "", page)


def test_the_page_stands_alone_and_shows_every_finding(result: Reading, page: str) -> None:
    assert len(page) < 15e6
    without_scripts = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=[\"']?https?:", without_scripts)
    for finding in result.record.findings:
        assert finding.sentence in page
    assert without_scripts.count("data:image/png;base64,") > 5


def test_the_banner_is_the_first_thing_and_names_the_training(result: Reading, page: str) -> None:
    assert _text(page).index('class="banner"') < _text(page).index("<main>")
    simulated = result.record.model_copy(
        update={"limits": ("Trained on simulated patients only; it has never seen a real scan.",)}
    )
    shown = _text(reading_page(replace(result, record=simulated, scan=None, masks=None)))
    assert '<header class="banner">Trained on simulated patients only. Research use only.' in shown


def test_forecasts_stand_apart_from_the_findings(result: Reading, page: str) -> None:
    text = _text(page)
    apart = text.index("<h2>Forecasts</h2>")
    for finding in result.record.findings:
        at = text.index(finding.sentence)
        assert (at > apart) == (finding.target in ("expansion", "outcome"))
    assert "A forecast is not a finding" in text


def test_missing_facts_are_named_beside_the_forecasts(page: str) -> None:
    assert "Not given: age, time from onset to CT, anticoagulation, Glasgow Coma Scale." in _text(page)


def test_a_measure_by_definition_has_no_note(page: str) -> None:
    assert _text(page).count("measured from the mask") == 1, "once, at the foot of the tables"


def test_every_still_slice_has_both_sides_and_a_height(result: Reading) -> None:
    from ichnos.report.pictures import slice_pictures

    assert result.scan is not None
    assert result.masks is not None
    pictures = slice_pictures(result.scan.volume.reoriented("RAS"), result.masks.named())
    heights = [picture.height_mm for picture in pictures]
    assert heights == sorted(heights)
    assert len(set(heights)) == len(heights)
    assert any(picture.shows_blood for picture in pictures)
    assert all(picture.png.startswith(b"\x89PNG") for picture in pictures)


def test_the_viewer_opens_in_the_haematoma_with_the_forecast_off(result: Reading, page: str) -> None:
    boxes = re.findall(r'<input type="checkbox"( checked)? data-mask="(\w+)">', page)
    assert {name for checked, name in boxes if not checked} <= {"expansion"}
    assert ("", "expansion") in boxes or result.finding("expansion").status != "read"
    assert result.masks is not None
    centre = largest_slice_centre_mm(result.masks.ich)
    (shown,) = re.findall(r"mm2frac\(\[([-0-9., ]+)\]\)", page)
    assert [float(v) for v in shown.split(",")] == pytest.approx(centre, abs=0.06)
    at = tuple(round(v) for v in result.masks.ich.index(centre))
    assert result.masks.ich.array[at]


def test_a_refusal_is_shown_as_a_refusal_with_its_scan() -> None:
    scan = head().judged(Verdict((Reason("not_head", "refuse", "this is a chest, not a head"),)))
    page = reading_page(read_scan(scan, Predictor(model(), backend=rule)))
    text = _text(page)
    assert "was not read: this is a chest" in text
    assert "No conclusion about this patient" in text
    assert "mL" not in text
    assert page.count('<img alt="axial slice') == 12
    assert "<h2>Forecasts</h2>" not in text


def test_a_scan_that_could_not_be_opened_has_a_page_without_pictures() -> None:
    page = reading_page(refused("made", "the file is empty"))
    assert "the file is empty" in page
    assert "data:image/png" not in page
    assert 'id="viewer"' not in page


def test_a_scan_of_nothing_but_air_has_slices_and_no_viewer() -> None:
    air = Volume(np.full((20, 20, 20), np.nan, np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    scan = replace(head(), volume=air)
    page = reading_page(refused("made", "the values are not finite", scan=scan))
    assert "data:image/png" in page
    assert 'id="viewer"' not in page


def test_text_from_outside_is_escaped() -> None:
    sentence = "<script>alert(1)</script> & more"
    measure = Measure(name="x", label="<b>bold</b>", value=1.0, unit="mL", reason="<i>")
    finding = Finding(target="haematoma", status="read", sentence=sentence, measures=(measure,))
    record = Record(name="<img>", status="read", findings=(finding,))
    page = reading_page(Reading(record, None, None))
    assert "alert(1)</script>" not in page
    assert "&lt;b&gt;bold" in page
    assert "<img>" not in page
