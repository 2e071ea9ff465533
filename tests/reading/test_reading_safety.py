"""Scans that nobody should read, or only with a warning: each is named, none becomes an empty mask."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from builders.head import head_hu
from builders.readable_head import head, model, rule
from ichnos.inference import Predictor
from ichnos.reading import Reading, read_scan
from ichnos.reading.safety import warnings_of
from ichnos.scan import Acquisition, Scan
from ichnos.volume import Volume

STEP = (3.0, 3.0, 5.0)


def sampled(
    hu_at: Callable[[np.ndarray], np.ndarray],
    *,
    shape: tuple[int, int, int] = (72, 84, 32),
    centre_mm: Any = (0, 0, 0),
    **more: Any,
) -> Scan:
    """Lay a field of HU out as a scan."""
    affine = np.diag([*STEP, 1.0])
    affine[:3, 3] = np.array(centre_mm) - (np.array(shape) - 1) / 2 * STEP
    grid = Volume(np.zeros(shape, np.float32), affine)
    return Scan(
        grid.with_array(hu_at(grid.world(np.indices(shape).transpose(1, 2, 3, 0))).astype(np.float32)), **more
    )


def chest(mm: np.ndarray) -> np.ndarray:
    """Return a trunk with two lungs and a spine, in HU."""
    x, y = mm[..., 0], mm[..., 1]
    hu = np.where((x / 100) ** 2 + (y / 80) ** 2 < 1, 40.0, -1000.0)
    hu[((np.abs(x) - 45) / 35) ** 2 + (y / 55) ** 2 < 1] = -850
    hu[x**2 + (y + 60) ** 2 < 15**2] = 400
    return hu + np.random.default_rng(0).normal(0, 8, hu.shape)


def of_rule(scan: Scan) -> Reading:
    return read_scan(scan, Predictor(model(), backend=rule))


@pytest.mark.parametrize(
    ("scan", "word"),
    [
        (lambda: sampled(head_hu(), centre_mm=(0, 0, 90)), "missing"),
        (lambda: sampled(chest), "skull"),
        (lambda: sampled(head_hu(), acquisition=Acquisition(contrast_agent="iodine")), "contrast"),
        (lambda: sampled(head_hu(), facts={"age_years": 6.0}), "6 years old"),
        (lambda: sampled(lambda mm: head_hu()(mm) * np.nan), "not finite"),
    ],
    ids=["half outside the head", "chest", "angiography", "child", "not finite"],
)
def test_what_must_not_be_read_is_refused_with_its_reason(scan: Callable[[], Scan], word: str) -> None:
    result = of_rule(scan())
    assert result.record.status == "refused"
    assert word in result.record.refusal
    assert result.masks is None
    assert {finding.status for finding in result.record.findings} == {"could not look"}
    assert not any(finding.measures for finding in result.record.findings)


def test_an_adult_is_not_refused_for_an_age() -> None:
    result = of_rule(sampled(head_hu(), facts={"age_years": 71.0}))
    assert result.record.status == "read"
    assert any(reason.name == "age" and reason.level == "pass" for reason in result.record.quality)


def test_a_small_head_of_unknown_age_is_read_with_a_warning() -> None:
    small = sampled(lambda mm: head_hu()(mm / 0.75))
    assert any("the brain measures" in warning for warning in of_rule(small).record.warnings)


def test_air_inside_the_skull_is_warned_of() -> None:
    plain = head()

    def with_air(hu: np.ndarray) -> np.ndarray:
        x, y, z = (np.indices(hu.shape) - np.array(hu.shape)[:, None, None, None] / 2) * 2.0
        return np.where((x - 20) ** 2 + (y - 30) ** 2 + (z - 25) ** 2 < 8**2, -950.0, hu).astype(np.float32)

    operated = Scan(plain.volume.map_array(with_air), quality=plain.quality)
    assert not any("air" in warning for warning in of_rule(plain).record.warnings)
    assert any("air inside the skull" in warning for warning in of_rule(operated).record.warnings)


def test_blood_that_is_not_as_dense_as_blood_is_warned_of() -> None:
    result = of_rule(head())
    assert result.masks is not None
    assert result.scan is not None
    hu = result.scan.volume.reoriented("RAS")
    assert not any("HU on average" in warning for warning in warnings_of(hu, result.masks))
    assert any(
        "HU on average" in warning for warning in warnings_of(hu.map_array(lambda a: a - 60), result.masks)
    )


def test_a_network_that_finds_no_brain_reads_nothing() -> None:
    blind = Predictor(model(), backend=lambda tile: np.full((1, 8, *tile.shape[2:]), -9.0, np.float32))
    result = read_scan(head(), blind)
    assert result.record.status == "refused"
    assert "mL of brain" in result.record.refusal


def test_memory_is_bounded_by_slabs_and_not_by_the_number_of_targets() -> None:
    coarse = head()
    fine = Scan(coarse.volume.resampled(1.0), quality=coarse.quality)
    prediction = Predictor(model(), backend=rule)(fine)
    tracemalloc.start()
    brain = prediction.mask("brain")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert brain.array.any()
    assert peak < 2.5 * brain.array.size, (
        "one byte per voxel for the mask, and slabs; a map of probabilities alone takes four"
    )
