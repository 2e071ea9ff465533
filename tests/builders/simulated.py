"""A cohort that says of itself that `ichnos simulate` made it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ichnos.cohort import Cohort


@contextmanager
def as_simulated(cohort: Cohort) -> Iterator[None]:
    """Give a cohort the file that a simulation leaves, for the length of a block."""
    assert cohort.root is not None
    file = cohort.root / "derivatives" / "truth" / "provenance.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    yield
    file.unlink()
