"""One row of the realism table: what the simulation has, how surely, what was published, and the band."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ichnos.volume import Array, Floats

Span = tuple[float, float]
_NOWHERE: Span = (float("nan"), float("nan"))
_Z95 = 1.96
_LEAST_VALUES = 5  # below which no median is compared


@dataclass(frozen=True)
class RealismRow:
    """One quantity: what the simulation has, what was published, and the band that counts as met."""

    quantity: str
    value: float  # NaN where there are too few patients
    interval: Span  # 95 %, from the number of patients alone
    published: str
    band: Span
    source: str
    n: int
    quartiles: Span | None = None  # between patients, where the value is a median of them

    @property
    def met(self) -> bool | None:
        """Say whether the value lies in the band; None where it could not be measured.

        >>> RealismRow("share", 0.4, (0.3, 0.5), "0.4", (0.36, 0.45), "", 100).met
        True
        """
        return self.band[0] <= self.value <= self.band[1] if np.isfinite(self.value) else None

    @property
    def missed(self) -> bool:
        """Say whether the band is missed by more than so few patients explain.

        >>> RealismRow("share", 0.3, (0.25, 0.35), "0.4", (0.36, 0.45), "", 100).missed
        True
        """
        return self.met is False and (self.interval[1] < self.band[0] or self.interval[0] > self.band[1])

    @property
    def verdict(self) -> str:
        """Return in words whether the band is met.

        >>> RealismRow("share", 0.3, (0.25, 0.37), "0.4", (0.36, 0.45), "", 100).verdict
        'within error'
        """
        if self.met is None:
            return "too few"
        return "yes" if self.met else "NO" if self.missed else "within error"

    @property
    def shown(self) -> str:
        """Return the value with its interval as text.

        >>> RealismRow("share", 0.3, (0.25, 0.37), "0.4", (0.36, 0.45), "", 100).shown
        '0.3 (0.25 to 0.37)'
        """
        return "-" if self.met is None else f"{self.value:.3g} ({_text(self.interval)})"

    @property
    def shown_band(self) -> str:
        """Return the band as text."""
        return _text(self.band)

    @property
    def shown_quartiles(self) -> str:
        """Return the quartiles between patients as text, "" where there are none."""
        return "" if self.quartiles is None else _text(self.quartiles)

    def as_row(self) -> dict[str, Any]:
        """Return the row for JSON; what could not be measured is null."""
        known = self.met is not None
        return {
            "quantity": self.quantity,
            "value": self.value if known else None,
            "interval": list(self.interval) if known else None,
            "quartiles": list(self.quartiles) if known and self.quartiles else None,
            "published": self.published,
            "band": list(self.band),
            "source": self.source,
            "n": self.n,
            "verdict": self.verdict,
        }


def _text(span: Span) -> str:
    return f"{span[0]:.3g} to {span[1]:.3g}"


def around(published: float, share: float) -> Span:
    """Return the band of a share on either side of a published figure.

    >>> around(20.0, 0.1)
    (18.0, 22.0)
    """
    return published * (1 - share), published * (1 + share)


def median_row(quantity: str, values: npt.ArrayLike, published: str, band: Span, source: str) -> RealismRow:
    """Compare a median, with the quartiles between patients; below five values there is none.

    >>> median_row("volume", [1, 2, 3, 4, 5], "3", (2, 4), "").value
    3.0
    """
    array = np.sort(np.asarray(values, np.float64))
    n = array.size
    if n < _LEAST_VALUES:
        return RealismRow(quantity, float("nan"), _NOWHERE, published, band, source, n)
    first, middle, third = np.quantile(array, [0.25, 0.5, 0.75])
    reach = _Z95 / (2 * np.sqrt(n))  # of the median's rank, as a share
    low, high = np.quantile(array, [max(0.0, 0.5 - reach), min(1.0, 0.5 + reach)])
    interval = float(low), float(high)
    return RealismRow(
        quantity, float(middle), interval, published, band, source, n, (float(first), float(third))
    )


def share_row(quantity: str, values: npt.ArrayLike, published: str, band: Span, source: str) -> RealismRow:
    """Compare a share of patients, with Wilson's interval.

    >>> row = share_row("share", np.arange(100) < 40, "0.4", (0.36, 0.45), "")
    >>> row.value, [round(end, 2) for end in row.interval]
    (0.4, [0.31, 0.5])
    """
    array = np.asarray(values, np.float64)
    if array.size == 0:
        return RealismRow(quantity, float("nan"), _NOWHERE, published, band, source, 0)
    n, p = array.size, float(array.mean())
    centre = (p + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    reach = _Z95 / (1 + _Z95**2 / n) * float(np.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2)))
    return RealismRow(quantity, p, (centre - reach, centre + reach), published, band, source, n)


@dataclass(frozen=True)
class IntervalEstimate:
    """A figure with its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return f"not defined (n = {self.n})"
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g}), n = {self.n}"


def bootstrapped(statistic: Callable[[Array], float], n: int, *, rounds: int = 300) -> IntervalEstimate:
    """Return a statistic of indices with its percentile interval; resamples on which it is undefined are left
    out.

    >>> bootstrapped(lambda index: float(len(index)), 5).value
    5.0
    """
    if n == 0:
        return IntervalEstimate(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(0)
    value = statistic(np.arange(n))
    again = np.array([statistic(rng.integers(0, n, n)) for _ in range(rounds)])
    again = again[np.isfinite(again)]
    low, high = np.quantile(again, [0.025, 0.975]) if len(again) else (float("nan"), float("nan"))
    return IntervalEstimate(value, float(low), float(high), n)


def auc_interval(area: float, events: int, others: int) -> Span:
    """Return the 95 % interval of an area under the ROC curve (Hanley & McNeil 1982, Radiology 143:29).

    >>> [round(end, 3) for end in auc_interval(0.8932, 51, 58)]
    [0.83, 0.957]
    """
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (events - 1) * (first - area**2) + (others - 1) * (second - area**2)
    reach = _Z95 * float(np.sqrt(spread / (events * others)))
    return area - reach, area + reach


def as_floats(values: Any) -> Floats:
    """Return a tensor or array as float64 numbers."""
    return np.asarray(values, np.float64)
