"""The report is one file that needs nothing else and says what it is for."""

from __future__ import annotations

import re

from builders.readable_head import head, model, reading, rule
from ichnos.inference import Predictor
from ichnos.reading import read_scan
from ichnos.report import reading_page
from ichnos.verdict import Reason, Verdict


def test_the_page_stands_alone_and_shows_every_finding() -> None:
    result = reading()
    page = reading_page(result)
    assert len(page) < 15e6
    without_viewer = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"(src|href)=[\"']?https?:", without_viewer)
    assert "Research use only" in page
    for finding in result.record.findings:
        assert finding.sentence in page
    assert without_viewer.count("data:image/png;base64,") == 1


def test_a_refusal_is_shown_as_a_refusal() -> None:
    scan = head().judged(Verdict((Reason("not_head", "refuse", "this is a chest, not a head"),)))
    page = reading_page(read_scan(scan, Predictor(model(), backend=rule)))
    assert "was not read: this is a chest" in page
    assert "mL" not in page
