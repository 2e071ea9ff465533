"""The calibration of volumes and the ordinal model of Fazekas grades behave as probabilities must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ichnos.models.store import SHIPPED
from ichnos.prognosis.fazekas import OrdinalModel
from ichnos.prognosis.volume import VolumeCalibration, VolumeErrors, load_volume_calibration

CALIBRATION = VolumeCalibration(
    cohort="nobody", level=0.8, targets={"ICH": VolumeErrors(low=-0.4, high=0.2, patients=30)}
)


@given(ml=st.floats(0.01, 200))
def test_an_interval_is_never_negative_and_grows_with_the_volume(ml: float) -> None:
    low, high = CALIBRATION.interval_ml("ICH", ml)  # type: ignore[misc]
    assert 0 <= low < high
    more = CALIBRATION.interval_ml("ICH", 2 * ml)
    assert more is not None
    assert more[1] > high


def test_nothing_measured_or_no_errors_give_no_interval() -> None:
    assert CALIBRATION.interval_ml("ICH", 0.0) is None
    assert CALIBRATION.interval_ml("IVH", 10.0) is None


def test_the_shipped_calibration_knows_the_haematoma() -> None:
    shipped = load_volume_calibration(SHIPPED / "multi")
    assert shipped is not None
    assert "ICH" in shipped.targets


@given(ml=st.floats(0, 300), slope=st.floats(0.1, 5), first=st.floats(-3, 3), step=st.floats(0.1, 3))
def test_grades_have_probabilities_that_sum_to_one(
    ml: float, slope: float, first: float, step: float
) -> None:
    chances = OrdinalModel(slope=slope, cuts=(first, first + step, first + 2 * step)).probabilities(ml)
    assert sum(chances) == pytest.approx(1.0)
    assert min(chances) >= 0


@given(ml=st.floats(0, 100))
def test_more_disease_never_makes_a_high_grade_less_probable(ml: float) -> None:
    model = OrdinalModel(slope=2.0, cuts=(1.0, 3.0, 5.0))
    assert model.probabilities(ml + 5)[3] >= model.probabilities(ml)[3]
    assert model.probabilities(ml + 5)[0] <= model.probabilities(ml)[0]


def test_cuts_that_fall_are_refused() -> None:
    with pytest.raises(ValidationError, match="must rise"):
        OrdinalModel(slope=1.0, cuts=(3.0, 2.0, 1.0))
