"""Expansion: the haematoma's expected volume after a day, its probability of expansion, and its outline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ichnos.clinical.expansion import DEFAULT_DEFINITION, DEFINITIONS, ExpansionDefinition
from ichnos.cohort import SIMULATED_ONLY
from ichnos.errors import InputRefused
from ichnos.inference import Prediction
from ichnos.inference.expansion import ExpansionClassifier
from ichnos.models import Model
from ichnos.models.store import SHIPPED
from ichnos.prognosis.growth import GROWTH_FILE, GrowthInputs, GrowthModel
from ichnos.prognosis.site import SiteRecalibration
from ichnos.prognosis.store import first_plain
from ichnos.reading.masks import Masks
from ichnos.reading.measures.growth import growth_inputs
from ichnos.reading.measures.recalibrated import recalibrated
from ichnos.reading.record import Finding, Measure, Status
from ichnos.volume import Volume, box_around

BAND = (0.1, 0.9)
_FACT_WORDS = {"ln_onset": "the time from onset", "anticoagulated": "anticoagulation"}
_REACH_MM = 40.0  # how far beyond the haematoma a follow-up mask may reach


def read_expansion(
    model: GrowthModel | None,
    masks: Masks,
    hu: Volume,
    *,
    facts: Mapping[str, object] | None = None,
    forecast: Volume | None = None,
    definitions: Mapping[str, ExpansionDefinition] = DEFINITIONS,
    site: SiteRecalibration | None = None,
) -> Finding:
    """Forecast the haematoma's growth; `hu` in RAS on the masks' grid; `site` recalibrates what is said.

    `facts` may hold `onset_to_ct_h` and `anticoagulation`. `forecast` is a network's probability of blood at
    follow-up, used where the model was fitted with one. Withheld, with the reason, where no model is
    installed or the haematoma lies outside its cohort.
    """
    if not masks.ich.array.any():
        return _finding("none found", "No intracerebral haematoma that could expand.")
    if model is None:
        return _withheld("no growth model is installed")
    forecast_ml = None if forecast is None else probable_ml(forecast)
    inputs = growth_inputs(masks.ich, masks.ivh, hu, facts=facts, forecast_ml=forecast_ml)
    why = model.outside(inputs)
    if why:
        return _withheld(why)
    volume = recalibrated(_volume(model, inputs), site)
    probabilities = {
        key: recalibrated(_probability(model, inputs, key, d), site) for key, d in definitions.items()
    }
    sentence = _sentence(model, inputs, volume, probabilities.get(DEFAULT_DEFINITION))
    return _finding("read", sentence, (volume, *probabilities.values()), masks=("expansion",))


def _finding(
    status: Status, sentence: str, measures: tuple[Measure, ...] = (), masks: tuple[str, ...] = ()
) -> Finding:
    return Finding(target="expansion", status=status, sentence=sentence, measures=measures, masks=masks)


def with_classifier(
    finding: Finding,
    classifier: ExpansionClassifier,
    masks: Masks,
    hu: Volume,
    *,
    facts: Mapping[str, object] | None = None,
) -> Finding:
    """Return the finding with the probability of an image classifier in place of the growth model's.

    The growth model's own probability stays beside it as `expansion_probability_growth`.
    """
    if not masks.ich.array.any():
        return finding
    inputs = growth_inputs(masks.ich, masks.ivh, hu, facts=facts)
    features = {name: inputs.feature(name) for name in classifier.feature_names}
    try:
        value = round(100 * classifier.probability(hu, masks.ich, masks.ivh, features), 1)
    except InputRefused:  # a haematoma too small for the classifier's grid
        return finding
    said = f"{finding.sentence} " if finding.status == "read" else ""
    sentence = f"{said}Probability of expansion by the image classifier: {value:.0f} %."
    if SIMULATED_ONLY in classifier.model.manifest.limits:
        sentence += " The classifier was trained on simulated patients."
    measures = _with_classified(finding.measures, value, classifier.model.manifest.name)
    return finding.model_copy(update={"status": "read", "sentence": sentence, "measures": measures})


def _with_classified(measures: Sequence[Measure], value: float, name: str) -> tuple[Measure, ...]:
    """Put a classifier's probability (%) before the other measures; the growth model's is renamed."""
    own = Measure(
        name="expansion_probability",
        label=f"Probability of expansion (image classifier {name})",
        value=value,
        unit="%",
        reason="the classifier gives no interval",
    )
    renamed = {"name": "expansion_probability_growth"}
    return (own, *(m.model_copy(update=renamed) if m.name == own.name else m for m in measures))


def _withheld(why: str) -> Finding:
    sentence = f"No growth forecast: {why}."
    names = (
        ("followup_volume", "Haematoma at follow-up", "mL"),
        ("expansion_probability", "Probability of expansion", "%"),
    )
    measures = tuple(
        Measure(name=name, label=label, value=None, unit=unit, reason=why) for name, label, unit in names
    )
    return _finding("withheld", sentence, measures)


def _volume(model: GrowthModel, inputs: GrowthInputs) -> Measure:
    """Return the expected volume; its interval holds whatever the unknown facts could make of it."""
    expected = model.forecast(inputs)
    possible = [expected, *(model.forecast(completed) for completed in model.possible(inputs))]
    return Measure(
        name="followup_volume",
        label="Haematoma at follow-up, median",
        value=round(expected.quantile_ml(0.5), 2),
        unit="mL",
        low=round(min(forecast.quantile_ml(BAND[0]) for forecast in possible), 2),
        high=round(max(forecast.quantile_ml(BAND[1]) for forecast in possible), 2),
        interval=f"80 % prediction interval{_widened(model, inputs)}",
    )


def _probability(
    model: GrowthModel, inputs: GrowthInputs, key: str, definition: ExpansionDefinition
) -> Measure:
    name = "expansion_probability" if key == DEFAULT_DEFINITION else f"expansion_probability_{key}"
    label = f"Probability of expansion ({definition.name})"
    value = round(100 * model.forecast(inputs).probability(definition), 1)
    intervals = [
        model.probability_interval(completed, definition) for completed in (inputs, *model.possible(inputs))
    ]
    known = [interval for interval in intervals if interval is not None]
    if not known:
        reason = "no bootstrap refits were saved, so its uncertainty is unknown"
        return Measure(name=name, label=label, value=value, unit="%", reason=reason)
    low, high = (round(100 * p, 1) for p in (min(low for low, _ in known), max(high for _, high in known)))
    what = f"90 % of refits on resampled patients{_widened(model, inputs)}"
    low, high = min(low, value), max(high, value)
    return Measure(name=name, label=label, value=value, unit="%", low=low, high=high, interval=what)


def _widened(model: GrowthModel, inputs: GrowthInputs) -> str:
    """Return over what an interval is widened, in words; "" where every fact is known."""
    why = _unknown(model, inputs)
    return f", widened because {why}" if why else ""


def _unknown(model: GrowthModel, inputs: GrowthInputs) -> str:
    """Return which clinical facts are missing, in words; "" where every fact is known."""
    names = [_FACT_WORDS[name] for name in model.unknown_facts(inputs)]
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not known" if names else ""


def _sentence(model: GrowthModel, inputs: GrowthInputs, volume: Measure, probability: Measure | None) -> str:
    why = _unknown(model, inputs)
    band = f"80 % interval {volume.low:.1f} to {volume.high:.1f}"
    parts = [f"Expected volume at 24 h: {volume.value:.1f} mL ({band})"]
    if probability is not None:
        definition, value = DEFINITIONS[DEFAULT_DEFINITION], f"{probability.value:.0f} %"
        band = "" if probability.low is None else f" ({probability.low:.0f} to {probability.high:.0f} %)"
        parts.append(f"probability of expansion ({definition.name}) {value}{band}")
    sentence = "; ".join(parts) + "."
    if why:
        sentence += f" The intervals are widened because {why}."
    return sentence + (" The prognostic model was fitted on simulated patients." if model.simulated else "")


def installed_growth_model(model: Model) -> GrowthModel | None:
    """Return the growth model beside a model's weights, or the one that ships; None without either."""
    return first_plain((model.folder, SHIPPED / "expansion"), GROWTH_FILE, GrowthModel)


def forecast_of(prediction: Prediction) -> Volume | None:
    """Return a network's probability of blood at follow-up in RAS, where the network was taught one."""
    if "followup" not in [target.name for target in prediction.model.manifest.targets]:
        return None
    return prediction.probability("followup").reoriented("RAS")


def probable_ml(forecast: Volume) -> float:
    """Return the expected volume of a probability map, in mL."""
    return float(np.asarray(forecast.array, np.float64).sum()) * forecast.voxel_ml


def expansion_mask(finding: Finding, masks: Masks, *, forecast: Volume | None = None) -> Volume | None:
    """Return where the parenchymal haematoma is expected at follow-up: as many voxels as the forecast's
    median; None where withheld.

    Voxels are taken in the order of a network's probability of blood at follow-up, where there is one, and of
    their distance to the haematoma. Ventricles and what lies outside the brain are not entered.
    """
    if finding.status != "read":
        return None
    wanted_ml = finding.measure("followup_volume").value
    if not isinstance(wanted_ml, float):
        return None
    return grown_mask(masks.ich, wanted_ml, brain=masks.brain, ventricles=masks.ventricles, forecast=forecast)


def grown_mask(
    ich: Volume, wanted_ml: float, *, brain: Volume, ventricles: Volume, forecast: Volume | None = None
) -> Volume:
    """Grow (or shrink) a haematoma evenly to a volume, inside the brain and outside its ventricles; all on
    one grid.

    >>> from ichnos.volume import sphere, volume_ml
    >>> brain = sphere(radius_mm=40, spacing_mm=2.0)
    >>> nothing = brain.map_array(np.zeros_like)
    >>> ich = nothing.map_array(lambda a: np.pad([[[True]]], [(n // 2, n - 1 - n // 2) for n in a.shape]))
    >>> round(volume_ml(grown_mask(ich, 10.0, brain=brain, ventricles=nothing)), 1)
    10.0
    """
    part = box_around(ich, margin_mm=_REACH_MM)
    before, head, fluid = (np.asarray(v.cropped(part).array).astype(bool) for v in (ich, brain, ventricles))
    score = signed_distance_mm(before, ich.spacing_mm)
    if forecast is not None:
        # distance only settles ties
        score = -np.asarray(forecast.cropped(part).array, np.float32) + 1e-4 * score
    allowed = before | (head & ~fluid)
    count = min(round(wanted_ml / ich.voxel_ml), int(allowed.sum()))
    inner = np.zeros(before.shape, bool)
    at = np.flatnonzero(allowed)
    inner.flat[at[np.argsort(score.flat[at], kind="stable")[:count]]] = True
    out = np.zeros(ich.shape, bool)
    out[part.slices] = inner
    return ich.with_array(out)


def signed_distance_mm(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return mm to the edge of a mask, negative inside.

    >>> signed_distance_mm(np.array([[[False, False, True, True]]]), (1.0, 1.0, 2.0)).tolist()
    [[[4.0, 2.0, -2.0, -4.0]]]
    """
    import edt

    outside = edt.edt(np.asfortranarray(~mask), anisotropy=spacing_mm, order="F")
    inside = edt.edt(np.asfortranarray(mask), anisotropy=spacing_mm, order="F")
    return np.asarray(outside - inside, np.float32)
