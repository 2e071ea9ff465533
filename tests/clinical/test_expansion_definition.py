"""One definition of expansion: its limits, unknown volumes, ventricular growth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichnos.clinical.expansion import DEFAULT_DEFINITION, DEFINITIONS, ExpansionDefinition
from ichnos.errors import UsageError

ML = st.floats(0.5, 150.0)


@given(before=ML, growth=st.floats(-20, 60), more=st.floats(0, 40))
def test_who_has_expanded_stays_so_with_more_growth(before: float, growth: float, more: float) -> None:
    for definition in (DEFINITIONS[name] for name in ("33%-or-6ml", "6ml", "3ml", "12.5ml")):
        assert definition(before, before + growth + more) >= definition(before, before + growth)


@given(before=ML, after=ML)
def test_a_stricter_definition_never_finds_more(before: float, after: float) -> None:
    found = [float(DEFINITIONS[name](before, after)) for name in ("3ml", "6ml", "12.5ml")]
    assert found == sorted(found, reverse=True)


def test_the_published_limits_are_exclusive_or_inclusive_as_published() -> None:
    default = DEFINITIONS[DEFAULT_DEFINITION]
    assert default([10.0, 10.0, 100.0, 100.0], [13.3, 13.31, 106.0, 106.1]).tolist() == [0, 1, 0, 1]
    assert DEFINITIONS["6ml"]([100.0], [106.0]).tolist() == [1]


def test_an_unknown_volume_is_undefined_and_not_stable() -> None:
    assert np.isnan(DEFINITIONS[DEFAULT_DEFINITION]([np.nan, 10.0], [20.0, np.nan])).all()


def test_ventricular_growth_counts_in_the_revised_definition_alone() -> None:
    revised = DEFINITIONS["revised"]
    assert revised(20.0, 20.0, 0.0, 0.5) == 1, "new ventricular blood"
    assert revised(20.0, 20.0, 3.0, 3.5) == 0
    assert revised(20.0, 20.0, 3.0, 4.0) == 1
    with pytest.raises(UsageError, match="intraventricular volumes"):
        revised(20.0, 20.0)


def test_a_definition_of_ones_own() -> None:
    assert ExpansionDefinition("any", None, None, 0.1)([5.0], [5.2]).tolist() == [1]
