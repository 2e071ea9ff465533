"""The page of a study says the paper's number, ours, and in words why a number is missing; nothing on it
comes from elsewhere.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from ichnos.cli.main import run
from ichnos.evidence.metrics.agreement import concordance
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.tables import Cell
from ichnos.studies.shared.page import PngPicture, StudyPage, cell, comparison, write_page

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c626001000000ffff03000006000557bfabd40000000049454e44ae426082"
)


def page(**changes: Cell) -> StudyPage:
    row: dict[str, Cell] = {
        "measure": "Dice",
        "paper": 0.527,
        "ours": Estimate(0.61, 0.5, 0.7, 12),
        "limit": "the cohort holds no truth",
    }
    table = comparison(
        "agreement", "Agreement & <overlap>", [row | changes, {"measure": "r", "paper": 0.953}]
    )
    picture = PngPicture("worst", "The worst case", PIXEL)
    return StudyPage(
        "ryu2025",
        "A study",
        "Ryu 2025",
        ("One paragraph.",),
        (table,),
        (picture,),
        ("Virtual patients.",),
        {"smoke": 1, "seed": 3},
    )


def test_the_page_holds_everything_and_links_nowhere(tmp_path: Path) -> None:
    html = write_page(page(), tmp_path).read_text(encoding="utf-8")
    for text in (
        "0.610 (0.500–0.700)",
        "0.527",
        "the cohort holds no truth",
        "Agreement &amp; &lt;overlap&gt;",
        "Virtual patients.",
        "Smoke run.",
    ):
        assert text in html
    assert html.count("data:image/png;base64,") == 1
    assert not re.search(r"(src|href)=\"(?!data:)", html)


def test_json_and_csv_hold_the_numbers(tmp_path: Path) -> None:
    write_page(page(), tmp_path)
    told = json.loads((tmp_path / "studies.json").read_text(encoding="utf-8"))
    row = told["tables"][0]["rows"][0]
    assert row["ours"] == {"value": 0.61, "low": 0.5, "high": 0.7, "n": 12, "level": 0.95}
    assert row["limit"] == "the cohort holds no truth"
    rows = list(csv.DictReader((tmp_path / "agreement.csv").read_text(encoding="utf-8").splitlines()))
    assert float(rows[0]["ours low"]) == 0.5
    assert float(rows[1]["paper"]) == 0.953


@pytest.mark.parametrize("nothing", [None, float("nan"), "", " todo ", "–", Estimate(float("nan"), 0, 1, 3)])
def test_a_cell_that_says_nothing_is_refused(nothing: Cell) -> None:
    with pytest.raises(ValueError, match=r"'ours' is .* and does not say why"):
        page(ours=nothing)


def test_a_number_that_cannot_be_computed_becomes_the_reason() -> None:
    assert (
        cell(lambda: concordance([1.0, 2.0], [1.0, 2.0]))
        == "the first measurement holds 2 value(s); at least 3 are needed"
    )
    assert (
        cell(lambda: concordance([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]))
        == "undefined from 3 case(s): the data do not determine it"
    )
    assert cell(lambda: 0.5) == 0.5


def test_the_command_asks_whose_patients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "ryu2025", "-o", str(tmp_path)]) == 3
    assert "--cohort DIR, --simulate FRACTION and --smoke" in capsys.readouterr().err
    assert run(["study", "unheard", "--smoke", "-o", str(tmp_path)]) == 3
    assert "give one of abramova2024, murray2024, ryu2025, yu2025" in capsys.readouterr().err
