"""Against others: dcm2niix on the same files, SimpleITK on the same files, and a real scanner's study."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from builders.head import head_hu
from builders.series import Quirks, build_series
from ichnos.formats import inspect_path, open_scan
from ichnos.quality import judge
from ichnos.volume import Volume

PLACES = {
    "plain": Quirks(shape=(48, 40), pixel_mm=5.0),
    "head first, negated cosines": Quirks(shape=(48, 40), pixel_mm=5.0, axes="RAS", order="head first"),
    "oblique": Quirks(shape=(48, 40), pixel_mm=5.0, oblique_deg=12),
    "sagittal": Quirks(shape=(48, 40), pixel_mm=(5.0, 5.5), axes="PIR"),
}


def dcm2niix(folder: Path, out: Path) -> Volume:
    """Convert a folder with dcm2niix and load what it wrote."""
    program = Path(sys.executable).with_name("dcm2niix")
    if not program.exists():
        pytest.skip("dcm2niix is not installed")
    out.mkdir()
    subprocess.run(
        [str(program), "-b", "n", "-z", "n", "-f", "out", "-o", str(out), str(folder)],
        check=True,
        capture_output=True,
    )
    (written,) = out.glob("out*.nii")
    return Volume.from_nibabel(nibabel.load(written))


@pytest.mark.parametrize("name", PLACES)
def test_same_place_and_values_as_dcm2niix(name: str, tmp_path: Path) -> None:
    build_series(head_hu(), tmp_path / "series", PLACES[name])
    theirs, ours = (
        dcm2niix(tmp_path / "series", tmp_path / "out").reoriented("RAS"),
        open_scan(tmp_path / "series").volume.reoriented("RAS"),
    )
    assert ours.same_grid(theirs, tolerance_mm=1e-3)
    assert (ours.array == theirs.array).all()


def test_same_place_and_values_as_simpleitk(tmp_path: Path) -> None:
    build_series(head_hu(), tmp_path / "series", PLACES["oblique"])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
    theirs, ours = Volume.from_sitk(reader.Execute()), open_scan(tmp_path / "series").volume
    assert ours.reoriented("RAS").same_grid(theirs.reoriented("RAS"), tolerance_mm=1e-3)
    assert (ours.reoriented("RAS").array == theirs.reoriented("RAS").array).all()


def test_real_study_of_a_phantom(shared: Path) -> None:
    study = shared / "data" / "head_phantom_series"
    found = inspect_path(study)
    assert [series.description for series in found.series if series.usable] == ["STD BRAIN 5MM"]
    assert found.series[0].steps_mm == (5.0,)
    assert any("a localizer" in reason for series in found.series for reason in series.reasons)
    assert (
        sum(
            "a secondary capture or other object, not a CT image (cannot be picked)" in s.reasons
            for s in found.series
        )
        == 4
    )
    scan = open_scan(study)
    assert scan.volume.shape == (512, 512, 28)
    assert scan.volume.orientation == "LPS"
    assert np.allclose(scan.volume.world((0, 0, 0)), (115.5, 1.85, 696.21))
    verdict = judge(scan)
    assert verdict.level == "refuse", "a plastic skull is no head with a brain"
    # The plastic changes from slice to slice as no brain does.
    assert {reason.name for reason in verdict.at("refuse")} == {"head", "brain_hu", "hu_jump"}


def test_real_study_as_dcm2niix_sees_it(shared: Path, tmp_path: Path) -> None:
    theirs = dcm2niix(
        shared / "data" / "head_phantom_series" / "S21570" / "S2010", tmp_path / "out"
    ).reoriented("RAS")
    ours = open_scan(shared / "data" / "head_phantom_series").volume.reoriented("RAS")
    assert ours.same_grid(theirs, tolerance_mm=1e-3)
    assert (ours.array == theirs.array).all()
