"""The Fazekas scale of white-matter disease: its regions, grades and words (Fazekas 1987, AJR 149:351)."""

from __future__ import annotations

from typing import Literal, get_args

FazekasRegion = Literal["periventricular", "deep"]
FAZEKAS_REGIONS: tuple[FazekasRegion, ...] = get_args(FazekasRegion)
FAZEKAS_WORDS: dict[FazekasRegion, tuple[str, str, str, str]] = {
    "periventricular": (
        "none",
        "caps or a thin lining",
        "a smooth halo",
        "irregular, reaching into the depth",
    ),
    "deep": ("none", "punctate", "beginning to be confluent", "large confluent areas"),
}
FAZEKAS_GRADES = 4  # 0 to 3


def fazekas_words(region: FazekasRegion, grade: int) -> str:
    """Return what a grade of a region looks like.

    >>> fazekas_words("deep", 1)
    'punctate'
    """
    return FAZEKAS_WORDS[region][grade]


def fazekas_name(region: FazekasRegion) -> str:
    """Return the name that measures, tables and predictions carry.

    >>> fazekas_name("deep")
    'fazekas_deep'
    """
    return f"fazekas_{region}"
