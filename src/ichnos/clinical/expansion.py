"""Haematoma expansion: when a haematoma counts as expanded, defined once for every room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ichnos.arrays import Floats, Mask
from ichnos.errors import UsageError

_ROUNDING_ML = 1e-6  # 13.3 - 10 is 3.3000000000000007 to a computer, which is not more than a third of 10
DEFAULT_DEFINITION = "33%-or-6ml"


@dataclass(frozen=True)
class ExpansionDefinition:
    """When a haematoma counts as expanded: growth strictly beyond a share or at a number of mL, or (revised)
    ventricular growth.

    >>> expanded = ExpansionDefinition()
    >>> [bool(expanded(b, f)) for b, f in ((20, 25), (20, 27), (100, 106.5), (2, 2.7))]
    [False, True, True, True]
    """

    name: str = "> 33 % or > 6 mL"
    more_than_share: float | None = 0.33  # of the baseline volume, exclusive
    more_than_ml: float | None = 6.0  # exclusive
    at_least_ml: float | None = None  # inclusive
    ivh_growth_at_least_ml: float | None = (
        None  # revised definition: growth of intraventricular blood, or new one
    )

    def __call__(
        self,
        baseline_ml: Any,
        followup_ml: Any,
        baseline_ivh_ml: Any | None = None,
        followup_ivh_ml: Any | None = None,
    ) -> Floats:
        """Return 1 for expanded, 0 for not, NaN where a volume is not known."""
        before, after = np.asarray(baseline_ml, float), np.asarray(followup_ml, float)
        growth = after - before
        grown, unknown = self._has_grown(before, growth), np.isnan(growth)
        if self.ivh_growth_at_least_ml is not None:
            if baseline_ivh_ml is None or followup_ivh_ml is None:
                raise UsageError(
                    f"{self.name!r} needs intraventricular volumes at baseline and follow-up; give both"
                )
            ivh_before, ivh_after = np.asarray(baseline_ivh_ml, float), np.asarray(followup_ivh_ml, float)
            new = (ivh_before == 0) & (ivh_after > 0)
            more = ivh_after - ivh_before >= self.ivh_growth_at_least_ml - _ROUNDING_ML
            grown, unknown = grown | more | new, unknown | np.isnan(ivh_after - ivh_before)
        return np.where(unknown, np.nan, grown.astype(float))

    def _has_grown(self, before: Floats, growth: Floats) -> Mask:
        """Return whether the parenchymal haematoma grew beyond any limit."""
        grown = np.zeros(growth.shape, bool)
        if self.more_than_share is not None:
            grown |= growth > self.more_than_share * before + _ROUNDING_ML
        if self.more_than_ml is not None:
            grown |= growth > self.more_than_ml + _ROUNDING_ML
        if self.at_least_ml is not None:
            grown |= growth >= self.at_least_ml - _ROUNDING_ML
        return grown


DEFINITIONS: Mapping[str, ExpansionDefinition] = {
    DEFAULT_DEFINITION: ExpansionDefinition(),
    "6ml": ExpansionDefinition(">= 6 mL", None, None, 6.0),
    "3ml": ExpansionDefinition(">= 3 mL", None, None, 3.0),
    "12.5ml": ExpansionDefinition(">= 12.5 mL", None, None, 12.5),
    "revised": ExpansionDefinition("> 33 % or > 6 mL or IVH growth >= 1 mL or new IVH", 0.33, 6.0, None, 1.0),
}
