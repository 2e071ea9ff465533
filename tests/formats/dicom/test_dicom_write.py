"""Written series: what goes in comes out, cut planes hold what lies on them, nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from ichnos.errors import InputRefused
from ichnos.formats import open_scan
from ichnos.formats.dicom import Plane, SeriesHeader, cut, stack_affines, write_series
from ichnos.volume import Volume, centroid_mm, sphere, volume_ml

SHAPE = (60, 52)


def test_a_volume_cut_written_and_opened_holds_the_same_ball(tmp_path: Path) -> None:
    ball = sphere(radius_mm=15, spacing_mm=1.0, centre_mm=(8, -5, 3)).map_array(
        lambda inside: np.where(inside, 60.0, -1000.0)
    )
    stack = stack_affines(centre_mm=(0, 0, 0), shape=SHAPE, pixel_mm=1.0, steps_mm=[2.0] * 25, tilt_deg=18)
    planes = cut(ball, stack, shape=SHAPE, thickness_mm=2.0)
    files = write_series(planes, tmp_path / "series", header=SeriesHeader(tilt_deg=18))
    scan = open_scan(tmp_path / "series")
    mask = scan.volume.map_array(lambda hu: hu > -470)
    assert len(files) == 26
    assert scan.acquisition.tilt_deg == pytest.approx(18, abs=0.01)
    assert np.abs(centroid_mm(mask) - (8, -5, 3)).max() < 0.3
    assert volume_ml(mask) == pytest.approx(4 / 3 * np.pi * 15**3 / 1000, rel=0.03)


def test_thick_slices_are_means_over_their_thickness() -> None:
    layers = np.zeros((4, 4, 10), np.float32)
    layers[..., 5:] = 100.0  # from z = 4.5 mm up
    (plane,) = cut(
        Volume(layers, np.eye(4)),
        [np.eye(4) + np.pad([[4.0]], ((2, 1), (3, 0)))],
        shape=(3, 3),
        thickness_mm=4.0,
    )
    assert plane.hu == pytest.approx(np.full((3, 3), 37.5), abs=0.5)  # 2 to 6 mm: 1.5 of 4 mm lie above 4.5


def test_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    planes = [Plane(np.full((4, 5), 10.0 * k), a) for k, a in enumerate(stack_affines_of(3))]
    first, second = write_series(planes, tmp_path / "a"), write_series(planes, tmp_path / "b")
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]
    other = write_series(planes, tmp_path / "c", header=SeriesHeader(seed="another"))
    uids = [{pydicom.dcmread(f).SOPInstanceUID for f in files} for files in (first, other)]
    assert len(uids[0]) == 3
    assert not uids[0] & uids[1]


def test_each_slice_tells_its_own_thickness(tmp_path: Path) -> None:
    stack = stack_affines(centre_mm=(0, 0, 0), shape=(5, 4), pixel_mm=1.0, steps_mm=[4.0, 4.0, 7.0, 7.0])
    files = write_series([Plane(np.zeros((4, 5)), a) for a in stack], tmp_path / "s")
    assert [float(pydicom.dcmread(f).SliceThickness) for f in files] == [4, 4, 4, 7, 7]


def test_a_folder_with_content_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "note.txt").write_text("mine")
    with pytest.raises(InputRefused, match="is not empty"):
        write_series([Plane(np.zeros((4, 5)), a) for a in stack_affines_of(2)], tmp_path / "s")
    assert [f.name for f in (tmp_path / "s").iterdir()] == ["note.txt"]


def stack_affines_of(count: int) -> tuple[np.ndarray, ...]:
    return stack_affines(centre_mm=(0, 0, 0), shape=(5, 4), pixel_mm=1.0, steps_mm=[5.0] * (count - 1))
