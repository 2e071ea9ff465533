"""The hospitals of the study, each a run of its own that is kept: what happens in it, what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ichnos.audit.lot import LOT_SHARE
from ichnos.audit.statistics import site_statistics
from ichnos.studies.hospital.measures import (
    agreements,
    alarm_times,
    alarms_of,
    harmful,
    recalibrated_coverage,
)
from ichnos.studies.hospital.model import FactoryModel, factory_model
from ichnos.studies.hospital.outlines import outlined_agreements, taught_each_way
from ichnos.studies.hospital.scanners import NEW, HospitalScanner
from ichnos.studies.hospital.year import HospitalPlan, HospitalYear, simulate_year

REPLACED_IN, PROTOCOL_IN = 4, 6  # months
TAUGHT_PAIRS = 40
QUIET_TIMES = 5  # more of those that vary most: false alarms are rare, a slope from few outlines scatters
UNSEEN = 0.7  # log odds of a follow-up per standard deviation of hidden growth
AS_DESIGNED, UNSEEN_GROWTH, SAME_MODEL = "quiet", "unseen growth decides too", "follow-up read by the model"
OUTLINED_BY_LOT = "follow-up read by the model, a lot outlined"
CHANGED = {  # name -> (how readings err on the new scanner, points of coverage that this costs)
    "5 points by bias": ("bias", 5.0),
    "5 points by scatter": ("spread", 5.0),
    "15 points by bias": ("bias", 15.0),
    "15 points by scatter": ("spread", 15.0),
}
PROTOCOL, SITE = "thinner slices", "site"
_SITE_SCANNERS = ((0.0, 1.0), (0.1, 1.0), (-0.1, 1.1), (0.05, 1.3), (0.2, 0.9))  # bias, spread
_SEEDS = {SITE: 3000, AS_DESIGNED: 1000, UNSEEN_GROWTH: 4000, SAME_MODEL: 5000, OUTLINED_BY_LOT: 6000}
_CHANGED_SEED = 2000


@dataclass(frozen=True)
class Hospital:
    """One hospital of a scenario; those that change have the same patients at the same number."""

    scenario: str
    number: int
    patients: int

    @property
    def id(self) -> str:
        """Return its name in the ledger.

        >>> Hospital("5 points by bias", 3, 1500).id
        '5-points-by-bias-03'
        """
        return f"{self.scenario.replace(' ', '-')}-{self.number:02d}"

    def plan(self) -> HospitalPlan:
        """Return what happens in it."""
        plan = HospitalPlan(patients=self.patients)
        if self.scenario in CHANGED:
            return replace(plan, replaced_in=REPLACED_IN, new=_harmful(*CHANGED[self.scenario]))
        if self.scenario == SITE:
            bias, spread = _SITE_SCANNERS[self.number]
            new = replace(NEW, name=f"scanner {self.number + 1}", bias=bias, spread=spread)
            return replace(plan, replaced_in=1, new=new)
        changes: dict[str, HospitalPlan] = {
            UNSEEN_GROWTH: replace(plan, unseen=UNSEEN),
            SAME_MODEL: replace(plan, outlined=0.0),
            OUTLINED_BY_LOT: replace(plan, outlined=LOT_SHARE),
            PROTOCOL: replace(plan, protocol_in=PROTOCOL_IN),
        }
        return changes.get(self.scenario, plan)


@lru_cache(maxsize=1)
def _model() -> FactoryModel:
    return factory_model()


@lru_cache(maxsize=8)
def _harmful(kind: str, points: float) -> HospitalScanner:
    return harmful(_model(), kind, points)


def hospitals_of(count: int, patients: int) -> list[Hospital]:
    """Return every hospital: `count` of most, more quiet and outlined ones, five of protocol and sites."""
    counts = {name: count for name in (AS_DESIGNED, UNSEEN_GROWTH, SAME_MODEL, *CHANGED)}
    counts |= dict.fromkeys((AS_DESIGNED, OUTLINED_BY_LOT), QUIET_TIMES * count)
    counts |= {PROTOCOL: min(count, 5), SITE: len(_SITE_SCANNERS)}
    return [Hospital(name, k, patients) for name, most in counts.items() for k in range(most)]


def measured_hospital(hospital: Hospital, folder: Path) -> dict[str, Any]:
    """Run one hospital and measure what its scenario asks; return plain numbers, writing nothing."""
    del folder
    seed = _SEEDS.get(hospital.scenario, _CHANGED_SEED) + hospital.number
    year = simulate_year(hospital.plan(), _model(), seed)
    found: Mapping[str, Any]
    if hospital.scenario in CHANGED:
        found = _changed(year, hospital.number)
    elif hospital.scenario == SITE:
        found = _site(year, f"site {hospital.number + 1}")
    elif hospital.scenario == PROTOCOL:
        found = {"alarms": [alarm.stream for alarm in alarms_of(year, hospital.number)]}
    elif hospital.scenario == OUTLINED_BY_LOT:
        outlined, taught = outlined_agreements(year), taught_each_way(year)
        found = {
            "outlined": {name: asdict(one) for name, one in outlined.items()},
            "taught": {name: asdict(one) for name, one in taught.items()},
        }
    else:
        found = {"agreement": {name: asdict(one) for name, one in agreements(year).items()}}
        if hospital.scenario == AS_DESIGNED:
            found = {**found, "alarms": [alarm.stream for alarm in alarms_of(year, hospital.number)]}
    return {"scenario": hospital.scenario, **found}


def _changed(year: HospitalYear, number: int) -> dict[str, Any]:
    coverage = recalibrated_coverage(year, REPLACED_IN, TAUGHT_PAIRS)
    return {
        "times": asdict(alarm_times(year, REPLACED_IN, number)),
        "pairs": int(year.followed[year.people.month >= REPLACED_IN].sum()),
        "recalibration": {quantity: asdict(one) for quantity, one in coverage.items()},
    }


def _site(year: HospitalYear, site: str) -> dict[str, Any]:
    return {
        "statistics": [asdict(one) for one in site_statistics(year.scores, site=site)],
        "hidden": [asdict(one) for one in site_statistics(year.hidden, site=site)],
    }
