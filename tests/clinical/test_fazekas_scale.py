"""The Fazekas scale has four grades in words for each of its regions."""

from __future__ import annotations

from ichnos.clinical.fazekas import (
    FAZEKAS_GRADES,
    FAZEKAS_REGIONS,
    FAZEKAS_WORDS,
    fazekas_name,
    fazekas_words,
)


def test_every_grade_of_every_region_has_words_of_its_own() -> None:
    for region in FAZEKAS_REGIONS:
        words = [fazekas_words(region, grade) for grade in range(FAZEKAS_GRADES)]
        assert len(set(words)) == FAZEKAS_GRADES
        assert words[0] == "none"
    assert set(FAZEKAS_WORDS) == set(FAZEKAS_REGIONS)


def test_names_of_regions_differ() -> None:
    assert len({fazekas_name(region) for region in FAZEKAS_REGIONS}) == len(FAZEKAS_REGIONS)
