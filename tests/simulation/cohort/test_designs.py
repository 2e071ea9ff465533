"""Who a cohort consists of: every patient once, shares met, splits as asked, seeds that repeat."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichnos.cohort import EXAMS
from ichnos.errors import UsageError
from ichnos.simulation.cohort.design import (
    PRESETS,
    Design,
    Group,
    RenderSettings,
    free_design,
    preset,
    subjects,
)
from ichnos.simulation.cohort.exam_files import protocol_of, random_numbers
from ichnos.simulation.cohort.population import fitting_seed
from ichnos.simulation.exams.scanners import CENTRES
from ichnos.simulation.simulate import draws_of

CENTRE_LISTS = st.lists(st.sampled_from(sorted(CENTRES)), min_size=1, max_size=4, unique=True)


@given(st.integers(1, 300), CENTRE_LISTS)
@settings(max_examples=40)
def test_a_free_design_has_every_patient_once(patients: int, centres: list[str]) -> None:
    design = free_design(patients=patients, centres=centres, exams=["ct"])
    assert sum(group.patients for group in design.groups) == patients
    sizes = Counter[str]()
    for group in design.groups:
        sizes[group.centre] += group.patients
    assert max(sizes.values()) - min(sizes[centre] for centre in centres) <= 1


@given(st.integers(10, 400))
@settings(max_examples=30)
def test_splits_of_a_centre_have_their_shares(patients: int) -> None:
    groups = free_design(patients=patients, centres=["B"], exams=["ct"]).groups
    sizes = {group.split: group.patients for group in groups}
    assert sizes["test"] == round(0.2 * patients)
    assert sizes["validation"] == round(0.1 * patients)
    assert sizes["train"] >= 0.65 * patients


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
@settings(max_examples=50)
def test_shares_are_met_to_one_patient(patients: int, bleeding: float, expanding: float, seed: int) -> None:
    group = Group(patients, "A", haematoma_share=bleeding, expansion_share=expanding)
    people = subjects(Design((group,)), seed=seed)
    assert abs(sum(person.has_haematoma for person in people) - patients * bleeding) < 1
    assert all(person.expands is None or person.has_haematoma for person in people)


@given(st.integers(0, 10_000), st.integers(2, 40))
@settings(max_examples=20)
def test_patients_have_names_and_seeds_of_their_own(seed: int, patients: int) -> None:
    design = free_design(patients=patients, centres=["A", "C"], exams=["ct", "flair"])
    people = subjects(design, seed=seed)
    assert len({person.id for person in people}) == patients
    assert len({person.seed for person in people}) == patients
    assert people == subjects(design, seed=seed)


def test_names_sort_as_their_numbers() -> None:
    people = subjects(free_design(patients=1200, centres=["A"], exams=["ct"]), seed=0)
    assert [person.id for person in people] == sorted(person.id for person in people)


def test_exams_come_in_the_order_of_the_registry() -> None:
    (group, *_) = free_design(patients=9, centres=["A"], exams=list(reversed(EXAMS))).groups
    assert group.exams == EXAMS


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"patients": 0}, "0 patients were asked for"),
        ({"exams": ["ct", "pet"]}, "exams ct, pet were asked for; give ct and any of"),
        ({"exams": ["flair"]}, "exams flair were asked for"),
        ({"exams": []}, "exams none were asked for"),
        ({"haematoma_share": 1.2}, "a share of 1.2 with haematoma"),
        ({"centres": []}, "no centre was given; there are A, B, C, D, E"),
    ],
)
def test_designs_that_cannot_be_are_refused(changed: dict[str, object], message: str) -> None:
    usual: dict[str, object] = {"patients": 3, "centres": ["A"], "exams": ["ct"]}
    with pytest.raises(UsageError, match=message):
        free_design(**usual | changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
def test_a_shrunk_preset_keeps_its_groups(name: str, scale: float) -> None:
    small, whole = preset(name, scale=scale, fewest=3), PRESETS[name]
    assert len(small.groups) == len(whole.groups)
    for few, many in zip(small.groups, whole.groups, strict=True):
        assert min(3, many.patients) <= few.patients <= many.patients
        assert (few.centre, few.split, few.exams, few.mix) == (many.centre, many.split, many.exams, many.mix)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.1])
def test_scales_beyond_a_design_are_refused(scale: float) -> None:
    with pytest.raises(UsageError, match="give a number above 0 and up to 1"):
        preset("yu2025", scale=scale)


@pytest.mark.parametrize("voxel_mm", [0.4, 3.5])
def test_voxels_that_cannot_be_made_are_refused(voxel_mm: float) -> None:
    with pytest.raises(UsageError, match="asked for; give"):
        RenderSettings(voxel_mm=voxel_mm)


def test_a_design_without_patients_is_refused() -> None:
    with pytest.raises(UsageError, match="the design holds no patients"):
        subjects(Design(()), seed=0)


def test_an_exam_more_changes_no_other_exam() -> None:
    (person, *_) = subjects(free_design(patients=3, centres=["B"], exams=list(EXAMS)), seed=4)
    alone = protocol_of(person, "ct")
    protocol_of(person, "followup")
    assert protocol_of(person, "ct") == alone
    assert protocol_of(person, "followup") != alone
    assert random_numbers(person, "ct").random() != random_numbers(person, "flair").random()


@pytest.mark.parametrize("expands", [True, False])
def test_a_seed_is_one_of_a_patient_as_the_design_asks(expands: bool) -> None:
    share = 1.0 if expands else 0.0
    group = Group(3, "A", expansion_share=share, least_ich_ml=20.0)
    for person in subjects(Design((group,)), seed=6):
        draws = draws_of(fitting_seed(person), person.mix)
        assert bool(draws.expanded[0]) is expands
        assert float(draws.ich_ml[0]) >= 20.0
        assert fitting_seed(person) == fitting_seed(person)


def test_without_wishes_a_patients_own_seed_is_taken() -> None:
    (person,) = subjects(Design((Group(1, "A"),)), seed=2)
    assert fitting_seed(person) == person.seed % 2**31
