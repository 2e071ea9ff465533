"""The law of the virtual population: who bleeds where, how much, what the first scan shows, and how far it
grows.

One latent bleeding activity makes the visible signs more likely and the growth larger, so that the risk is
partly readable. The same law feeds the voxel generator and the fast image-free mode. Volumes are of the
parenchymal haematoma unless IVH is named.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ichnos.simulation.patient import SIGNS

Tensor = torch.Tensor

HE_RELATIVE, HE_ABSOLUTE_ML = 0.33, 6.0  # haematoma expansion: growth > 33 % or > 6 mL

_SITE_SHARE = (0.40, 0.20, 0.25, 0.07, 0.04, 0.04)  # in the order of SITES
_SITE_MEDIAN_ML = (22.5, 13.5, 33.0, 17.5, 7.0, 10.0)
_SITE_SPREAD = (0.70, 0.60, 0.68, 0.60, 0.55, 0.60)  # standard deviation of ln mL
_SITE_LARGEST_ML = (110.0, 60.0, 120.0, 45.0, 18.0, 35.0)
_SITE_IVH_LOGIT = (-1.10, 0.25, -1.75, -0.5, -1.3, 1.7)
_SITE_MIDLINE = (0.0, 0.0, 0.0, 0.2, 0.5, 0.0)

# One row per sign: logit at activity 0, its slope, and what anticoagulation adds.
_SIGN_LOGIT = {
    "blend": (-2.0, 1.3, 0.0),
    "black_hole": (-1.9, 1.2, 0.0),
    "island": (-2.2, 1.4, 0.0),
    "swirl": (-1.3, 1.1, 0.2),
    "fluid_level": (-3.4, 0.5, 2.4),
    "satellite": (-1.2, 0.55, 0.0),
}
_SCORE_SLOPE = 0.68  # irregularity and heterogeneity: slope * activity + sqrt(1 - slope²) * noise
_BLEEDS_ON = (-3.05, 2.6)  # logit of still bleeding: at activity 0, slope
_GROWTH_LN = (-0.42, 0.65)  # ln of relative growth while bleeding: mean, standard deviation
_STABLE = (0.04, 0.06)  # relative change without bleeding: mean, standard deviation


@dataclass(frozen=True, eq=False)
class Draws:
    """Many patients at once; every field has one entry per patient, float32 unless said otherwise."""

    age_years: Tensor
    male: Tensor  # bool
    atrophy: Tensor
    site: Tensor  # int64, index into SITES
    side: Tensor  # int64: 0 left, 1 right, 2 midline
    onset_to_ct_h: Tensor
    followup_interval_h: Tensor
    anticoagulated: Tensor  # bool
    haematocrit: Tensor
    ich_ml: Tensor
    ivh_ml: Tensor
    phe_ml: Tensor
    leukoaraiosis_ml: Tensor
    signs: Tensor  # (n, len(SIGNS)) bool
    irregularity: Tensor
    heterogeneity: Tensor
    activity: Tensor  # hidden
    followup_ich_ml: Tensor  # hidden
    followup_ivh_ml: Tensor  # hidden
    followup_phe_ml: Tensor  # hidden

    def __len__(self) -> int:
        return len(self.age_years)

    @property
    def expanded(self) -> Tensor:
        """Return whether each haematoma grew by more than 33 % or 6 mL."""
        return self.followup_ich_ml - self.ich_ml > expansion_limit_ml(self.ich_ml)


def expansion_limit_ml(ich_ml: Tensor) -> Tensor:
    """Return the growth above which a haematoma of this volume has expanded.

    >>> expansion_limit_ml(torch.tensor([10.0, 30.0]))
    tensor([3.3000, 6.0000])
    """
    return torch.clamp(HE_RELATIVE * ich_ml, max=HE_ABSOLUTE_ML)


def draw(patients: int, generator: torch.Generator) -> Draws:
    """Draw patients with a haematoma from the law (2,000 in a few milliseconds)."""
    n = (patients,)

    def normal() -> Tensor:
        return torch.randn(n, generator=generator)

    def uniform() -> Tensor:
        return torch.rand(n, generator=generator)

    age = (62 + 13 * normal()).clamp(25, 95)
    male, anticoagulated = uniform() < 0.68, uniform() < 0.02 + 0.14 * torch.sigmoid((age - 65) / 6)
    site = torch.multinomial(torch.tensor(_SITE_SHARE), patients, replacement=True, generator=generator)
    side = (uniform() < 0.5).long()
    side = torch.where(uniform() < torch.tensor(_SITE_MIDLINE)[site], 2, side)
    onset = (3.2 * torch.exp(0.75 * normal())).clamp(0.5, 48)
    interval = (21 + 4 * normal()).clamp(6, 24)
    ich = torch.tensor(_SITE_MEDIAN_ML)[site] * torch.exp(torch.tensor(_SITE_SPREAD)[site] * normal())
    ich = torch.minimum(ich.clamp(min=0.8), torch.tensor(_SITE_LARGEST_ML)[site])
    has_ivh = uniform() < torch.sigmoid(torch.tensor(_SITE_IVH_LOGIT)[site] + 0.6 * torch.log(ich / 20))
    ivh = torch.where(has_ivh, (6 * torch.exp(0.9 * normal())).clamp(0.5, 45), 0.0)
    activity = activity_mean(anticoagulated, onset, ich) + normal()
    logit = torch.stack([sign_logit(name, activity, anticoagulated) for name in SIGNS], -1)
    signs = torch.rand((patients, len(SIGNS)), generator=generator) < torch.sigmoid(logit)
    noise = (1 - _SCORE_SLOPE**2) ** 0.5
    scores = [_SCORE_SLOPE * activity + noise * normal() for _ in range(2)]
    phe = ich * torch.exp(-0.55 + 0.3 * normal()) * (onset / 3.2) ** 0.15
    followup_ich, bleeding = grow(ich, activity, interval, generator)
    growth = followup_ich / ich - 1
    return Draws(
        age_years=age,
        male=male,
        atrophy=((age - 35) / 60 + 0.12 * normal()).clamp(0, 1),
        site=site,
        side=side,
        onset_to_ct_h=onset,
        followup_interval_h=interval,
        anticoagulated=anticoagulated,
        haematocrit=(0.41 + 0.05 * normal()).clamp(0.25, 0.55),
        ich_ml=ich,
        ivh_ml=ivh,
        phe_ml=phe,
        leukoaraiosis_ml=(3.2 * torch.exp(0.052 * (age - 62) + 0.95 * normal())).clamp(0.0, 90),
        signs=signs,
        irregularity=scores[0],
        heterogeneity=scores[1],
        activity=activity,
        followup_ich_ml=followup_ich,
        followup_ivh_ml=_grow_ivh(ivh, growth, bleeding & (uniform() < 0.15)),
        followup_phe_ml=phe * (1 + 0.6 * interval / 24 * torch.exp(0.25 * normal()))
        + 0.25 * (followup_ich - ich).clamp(min=0),
    )


def activity_mean(anticoagulated: Tensor, onset_to_ct_h: Tensor, ich_ml: Tensor) -> Tensor:
    """Return the mean of the latent activity (its standard deviation is 1): early, anticoagulated, large
    bleeds are the active ones.
    """
    return 0.6 * anticoagulated - 0.4 * torch.log(onset_to_ct_h / 3.2) + 0.25 * torch.log(ich_ml / 20)


def sign_logit(name: str, activity: Tensor, anticoagulated: Tensor) -> Tensor:
    """Return the logit of a sign's presence."""
    base, slope, with_anticoagulation = _SIGN_LOGIT[name]
    return base + slope * activity + with_anticoagulation * anticoagulated


def score_density(score: Tensor, activity: Tensor) -> Tensor:
    """Return the log density (up to a constant) of irregularity or heterogeneity given the activity."""
    return -0.5 * (score - _SCORE_SLOPE * activity) ** 2 / (1 - _SCORE_SLOPE**2)


def bleeds_on(activity: Tensor) -> Tensor:
    """Return the probability that the vessel still bleeds."""
    return torch.sigmoid(_BLEEDS_ON[0] + _BLEEDS_ON[1] * activity)


def share_grown(interval_h: Tensor) -> Tensor:
    """Return the share of the final growth that has happened by the follow-up; most comes in the first
    hours.
    """
    return 1 - torch.exp(-interval_h / 5.0)


def grow(
    ich_ml: Tensor, activity: Tensor, interval_h: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the hidden part: volume at follow-up, and whether the vessel bled on."""
    bleeding = torch.rand(ich_ml.shape, generator=generator) < bleeds_on(activity)
    mean, spread = _GROWTH_LN
    while_bleeding = torch.exp(mean + spread * torch.randn(ich_ml.shape, generator=generator)) * share_grown(
        interval_h
    )
    stable = _STABLE[0] + _STABLE[1] * torch.randn(ich_ml.shape, generator=generator)
    return ich_ml * (1 + torch.where(bleeding, while_bleeding, stable)), bleeding


def expansion_given_activity(activity: Tensor, ich_ml: Tensor, interval_h: Tensor) -> Tensor:
    """Return P(expansion | activity, baseline volume), in closed form; arguments broadcast."""
    limit = expansion_limit_ml(ich_ml) / ich_ml
    mean, spread = _GROWTH_LN
    bleeding = 1 - _normal_cdf((torch.log(limit / share_grown(interval_h)) - mean) / spread)
    stable = 1 - _normal_cdf((limit - _STABLE[0]) / _STABLE[1])
    on = bleeds_on(activity)
    return on * bleeding + (1 - on) * stable


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / 2**0.5))


def _grow_ivh(ivh_ml: Tensor, growth: Tensor, ruptures: Tensor) -> Tensor:
    """Return IVH at follow-up: it grows with the haematoma, clears a little without, and may be new."""
    grown = torch.where(growth > 0.15, ivh_ml * (1 + 0.5 * growth.clamp(max=1.5)), 0.95 * ivh_ml)
    return torch.where(ruptures & (ivh_ml == 0), 1.0 + 4.0 * growth.clamp(0, 1), grown).clamp(max=50)
