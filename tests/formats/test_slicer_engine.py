"""dcmqi, the library through which 3D Slicer reads SEG and TID 1500, finds what we wrote, where we wrote
it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.opened import open_built
from builders.series import Quirks, ball
from ichnos.formats import nifti
from ichnos.formats.dicom_seg import write_seg
from ichnos.formats.dicom_sr import MeasurementGroup, Quantity, Report, write_sr
from ichnos.scan import Scan
from ichnos.volume import Volume, centroid_mm, volume_ml

pytest.importorskip("dcmqi")
Opened = Callable[..., Scan]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return partial(open_built, tmp_path)


def dcmqi(program: str, *options: str) -> None:
    path = Path(sys.executable).parent / program
    told = subprocess.run([str(path), *options], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def masks_of(scan: Scan) -> dict[str, Volume]:
    clot = scan.volume.map_array(lambda hu: hu > 0)
    half = clot.array.copy()
    half[:, : half.shape[1] // 2] = False
    return {
        "ICH": clot,
        "IVH": clot.map_array(np.zeros_like),
        "tract_left": clot.with_array(half),
        "tract_right": clot,
    }


@pytest.mark.parametrize(
    "quirks",
    [Quirks(), Quirks(axes="RAI"), Quirks(oblique_deg=18, order="head first")],
    ids=["plain", "RAI", "oblique"],
)
def test_slicer_sees_the_masks_in_their_place(quirks: Quirks, opened: Opened, tmp_path: Path) -> None:
    scan = opened(quirks, ball(30, (-15, 8, 3)))
    masks = masks_of(scan)
    write_seg(scan, masks, tmp_path / "seg.dcm")
    dcmqi(
        "segimage2itkimage",
        "--inputDICOM",
        str(tmp_path / "seg.dcm"),
        "--outputDirectory",
        str(tmp_path),
        "-t",
        "nii",
        "-p",
        "out",
    )
    for number, (name, mask) in enumerate(masks.items(), start=1):
        seen = nifti.load(tmp_path / f"out-{number}.nii.gz")
        assert volume_ml(seen.map_array(lambda a: a > 0)) == pytest.approx(volume_ml(mask), rel=1e-4), name
        assert np.allclose(centroid_mm(seen), centroid_mm(mask), atol=1e-2, equal_nan=True), name
        assert seen.map_array(lambda a: a > 0).labels_on_grid(scan.volume).array.sum() == mask.array.sum(), (
            name
        )


def test_slicer_sees_what_the_segments_mean(opened: Opened, tmp_path: Path) -> None:
    scan = opened()
    write_seg(scan, masks_of(scan), tmp_path / "seg.dcm")
    dcmqi(
        "segimage2itkimage",
        "--inputDICOM",
        str(tmp_path / "seg.dcm"),
        "--outputDirectory",
        str(tmp_path),
        "-t",
        "nii",
        "-p",
        "out",
    )
    told = json.loads((tmp_path / "out-meta.json").read_text())
    segments: list[dict[str, Any]] = [segment for group in told["segmentAttributes"] for segment in group]
    assert [s["SegmentLabel"] for s in segments] == ["ICH", "IVH", "tract_left", "tract_right"]
    assert segments[0]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "50960005"
    sides = [s["SegmentedPropertyTypeModifierCodeSequence"]["CodeMeaning"] for s in segments[2:]]
    assert sides == ["Left", "Right"]


def test_slicer_reads_the_measurements(opened: Opened, tmp_path: Path) -> None:
    scan = opened(Quirks(tilt_deg=12))
    seg = write_seg(scan, masks_of(scan), tmp_path / "seg.dcm")
    report = Report(
        (
            MeasurementGroup(
                "ICH", "ICH", (Quantity("ich_volume", "Intracerebral haematoma", 31.25, "mL", 28.5, 35.0),)
            ),
        )
    )
    write_sr(scan, report, tmp_path / "sr.dcm", seg=seg)
    dcmqi(
        "tid1500reader",
        "--inputDICOM",
        str(tmp_path / "sr.dcm"),
        "--outputMetadata",
        str(tmp_path / "sr.json"),
    )
    (group,) = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    assert group["TrackingIdentifier"] == "ICH"
    assert group["segmentationSOPInstanceUID"] == seg.sop_instance_uid
    assert group["Finding"]["CodeValue"] == "50960005"
    item, *limits = group["measurementItems"]
    assert [float(limit["value"]) for limit in limits] == [28.5, 35.0]
    assert (item["quantity"]["CodeValue"], float(item["value"]), item["units"]["CodeValue"]) == (
        "118565006",
        31.25,
        "mL",
    )
