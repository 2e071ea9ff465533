"""A whole reading of a made head, by a network that is replaced by a rule, so that every number has a
known answer.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders.readable_head import head, model, reading, rule
from ichnos.api import _as_scan, save_reading
from ichnos.formats import nifti
from ichnos.formats.dicom.geometry import layout_of, mask_on_source
from ichnos.inference import Predictor
from ichnos.reading import read_scan
from ichnos.scan import Scan, Source, SourceSlice
from ichnos.verdict import Reason, Verdict
from ichnos.volume import Volume, volume_ml


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


def test_a_record_is_strict_json_where_nothing_could_be_measured(tmp_path: Path) -> None:
    ball = head().volume.map_array(lambda hu: np.where(hu > 0, 40, -1000).astype(np.int16))
    save_reading(read_scan(Scan(ball), Predictor(model(), backend=rule)), tmp_path)
    text = (tmp_path / "reading.json").read_text()
    constants: list[str] = []
    reasons = {q["name"]: q for q in json.loads(text, parse_constant=constants.append)["quality"]}
    assert constants == []
    assert {reasons[name]["value"] for name in ("brain_hu", "bone_hu", "noise_hu", "motion")} == {None}
    assert (reasons["noise_hu"]["level"], "nan HU" in text) == ("warn", False)


def test_millilitres_are_those_of_the_slices_where_one_is_missing() -> None:
    made = head().volume
    kept = [k for k in range(0, 60, 3) if k != 27]
    affines = [np.diag([2.0, 2.0, 1.0, 1.0]) for _ in kept]
    for affine, k in zip(affines, kept, strict=True):
        affine[:3, 3] = made.world((0, 0, k))
    layout = layout_of(affines, (100, 100))
    volume = Volume(layout.spread(np.stack([made.array[..., k].T for k in kept]), fill=-1000), layout.affine)
    slices = tuple(SourceSlice(Path("made"), 0, str(k), a, (100, 100)) for k, a in enumerate(affines))
    scan = Scan(volume, source=Source(Path("made"), slices=slices), quality=Verdict())
    result = read_scan(scan, Predictor(model(), backend=rule))
    assert result.masks is not None
    for name, mask in result.masks.named().items():
        pixels = np.count_nonzero(mask_on_source(scan, mask), axis=(1, 2))
        assert volume_ml(mask) == pytest.approx(pixels @ layout.slab_mm * 4 / 1000, rel=1e-6), name
    assert volume_ml(result.masks.phe) > 5


def test_masks_of_a_sheared_image_lie_on_its_own_grid(tmp_path: Path) -> None:
    straight = head()
    affine = straight.volume.affine.copy()
    affine[1, 2] = 2 * np.tan(np.deg2rad(15))
    sheared = straight.volume.on_grid(Volume(np.zeros(straight.volume.shape), affine), fill=-1000)
    scan = replace(_as_scan(sheared), quality=Verdict())
    result = read_scan(scan, Predictor(model(), backend=rule))
    save_reading(result, tmp_path)
    saved = {file.name: nifti.load(file) for file in tmp_path.glob("*.nii.gz")}
    assert all(mask.same_grid(sheared) for mask in saved.values())
    said_ml = result.record.finding("haematoma").measure("ich_volume").value
    assert volume_ml(saved["ICH.nii.gz"]) == pytest.approx(said_ml, rel=0.03)
    apart = ("ICH.nii.gz", "IVH.nii.gz", "PHE.nii.gz", "leukoaraiosis.nii.gz")
    assert sum(saved[name].array for name in apart).max() == 1


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
