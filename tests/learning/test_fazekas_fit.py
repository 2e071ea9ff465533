"""The fit of Fazekas grades finds the law that made them."""

from __future__ import annotations

import numpy as np
import pytest

from ichnos.errors import InputRefused
from ichnos.learning.fit.fazekas import fit_ordinal, left_out
from ichnos.prognosis.fazekas import OrdinalModel

TRUE = OrdinalModel(slope=2.0, cuts=(1.0, 3.0, 5.0))


def _drawn(count: int) -> tuple[list[float], list[int]]:
    rng = np.random.default_rng(3)
    volumes = np.exp(rng.uniform(np.log(0.2), np.log(60), count)).tolist()
    return volumes, [int(rng.choice(4, p=TRUE.probabilities(ml))) for ml in volumes]


def test_the_law_that_made_the_grades_comes_back() -> None:
    law = fit_ordinal(*_drawn(3000))
    assert law.slope == pytest.approx(TRUE.slope, rel=0.12)
    for ml in (0.5, 3.0, 10.0, 40.0):
        assert law.probabilities(ml) == pytest.approx(TRUE.probabilities(ml), abs=0.06)


def test_patients_left_out_are_graded_better_than_by_the_commonest_grade() -> None:
    volumes, grades = _drawn(300)
    right, near = left_out(volumes, grades)
    assert right > max(grades.count(grade) for grade in range(4)) / len(grades) + 0.1
    assert 0.85 < near <= 1.0


def test_a_grade_that_nobody_has_leaves_a_finite_law_and_too_few_patients_are_refused() -> None:
    volumes, grades = _drawn(60)
    law = fit_ordinal(volumes, [min(grade, 2) for grade in grades])
    assert law.probabilities(5.0)[3] < 0.2
    with pytest.raises(InputRefused, match="20 of two grades"):
        fit_ordinal(volumes[:10], grades[:10])
    with pytest.raises(InputRefused, match="20 of two grades"):
        fit_ordinal(volumes, [1] * 60)
