"""A verdict with its reasons: may this scan be read, may this pair be trusted?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["pass", "warn", "refuse"]
_ORDER: tuple[Level, ...] = ("pass", "warn", "refuse")


@dataclass(frozen=True)
class Reason:
    """One check and what it found.

    >>> Reason("slice_step", "warn", "slices are 8 mm apart", 8.0, "mm").level
    'warn'
    """

    name: str  # short, stable, machine-readable: "slice_step"
    level: Level
    text: str  # a sentence for a person
    value: float | None = None  # the number behind it, None if the check has none
    unit: str = ""  # "mm", "HU", "%", "" for a count


@dataclass(frozen=True)
class Verdict:
    """The worst level among the reasons, with all of them.

    >>> thick = Verdict((Reason("slice_step", "warn", "slices are 8 mm apart", 8.0, "mm"),))
    >>> metal = Verdict((Reason("metal", "refuse", "metal hides the brain"),))
    >>> (thick + metal).level, thick.level, Verdict().level
    ('refuse', 'warn', 'pass')
    """

    reasons: tuple[Reason, ...] = ()

    @property
    def level(self) -> Level:
        """Return the worst level of any reason; "pass" without reasons.

        >>> Verdict((Reason("gap", "warn", "one slice is missing", 1.0),)).level
        'warn'
        """
        return max((reason.level for reason in self.reasons), key=_ORDER.index, default="pass")

    def at(self, level: Level) -> tuple[Reason, ...]:
        """Return the reasons of one level, in the order of the checks.

        >>> verdict = Verdict((Reason("metal", "warn", "some metal"), Reason("slices", "pass", "all there")))
        >>> [reason.name for reason in verdict.at("warn")]
        ['metal']
        """
        return tuple(reason for reason in self.reasons if reason.level == level)

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(self.reasons + other.reasons)
