"""Each aim of the default weights has a line: the value, what was asked, and whether it was reached."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ichnos.learning.virtual.stress.aims import aims_table
from ichnos.learning.virtual.stress.tables import stress_tables
from ichnos.learning.virtual.stress.trial import STRESSED, _swapped
from ichnos.reading.masks import Masks
from ichnos.volume import Volume

Row = dict[str, Any]


def _row(number: int, *, bled: bool = True, factor: float = 1.0, dice: float = 0.95) -> Row:
    true_ml = 12.0 + number

    def target(name: str) -> Row:
        there = bled or name not in ("ich", "ivh", "phe")
        true = true_ml if there else 0.0
        return {"dice": dice, "ml": factor * true, "true_ml": true, "interval_ml": None, "inside": None}

    return {
        "number": number,
        "scanner": "GE",
        "thickness_mm": 5.0,
        "bled": bled,
        "blood_ml": factor * true_ml if bled else 0.0,
        "targets": {name: target(name) for name in STRESSED},
        "tracts": [],
        "tracts_swapped": False,
        "site": ("putamen" if bled else "", "left basal ganglia" if bled else None),
        "shift_mm": (float(number), float(number) * factor),
    }


def _rows(**changes: Any) -> list[Row]:
    return [_row(number, bled=number % 3 != 0, **changes) for number in range(9)]


def _lines(rows: list[Row]) -> dict[str, Row]:
    return {row["aim"]: row for row in stress_tables(rows)["aims"]}


def test_perfect_readings_reach_every_aim() -> None:
    lines = _lines(_rows(dice=1.0))
    assert {line["reached"] for line in lines.values()} == {"yes"}
    assert lines["ich, median Dice"] == {
        "aim": "ich, median Dice",
        "asked": ">= 0.93",
        "value": 1.0,
        "reached": "yes",
        "scans": 6,
    }
    for aim in ("no blood, none read, %", "no oedema, 0.5 mL or less read, %", "tracts on the wrong side"):
        assert aim in lines


def test_a_volume_that_is_a_fifth_too_small_misses_what_asks_for_volumes() -> None:
    lines = _lines(_rows(factor=0.8))
    assert lines["ich from 10 mL, mean volume error, %"]["value"] == pytest.approx(-20.0)
    missed = {aim for aim, line in lines.items() if line["reached"] == "no"}
    assert {"ich from 10 mL, mean volume error, %", "leukoaraiosis, CCC of the volume"} <= missed
    assert "ich, median absolute volume error, mL" in missed
    assert "ich, median Dice" not in missed


def test_one_invented_bleed_in_three_heads_misses_the_aim() -> None:
    rows = _rows()
    rows[0]["blood_ml"] = 0.2
    line = _lines(rows)["no blood, none read, %"]
    assert (line["value"], line["scans"], line["reached"]) == (pytest.approx(66.667), 3, "no")


def test_intervals_may_hold_neither_too_rarely_nor_too_often() -> None:
    def held(share: float) -> str:
        rows = [_row(number) for number in range(10)]
        for number, row in enumerate(rows):
            row["targets"]["ich"]["inside"] = number < 10 * share
        return str(_lines(rows)["ich, true volume within the interval of 80 %, %"]["reached"])

    assert [held(share) for share in (0.5, 0.8, 1.0)] == ["no", "yes", "no"]


def test_a_shift_that_is_never_followed_is_a_miss_and_too_few_say_nothing() -> None:
    rows = _rows()
    for number, row in enumerate(rows):
        row["shift_mm"] = (float(number), 0.1 * (number % 2))
    lines = _lines(rows)
    assert lines["midline shift, correlation with the truth"]["reached"] == "no"
    assert lines["midline shift, mean absolute error, mm"]["reached"] == "no"
    assert not any(aim.startswith("midline") for aim in _lines(rows[:4]))
    for row in rows:
        row["shift_mm"] = (1.0, None)
    assert not any(aim.startswith("midline") for aim in _lines(rows))


def test_ventricles_are_judged_by_what_another_zero_does_to_them() -> None:
    rows = _rows()
    steady = {"5": 10.0, "0": 10.0}
    shifted = {"0": 10.0, "8": 10.7}
    rows[1]["changes"] = {
        key: {"ich": steady, "ventricles": shifted if key == "offsets" else steady}
        for key in ("offsets", "thickness", "tilts")
    }
    line = _lines(rows)["ventricles, HU -8 to +8: median greatest change, %"]
    assert (line["asked"], line["value"], line["reached"]) == ("<= 5", pytest.approx(7.0), "no")


def test_what_cannot_be_computed_is_neither_reached_nor_missed() -> None:
    rows = _rows()
    for row in rows:
        row["targets"]["leukoaraiosis"] |= {"ml": 3.0, "true_ml": 3.0}
    assert _lines(rows)["leukoaraiosis, CCC of the volume"]["reached"] == "not measured"
    assert aims_table({"accuracy": [], "sites": [], "robustness": []}, []) == []


def test_a_tract_drawn_on_the_other_side_is_seen() -> None:
    left = Volume(np.indices((8, 4, 4))[0] < 3, np.eye(4))
    right = left.map_array(lambda a: a[::-1])
    nothing = left.map_array(np.zeros_like)
    truth = {"tract_left": left, "tract_right": right}

    def drawn(on_the_left: Volume, on_the_right: Volume) -> Masks:
        empty = dict.fromkeys(("ich", "ivh", "phe", "leukoaraiosis", "brain", "ventricles"), nothing)
        return Masks(**empty, tract_left=on_the_left, tract_right=on_the_right, known=frozenset())

    assert not _swapped(drawn(left, right), truth)
    assert _swapped(drawn(right, left), truth)
    assert not _swapped(drawn(nothing, nothing), truth)
