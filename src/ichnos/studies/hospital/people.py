"""Patients of a simulated hospital, drawn from the disease law: what they have, when they come, who is seen
again, and on which scanner. No voxels: a hospital of 1,500 patients takes a moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from ichnos.arrays import Floats
from ichnos.simulation.disease import law, oracle

Flags = npt.NDArray[np.bool_]
FOLLOWUP_SHARE, FLAIR_SHARE = 0.55, 0.25  # of all patients; our choice
# How the log odds of a follow-up CT rise: per standard deviation of ln mL read, of the log odds of expansion
# that was forecast and of ln hours from onset, and with anticoagulation. Our choice.
_INDICATION = {"ln_ml": 0.5, "risk": 0.3, "ln_onset": -0.3, "anticoagulated": 0.8}
_FLAIR_INDICATION = {"ln_ml": -0.5, "age_decades": -0.2}  # who lives and can lie still


@dataclass(frozen=True, eq=False)
class HospitalPeople:
    """Everybody whose plain CT was read, in order of arrival; every field (n,)."""

    month: npt.NDArray[np.int64]  # 1 is the first
    ich_ml: Floats
    followup_ml: Floats  # hidden truth
    leukoaraiosis_ml: Floats  # hidden truth
    age_years: Floats
    onset_to_ct_h: Floats
    anticoagulated: Flags
    risk: Floats  # best possible P(expansion) given all that is visible

    def __len__(self) -> int:
        return len(self.month)

    @property
    def grown_ml(self) -> Floats:
        """Return the hidden growth of each haematoma, in mL."""
        return self.followup_ml - self.ich_ml


@lru_cache(maxsize=64)  # hospitals of several plans are compared on the same patients
def draw_people(patients: int, months: int, seed: int) -> HospitalPeople:
    """Draw patients who arrive evenly over so many months.

    >>> people = draw_people(50, 5, seed=1)
    >>> len(people), int(people.month.min()), int(people.month.max())
    (50, 1, 5)
    """
    draws = law.draw(patients, torch.Generator().manual_seed(seed))

    def array(values: torch.Tensor) -> Floats:
        return np.asarray(values.numpy(), np.float64)

    return HospitalPeople(
        month=1 + np.arange(patients) * months // patients,
        ich_ml=array(draws.ich_ml),
        followup_ml=array(draws.followup_ich_ml),
        leukoaraiosis_ml=array(draws.leukoaraiosis_ml),
        age_years=array(draws.age_years),
        onset_to_ct_h=array(draws.onset_to_ct_h),
        anticoagulated=np.asarray(draws.anticoagulated.numpy(), bool),
        risk=array(oracle.expansion_probability(draws)),
    )


def followup_chance(
    people: HospitalPeople, read_ml: Floats, forecast: Floats, *, unseen: float = 0.0
) -> Floats:
    """Return each patient's chance of a follow-up CT, by what is known on arrival.

    `unseen` are log odds per standard deviation of the hidden growth: a patient who gets worse is scanned
    again, and nobody tells the node why.
    """
    odds = np.log(forecast / (1 - forecast))
    score = (
        _INDICATION["ln_ml"] * _standard(np.log(read_ml))
        + _INDICATION["risk"] * _standard(odds)
        + _INDICATION["ln_onset"] * _standard(np.log(people.onset_to_ct_h))
        + _INDICATION["anticoagulated"] * people.anticoagulated
        + unseen * _standard(people.grown_ml)
    )
    return _with_mean(score, FOLLOWUP_SHARE)


def flair_chance(people: HospitalPeople, read_ml: Floats) -> Floats:
    """Return each patient's chance of a FLAIR within a month."""
    score = _FLAIR_INDICATION["ln_ml"] * _standard(np.log(read_ml))
    score = score + _FLAIR_INDICATION["age_decades"] * (people.age_years - people.age_years.mean()) / 10
    return _with_mean(score, FLAIR_SHARE)


def _standard(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-9))


def _with_mean(score: Floats, share: float) -> Floats:
    """Return probabilities of these log odds, moved so that their mean is the share."""
    from scipy.optimize import brentq
    from scipy.special import expit

    move = brentq(lambda a: float(expit(score + a).mean()) - share, -20, 20)
    return np.asarray(expit(score + move))
