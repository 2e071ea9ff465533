"""Each check of a scan's quality, on a made head of known size, by its number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from builders.head import INNER_ML, head_hu
from builders.series import Quirks, affines_of, planes_of
from ichnos.formats.dicom.geometry import layout_of
from ichnos.quality import judge
from ichnos.scan import Acquisition, Scan, Source, SourceSlice
from ichnos.verdict import Reason
from ichnos.volume import Volume

PIXEL_MM = 2.0


def scan_of(
    hu_at: Any = None, *, centre_mm: Any = (0, 0, 0), acquisition: Acquisition | None = None, **quirks: Any
) -> Scan:
    """Lay a made head out as a scan, with its source slices."""
    told = Quirks(**{"shape": (128, 128), "pixel_mm": PIXEL_MM, "steps_mm": (5.0,) * 29, **quirks})
    affines = affines_of(told, centre_mm)
    layout = layout_of(affines, told.shape)
    stack = np.stack([p.hu for p in planes_of(hu_at or head_hu(), affines, told.shape)]).astype(np.float32)
    source = Source(
        __file__, slices=tuple(SourceSlice(__file__, k, str(k), a, told.shape) for k, a in enumerate(affines))
    )  # type: ignore[arg-type]
    return Scan(Volume(layout.spread(stack, fill=-1000), layout.affine), acquisition or Acquisition(), source)


def reason(scan: Scan, name: str) -> Reason:
    (found,) = [r for r in judge(scan).reasons if r.name == name]
    return found


@pytest.mark.parametrize(
    "quirks",
    [
        {},
        {"tilt_deg": 20.0},
        {"tilt_deg": -20.0},
        {"steps_mm": (4.0,) * 12 + (7.0,) * 14},
        {"steps_mm": (1.0,) * 145},
        {"axes": "RAS"},
        {"pixel_mm": (1.9, 2.1)},
    ],
    ids=["plain", "tilt +20", "tilt -20", "uneven", "thin", "negated cosines", "unequal pixels"],
)
def test_a_good_head_passes_however_it_was_cut(quirks: dict[str, Any]) -> None:
    verdict = judge(scan_of(**quirks))
    assert verdict.level == "pass", [r for r in verdict.reasons if r.level != "pass"]
    numbers = {r.name: r.value for r in verdict.reasons}
    assert numbers["head"] == pytest.approx(INNER_ML, rel=0.04)
    assert numbers["brain_hu"] == pytest.approx(33, abs=2)
    assert numbers["air_hu"] == pytest.approx(-1000, abs=3)


def test_a_noiseless_head_passes_too() -> None:
    assert judge(scan_of(head_hu(noise_hu=0))).level == "pass"


def test_without_source_slices_the_grid_is_judged() -> None:
    scan = scan_of()
    assert judge(Scan(scan.volume)).level == "pass"
    assert judge(Scan(scan.volume.reoriented("PIR"))).level == "pass"


def test_blood_does_not_make_a_scan_unreadable() -> None:
    assert judge(scan_of(head_hu(bleed_mm=25))).level == "pass"


@pytest.mark.parametrize("gap_mm", [15.0, 60.0])
def test_a_craniotomy_does_not_make_a_head_unreadable(gap_mm: float) -> None:
    whole = head_hu()

    def opened(points_mm: Any) -> Any:
        hu = np.array(whole(points_mm))
        points = np.asarray(points_mm)
        flap = (
            (points[..., 0] > 0)
            & (np.abs(points[..., 1]) < gap_mm / 2)
            & (np.abs(points[..., 2]) < 30)
            & (hu > 100)
        )
        hu[flap] = 40.0
        return hu

    verdict = judge(scan_of(opened))
    assert verdict.level == "pass", [r for r in verdict.reasons if r.level != "pass"]
    (head,) = [r.value for r in verdict.reasons if r.name == "head"]
    assert head == pytest.approx(INNER_ML, rel=0.06)


@pytest.mark.parametrize(
    ("agent", "description", "level"),
    [(None, "HEAD", "pass"), ("X", "HEAD", "refuse"), ("X", "HEAD WITHOUT", "warn")],
)
def test_contrast(agent: str | None, description: str, level: str) -> None:
    assert (
        reason(
            scan_of(acquisition=Acquisition(contrast_agent=agent, series_description=description)), "contrast"
        ).level
        == level
    )


def test_another_modality_is_refused() -> None:
    assert reason(scan_of(acquisition=Acquisition(modality="PT")), "modality").level == "refuse"


@pytest.mark.parametrize(("cut_mm", "level"), [(0, "pass"), (14, "warn"), (40, "refuse")])
def test_missing_vertex_is_measured(cut_mm: float, level: str) -> None:
    """The brain's top is at +66 mm; the stack ends `cut_mm` below it."""
    top = 66 - cut_mm if cut_mm else 80
    found = reason(scan_of(centre_mm=(0, 0, top - 75)), "vertex_missing")
    assert found.level == level
    if cut_mm:
        assert found.value == pytest.approx(cut_mm, rel=0.35)


@pytest.mark.parametrize(("bottom_mm", "level"), [(-75, "pass"), (-20, "warn"), (10, "refuse")])
def test_missing_base_is_measured(bottom_mm: float, level: str) -> None:
    """The vertex is at +66 mm and the head's inner height taken as 112 mm: a stack from -20 mm up lacks 26
    mm.
    """
    found = reason(scan_of(centre_mm=(0, 0, bottom_mm + 75)), "base_missing")
    assert found.level == level
    if level != "pass":
        assert found.value == pytest.approx(112 - (66 - bottom_mm), abs=8)


@pytest.mark.parametrize(("step", "level"), [(5.0, "pass"), (8.0, "warn"), (12.0, "refuse")])
def test_slice_step(step: float, level: str) -> None:
    found = reason(scan_of(steps_mm=(step,) * round(145 / step)), "slice_step")
    assert (found.level, found.value) == (level, pytest.approx(step))


@pytest.mark.parametrize(
    ("missing", "gap_mm", "level"), [((), 0, "pass"), ((14,), 5, "warn"), ((14, 15, 16), 15, "refuse")]
)
def test_missing_slices_are_gaps(missing: tuple[int, ...], gap_mm: float, level: str) -> None:
    found = reason(scan_of(missing=missing), "gaps")
    assert (found.level, found.value) == (level, pytest.approx(gap_mm))
    assert not missing or f"{len(missing)} slice(s) missing" in found.text


def test_slices_thinner_than_their_step_leave_gaps() -> None:
    assert reason(scan_of(acquisition=Acquisition(slice_thickness_mm=3.0)), "gaps").value == pytest.approx(
        2.0
    )


WRONG_HU = {
    0: set(),
    -40: {"brain_hu"},
    1024: {"head", "brain_hu", "field_of_view"},
    -1024: {"air_hu", "head", "brain_hu", "bone_hu", "hu_jump"},
}


@pytest.mark.parametrize("offset_hu", WRONG_HU)
def test_wrong_hu_are_refused(offset_hu: float) -> None:
    """As after a rescaling that was forgotten (+1024) or done twice (-1024)."""
    assert {r.name for r in judge(scan_of(head_hu(offset_hu=offset_hu))).at("refuse")} == WRONG_HU[
        int(offset_hu)
    ]


def test_field_of_view_that_cuts_the_head() -> None:
    wide, narrow = reason(scan_of(), "field_of_view"), reason(scan_of(shape=(74, 128)), "field_of_view")
    assert (wide.level, wide.value) == ("pass", 0.0)
    assert narrow.level in ("warn", "refuse")
    assert narrow.value is not None
    assert narrow.value > 30


def test_round_field_of_view_that_cuts_the_head() -> None:
    def round_field(radius_mm: float) -> Any:
        head = head_hu()
        return lambda mm: np.where(np.hypot(mm[..., 0], mm[..., 1]) <= radius_mm, head(mm), -1000.0)

    assert reason(scan_of(round_field(128.0)), "field_of_view").value == 0.0
    assert reason(scan_of(round_field(90.0), shape=(90, 90)), "field_of_view").level == "refuse"


def test_metal_is_measured() -> None:
    found = reason(scan_of(head_hu(metal=True)), "metal")
    assert found.level == "warn"
    assert found.value == pytest.approx(4 / 3 * np.pi * 8**3 / 1000, rel=0.25)


def test_a_slice_beside_its_neighbours_is_seen() -> None:
    head = head_hu()

    def moved(mm: np.ndarray) -> np.ndarray:
        shift = np.where(mm[..., 2] > 22, 9.0, 0.0)
        return np.asarray(head(mm - np.stack([np.zeros_like(shift), shift, np.zeros_like(shift)], axis=-1)))

    assert reason(scan_of(), "motion").level == "pass"
    found = reason(scan_of(moved), "motion")
    assert found.level == "warn"
    assert found.value == pytest.approx(9.0, abs=1.5)


def test_what_is_no_head_is_refused() -> None:
    body = scan_of(lambda mm: np.where(np.hypot(mm[..., 0] / 110, mm[..., 1] / 90) < 1, 40.0, -1000.0))
    assert {"head", "brain_hu", "bone_hu"} <= {r.name for r in judge(body).at("refuse")}
    empty = judge(scan_of(lambda mm: np.full(mm.shape[:-1], -1000.0)))
    assert empty.level == "refuse"


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(broken: float) -> None:
    scan = scan_of()
    scan.volume.array[3, 4, 5] = broken
    found = reason(scan, "finite")
    assert (found.level, found.value) == ("refuse", 1.0)


def test_a_handful_of_slices_is_refused() -> None:
    assert judge(scan_of(steps_mm=(5.0,) * 4)).level == "refuse"
