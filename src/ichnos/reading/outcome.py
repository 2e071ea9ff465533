"""Outcome: expected motor NIHSS and mRS of a patient like this one, and the expected effect of surgery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ichnos.clinical.treatment import TREATMENT_ARMS
from ichnos.models import Model
from ichnos.models.store import SHIPPED
from ichnos.prognosis.outcome import (
    OUTCOME_FILE,
    Interval,
    OutcomeInputs,
    OutcomeModel,
    injury_of,
)
from ichnos.prognosis.store import first_plain
from ichnos.reading.record import Finding, Measure

_IN_WORDS = {"medical": "without surgery", "surgery": "with surgery"}


def read_outcome(
    model: OutcomeModel | None, findings: Sequence[Finding], *, facts: Mapping[str, object] | None = None
) -> Finding:
    """Forecast the outcome after a haematoma from the findings of a scan and `age_years` and `gcs`.

    Withheld, with the reason, without a model, a haematoma or a graded tract, and outside the fitting cohort.
    One outcome is given even where the other cannot be.
    """
    by_target = {finding.target: finding for finding in findings}
    if model is None:
        return _withheld("no outcome model is installed")
    haematoma = by_target.get("haematoma")
    if haematoma is None or haematoma.status != "read":
        return _withheld("the model applies to patients with a haematoma, and none was read in this scan")
    inputs = outcome_inputs(by_target, facts or {})
    motor, mrs = model.refusal(inputs, "motor"), model.refusal(inputs, "mrs")
    if motor and mrs:
        return _withheld(motor if motor == mrs else f"motor NIHSS: {motor}; mRS: {mrs}")
    measures = (
        *(_motor(model, inputs) if not motor else _empty("motor", motor)),
        *(_mrs(model, inputs) if not mrs else _empty("mrs", mrs)),
    )
    return Finding(
        target="outcome", status="read", sentence=_sentence(model, inputs, motor, mrs), measures=measures
    )


def installed_outcome_model(model: Model) -> OutcomeModel | None:
    """Return the outcome model beside a model's weights, or the one that ships; None without either."""
    return first_plain((model.folder, SHIPPED / "outcome"), OUTCOME_FILE, OutcomeModel)


def outcome_inputs(findings: Mapping[str, Finding], facts: Mapping[str, object]) -> OutcomeInputs:
    """Gather the model's inputs from the findings of a scan and the clinical row."""

    def number(target: str, name: str) -> float | None:
        finding = findings.get(target)
        found = next((m.value for m in finding.measures if m.name == name), None) if finding else None
        return float(found) if isinstance(found, (int, float)) else None

    tract = findings.get("tract")
    grades = (
        {m.name.removeprefix("injury_"): str(m.value) for m in tract.measures if m.name.startswith("injury_")}
        if tract
        else {}
    )
    loads = {side: number("tract", f"blood_load_{side}") or 0.0 for side in grades}
    injury, load_ml = injury_of(grades, loads)
    return OutcomeInputs(
        injury=injury,
        ich_ml=number("haematoma", "ich_volume") or 0.0,
        ivh_ml=number("haematoma", "ivh_volume") or 0.0,
        leukoaraiosis_ml=number("leukoaraiosis", "leukoaraiosis_volume"),
        blood_load_ml=load_ml,
        age_years=_fact(facts, "age_years"),
        gcs=_fact(facts, "gcs"),
    )


def _fact(facts: Mapping[str, object], name: str) -> float | None:
    value = facts.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _motor(model: OutcomeModel, inputs: OutcomeInputs) -> tuple[Measure, ...]:
    scores = tuple(
        _measure(
            f"nihss_motor_180d_{arm}",
            f"Motor NIHSS at 180 days, {_IN_WORDS[arm]}",
            model.motor_forecast(inputs, arm),
            "",
            "80 % prediction interval for a survivor",
        )
        for arm in TREATMENT_ARMS
    )
    gain = _measure(
        "surgery_motor_gain",
        "Motor NIHSS points spared by surgery",
        model.motor_gain(inputs),
        "",
        "95 % interval of the mean effect",
    )
    return (*scores, gain)


def _mrs(model: OutcomeModel, inputs: OutcomeInputs) -> tuple[Measure, ...]:
    shares = tuple(
        _measure(
            f"mrs_0_3_365d_{arm}",
            f"Probability of mRS 0 to 3 at 365 days, {_IN_WORDS[arm]}",
            _percent(model.independent(inputs, arm)),
            "%",
            "95 % confidence interval",
        )
        for arm in TREATMENT_ARMS
    )
    gain = _percent(model.independence_gain(inputs))
    return (
        *shares,
        _measure(
            "surgery_mrs_gain",
            "Change of that probability by surgery",
            gain,
            "%",
            "95 % interval of the mean effect",
        ),
    )


def _percent(share: Interval) -> Interval:
    return Interval(100 * share.value, 100 * share.low, 100 * share.high)


def _measure(name: str, label: str, value: Interval, unit: str, interval: str) -> Measure:
    v, low, high = (round(part, 1) + 0.0 for part in (value.value, value.low, value.high))
    return Measure(
        name=name, label=label, value=v, unit=unit, low=min(low, v), high=max(high, v), interval=interval
    )


def _empty(which: Literal["motor", "mrs"], why: str) -> tuple[Measure, ...]:
    motor = (("nihss_motor_180d_medical", "Motor NIHSS at 180 days", ""),)
    mrs = (("mrs_0_3_365d_medical", "Probability of mRS 0 to 3 at 365 days", "%"),)
    return tuple(
        Measure(name=n, label=label, value=None, unit=u, reason=why)
        for n, label, u in (motor if which == "motor" else mrs)
    )


def _withheld(why: str) -> Finding:
    sentence = f"No outcome forecast: {why}."
    return Finding(
        target="outcome",
        status="withheld",
        sentence=sentence,
        measures=(*_empty("motor", why), *_empty("mrs", why)),
    )


def _sentence(model: OutcomeModel, inputs: OutcomeInputs, motor: str, mrs: str) -> str:
    parts = []
    if not motor:
        parts.append(_motor_sentence(model, inputs))
    if not mrs:
        share = 100 * model.independent(inputs, "medical").value
        parts.append(f"Probability of mRS 0 to 3 at one year without surgery: {share:.0f} %.")
    if not model.randomised:
        parts.append(
            "Treatment was not randomised; do not read a difference between arms as an effect of surgery."
        )
    origin = "simulated patients" if model.simulated else model.cohort
    parts.append(f"It rests on {_basis(inputs)}, by a model fitted on {origin}.")
    return " ".join(parts)


def _motor_sentence(model: OutcomeModel, inputs: OutcomeInputs) -> str:
    """Return the expected motor NIHSS at 180 days, and what surgery is expected to change in it."""
    medical, gain = model.motor_forecast(inputs, "medical"), model.motor_gain(inputs)
    expected = f"Expected motor NIHSS at 180 days without surgery: {medical.value:.1f}"
    expected += f" (80 % interval {medical.low:.1f} to {medical.high:.1f})"
    interval = f"95 % interval {gain.low:+.2f} to {gain.high:+.2f}"
    if gain.low > 0:
        return f"{expected}; surgery is expected to improve it by {gain.value:.1f} points ({interval})."
    if gain.high < 0:
        return f"{expected}; surgery is expected to worsen it by {-gain.value:.1f} points ({interval})."
    return f"{expected}; the effect of surgery is uncertain, {gain.value:+.1f} points spared ({interval})."


def _basis(inputs: OutcomeInputs) -> str:
    """Return what a forecast was computed from, in words."""
    parts = [f"tract injury ({inputs.injury})", f"haematoma {inputs.ich_ml:.1f} mL"]
    parts += [f"age {inputs.age_years:.0f}"] if inputs.age_years is not None else []
    parts += [f"Glasgow Coma Scale {inputs.gcs:.0f}"] if inputs.gcs is not None else []
    return ", ".join(parts)
