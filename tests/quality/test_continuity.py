"""Slices that were zeroed, rescaled otherwise or repeated are named; a sound head passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from test_quality import scan_of

from builders.head import head_hu
from ichnos.quality import judge
from ichnos.scan import Scan
from ichnos.verdict import Verdict
from ichnos.volume import Volume

Change = Callable[[np.ndarray], None]


@pytest.fixture(scope="module")
def bleed() -> Scan:
    return scan_of(head_hu(bleed_mm=18))


def changed(scan: Scan, change: Change) -> Verdict:
    array = scan.hu.copy()
    change(array)
    return judge(replace(scan, volume=scan.volume.with_array(array)))


def put(slices: list[int], value: float) -> Change:
    def change(array: np.ndarray) -> None:
        array[..., slices] = value

    return change


def add(slices: list[int], hu: float) -> Change:
    def change(array: np.ndarray) -> None:
        array[..., slices] += hu

    return change


def repeat(one: int, other: int) -> Change:
    def change(array: np.ndarray) -> None:
        array[..., other] = array[..., one]

    return change


def empty_half(array: np.ndarray) -> None:
    array[:, :64, 15] = -1000


SILENT = {
    "one slice zeroed": (put([16], -1024), "blank_slices", "slice(s) 17 "),
    "three slices zeroed": (put([15, 16, 17], 0), "blank_slices", "16-18"),
    "intercept lost on one": (add([16], 1024), "hu_jump", "17"),
    "intercept lost on two": (add([16, 17], 1024), "air_in_slices", "17-18"),
    "intercept lost from the vertex down": (add([26, 27, 28, 29], 1024), "air_in_slices", "27-30"),
    "intercept lost at the base": (add([*range(8)], 1024), "air_in_slices", "1-8"),
    "intercept applied twice": (add([16], -1024), "holes", "17"),
    "30 HU off": (add([16], 30), "hu_jump", "17"),
    "the next slice again": (repeat(15, 16), "repeated_slices", "16 and 17"),
    "a distant slice again": (repeat(10, 20), "repeated_slices", "11 and 21"),
    "half a slice": (empty_half, "holes", "16"),
}


@pytest.mark.parametrize("fault", SILENT)
def test_a_damaged_slice_is_refused_and_named(fault: str, bleed: Scan) -> None:
    change, check, where = SILENT[fault]
    texts = [r.text for r in changed(bleed, change).at("refuse") if r.name == check]
    assert texts, "not refused by that check"
    assert where in texts[0]


def test_a_sound_head_passes_each_check(bleed: Scan) -> None:
    verdict = judge(bleed)
    assert verdict.level == "pass"
    assert {SILENT[fault][1] for fault in SILENT} <= {reason.name for reason in verdict.reasons}


def test_a_small_shift_of_one_slice_is_warned_of(bleed: Scan) -> None:
    assert [r.name for r in changed(bleed, add([16], 12)).at("warn")] == ["hu_jump"]


def test_air_above_the_vertex_is_no_blank_slice() -> None:
    verdict = judge(scan_of(head_hu(noise_hu=0), centre_mm=(0, 0, 25)))
    assert not [r for r in verdict.reasons if r.name == "blank_slices" and r.level != "pass"]


def test_the_planes_of_a_spread_grid_are_no_repeated_slices() -> None:
    scan = scan_of(steps_mm=(4.0,) * 18 + (7.0,) * 10, shape=(64, 64), pixel_mm=4.0)
    assert scan.source is not None
    assert len(scan.source.slices) < scan.volume.shape[2]
    for given in (scan, Scan(scan.volume)):  # as DICOM, and as the NIfTI that convert writes
        assert [r.level for r in judge(given).reasons if r.name == "repeated_slices"] == ["pass"]


@pytest.mark.parametrize("fault", ["pixel size halved", "rows halved, columns doubled"])
def test_a_skull_of_impossible_size_is_refused(fault: str, bleed: Scan) -> None:
    array, affine = bleed.hu, bleed.volume.affine
    if fault == "pixel size halved":
        other = Volume(array, affine @ np.diag([0.5, 0.5, 1, 1]))
    else:
        columns, rows, slices = array.shape
        other = Volume(
            array.transpose(2, 1, 0).reshape(slices, rows // 2, 2 * columns).transpose(2, 1, 0), affine
        )
    assert "skull_size" in {reason.name for reason in judge(Scan(other)).at("refuse")}
