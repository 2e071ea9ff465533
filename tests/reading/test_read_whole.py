"""A whole reading of a made head, by a network that is replaced by a rule, so that every number has a known answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ichnos.formats import nifti
from ichnos.inference import Predictor
from ichnos.models import Manifest, Model, NetworkSpec, Preprocessing, Provenance, TargetSpec
from ichnos.reading import Reading, read
from ichnos.scan import Scan
from ichnos.verdict import Reason, Verdict
from ichnos.volume import Volume, volume_ml

TARGETS = ("brain", "ventricles", "ICH", "IVH", "PHE", "leukoaraiosis", "tract_left", "tract_right")


def model() -> Model:
    manifest = Manifest(
        name="rule",
        version="1",
        limits=("A rule, not a network.",),
        network=NetworkSpec(name="unet"),
        preprocessing=Preprocessing(spacing_mm=(2, 2, 2), windows_hu=((-1000, 1000),), patch=(48, 48, 48)),
        targets=tuple(TargetSpec(name=name) for name in TARGETS),
        provenance=Provenance(code_version="0", command="none", seeds=(0,), steps=0, data={}, hardware="none", trained="2026-01-01"),
    )
    return Model(Path("nowhere"), manifest)


def rule(tile: np.ndarray) -> np.ndarray:
    """Call voxels by their HU alone, each tissue of the made head having its own."""
    hu = (tile[:, 0] + 1) * 1000 - 1000
    bands = {
        "ventricles": (5, 12),
        "leukoaraiosis": (18, 22),
        "PHE": (23, 27),
        "tract_left": (32, 35),
        "tract_right": (36, 39),
        "ICH": (50, 80),
    }
    steep = [8 * (1 - np.abs(hu - (low + high) / 2) / ((high - low) / 2)) for low, high in bands.values()]
    by_name = dict(zip(bands, steep, strict=True))
    by_name["brain"] = np.where((hu > 0) & (hu < 100), 8.0, -8.0)
    by_name["tract_left"] = np.maximum(by_name["tract_left"], 8 * (1 - np.abs(hu - 57)))  # goes on under the clot
    by_name["IVH"] = np.full_like(hu, -8)
    return np.stack([by_name[name].clip(-8, 8) for name in TARGETS], axis=1).astype(np.float32)


def head(*, clot: bool = True, orientation: str = "RAS") -> Scan:
    """Make a brain of 30 HU with ventricles, a tract on each side, white-matter disease, and a clot with oedema through the left tract."""
    shape, spacing = (100, 100, 60), np.array([2.0, 2.0, 2.0])
    x, y, z = (np.indices(shape) - np.array(shape)[:, None, None, None] / 2 + 0.5) * spacing[:, None, None, None]
    hu = np.full(shape, -1000.0)
    radius = np.sqrt((x / 80) ** 2 + (y / 90) ** 2 + (z / 55) ** 2)
    hu[radius < 1] = 1200
    hu[radius < 0.92] = 29.5
    hu[np.abs(x) + np.abs(y) < 20] = np.where((np.abs(z) < 12) & (radius < 0.9), 8.5, hu)[np.abs(x) + np.abs(y) < 20]
    hu[(np.abs(x + 34) < 7) & (np.abs(y) < 7) & (np.abs(z) < 40)] = 33.5
    hu[(np.abs(x - 34) < 7) & (np.abs(y) < 7) & (np.abs(z) < 40)] = 37.5
    hu[(np.abs(x - 10) < 6) & (np.abs(y - 40) < 6) & (np.abs(z) < 8)] = 20
    if clot:
        hu[(x + 34) ** 2 + y**2 + z**2 < 19**2] = 25
        hu[(x + 34) ** 2 + y**2 + z**2 < 14**2] = 67
        hu[(hu == 67) & (np.abs(x + 34) < 7) & (np.abs(y) < 7)] = 57
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
    return Scan(Volume(hu.astype(np.float32), affine).reoriented(orientation), quality=Verdict())


def reading(**options: object) -> Reading:
    return read(head(**options), Predictor(model(), backend=rule), name="made")  # type: ignore[arg-type]


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
    assert record.finding("leukoaraiosis").measure("leukoaraiosis_volume").value == pytest.approx(1.2**2 * 1.6, rel=0.35)


def test_masks_do_not_overlap_and_add_up() -> None:
    masks = reading().masks
    assert masks is not None
    stacked = sum(m.array.astype(int) for m in (masks.ich, masks.ivh, masks.phe, masks.leukoaraiosis))
    assert stacked.max() == 1


def test_no_blood_is_none_found_and_not_a_failure() -> None:
    record = reading(clot=False).record
    assert record.finding("haematoma").status == "none found"
    assert record.finding("haematoma").measure("ich_volume").value == 0
    assert "searched" in record.finding("haematoma").sentence


@pytest.mark.parametrize("orientation", ["LPS", "LAS", "PIR"])
def test_left_is_left_and_the_numbers_are_the_same_however_the_scan_is_stored(orientation: str) -> None:
    a, b = reading(), reading(orientation=orientation)
    assert a.record.findings == b.record.findings
    assert a.record.provenance == b.record.provenance


def test_a_refused_scan_has_no_masks_and_says_why(tmp_path: Path) -> None:
    refused = head().judged(Verdict((Reason("not_head", "refuse", "this is a chest, not a head"),)))
    result = read(refused, Predictor(model(), backend=rule))
    assert result.masks is None
    assert {f.status for f in result.record.findings} == {"could not look"}
    result.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["reading.json"]
    assert "this is a chest" in json.loads((tmp_path / "reading.json").read_text())["refusal"]


def test_saved_masks_lie_on_the_inputs_own_grid_and_bytes_repeat(tmp_path: Path) -> None:
    result = reading(orientation="LPS")
    result.save(tmp_path / "a")
    reading(orientation="LPS").save(tmp_path / "b")
    saved = nifti.load(tmp_path / "a" / "ICH.nii.gz")
    assert saved.orientation == "LPS"
    assert saved.same_grid(result.scan.volume)
    assert volume_ml(saved) == pytest.approx(result.record.finding("haematoma").measure("ich_volume").value, abs=0.001)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
