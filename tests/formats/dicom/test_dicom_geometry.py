"""Where voxels lie: orientations, tilt, uneven steps, and masks there and back, against a ball whose place
and size are known.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.series import Quirks, affines_of, ball, build_series, planes_of
from ichnos.errors import InputRefused
from ichnos.formats import open_scan
from ichnos.formats.dicom import mask_from_source, mask_on_source
from ichnos.formats.dicom.geometry import layout_of, shared_slabs, source_layout
from ichnos.scan import Scan, Source, SourceSlice
from ichnos.volume import Volume, centroid_mm, volume_ml

ORIENTATIONS = [
    "".join(p) for axes in itertools.permutations(("LR", "PA", "SI")) for p in itertools.product(*axes)
]
EVEN, UNEVEN = (5.0,) * 13, (4.0,) * 7 + (7.0,) * 5
CENTRE_MM, RADIUS_MM = (-6.0, 4.0, 3.0), 20.0  # to the patient's left


def scan_of(quirks: Quirks) -> Scan:
    """Lay a ball's slices out as `open_scan` would, without files between."""
    affines = affines_of(quirks)
    if affines[-1][:3, 3] @ (normal := _towards_head(affines[0][:3, 2])) < affines[0][:3, 3] @ normal:
        affines = affines[::-1]
    affines = [np.column_stack([a[:, :2], np.append(_towards_head(a[:3, 2]), 0), a[:, 3]]) for a in affines]
    layout = layout_of(affines, quirks.shape)
    stack = np.stack([p.hu for p in planes_of(ball(RADIUS_MM, CENTRE_MM), affines, quirks.shape)])
    slices = tuple(SourceSlice(Path("made"), k, str(k), a, quirks.shape) for k, a in enumerate(affines))
    return Scan(
        Volume(layout.spread(stack, fill=-1000), layout.affine), source=Source(Path("made"), slices=slices)
    )


def _towards_head(normal: np.ndarray) -> np.ndarray:
    leading = 2 if abs(normal[2]) > 0.5 else np.abs(normal).argmax()
    return normal * np.sign(normal[leading])


def by_frames(scan: Scan, frames: np.ndarray) -> tuple[float, np.ndarray]:
    """Measure a mask on the source slices as a reader of the SEG would: pixel area times the slices' own
    spacing.
    """
    assert scan.source is not None
    positions = np.array([s.affine[:3, 3] for s in scan.source.slices])
    depth = positions @ scan.source.slices[0].affine[:3, 2]
    steps = np.diff(depth)
    spacing = np.concatenate([steps[:1], (steps[1:] + steps[:-1]) / 2, steps[-1:]])
    total, moment = 0.0, np.zeros(3)
    for frame, piece, mm in zip(frames, scan.source.slices, spacing, strict=True):
        row, column = np.nonzero(frame)
        if len(row):
            area = np.linalg.norm(np.cross(piece.affine[:3, 0], piece.affine[:3, 1]))
            weight = len(row) * area * mm
            centre = piece.affine[:3, :2] @ np.array([column.mean(), row.mean()]) + piece.affine[:3, 3]
            total, moment = total + weight, moment + weight * centre
    return total / 1000.0, moment / total


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_ball_keeps_place_and_size_in_every_orientation_tilt_and_step(orientation: str) -> None:
    for tilt, steps in itertools.product((-25.0, 0.0, 25.0), (EVEN, UNEVEN)):
        scan = scan_of(Quirks(axes=orientation, tilt_deg=tilt, steps_mm=steps, shape=(64, 64)))
        mask = scan.volume.map_array(lambda hu: hu > -400)
        frames = mask_on_source(scan, mask)
        frames_ml, frames_centre = by_frames(scan, frames)
        voxel = np.array([1.0, 1.0, min(steps)])
        where = f"{orientation}, tilt {tilt}, steps {sorted(set(steps))}"
        assert volume_ml(mask) == pytest.approx(frames_ml, rel=0.005), where
        apart = np.abs(
            scan.volume.affine[:3, :3].T
            / np.array(scan.volume.spacing_mm)[:, None]
            @ (centroid_mm(mask) - frames_centre)
        )
        assert (apart <= 0.5 * voxel).all(), where
        true_ml = 4 / 3 * np.pi * RADIUS_MM**3 / 1000
        assert volume_ml(mask) == pytest.approx(true_ml, rel=0.03), where
        assert np.abs(centroid_mm(mask) - CENTRE_MM).max() < 0.5, where
        assert centroid_mm(mask)[0] < -5, f"{where}: what lies left must stay left"
        assert (mask_from_source(scan, frames).array == mask.array).all(), where


@settings(max_examples=30, deadline=None)
@given(
    unit_mm=st.sampled_from([1.0, 1.2, 1.25, 2.5]),
    units=st.lists(st.integers(1, 4), min_size=3, max_size=14),
    tilt=st.floats(-28, 28),
    oblique=st.floats(-40, 40),
)
def test_masks_drawn_on_slices_come_back_to_the_same_pixels(
    unit_mm: float, units: list[int], tilt: float, oblique: float
) -> None:
    steps = [unit_mm * n for n in units]
    scan = scan_of(Quirks(tilt_deg=tilt, oblique_deg=oblique, steps_mm=tuple(steps), shape=(12, 9)))
    drawn = np.random.default_rng(0).integers(0, 4, (len(steps) + 1, 9, 12)).astype(np.uint8)
    volume = mask_from_source(scan, drawn)
    assert volume.is_orthogonal
    assert (mask_on_source(scan, volume) == drawn).all()
    labelled_ml = (drawn != 0).sum(axis=(1, 2)) @ source_layout(scan).slab_mm / 1000
    assert volume_ml(volume) == pytest.approx(labelled_ml, rel=0.005)


def test_even_untilted_stack_is_the_grid_itself() -> None:
    stack = affines_of(Quirks(steps_mm=EVEN, shape=(8, 6)))
    layout = layout_of(stack, (8, 6))
    pixels = np.arange(14 * 6 * 8, dtype=np.int16).reshape(14, 6, 8)
    assert layout.plain
    assert np.shares_memory(layout.spread(pixels, fill=0), pixels)
    assert np.allclose(layout.affine[:, :2], stack[0][:, :2])
    assert np.allclose(layout.grid.world((0, 0, 13)), stack[13][:3, 3])


def test_rounded_positions_count_as_even() -> None:
    stack = affines_of(Quirks(steps_mm=(0.625,) * 60, shape=(4, 4)))
    for affine in stack:
        affine[2, 3] = round(affine[2, 3], 1)
    assert layout_of(stack, (4, 4)).plain


def test_uneven_steps_keep_every_value_and_weigh_it_by_its_slab() -> None:
    stack = affines_of(Quirks(steps_mm=(4.0, 4.0, 7.0, 7.0), shape=(2, 2)))
    layout = layout_of(stack, (2, 2))
    values = np.arange(5, dtype=np.int16)[:, None, None] * np.ones((5, 2, 2), np.int16)
    line = layout.spread(values, fill=-1)[0, 0]
    assert [int((line == k).sum()) * layout.grid.spacing_mm[2] for k in range(5)] == pytest.approx(
        [4.0, 4.0, 5.5, 7.0, 7.0]
    )


@pytest.mark.parametrize("orientation", ["LPS", "LPI", "RAS", "LIP", "PIR"])
def test_a_mask_of_whole_slices_holds_the_same_on_them_and_on_the_grid(orientation: str) -> None:
    scan = scan_of(Quirks(axes=orientation, steps_mm=(5.0,) * 5 + (10.0,) + (5.0,) * 4, shape=(12, 9)))
    slabs = shared_slabs(scan)
    assert slabs is not None
    ras = scan.volume.reoriented("RAS")
    ragged = ras.with_array(np.random.default_rng(0).random(ras.shape) > 0.5)
    frames_ml, _ = by_frames(scan, mask_on_source(scan, slabs.one_each(ragged)))
    assert volume_ml(slabs.one_each(ragged)) == pytest.approx(frames_ml, rel=1e-6)
    assert by_frames(scan, mask_on_source(scan, ragged))[0] < 0.9 * volume_ml(ragged), "ties go to nothing"
    assert shared_slabs(scan_of(Quirks(steps_mm=EVEN, tilt_deg=15, shape=(12, 9)))) is None


def test_mask_from_another_grid_is_resampled_first() -> None:
    scan = scan_of(Quirks(tilt_deg=15, steps_mm=EVEN, shape=(64, 64)))
    coarse = (
        scan.volume.map_array(lambda hu: hu > -400).astype(np.uint8).resampled(1.5, interpolation="nearest")
    )
    ml, centre = by_frames(scan, mask_on_source(scan, coarse))
    assert ml == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3 / 1000, rel=0.05)
    assert np.abs(centre - CENTRE_MM).max() < 0.8


def test_what_has_no_stack_is_refused() -> None:
    stack = affines_of(Quirks(steps_mm=(5.0,) * 3, shape=(4, 4)))
    with pytest.raises(InputRefused, match="1 slice; at least 2"):
        layout_of(stack[:1], (4, 4))
    for k, affine in enumerate(stack):
        affine[0, 3] += 100 * k
    with pytest.raises(InputRefused, match="beside each other"):
        layout_of(stack, (4, 4))
    with pytest.raises(InputRefused, match="not opened from DICOM"):
        mask_on_source(Scan(Volume(np.zeros((2, 2, 2)), np.eye(4))), Volume(np.zeros((2, 2, 2)), np.eye(4)))
    scan = scan_of(Quirks(steps_mm=EVEN, shape=(8, 8)))
    with pytest.raises(InputRefused, match=r"\(14, 8, 8\)"):
        mask_from_source(scan, np.zeros((13, 8, 8)))


# ---- the same through files
# -------------------------------------------------------------------------------------------

THROUGH_FILES = {
    "plain": Quirks(),
    "head first": Quirks(order="head first"),
    "shuffled": Quirks(order="shuffled"),
    "negated cosines": Quirks(axes="RAS"),
    "sagittal": Quirks(axes="PIR"),
    "coronal": Quirks(axes="LIA"),
    "tilt +25": Quirks(tilt_deg=25),
    "tilt -25": Quirks(tilt_deg=-25),
    "tilt, other sign in the tag": Quirks(tilt_deg=20, tilt_tag_sign=-1.0),
    "tilt, uneven": Quirks(tilt_deg=18, steps_mm=(4.0,) * 12 + (7.0,) * 12),
    "oblique": Quirks(oblique_deg=17),
    "missing": Quirks(missing=(9, 20)),
    "duplicated": Quirks(duplicated=(3, 4)),
    "four at one position": Quirks(repeated=4, order="shuffled"),
    "enhanced, tilted": Quirks(enhanced=True, tilt_deg=15, order="shuffled"),
    "unequal pixels": Quirks(pixel_mm=(0.9, 1.1)),
}


@pytest.mark.parametrize("name", THROUGH_FILES)
def test_series_from_files_lies_where_it_was_made(name: str, tmp_path: Path) -> None:
    quirks = THROUGH_FILES[name]
    build_series(ball(RADIUS_MM, CENTRE_MM), tmp_path / "series", quirks)
    scan = open_scan(tmp_path / "series")
    mask = scan.volume.map_array(lambda hu: hu > -400)
    assert set(np.unique(scan.hu)) == {-1000, 60}, (
        "no value is mixed, and of several images at a position the first acquisition is kept"
    )
    assert np.abs(centroid_mm(mask) - CENTRE_MM).max() < 0.6
    frames_ml, _ = by_frames(scan, mask_on_source(scan, mask))
    assert volume_ml(mask) == pytest.approx(frames_ml, rel=0.005)
    assert scan.source is not None
    assert len(scan.source.slices) == len(quirks.steps_mm) + 1 - len(quirks.missing)
    heights = [s.affine[:3, 3] @ s.affine[:3, 2] for s in scan.source.slices]
    assert heights == sorted(heights)


@pytest.mark.parametrize("tilt", [-25.0, 10.0, 25.0])
@pytest.mark.parametrize("vendor", ["ge", "siemens", "philips", "canon"])
def test_tilt_is_told_by_positions_whatever_the_vendor_writes(
    tilt: float, vendor: str, tmp_path: Path
) -> None:
    build_series(
        ball(10), tmp_path / "s", Quirks(tilt_deg=tilt, vendor=vendor, steps_mm=(5.0,) * 9, shape=(40, 40))
    )
    assert open_scan(tmp_path / "s").acquisition.tilt_deg == pytest.approx(tilt, abs=0.01)
