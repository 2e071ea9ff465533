"""The growth model: from what a scan shows of a haematoma to a distribution of its volume a day later.

Two kinds of haematoma are mixed. A stable one changes by a share of its volume that is normal around nearly
nothing; a growing one gains a share that is lognormal. The probability of growing depends on what the scan
shows. Everything that is said of growth (probability of expansion under any definition, median, band) is a
property of this one distribution, so that no two of them can contradict each other. The model is plain
numbers in `expansion.json`; `ichnos.learning.fit.growth` fits it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from ichnos.clinical.expansion import ExpansionDefinition
from ichnos.errors import InputRefused
from ichnos.prognosis.store import PlainModel, load_plain, plain_text

GROWTH_FILE = "expansion.json"


@dataclass(frozen=True)
class GrowthInputs:
    """What the model may know of a haematoma; None where it is not known."""

    ich_ml: float
    ivh_ml: float
    sphericity: float  # 1 for a ball
    roundness: float  # of its axial outlines, weighted by area: 1 for circles
    mean_hu: float
    spread_hu: float  # 10th to 90th percentile of smoothed density in the clot's core
    depth_hu: float  # median minus 2nd percentile of the same
    gap_hu: (
        float  # difference of the means of the core's darker and brighter part, divided by Otsu's threshold
    )
    dark_share: float  # share of the core that is at least 10 HU darker than its median
    black_hole: float  # 1 present; 0 absent, or the clot too small to tell
    blend: float
    islands: float  # separate small clots, at most 5 counted
    onset_to_ct_h: float | None = None
    anticoagulated: float | None = None
    forecast_ml: float | None = None  # sum of a network's probability of blood at follow-up

    def feature(self, name: str) -> float:
        """Return one input of the model; NaN where it is not known.

        >>> GrowthInputs(10, 0, 0.6, 0.8, 60, 12, 14, 9, 0.1, 0, 1, 0).feature("blend")
        1
        """
        if name == "ln_ich":
            return math.log(max(self.ich_ml, 0.05))
        if name == "ivh":
            return float(self.ivh_ml >= 0.5)
        if name == "ln_onset":
            return math.nan if self.onset_to_ct_h is None else math.log(max(self.onset_to_ct_h, 0.25))
        if name == "ln_forecast":  # how much more blood than now the network expects, as a logarithm
            now = max(self.ich_ml + self.ivh_ml, 0.05)
            return math.nan if self.forecast_ml is None else math.log(max(self.forecast_ml, 0.05) / now)
        value: float | None = getattr(self, name)
        return math.nan if value is None else value


IMAGE = (
    "ln_ich",
    "ivh",
    "sphericity",
    "roundness",
    "mean_hu",
    "spread_hu",
    "depth_hu",
    "gap_hu",
    "dark_share",
    "black_hole",
    "blend",
    "islands",
)
CLINICAL = ("ln_onset", "anticoagulated")
CHANNEL = ("ln_forecast",)


@dataclass(frozen=True)
class GrowthForecast:
    """The distribution of the parenchymal haematoma's volume at follow-up, about a day after the scan."""

    ich_ml: float  # now
    growing: float  # probability of the growing kind
    gain_mean: float  # mean and standard deviation of ln(share gained) while growing
    gain_sd: float
    stable_mean: float  # mean and standard deviation of the share gained otherwise
    stable_sd: float
    stable_sd_ml: float = 0.0  # what two measurements differ by, whatever the volume; adds to the share's own
    ventricles_alone: float = (
        0.0  # probability that ventricular blood grows by >= 1 mL, or is new, without expansion of the ICH
    )

    def below(self, followup_ml: float) -> float:
        """Return P(volume at follow-up <= so many mL)."""
        share = followup_ml / self.ich_ml - 1
        stable = float(
            ndtr((share - self.stable_mean) / math.hypot(self.stable_sd, self.stable_sd_ml / self.ich_ml))
        )
        growing = float(ndtr((math.log(share) - self.gain_mean) / self.gain_sd)) if share > 0 else 0.0
        return self.growing * growing + (1 - self.growing) * stable

    def quantile_ml(self, q: float) -> float:
        """Return the volume below which the follow-up stays with probability q, in mL.

        >>> f = GrowthForecast(20.0, 0.2, -0.4, 0.6, 0.0, 0.05)
        >>> round(f.quantile_ml(0.5), 1), round(f.below(f.quantile_ml(0.9)), 4)
        (20.3, 0.9)
        """
        if self.below(0.0) >= q:
            return 0.0
        high = 2 * self.ich_ml
        while self.below(high) < q:
            high *= 2
        return float(brentq(lambda ml: self.below(ml) - q, 0.0, high, xtol=1e-12, rtol=1e-14))

    def probability(self, definition: ExpansionDefinition) -> float:
        """Return P(expansion) under a definition.

        >>> f = GrowthForecast(20.0, 0.2, -0.4, 0.6, 0.0, 0.05)
        >>> round(f.probability(ExpansionDefinition()), 3)
        0.182
        """
        limits = [definition.more_than_ml, definition.at_least_ml]
        limits += [None if definition.more_than_share is None else definition.more_than_share * self.ich_ml]
        given = [limit for limit in limits if limit is not None]
        grown = 1 - self.below(self.ich_ml + min(given)) if given else 0.0
        if definition.ivh_growth_at_least_ml is None:
            return grown
        return grown + (1 - grown) * self.ventricles_alone


class GrowthParameters(PlainModel):
    """One fit: everything in units of standardised features."""

    growing: tuple[float, ...]  # intercept, then one log-odds slope per feature
    gain: tuple[float, float]  # mean of ln(share gained) at the average ln volume, and its slope on it
    gain_sd: float = Field(gt=0)
    stable_mean: float
    stable_sd: float = Field(gt=0)
    stable_sd_ml: float = Field(default=0.0, ge=0)
    ventricles_alone: tuple[float, float]  # log odds without and with blood in the ventricles now


class GrowthVariant(PlainModel):
    """The model for one set of known inputs."""

    name: str  # "image", "image+clinical", …
    features: tuple[str, ...]  # the first is ln_ich
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...]  # least and greatest value in the fitting cohort, per feature
    high: tuple[float, ...]
    parameters: GrowthParameters
    refits: tuple[GrowthParameters, ...] = ()  # on resampled patients: how firmly the fit stands

    @model_validator(mode="after")
    def _fits_together(self) -> GrowthVariant:
        n = len(self.features)
        lengths = {len(self.centre), len(self.scale), len(self.low), len(self.high)}
        if lengths != {n} or any(len(p.growing) != n + 1 for p in (self.parameters, *self.refits)):
            raise ValueError(
                f"variant {self.name!r} has {n} features, and not as many centres, scales, ranges and slopes"
            )
        if not n or self.features[0] != "ln_ich":
            raise ValueError(f"variant {self.name!r} must have ln_ich as its first feature")
        return self


class GrowthModel(PlainModel):
    """The content of expansion.json."""

    format: Literal["ichnos-growth-1"] = "ichnos-growth-1"
    cohort: str  # on whom it was fitted, in a sentence
    patients: int = Field(gt=0)
    expanded: int = Field(ge=0)
    simulated: bool
    code_version: str
    command: str
    fitted: str  # ISO date
    variants: tuple[GrowthVariant, ...] = Field(min_length=1)
    validation: dict[str, float] = Field(default_factory=dict)  # on held-out patients

    def variant_for(self, inputs: GrowthInputs) -> GrowthVariant:
        """Return the richest variant whose inputs are all known."""
        usable = [v for v in self.variants if all(math.isfinite(inputs.feature(f)) for f in v.features)]
        if not usable:
            raise InputRefused(
                "no variant of the growth model can be used with what is known of this haematoma"
            )
        return max(usable, key=lambda variant: len(variant.features))

    def outside(self, inputs: GrowthInputs) -> str:
        """Return why this haematoma lies outside the fitting cohort, or "" where it does not."""
        variant = self.variant_for(inputs)
        for name, low, high in zip(variant.features, variant.low, variant.high, strict=True):
            value = inputs.feature(name)
            if not low <= value <= high:
                shown = [
                    math.exp(v) if name in ("ln_ich", "ln_onset", "ln_forecast") else v
                    for v in (value, low, high)
                ]
                return (
                    f"{_WORDS.get(name, name)} is {shown[0]:.3g}; the model was fitted on {shown[1]:.3g} to"
                    f" {shown[2]:.3g}"
                )
        return ""

    def unknown_facts(self, inputs: GrowthInputs) -> tuple[str, ...]:
        """Return the clinical features that a richer variant would use and that are not known here."""
        clinical = [name for name in self._richest(inputs).features if name in CLINICAL]
        return tuple(name for name in clinical if not _known(inputs, name))

    def possible(self, inputs: GrowthInputs) -> tuple[GrowthInputs, ...]:
        """Return the inputs completed by the extremes of each unknown clinical fact in the fitting cohort.

        The log odds are linear in every feature, so that no value in between can give more, or less.
        """
        variant, unknown = self._richest(inputs), self.unknown_facts(inputs)
        ends = [_ends(variant, name) for name in unknown]
        return tuple(
            replace(inputs, **{_FIELDS[name]: end for name, end in zip(unknown, combination, strict=True)})
            for combination in itertools.product(*ends)
        )

    def _richest(self, inputs: GrowthInputs) -> GrowthVariant:
        """Return the richest variant whose inputs are known, or are clinical facts."""
        usable = [v for v in self.variants if all(_known(inputs, f) or f in CLINICAL for f in v.features)]
        return max(usable, key=lambda variant: len(variant.features)) if usable else self.variant_for(inputs)

    def forecast(self, inputs: GrowthInputs) -> GrowthForecast:
        """Return the distribution of the volume at follow-up."""
        variant = self.variant_for(inputs)
        return _forecast(variant, variant.parameters, inputs)

    def probability_interval(
        self, inputs: GrowthInputs, definition: ExpansionDefinition, *, level: float = 0.9
    ) -> tuple[float, float] | None:
        """Return the range of P(expansion) over refits on resampled patients; None without refits."""
        variant = self.variant_for(inputs)
        if not variant.refits:
            return None
        found = [
            _forecast(variant, parameters, inputs).probability(definition) for parameters in variant.refits
        ]
        low, high = np.quantile(
            [*found, self.forecast(inputs).probability(definition)], ((1 - level) / 2, (1 + level) / 2)
        )
        return float(low), float(high)


_FIELDS = {"ln_onset": "onset_to_ct_h", "anticoagulated": "anticoagulated"}


def _known(inputs: GrowthInputs, feature: str) -> bool:
    return math.isfinite(inputs.feature(feature))


def _ends(variant: GrowthVariant, feature: str) -> tuple[float, float]:
    """Return the least and the greatest value of a clinical fact in the fitting cohort, in its own unit."""
    at = variant.features.index(feature)
    low, high = variant.low[at], variant.high[at]
    return (math.exp(low), math.exp(high)) if feature == "ln_onset" else (low, high)


_WORDS = {
    "ln_ich": "the haematoma's volume in mL",
    "sphericity": "its sphericity",
    "roundness": "the roundness of its outlines",
    "mean_hu": "its mean density in HU",
    "spread_hu": "the spread of its density in HU",
    "depth_hu": "the depth of its darkest part in HU",
    "gap_hu": "the difference between its darker and brighter part in HU",
    "dark_share": "the dark share of it",
    "islands": "the number of separate small clots",
    "ln_onset": "the time from onset to CT in hours",
    "ln_forecast": "the network's forecast, as a multiple of the blood now,",
}


def _forecast(variant: GrowthVariant, parameters: GrowthParameters, inputs: GrowthInputs) -> GrowthForecast:
    x = standardised(variant, np.array([[inputs.feature(name) for name in variant.features]]))[0]
    log_odds = parameters.growing[0] + float(np.dot(parameters.growing[1:], x))
    return GrowthForecast(
        ich_ml=inputs.ich_ml,
        growing=float(expit(log_odds)),
        gain_mean=parameters.gain[0] + parameters.gain[1] * float(x[0]),
        gain_sd=parameters.gain_sd,
        stable_mean=parameters.stable_mean,
        stable_sd=parameters.stable_sd,
        stable_sd_ml=parameters.stable_sd_ml,
        ventricles_alone=float(expit(parameters.ventricles_alone[int(inputs.ivh_ml >= 0.5)])),
    )


def standardised(variant: GrowthVariant, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return features (n, k) in the units of the fit."""
    out: npt.NDArray[np.float64] = (features - np.array(variant.centre)) / np.array(variant.scale)
    return out


def load_growth_model(folder: str | Path) -> GrowthModel:
    """Read expansion.json of a model folder, or say what is wrong with it."""
    return load_plain(Path(folder) / GROWTH_FILE, GrowthModel)


def growth_text(model: GrowthModel) -> str:
    """Return the model as the text of expansion.json."""
    return plain_text(model)
