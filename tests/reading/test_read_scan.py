"""A whole reading of a made head, by a network that is replaced by a rule, so that every number has a
known answer.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from builders.readable_head import head, model, reading, rule
from ichnos.api import save_reading
from ichnos.formats import nifti
from ichnos.inference import Predictor
from ichnos.reading import read_scan
from ichnos.verdict import Reason, Verdict
from ichnos.volume import volume_ml


def test_volumes_side_and_injury_are_those_of_the_made_head() -> None:
    record = reading().record
    blood = record.finding("haematoma")
    assert blood.status == "read"
    assert blood.measure("ich_volume").value == pytest.approx(4 / 3 * np.pi * 1.4**3, rel=0.06)
    assert blood.measure("side").value == "left"
    low, value, high = (getattr(blood.measure("ich_volume"), part) for part in ("low", "value", "high"))
    assert low <= value <= high
    tract = record.finding("tract")
    assert tract.measure("injury_left").value == "complete interruption"
    assert tract.measure("injury_right").value == "no risk"
    assert "right side of the body" in tract.sentence
    assert record.finding("leukoaraiosis").measure("leukoaraiosis_volume").value == pytest.approx(
        1.2**2 * 1.6, rel=0.35
    )


def test_masks_do_not_overlap_and_add_up() -> None:
    masks = reading().masks
    assert masks is not None
    stacked = sum(m.array.astype(int) for m in (masks.ich, masks.ivh, masks.phe, masks.leukoaraiosis))
    assert stacked.max() == 1


def test_no_blood_is_none_found_and_not_a_failure() -> None:
    record = reading(clot=False).record
    assert record.finding("haematoma").status == "none found"
    assert record.finding("haematoma").measure("ich_volume").value == 0
    assert record.finding("haematoma").sentence.startswith("No intracerebral or intraventricular blood")


@pytest.mark.parametrize("orientation", ["LPS", "LAS", "PIR"])
def test_left_is_left_and_the_numbers_are_the_same_however_the_scan_is_stored(orientation: str) -> None:
    a, b = reading(), reading(orientation=orientation)
    assert a.record.findings == b.record.findings
    assert a.record.provenance == b.record.provenance


def test_a_refused_scan_has_no_masks_and_says_why(tmp_path: Path) -> None:
    refused = head().judged(Verdict((Reason("not_head", "refuse", "this is a chest, not a head"),)))
    result = read_scan(refused, Predictor(model(), backend=rule))
    assert result.masks is None
    assert {f.status for f in result.record.findings} == {"could not look"}
    assert result.record.limits == ("A rule, not a network.",), "a refusal says what the model never saw, too"
    save_reading(result, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"reading.json", "report.html"}
    assert "this is a chest" in json.loads((tmp_path / "reading.json").read_text())["refusal"]


def test_saved_masks_lie_on_the_inputs_own_grid_and_bytes_repeat(tmp_path: Path) -> None:
    result = reading(orientation="LPS")
    save_reading(result, tmp_path / "a")
    save_reading(reading(orientation="LPS"), tmp_path / "b")
    saved = nifti.load(tmp_path / "a" / "ICH.nii.gz")
    assert saved.orientation == "LPS"
    assert saved.same_grid(result.scan.volume)
    assert volume_ml(saved) == pytest.approx(
        result.record.finding("haematoma").measure("ich_volume").value, abs=0.001
    )
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
