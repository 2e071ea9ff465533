"""Outcome: motor NIHSS and mRS that a patient like this one would be expected to reach, and what surgery
would be expected to change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ichnos.models import Model
from ichnos.models.store import SHIPPED
from ichnos.prognosis.outcome import (
    OUTCOME_FILE,
    Arm,
    Interval,
    OutcomeInputs,
    OutcomeModel,
    injury_of,
)
from ichnos.prognosis.store import first_plain
from ichnos.reading.record import Finding, Measure

_ARMS: tuple[Arm, ...] = ("medical", "surgery")
_IN_WORDS = {"medical": "without surgery", "surgery": "with surgery"}


def read_outcome(
    model: OutcomeModel | None, findings: Sequence[Finding], *, facts: Mapping[str, object] | None = None
) -> Finding:
    """Forecast the outcome of a patient with a haematoma from the findings of the scan and a clinical row
    (`age_years`, `gcs`).

    Withheld, with the reason, without a model, without a haematoma, without a graded tract, and outside the
    fitting cohort. An outcome that can be forecast is given even where the other cannot.
    """
    by_target = {finding.target: finding for finding in findings}
    if model is None:
        return _withheld("no outcome model is installed")
    haematoma = by_target.get("haematoma")
    if haematoma is None or haematoma.status != "read":
        return _withheld("the model is one of outcome after a haematoma, and none was read in this scan")
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


def outcome_model_of(model: Model) -> OutcomeModel | None:
    """Return the outcome model beside a model's weights, or the one that ships; None where neither is
    there.
    """
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
            "8 of 10 survivors like this patient",
        )
        for arm in _ARMS
    )
    gain = _measure(
        "surgery_motor_gain",
        "Points of motor NIHSS that surgery would spare",
        model.motor_gain(inputs),
        "",
        "95 % of the mean effect",
    )
    return (*scores, gain)


def _mrs(model: OutcomeModel, inputs: OutcomeInputs) -> tuple[Measure, ...]:
    shares = tuple(
        _measure(
            f"mrs_0_3_365d_{arm}",
            f"Probability of mRS 0 to 3 at 365 days, {_IN_WORDS[arm]}",
            _percent(model.independent(inputs, arm)),
            "%",
            "95 % of the fit",
        )
        for arm in _ARMS
    )
    gain = _percent(model.independence_gain(inputs))
    return (
        *shares,
        _measure(
            "surgery_mrs_gain", "Change of that probability by surgery", gain, "%", "95 % of the mean effect"
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
    sentence = f"No outcome is forecast: {why}."
    return Finding(
        target="outcome",
        status="withheld",
        sentence=sentence,
        measures=(*_empty("motor", why), *_empty("mrs", why)),
    )


def _sentence(model: OutcomeModel, inputs: OutcomeInputs, motor: str, mrs: str) -> str:
    parts = []
    if not motor:
        gain = model.motor_gain(inputs)
        verdict = (
            "would be expected to gain"
            if gain.low > 0
            else "would be expected to lose"
            if gain.high < 0
            else "may gain or lose"
        )
        shown = f"{gain.value:+.1f} points of motor NIHSS spared, {gain.low:+.1f} to {gain.high:+.1f}"
        parts.append(
            f"With the injury {inputs.injury!r}, patients like this one {verdict} by surgery ({shown})."
        )
    if not mrs:
        parts.append(
            f"mRS 0 to 3 after a year: {100 * model.independent(inputs, 'medical').value:.0f} % without"
            " surgery."
        )
    if not model.randomised:
        parts.append("The arms were not drawn by lot, so a difference between them is no effect of surgery.")
    if model.simulated:
        parts.append("The model behind this was fitted on simulated patients.")
    return " ".join(parts)
