"""The registry of targets is consistent with itself."""

from __future__ import annotations

import itertools

import pytest

from ichnos.errors import UsageError
from ichnos.targets import (
    TARGETS,
    label_maps,
    mirrored,
    mirrored_channels,
    outlined_targets,
    target_named,
    targets_in,
    targets_needed,
    truth_masks,
)


def test_every_target_stands_under_its_own_name() -> None:
    assert all(name == target.name for name, target in TARGETS.items())


def test_mirroring_twice_changes_nothing() -> None:
    assert all(mirrored(mirrored(name)) == name for name in TARGETS)
    names = list(TARGETS)
    order = mirrored_channels(names)
    assert [order[k] for k in order] == list(range(len(names)))


def test_a_name_that_is_no_target_is_its_own_mirror() -> None:
    assert mirrored("calcification") == "calcification"


@pytest.mark.parametrize("label_map", ["haematoma", "tract", "brain"])
def test_targets_of_one_map_have_different_values(label_map: str) -> None:
    codes = [target.code for target in targets_in(label_map)]
    assert len(codes) > 1
    assert len(set(codes)) == len(codes)


def test_outlined_targets_can_be_distinguished_on_screen() -> None:
    colours = [target.rgb for target in outlined_targets()]
    apart = [
        sum(abs(a - b) for a, b in zip(one, two, strict=True))
        for one, two in itertools.combinations(colours, 2)
    ]
    assert min(apart) > 60


def test_what_is_outlined_is_reported_and_has_codes() -> None:
    for target in TARGETS.values():
        assert target.reported or not target.outlined
        if target.reported:
            assert None not in (target.category, target.type, target.region)


def test_left_and_right_have_their_sides_in_dicom() -> None:
    assert TARGETS["tract_left"].side != TARGETS["tract_right"].side
    assert TARGETS["tract_left"].code != TARGETS["tract_right"].code


def test_findings_need_masks_that_exist() -> None:
    assert targets_needed("outcome") == ("ICH", "tract_left", "tract_right")
    assert targets_needed("nothing") == ()


def test_coordinates_have_neither_truth_nor_map() -> None:
    for target in TARGETS.values():
        if target.kind == "coordinate":
            assert not target.truth
            assert not target.label_map


def test_maps_of_a_cohort_are_those_that_are_targets_themselves() -> None:
    assert "brain" not in label_maps()
    assert {"haematoma", "leukoaraiosis", "tract", "expansion"} <= set(label_maps())


def test_an_unknown_target_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match="'blood'; give any of ICH, IVH"):
        target_named("blood")
    with pytest.raises(UsageError, match="'blood'"):
        truth_masks("ICH", "blood")
