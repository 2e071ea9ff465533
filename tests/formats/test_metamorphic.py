"""48 orientations x tilt x steps: a ball keeps its place and size, by two ways that share no code, and
left stays left.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest

from builders.opened import open_built
from builders.series import Quirks, ball
from ichnos.formats.dicom_seg import read_seg, write_seg
from ichnos.scan import Scan
from ichnos.volume import Volume, centroid_mm, volume_ml

Opened = Callable[..., Scan]

LETTERS = ("LR", "PA", "IS")
ORIENTATIONS = [
    "".join(pairs[i][side] for i, side in zip(range(3), sides, strict=True))
    for pairs in itertools.permutations(LETTERS)
    for sides in itertools.product((0, 1), repeat=3)
]
TILTS = (-25.0, 0.0, 12.0, 25.0)
STEPS = {"even": (5.0,) * 13, "uneven": (4.0,) * 9 + (7.0,) * 4, "gap": (5.0,) * 5 + (10.0,) + (5.0,) * 6}
EVERY = list(itertools.product(ORIENTATIONS, TILTS, STEPS))
CONDITIONS = list(itertools.product(TILTS, STEPS))
COVERING = [(axes, *CONDITIONS[k % len(CONDITIONS)]) for k, axes in enumerate(ORIENTATIONS)]
COVERING += [case for case in (("LPS", *c) for c in CONDITIONS) if case not in COVERING]
CENTRE, RADIUS = (-9.0, 4.0, 2.0), 22.0  # x < 0: on the left


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return partial(open_built, tmp_path)


def by_seg_frames(path: Path) -> tuple[float, np.ndarray]:
    """Measure the first segment from the SEG alone, as a stranger would: mL and centroid in RAS mm."""
    seg = pydicom.dcmread(path)
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    normal = np.cross(*cosines)
    groups = seg.PerFrameFunctionalGroupsSequence
    place = np.array([g.PlanePositionSequence[0].ImagePositionPatient for g in groups], float)
    order = np.argsort(place @ normal)
    depth = (place @ normal)[order]
    middle = (depth[1:] + depth[:-1]) / 2
    edges = np.concatenate([[2 * depth[0] - middle[0]], middle, [2 * depth[-1] - middle[-1]]])
    slab = np.diff(edges)
    mass, moment, pixels = 0.0, np.zeros(3), seg.pixel_array
    for k, frame in enumerate(order):
        rows, columns = np.nonzero(pixels[frame])
        points = (
            place[frame] + np.outer(columns * column_mm, cosines[0]) + np.outer(rows * row_mm, cosines[1])
        )
        weight = row_mm * column_mm * slab[k]
        mass += weight * len(rows)
        moment += weight * points.sum(axis=0) + weight * len(rows) * normal * (
            edges[k : k + 2].mean() - depth[k]
        )
    return mass / 1000, moment / mass * (-1, -1, 1)


def by_mask_affine(mask: Volume) -> tuple[float, np.ndarray]:
    return volume_ml(mask), centroid_mm(mask)


def check(scan: Scan, path: Path) -> None:
    mask = scan.volume.map_array(lambda hu: hu > 0)
    write_seg(scan, {"ICH": mask}, path)
    back = read_seg(path, scan)["ICH"]
    assert np.array_equal(back.array, mask.array)
    seg_ml, seg_centre = by_seg_frames(path)
    mask_ml, mask_centre = by_mask_affine(mask)
    truth_ml = 4 / 3 * np.pi * RADIUS**3 / 1000
    voxel_mm = np.abs(scan.volume.affine[:3, :3]).sum(axis=1)
    assert mask_ml == pytest.approx(seg_ml, rel=0.005)
    assert (np.abs(mask_centre - seg_centre) <= 0.5 * voxel_mm).all()
    assert mask_ml == pytest.approx(
        truth_ml, rel=0.03
    )  # slices 4 to 10 mm apart cannot give a ball more exactly than this
    assert (np.abs(mask_centre - CENTRE) <= 0.5 * np.maximum(voxel_mm, 5.0)).all()
    assert mask_centre[0] < 0, "left has become right"
    assert seg_centre[0] < 0, "left has become right in the SEG"


@pytest.mark.parametrize(("axes", "tilt_deg", "steps"), COVERING)
def test_a_ball_keeps_its_place_and_size(
    axes: str, tilt_deg: float, steps: str, opened: Opened, tmp_path: Path
) -> None:
    quirks = Quirks(axes=axes, tilt_deg=tilt_deg, steps_mm=STEPS[steps], shape=(64, 72), pixel_mm=1.0)
    check(opened(quirks, ball(RADIUS, CENTRE)), tmp_path / "seg.dcm")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_ball_keeps_its_place_and_size_under_every_combination(opened: Opened, tmp_path: Path) -> None:
    for axes, tilt_deg, steps in EVERY:
        quirks = Quirks(axes=axes, tilt_deg=tilt_deg, steps_mm=STEPS[steps], shape=(64, 72), pixel_mm=1.0)
        scan = opened(quirks, ball(RADIUS, CENTRE), name=f"{axes}{tilt_deg}{steps}")
        check(scan, tmp_path / f"{axes}{tilt_deg}{steps}.dcm")
    assert len(EVERY) == 48 * len(TILTS) * len(STEPS)


def test_a_mirrored_mask_would_be_noticed(opened: Opened, tmp_path: Path) -> None:
    scan = opened(Quirks(shape=(64, 72)), ball(RADIUS, CENTRE))
    mask = scan.volume.map_array(lambda hu: hu > 0)
    mirrored = mask.with_array(mask.array[::-1])
    write_seg(scan, {"ICH": mirrored}, tmp_path / "seg.dcm")
    assert by_seg_frames(tmp_path / "seg.dcm")[1][0] > 0
