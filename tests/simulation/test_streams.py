"""Random numbers of a patient: one stream for each part and each exam, none of which moves another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ichnos.simulation.cohort.design import Design, Group, subjects
from ichnos.simulation.cohort.exam_files import protocol_of, random_numbers
from ichnos.simulation.streams import random_stream

PARTS = (
    "law",
    "haematoma",
    "variation",
    "chronic",
    "tract",
    "ivh",
    "lesion",
    "later",
    "resample",
    "operation",
)


def _first(seed: int, part: str) -> list[float]:
    return torch.rand(4, generator=random_stream(seed, part)).tolist()


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=30, deadline=None)
def test_no_two_parts_of_a_patient_share_their_numbers(seed: int) -> None:
    streams = [tuple(_first(seed, part)) for part in PARTS]
    assert len(set(streams)) == len(PARTS)
    assert _first(seed, "lesion") == _first(seed, "lesion")


def test_neighbouring_patients_are_independent() -> None:
    draws = np.array([_first(seed, "law")[0] for seed in range(400)])
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.15
    assert abs(draws.mean() - 0.5) < 0.06


def test_an_unknown_part_has_no_stream() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        random_stream(1, "weather")


def test_an_exam_more_or_less_changes_no_other_exam() -> None:
    one, other = subjects(Design((Group(2, "A"),)), seed=3)
    fewer = replace(one, exams=("ct",))
    assert protocol_of(one, "ct") == protocol_of(fewer, "ct")
    assert protocol_of(one, "ct") != protocol_of(one, "followup")
    assert protocol_of(one, "ct") != protocol_of(other, "ct")


def test_a_purpose_names_its_own_numbers() -> None:
    subject = subjects(Design((Group(1, "A"),)), seed=3)[0]
    clinical, again, ct = (
        random_numbers(subject, p).random(3).tolist() for p in ("clinical", "clinical", "ct")
    )
    assert clinical == again
    assert clinical != ct
