"""The model of the virtual population: who bleeds where, how much, what a CT shows, how far it grows.

One latent bleeding activity makes the visible signs more likely and the growth larger, so that the risk is
partly readable. The same model feeds the voxel generator and the fast image-free mode. Volumes are of the
parenchymal haematoma unless IVH is named. Sources stand beside the numbers; numbers "set to" a figure have no
source of their own: they make the population meet that figure, which `ichnos simulate --check` compares. "No
source looked up" marks a figure of general knowledge; Yu 2025 is npj Digit Med, s41746-025-02213-w.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ichnos.errors import UsageError
from ichnos.simulation.patient import EXPANSION, SIGNS, SITES

_SHARE, _GROWTH_ML = EXPANSION.more_than_share or 1.0, EXPANSION.more_than_ml or 1e9

# Per site, in the order of SITES. Shares are set to deep 64 %, lobar 25 %, no source looked up; European
# cohorts have more lobar bleeds (36 %, 313 of 870, MUCH-Italy; 43 % in Oxford, J Neurol Neurosurg Psychiatry
# 2020, 91:580), which PopulationMix can set. Volumes are set to Yu 2025's 20.4 mL (IQR 21.9) over all sites;
# that lobar bleeds are the largest, those of the pons the smallest, is our choice. IVH is set to 40 % of all
# sites, most beside the ventricles: 27 % in trials (349 of 1,310: Moullaali 2017, J Neurol Neurosurg
# Psychiatry 88:19), 48 % and 54 % in registries (104 of 216: Maas 2013, Neurology 80:1295; 151 of 282: Witsch
# 2015, Neurology 84:989).
_SITE_SHARE = (0.40, 0.20, 0.25, 0.07, 0.04, 0.04)
_SITE_MEDIAN_ML = (22.5, 13.5, 33.0, 17.5, 7.0, 10.0)
_SITE_SPREAD = (0.70, 0.60, 0.68, 0.60, 0.55, 0.60)  # standard deviation of ln mL
_SITE_LARGEST_ML = (110.0, 60.0, 120.0, 45.0, 18.0, 35.0)
_SITE_IVH_LOGIT = (-0.70, 0.65, -1.35, -0.1, -0.9, 2.1)
_SITE_MIDLINE = (0.0, 0.0, 0.0, 0.2, 0.5, 0.0)

# Onset to first CT: median 3.1 h, 3 % come after a day; set for early arrivals, no source looked up.
_ONSET_MEDIAN_H, _ONSET_LN_SD, _LATE_SHARE = 3.1, 0.66, 0.03

# ln odds that raise the activity. Set to adjusted odds ratios of growth > 6 mL: anticoagulation 3.48
# (1.96-6.16), antiplatelets 1.68 (1.06-2.66), volume at the third against the first quartile 7.18
# (4.46-11.60). They are attributed to Al-Shahi Salman 2018 (Lancet Neurol 17:885, first CT at 0.5 to 24 h),
# whose table of odds ratios we could not look up. Antiplatelets elsewhere: 1.85 (1.37-2.5; meta-analysis, Eur
# J Neurol 2017, 24:302), 1.32 (0.85-2.06; Göldlin 2021, Eur Stroke J 6:333). By time: set to about 30 %
# expansion under 3 h and 2 % after 24 h, no source looked up; Brott 1997 (Stroke 28:1) saw, with first CT
# under 3 h, growth in 26 % within an hour and in another 12 % by 20 h. Earlier bleeds are part of the BRAIN
# score (Wang 2015, Stroke 46:376: 4 of 24 points); how much they weigh here is our choice.
_ACTIVITY = {"anticoagulated": 1.15, "antiplatelet": 0.42, "earlier_bleed": 0.30}
_ACTIVITY_PER_LN_HOUR, _ACTIVITY_PER_LN_ML = -0.85, 0.98

# One row per sign: logit at activity 0, its slope, and what anticoagulation adds; signs as defined by Morotti
# 2019 (Ann Neurol 86:480). Prevalences are set to blend 15 %, black hole 15 %, island 15 %, swirl 30 %,
# satellite 25 %: of 182 patients 20 % had blend, 14 % black hole (Sporns 2017, J Stroke 19:333); swirl 30 %
# of 203 (Selariu 2012, BMC Neurol 12:109), 43 % of 212 (Ng 2018, AJNR 39:232); island and satellite, no
# source looked up. Slopes are set to odds ratios of 2 to 5; pooled ones are 3.5 blend, 3.7 black hole, 3.3
# swirl, 7.9 island (meta-analysis of 25 studies by Morotti, Arba, Boulouis and Charidimou). Fluid levels are
# set to 5 % and a third of anticoagulated patients; sources differ: 2 % of all and 4 % of the anticoagulated
# (Almarzouki 2020, Sci Rep 10:15529), 59 % with prolonged and 2 % with normal clotting times (Pfleger 1994,
# AJNR 15:217).
_SIGN_LOGIT = {
    "blend": (-2.0, 0.54, 0.0),
    "black_hole": (-1.9, 0.50, 0.0),
    "island": (-2.2, 0.58, 0.0),
    "swirl": (-1.3, 0.47, 0.2),
    "fluid_level": (-3.4, 0.25, 2.4),
    "satellite": (-1.2, 0.25, 0.0),
}
# Irregularity and heterogeneity: slope * activity + sqrt(1 - slope^2) * noise; set so that the oracle's AUC
# is 0.80 to 0.82, what a good published model reaches (Yu 2025: 0.815 in training, 0.793 and 0.781 outside).
_SCORE_SLOPE = 0.12
_BLEEDS_ON = (-2.71, 1.60)  # logit of still bleeding: at activity 0, slope; set to 20 % expansion (Yu 2025)
# ln of relative growth while bleeding, and relative change without (mean, standard deviation): set to Yu
# 2025's follow-up of 22.7 mL (IQR 26.2). That repeated measurements of a stable clot differ by some 3 % is
# our choice; in 10 clots without expansion, plain against contrast CT differed by 2.5 % (SD 4.7; BMC Med
# Imaging 2022, s12880-022-00735-3).
_GROWTH_LN = (-0.50, 0.55)
_STABLE = (0.03, 0.028)
# How near to the limit of expansion a growth may come, relative and mL: nearer ones are moved away on their
# own side, so that maps, whose volumes are as exact as voxels allow, say of everyone what the model says.
_CLEAR_OF_LIMIT = (0.01, 0.15)
# Of patients; set a little above Al-Shahi Salman 2018, table 1: 7 % (179 of 2,753 not anticoagulated), 4 % (9
# of 246 anticoagulated).
_EARLIER_BLEED_SHARE = 0.09
# Chance of new IVH at follow-up of a stable, of a growing haematoma without: set to 8-15 % over all. 11 %
# within 24 h (107 of 961: Moullaali 2017), 14.5 % (19 of 131: Witsch 2015), 21 % at any time (23 of 112: Maas
# 2013); pooled by our own sum, 12.4 %.
_NEW_IVH = (0.075, 0.26)
# Oedema. Without any: hyperacute scans, fewer by the hour; set to half of those under an hour, no source
# looked up. Ratio to the clot set to 0.58 over all: Gebel 2002 (Stroke 33:2631) has a median of 0.47 at a
# first CT under 3 h (0.55 without IVH or operation) and 0.81 a day later. It grows fastest in the first two
# days (Venkatasubramanian 2011, Stroke 42:73); the power of time is our choice.
_NO_OEDEMA = (0.2, 1.9)  # logit at 1 h, its fall per ln hour
_OEDEMA_LN = (-0.50, 0.35)  # ln of the ratio at 3.2 h: mean, standard deviation


@dataclass(frozen=True)
class PopulationMix:
    """In what the patients of a centre differ from those of another."""

    age_mean_years: float = 62.0  # Yu 2025: 60 +- 13; Al-Shahi Salman 2018, table 1: median 67 (56-76)
    age_sd_years: float = 13.0
    male_share: float = 0.68  # Yu 2025: about 71 %; Al-Shahi Salman 2018, table 1: 60 %
    site_share: tuple[float, ...] = _SITE_SHARE  # in the order of SITES; need not sum to 1
    anticoagulated_odds: float = 1.0  # relative to the usual share at each age
    leukoaraiosis_factor: float = 1.0  # of the volume at each age

    def __post_init__(self) -> None:
        if len(self.site_share) != len(SITES) or min(self.site_share) < 0 or sum(self.site_share) <= 0:
            raise UsageError(
                f"site_share holds {self.site_share}; give a share of 0 or more for each of"
                f" {', '.join(SITES)}"
            )


USUAL = PopulationMix()


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
    antiplatelet: Tensor  # bool
    earlier_bleed: Tensor  # bool
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
    return torch.clamp(_SHARE * ich_ml, max=_GROWTH_ML)


@dataclass(frozen=True, eq=False)
class _Chance:
    """Random numbers, one per patient."""

    patients: int
    generator: torch.Generator

    def normal(self) -> Tensor:
        return torch.randn(self.patients, generator=self.generator)

    def uniform(self) -> Tensor:
        return torch.rand(self.patients, generator=self.generator)


def draw(patients: int, generator: torch.Generator, mix: PopulationMix = USUAL) -> Draws:
    """Draw patients with a haematoma (2,000 in a few milliseconds)."""
    chance = _Chance(patients, generator)
    facts = _facts(chance, mix)
    onset, interval = facts["onset_to_ct_h"], facts["followup_interval_h"]
    ich, ivh = _first_volumes_ml(chance, facts["site"])
    drugs_and_history = (facts["anticoagulated"], facts["antiplatelet"], facts["earlier_bleed"])
    activity = _activity_mean(*drugs_and_history, onset, ich) + chance.normal()
    appearance = _appearance(chance, activity, facts["anticoagulated"])
    oedema = _oedema_ml(ich, onset, chance.normal(), chance.uniform())
    followup_ich = grow(ich, activity, interval, generator)
    later_oedema = _oedema_ml(ich, onset + interval, 0.5 * chance.normal(), torch.ones(patients))
    constitution = _constitution(chance, facts["age_years"], mix)
    return Draws(
        **facts,
        **appearance,
        **constitution,
        ich_ml=ich,
        ivh_ml=ivh,
        phe_ml=oedema,
        activity=activity,
        followup_ich_ml=followup_ich,
        followup_ivh_ml=_followup_ivh_ml(ivh, followup_ich / ich - 1, chance.uniform()),
        followup_phe_ml=torch.maximum(later_oedema + 0.25 * (followup_ich - ich), 1.1 * oedema),
    )


def _facts(chance: _Chance, mix: PopulationMix) -> dict[str, Tensor]:
    """Draw who bleeds, where, and when the scans are taken."""
    age = (mix.age_mean_years + mix.age_sd_years * chance.normal()).clamp(25, 95)
    male = chance.uniform() < mix.male_share
    anticoagulated, antiplatelet = _drugs(age, mix, chance.uniform())
    earlier = chance.uniform() < _EARLIER_BLEED_SHARE
    shares = torch.tensor(mix.site_share).float()
    site = torch.multinomial(shares, chance.patients, replacement=True, generator=chance.generator)
    side = (chance.uniform() < 0.5).long()
    return {
        "age_years": age,
        "male": male,
        "anticoagulated": anticoagulated,
        "antiplatelet": antiplatelet,
        "earlier_bleed": earlier,
        "site": site,
        "side": torch.where(chance.uniform() < torch.tensor(_SITE_MIDLINE)[site], 2, side),
        "onset_to_ct_h": _onset_h(chance.normal(), chance.uniform(), chance.uniform()),
        "followup_interval_h": (21 + 4 * chance.normal()).clamp(6, 24),
    }


def _first_volumes_ml(chance: _Chance, site: Tensor) -> tuple[Tensor, Tensor]:
    """Draw ICH and IVH at baseline."""
    spread = torch.tensor(_SITE_SPREAD)[site]
    ich = torch.tensor(_SITE_MEDIAN_ML)[site] * torch.exp(spread * chance.normal())
    ich = torch.minimum(ich.clamp(min=0.8), torch.tensor(_SITE_LARGEST_ML)[site])
    ruptures = torch.sigmoid(torch.tensor(_SITE_IVH_LOGIT)[site] + 0.6 * torch.log(ich / 20))
    has_ivh = chance.uniform() < ruptures
    return ich, torch.where(has_ivh, (6 * torch.exp(0.9 * chance.normal())).clamp(0.5, 45), 0.0)


def _appearance(chance: _Chance, activity: Tensor, anticoagulated: Tensor) -> dict[str, Tensor]:
    """Draw what the scan shows of the activity: signs and the scores of outline and density."""
    logit = torch.stack([sign_logit(name, activity, anticoagulated) for name in SIGNS], -1)
    signs = torch.rand(logit.shape, generator=chance.generator) < torch.sigmoid(logit)
    noise = (1 - _SCORE_SLOPE**2) ** 0.5
    return {
        "signs": signs,
        "irregularity": _SCORE_SLOPE * activity + noise * chance.normal(),
        "heterogeneity": _SCORE_SLOPE * activity + noise * chance.normal(),
    }


def _constitution(chance: _Chance, age: Tensor, mix: PopulationMix) -> dict[str, Tensor]:
    """Draw what a patient brings along: atrophy, haematocrit, white-matter disease."""
    return {
        "atrophy": ((age - 35) / 60 + 0.15 * chance.normal()).clamp(0, 1.1),
        "haematocrit": (0.41 + 0.05 * chance.normal()).clamp(0.25, 0.55),
        "leukoaraiosis_ml": leukoaraiosis_ml(age, chance.normal()) * mix.leukoaraiosis_factor,
    }


def leukoaraiosis_ml(age_years: Tensor, score: Tensor) -> Tensor:
    """Return the volume of white-matter disease at an age for a standard score.

    >>> [round(float(ml), 1) for ml in leukoaraiosis_ml(torch.tensor([50.0, 65.0, 80.0]), torch.zeros(3))]
    [2.5, 5.3, 11.3]

    Set to 5 to 6 mL at 60 to 70 years: 2,529 patients with ischaemic stroke have a median of 5.86 (2.18 to
    14.61; Giese 2020, Neurology 95:e79). Haemorrhage goes with more: 133 patients had 19.5 (lobar) and 19.9
    mL (deep), normalised for head size (Stroke 2010, 41:1933); `leukoaraiosis_factor` sets it. Doubling in 14
    years and the spread are our choice.
    """
    return (4.6 * torch.exp(0.050 * (age_years - 62) + 0.95 * score)).clamp(0.0, 90)


def _drugs(age_years: Tensor, mix: PopulationMix, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Return who takes anticoagulants (about 10 %) and, of the others, antiplatelets (about 20 %).

    Al-Shahi Salman 2018, table 1: 10 % anticoagulants and 24 % antiplatelets in cohorts with anticoagulated
    patients; of those not anticoagulated, 18 % antiplatelets. How both rise with age is our choice.
    """
    anticoagulant = 0.03 + 0.16 * torch.sigmoid((age_years - 65) / 6)
    odds = mix.anticoagulated_odds * anticoagulant / (1 - anticoagulant)
    anticoagulant = odds / (1 + odds)
    antiplatelet = 0.08 + 0.26 * torch.sigmoid((age_years - 65) / 8)
    taken = chance < anticoagulant
    return taken, ~taken & (chance < anticoagulant + antiplatelet * (1 - anticoagulant))


def _onset_h(score: Tensor, late: Tensor, when: Tensor) -> Tensor:
    early = (_ONSET_MEDIAN_H * torch.exp(_ONSET_LN_SD * score)).clamp(0.5, 24)
    return torch.where(late < _LATE_SHARE, 24 * 3**when, early)


def _oedema_ml(ich_ml: Tensor, hours: Tensor, score: Tensor, chance: Tensor) -> Tensor:
    """Return the oedema of clots of an age; 0 where a `chance` (0..1) leaves a young clot without any."""
    without = torch.sigmoid(_NO_OEDEMA[0] - _NO_OEDEMA[1] * torch.log(hours))
    ratio = torch.exp(_OEDEMA_LN[0] + _OEDEMA_LN[1] * score) * (hours / 3.2) ** 0.2
    return torch.where(chance < without, 0.0, ich_ml * ratio)


def activity_mean(draws: Draws) -> Tensor:
    """Return the mean of the latent activity given the clinical facts and the volume; its spread is 1.

    Early, large, anticoagulated bleeds are the active ones.
    """
    return _activity_mean(
        draws.anticoagulated, draws.antiplatelet, draws.earlier_bleed, draws.onset_to_ct_h, draws.ich_ml
    )


def _activity_mean(
    anticoagulated: Tensor, antiplatelet: Tensor, earlier_bleed: Tensor, onset_h: Tensor, ich_ml: Tensor
) -> Tensor:
    return (
        _ACTIVITY["anticoagulated"] * anticoagulated
        + _ACTIVITY["antiplatelet"] * antiplatelet
        + _ACTIVITY["earlier_bleed"] * earlier_bleed
        + _ACTIVITY_PER_LN_HOUR * torch.log(onset_h / 3.2)
        + _ACTIVITY_PER_LN_ML * torch.log(ich_ml / 20)
    )


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
    hours (time constant: our choice).

    >>> [round(share, 2) for share in share_grown(torch.tensor([0.0, 5.0, 24.0])).tolist()]
    [0.0, 0.63, 0.99]
    """
    return 1 - torch.exp(-interval_h / 5.0)


def grow(ich_ml: Tensor, activity: Tensor, interval_h: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the hidden part: the volume at follow-up, clear of the limit of expansion on either side."""
    bleeding = torch.rand(ich_ml.shape, generator=generator) < bleeds_on(activity)
    mean, spread = _GROWTH_LN
    while_bleeding = torch.exp(mean + spread * torch.randn(ich_ml.shape, generator=generator)) * share_grown(
        interval_h
    )
    stable = _STABLE[0] + _STABLE[1] * torch.randn(ich_ml.shape, generator=generator)
    growth_ml = ich_ml * torch.where(bleeding, while_bleeding, stable)
    limit_ml = expansion_limit_ml(ich_ml)
    clear_ml = torch.minimum(_CLEAR_OF_LIMIT[0] * ich_ml + _CLEAR_OF_LIMIT[1], 0.25 * limit_ml)
    above = growth_ml > limit_ml
    clear = torch.where(above, limit_ml + clear_ml, limit_ml - clear_ml)
    return ich_ml + torch.where((growth_ml - limit_ml).abs() < clear_ml, clear, growth_ml)


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


def _followup_ivh_ml(ivh_ml: Tensor, growth: Tensor, chance: Tensor) -> Tensor:
    """Return IVH at follow-up: it grows with the haematoma, clears a little without, and may be new."""
    grown = torch.where(growth > 0.15, ivh_ml * (1 + 0.5 * growth.clamp(max=1.5)), 0.95 * ivh_ml)
    ruptures = chance < torch.where(growth > 0.15, _NEW_IVH[1], _NEW_IVH[0])
    return torch.where(ruptures & (ivh_ml == 0), 1.0 + 4.0 * growth.clamp(0, 1), grown).clamp(max=50)
