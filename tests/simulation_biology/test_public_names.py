"""What is promised by `ichnos.simulation` is there."""

from __future__ import annotations

import pytest

import ichnos.simulation


@pytest.mark.parametrize("name", ichnos.simulation.__all__)
def test_every_public_name_loads_from_its_room(name: str) -> None:
    found = getattr(ichnos.simulation, name)
    assert callable(found)
    assert found.__module__.startswith("ichnos.simulation.")
    assert found.__name__ == name


def test_other_names_are_no_part_of_it() -> None:
    with pytest.raises(AttributeError, match="nobody"):
        _ = ichnos.simulation.nobody  # type: ignore[attr-defined]
