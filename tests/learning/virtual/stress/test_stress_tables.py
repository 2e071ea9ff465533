"""Tables of a stress test on rows whose every number is known, and changes of a made scan."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichnos.learning.virtual.stress.changes import CLOTS_ML, SHIFTS_HU, shifted, with_clot
from ichnos.learning.virtual.stress.tables import (
    deviation_percent,
    stress_markdown,
    stress_measures,
    stress_tables,
)
from ichnos.learning.virtual.stress.trial import STRESSED, TILTS_DEG
from ichnos.scan import Acquisition, Scan
from ichnos.volume import Volume, volume_ml

Row = dict[str, Any]


def _target(dice: float = 0.8, ml: float = 10.0, true_ml: float = 12.0, inside: bool | None = None) -> Row:
    return {"dice": dice, "ml": ml, "true_ml": true_ml, "interval_ml": None, "inside": inside}


def _row(number: int, *, bled: bool = True, **targets: Row) -> Row:
    absent = _target(dice=0.0, ml=0.0, true_ml=0.0)
    return {
        "number": number,
        "head": "mni152",
        "scanner": "GE" if number % 2 else "SIEMENS",
        "thickness_mm": 5.0,
        "bled": bled,
        "blood_ml": 10.0 if bled else 0.0,
        "targets": {name: targets.get(name, absent) for name in STRESSED},
        "tracts": [],
        "site": ("putamen" if bled else "", "left basal ganglia" if bled else None),
    }


def _bled(*dices: float) -> list[Row]:
    return [_row(number, ich=_target(dice=dice)) for number, dice in enumerate(dices)]


def _with_clean(rows: list[Row], *blood_ml: float) -> list[Row]:
    clean = [_row(100 + k, bled=False) | {"blood_ml": ml} for k, ml in enumerate(blood_ml)]
    return [*rows, *clean]


def _line(rows: list[Row], key: str, value: Any) -> Row:
    return next(row for row in rows if row[key] == value)


def test_accuracy_counts_the_scans_that_hold_a_target() -> None:
    tables = stress_tables(_with_clean(_bled(0.6, 0.8, 0.9), 0.0))
    ich = _line(tables["accuracy"], "target", "ich")
    assert ich["scans"] == 3
    assert ich["median Dice"] == 0.8
    assert ich["mean Dice"] == pytest.approx(0.767)
    assert ich["mean volume error mL"] == -2.0
    assert ich["median absolute volume error mL"] == 2.0
    assert _line(tables["accuracy"], "target", "ivh") == {"target": "ivh", "scans": 0}


def test_intervals_are_counted_where_there_are_any() -> None:
    rows = [_row(k, ich=_target(inside=inside)) for k, inside in enumerate((True, False, True, None))]
    ich = _line(stress_tables(rows)["accuracy"], "target", "ich")
    assert ich["true volume within the interval"] == "2 of 3"
    none = _line(stress_tables(_bled(0.5))["accuracy"], "target", "ich")
    assert none["true volume within the interval"] == "no interval"


def test_sites_are_right_whatever_their_side() -> None:
    rows = _bled(0.8, 0.8, 0.8)
    rows[1]["site"] = ("putamen", "right lobe")
    rows[2]["site"] = ("putamen", None)
    (putamen,) = stress_tables(rows)["sites"]
    assert putamen == {"site": "putamen", "read": 2, "right": 1, "otherwise": "right lobe"}


def test_scans_are_grouped_by_scanner() -> None:
    groups = stress_tables(_bled(0.5, 0.7, 0.9))["scanner"]
    assert [(group["scanner"], group["scans"], group["ich"]) for group in groups] == [
        ("GE", 1, 0.7),
        ("SIEMENS", 2, 0.7),
    ]
    assert groups[0]["ivh"] == "absent in all"


def test_false_blood_is_that_of_heads_without_blood_alone() -> None:
    tables = stress_tables(_with_clean(_bled(0.8), 0.0, 0.0, 0.4))
    assert tables["robustness"][0]["scans"] == 3
    assert 0.3 < tables["robustness"][0]["value"] <= 0.4


def test_what_is_missed_and_what_is_invented_is_counted() -> None:
    rows = _with_clean(
        [
            _row(0, ich=_target(dice=0.0, ml=0.0)),
            _row(1, ich=_target(dice=0.65)),
            _row(2, ich=_target(dice=0.9), ivh=_target(true_ml=0.0, ml=2.0)),
        ],
        0.0,
        0.3,
    )
    counted = {row["what"]: row["patients"] for row in stress_tables(rows)["missed or invented"]}
    assert counted["haematoma, none found"] == "1 of 3"
    assert counted["haematoma, Dice below 0.7"] == "2 of 3"
    assert counted["no haematoma, any blood found"] == "1 of 2"
    assert counted["no ventricular blood, 0.5 mL or more found"] == "1 of 5"


def test_large_haematomas_have_a_line_of_their_own() -> None:
    rows = [*_bled(0.8), _row(9, ich=_target(ml=70.0, true_ml=80.0))]
    lines = [row["what"] for row in stress_tables(rows)["missed or invented"]]
    assert "haematomas from 60 mL: mean volume error -10.0 mL" in lines
    assert not any(line.startswith("oedema from") for line in lines)


def test_pasted_clots_have_two_lines_each() -> None:
    rows = _with_clean(_bled(0.8), 0.0, 0.0)
    for k, row in enumerate(rows[1:]):
        row["clots"] = {f"{ml:g}": {"ich": 0.5 + 0.2 * k, "blood": 0.9} for ml in CLOTS_ML}
    clots = [row for row in stress_tables(rows)["robustness"] if row["test"].startswith("pasted clot")]
    assert len(clots) == 2 * len(CLOTS_ML)
    assert {row["value"] for row in clots} == {0.6, 0.9}


def test_changes_are_measured_against_the_unchanged_scan() -> None:
    (row,) = _bled(0.8)
    steady = {"0": 10.0, "8": 10.0}
    row["changes"] = {
        "offsets": {"ich": {"0": 10.0, "8": 12.0}, "ventricles": steady},
        "thickness": {"ich": {"5": 10.0, "1": 9.0}, "ventricles": {"5": 0.0, "1": 1.0}},
        "tilts": {"ich": steady, "ventricles": steady},
    }
    values = {line["test"]: line["value"] for line in stress_tables([row])["robustness"]}
    assert values["ich, HU -8 to +8: median greatest change, %"] == 20.0
    assert values["ich, slices of 1 to 6 mm: median greatest change, %"] == 10.0
    assert "ventricles, slices of 1 to 6 mm: median greatest change, %" not in values


@given(st.floats(0.1, 100), st.floats(0, 100))
def test_a_deviation_does_not_depend_on_the_unit(base: float, other: float) -> None:
    one = deviation_percent({0.0: base, 1.0: other}, 0.0)
    assert one >= 0
    assert deviation_percent({0.0: 10 * base, 1.0: 10 * other}, 0.0) == pytest.approx(one, rel=1e-6, abs=1e-6)


def test_a_deviation_from_nothing_is_undefined() -> None:
    assert math.isnan(deviation_percent({0.0: 0.0, 1.0: 5.0}, 0.0))


def test_a_card_gets_the_targets_that_were_there() -> None:
    as_read, without = stress_measures(stress_tables(_with_clean(_bled(0.8, 0.9), 0.0)))
    assert as_read["ich, median Dice, asked >= 0.93: missed (2 simulated scans)"] == 0.85
    assert not any(name.startswith("ivh") for name in as_read)
    assert without == {}


def test_empty_tables_are_left_out_of_the_page() -> None:
    page = stress_markdown(stress_tables(_bled(0.8)))
    assert "**accuracy**" in page
    assert "**tract by method**" not in page
    assert page.endswith("\n")


@pytest.fixture(scope="module")
def scan() -> Scan:
    """Return a scan of nothing but brain."""
    hu = np.full((48, 48, 20), 32, np.int16)
    return Scan(Volume(hu, np.diag([3.0, 3.0, 5.0, 1.0])), Acquisition())


@pytest.mark.parametrize("hu", SHIFTS_HU)
def test_shifts_add_up_and_go_back(scan: Scan, hu: float) -> None:
    there = shifted(scan, hu=hu)
    assert float(np.mean(there.volume.array)) == pytest.approx(32 + hu)
    assert np.array_equal(shifted(there, hu=-hu).volume.array, scan.volume.array)


def test_values_beyond_the_scale_are_clipped(scan: Scan) -> None:
    assert int(shifted(scan, hu=9000.0).volume.array.max()) == 3071


@pytest.mark.parametrize("ml", CLOTS_ML)
def test_a_clot_has_its_volume_and_follows_its_seed(scan: Scan, ml: float) -> None:
    everywhere = scan.volume.with_array(np.ones(scan.volume.shape, bool))
    first, again, other = (
        with_clot(scan, everywhere, ml=ml, rng=np.random.default_rng(seed))[1] for seed in (1, 1, 2)
    )
    assert volume_ml(first) == pytest.approx(ml, rel=0.05)
    assert np.array_equal(first.array, again.array)
    assert not np.array_equal(first.array, other.array)


def test_outside_a_clot_the_scan_stays(scan: Scan) -> None:
    everywhere = scan.volume.with_array(np.ones(scan.volume.shape, bool))
    pasted, clot = with_clot(scan, everywhere, ml=3.0, rng=np.random.default_rng(0))
    changed = np.asarray(pasted.volume.array) != 32
    assert changed.sum() < 4 * clot.array.sum()
    assert (np.asarray(pasted.volume.array)[clot.array] > 32).all()


def test_tilts_are_opposite() -> None:
    assert sum(TILTS_DEG) == 0
    assert 0.0 in SHIFTS_HU
