"""The finding "tract": grades, loads and the side of weakness, and what is withheld."""

from __future__ import annotations

import numpy as np
import pytest

from ichnos.reading.masks import Masks
from ichnos.reading.tract import read_tract
from ichnos.volume import Volume

SHAPE = (40, 30, 24)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
KNOWN = frozenset({"ICH", "PHE", "tract_left", "tract_right"})


def _mask(x: slice, y: slice = slice(0), z: slice = slice(None)) -> Volume:
    array = np.zeros(SHAPE, bool)
    array[x, y, z] = True
    return Volume(array, AFFINE)


EMPTY = _mask(slice(0))
LEFT, RIGHT = _mask(slice(8, 12), slice(12, 17)), _mask(slice(28, 32), slice(12, 17))  # 5.8 mL each


def _masks(ich: Volume = EMPTY, phe: Volume = EMPTY, left: Volume = LEFT, right: Volume = RIGHT) -> Masks:
    return Masks(ich, EMPTY, phe, EMPTY, EMPTY, EMPTY, left, right, KNOWN)


def test_intact_tracts_are_at_no_risk_and_nobody_is_weak() -> None:
    finding = read_tract(_masks())
    assert finding.sentence == "Corticospinal tract: left no risk, right no risk."
    assert finding.measure("weakness").value == "none"
    assert finding.measure("blood_load_left").value == 0
    assert finding.measure("level_left").reason == "no blood meets this tract"


_SERVES_RIGHT, _SERVES_LEFT = (f" (serves the {side} side of the body)" for side in ("right", "left"))


@pytest.mark.parametrize(
    ("x", "grades", "weak"),
    [
        (slice(8, 10), f"left haematoma infiltration{_SERVES_RIGHT}, right no risk", "right"),
        (slice(30, 40), f"left no risk, right haematoma infiltration{_SERVES_LEFT}", "left"),
        (slice(6, 14), f"left complete interruption{_SERVES_RIGHT}, right no risk", "right"),
        (
            slice(0, 40),
            f"left complete interruption{_SERVES_RIGHT}, right complete interruption{_SERVES_LEFT}",
            "right and left",
        ),
    ],
)
def test_blood_in_a_tract_weakens_the_other_side_of_the_body(x: slice, grades: str, weak: str) -> None:
    finding = read_tract(_masks(ich=_mask(x, slice(None), slice(8, 11))))
    assert finding.sentence == f"Corticospinal tract: {grades}."
    assert finding.measure("weakness").value == weak


def test_oedema_alone_is_named_and_weakens_nobody() -> None:
    finding = read_tract(_masks(phe=_mask(slice(8, 12), slice(None), slice(8, 11))))
    assert finding.measure("injury_left").value == "PHE infiltration"
    assert finding.measure("weakness").value == "none"
    assert finding.measure("oedema_load_left").value == pytest.approx(4 * 5 * 3 * 0.012)


def test_the_load_is_the_volume_of_tract_in_blood() -> None:
    finding = read_tract(_masks(ich=_mask(slice(8, 10), slice(None), slice(8, 11))))
    assert finding.measure("blood_load_left").value == pytest.approx(2 * 5 * 3 * 0.012)
    assert finding.measure("largest_loss_left").value == pytest.approx(50)
    assert finding.measure("largest_loss_right").value == 0


@pytest.mark.parametrize(
    ("left", "right", "where"),
    [
        (EMPTY, RIGHT, "left"),
        (LEFT, _mask(slice(28, 29), slice(12, 14)), "right"),
        (EMPTY, EMPTY, "left and right"),
    ],
)
def test_a_tract_that_is_hardly_outlined_is_not_graded(left: Volume, right: Volume, where: str) -> None:
    finding = read_tract(_masks(ich=_mask(slice(0, 40), slice(None)), left=left, right=right))
    assert finding.status == "withheld"
    assert finding.sentence.startswith(f"The corticospinal tract could not be outlined on the {where};")
    assert finding.measures == ()


def test_without_atlas_positions_the_level_of_the_injury_is_not_known() -> None:
    finding = read_tract(_masks(ich=_mask(slice(8, 12), slice(None), slice(8, 11))))
    level = finding.measure("level_left")
    assert level.value is None
    assert "does not say where in the atlas" in level.reason
