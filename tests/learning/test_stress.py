"""The stress test: what is pasted and shifted, and what its tables say of made-up patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.head import head_hu
from builders.tiny_model import tiny_model
from ichnos.cli.main import run
from ichnos.errors import InputRefused
from ichnos.learning.virtual.stress import (
    CLOTS_ML,
    SHIFTS_HU,
    shifted,
    stress_markdown,
    stress_measures,
    stress_tables,
    with_clot,
)
from ichnos.learning.virtual.stress.trial import STRESSED
from ichnos.scan import Acquisition, Scan
from ichnos.volume import Volume, volume_ml


@pytest.fixture(scope="module")
def scan() -> Scan:
    """Return a head without blood, axes not in RAS order."""
    grid = Volume(
        np.zeros((70, 86, 40), np.int16),
        np.array([[2.5, 0, 0, -87], [0, 2.5, 0, -107], [0, 0, 4, -78], [0, 0, 0, 1.0]]),
    )
    hu = head_hu()(grid.world(np.indices(grid.shape).transpose(1, 2, 3, 0)))
    return Scan(grid.with_array(hu.astype(np.int16)).reoriented("LPS"), Acquisition())


@pytest.fixture(scope="module")
def brain(scan: Scan) -> Volume:
    ras = scan.volume.reoriented("RAS")
    return ras.with_array((np.asarray(ras.array) > 10) & (np.asarray(ras.array) < 60))


@pytest.mark.parametrize("ml", [1.0, 10.0, 30.0])
def test_a_pasted_clot_has_its_volume_its_density_and_lies_in_the_brain(
    scan: Scan, brain: Volume, ml: float
) -> None:
    pasted, clot = with_clot(scan, brain, ml=ml, rng=np.random.default_rng(3))
    assert volume_ml(clot) == pytest.approx(ml, rel=0.05)
    assert not (np.asarray(clot.array) & ~np.asarray(brain.array)).any()
    assert pasted.volume.same_grid(scan.volume)
    before, after = (np.asarray(s.volume.reoriented("RAS").array) for s in (scan, pasted))
    assert 45 < after[clot.array].mean() < 75
    changed = before != after
    assert changed.sum() < 30 * clot.array.sum()
    assert with_clot(scan, brain, ml=ml, rng=np.random.default_rng(3))[0].volume.array.tobytes() == (
        pasted.volume.array.tobytes()
    )


def test_without_brain_there_is_no_place_for_a_clot(scan: Scan, brain: Volume) -> None:
    with pytest.raises(InputRefused, match="no brain"):
        with_clot(scan, brain.map_array(np.zeros_like), ml=3, rng=np.random.default_rng(0))


def test_a_shift_moves_every_value_and_nothing_else(scan: Scan) -> None:
    moved = shifted(scan, hu=8)
    assert moved.volume.same_grid(scan.volume)
    assert (np.asarray(moved.volume.array, int) - np.asarray(scan.volume.array, int) == 8).all()


def patient(number: int, *, bled: bool, dice: float = 0.9) -> dict[str, Any]:
    """Return a row as `stress_patient` gives it."""
    target = {"dice": dice, "ml": 9.0, "true_ml": 10.0, "interval_ml": (8.0, 12.0), "inside": True}
    row: dict[str, Any] = {
        "number": number,
        "scanner": "A" if number % 2 else "B",
        "thickness_mm": 5.0,
        "bled": bled,
        "blood_ml": 18.0 if bled else 0.0,
        "targets": {name: dict(target) for name in STRESSED},
        "tracts": [{"atlas": 0.5, "network": 0.4}, {"atlas": 0.5, "network": 0.4}],
        "site": ("putamen", "left basal ganglia" if number % 4 else "left lobe")
        if bled
        else ("putamen", None),
        "first": {**dict.fromkeys(STRESSED, dice - 0.1), "blood_ml": 0.0},
    }
    if bled:
        volumes = {f"{hu:g}": 10 + hu / 8 for hu in SHIFTS_HU}
        others = {"thickness": {"1": 10.0, "5": 10.0}, "tilts": {"0": 10.0, "15": 9.5}}
        both = {"offsets": volumes, **others}
        row["changes"] = {key: {"ich": v, "ventricles": v} for key, v in both.items()}
    else:
        for name in ("ich", "ivh"):
            row["targets"][name] |= {"ml": 0.0, "true_ml": 0.0, "dice": float("nan"), "inside": None}
        row["clots"] = {f"{ml:g}": {"ich": 0.8, "blood": 0.85} for ml in CLOTS_ML}
    return row


def test_the_tables_say_what_the_patients_show() -> None:
    rows = [patient(k, bled=k % 3 != 0) for k in range(12)]
    tables = stress_tables(rows)
    accuracy = {row["target"]: row for row in tables["accuracy"]}
    assert accuracy["ich"]["scans"] == 8
    assert accuracy["ich"]["median Dice"] == 0.9
    assert accuracy["phe"]["true volume within the interval"] == "12 of 12"
    robust = {row["test"]: row for row in tables["robustness"]}
    assert robust["false blood, 95th percentile, mL"]["value"] == 0
    assert robust["pasted clot of 3 mL, median Dice"]["value"] == 0.8
    assert robust["ich, HU -8 to +8: median greatest change, %"]["value"] == 10
    assert robust["ich, tilt of 15 degrees: median greatest change, %"]["value"] == 5
    assert tables["sites"] == [{"site": "putamen", "read": 8, "right": 6, "otherwise": "left lobe"}]
    assert tables["with and without the refinement"][0]["median Dice without"] == 0.8
    assert {row["what"]: row["patients"] for row in tables["missed or invented"]}[
        "no haematoma, any blood found"
    ] == "0 of 4"
    text = stress_markdown(tables)
    assert all(f"**{title}**" in text for title, table in tables.items() if table)
    as_read, without = stress_measures(tables)
    assert as_read["ich, median Dice, asked >= 0.93: missed (8 simulated scans)"] == 0.9
    assert without["median Dice without the refinement, ich (8 simulated scans)"] == 0.8


def test_what_is_missed_is_counted() -> None:
    rows = [patient(k, bled=True) for k in range(1, 5)]
    rows[0]["targets"]["ich"] |= {"ml": 0.0, "dice": 0.0}
    missed = {row["what"]: row["patients"] for row in stress_tables(rows)["missed or invented"]}
    assert missed["haematoma, none found"] == "1 of 4"
    assert missed["haematoma, Dice below 0.7"] == "1 of 4"


@pytest.mark.slow
def test_the_verb_resumes_and_notes_its_results_in_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model(tmp_path / "tiny").folder
    call = ["stress", str(model), "-o", "out", "--patients", "2", "--changed", "2", "--threads", "1"]
    assert run([*call, "--json"]) == 0
    first = capsys.readouterr().out
    assert run([*call, "--json", "--note"]) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "out" / "stress.md").read_text().startswith("**accuracy**")
    assert "simulated scans" in (model / "CARD.md").read_text()
    assert run(["stress", "nowhere", "-o", "out"]) == 2
