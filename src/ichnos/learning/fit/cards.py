"""Cards of models that are plain numbers: what they are, on whom they were fitted, how they were checked,
what they never saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ichnos.prognosis.growth import GrowthModel
from ichnos.prognosis.outcome import OutcomeModel

_USE = "Research use only. Not a medical device."
_SIMULATED = (
    "Fitted on simulated patients only. The relation between scan and course is the simulation's; whether it"
    " holds in people is unknown. No number of this model can be used for a person before it has been"
    " validated on people."
)


_GROWTH_LIMITS = (
    "True masks were measured for the fit; a reading measures a network's masks, which are less exact.",
    "No forecast is made for a haematoma outside the ranges of the fitting cohort (`low`, `high`).",
    "Treatment between the two CTs (reversal, blood pressure, surgery) is not modelled.",
    "The strength of the prior was chosen among a few values while looking at the cross-validation on these"
    " very patients, and its intervals take redrawn futures for independent: the checks are a little"
    " optimistic.",
)
_OUTCOME_LIMITS = (
    "The effects of injury and surgery that the simulation was given are those published by one group"
    " (docs/simulation.md).",
    "True tracts and masks were measured for the fit; a reading measures a network's.",
    "Refuses patients outside the cohort's ranges (`low`, `high`), and grades with few patients in an arm.",
    "Motor NIHSS is that of survivors; who would have died is not in it.",
)


def growth_card(model: GrowthModel) -> str:
    """Write the card of a growth model as Markdown."""
    variants = [f"- `{v.name}`: {', '.join(v.features)}" for v in model.variants]
    return _card(
        "Growth of the haematoma",
        model,
        what=(
            "From the measures of one CT to a distribution of the haematoma's volume about a day later: a"
            " mixture of stable and growing haematomas. Probability of expansion under each definition,"
            " median, and 80 % interval all come from that one distribution."
        ),
        body=["## Inputs", "", *variants, "", "The richest variant whose inputs are all known is used."],
        cohort=f"{model.cohort}; {model.patients} patients, {model.expanded} expanded (> 33 % or > 6 mL).",
        limits=_GROWTH_LIMITS,
    )


def outcome_card(model: OutcomeModel) -> str:
    """Write the card of an outcome model as Markdown."""
    cells = [f"| {grade} | {medical} | {surgery} |" for grade, (medical, surgery) in model.cells.items()]
    table = ["| grade | medical | surgery |", "|---|---|---|", *cells]
    arms = (
        "Treatment was randomised."
        if model.randomised
        else "Treatment was not randomised; do not read a difference between arms as an effect of surgery."
    )
    return _card(
        "Outcome after a haematoma",
        model,
        what=(
            "From tract injury, volumes, leukoaraiosis, age and Glasgow Coma Scale to motor NIHSS at 180 days"
            " (linear, survivors) and mRS at 365 days (proportional odds), with the effect of surgery by"
            " injury grade."
        ),
        body=["## Patients by injury grade and arm", "", *table, "", arms],
        cohort=f"{model.cohort}; {model.motor.patients} with motor NIHSS, {model.mrs.patients} with mRS.",
        limits=_OUTCOME_LIMITS,
    )


def _card(
    title: str,
    model: GrowthModel | OutcomeModel,
    *,
    what: str,
    body: list[str],
    cohort: str,
    limits: Sequence[str],
) -> str:
    said = [*([_SIMULATED] if model.simulated else []), *limits]
    provenance = f"- command: `{model.command}`; code {model.code_version}, {model.fitted}"
    sections = [
        (f"# {title}", [f"**{_USE}**", "", what, "", *body]),
        ("## Fitted on", [cohort]),
        ("## What it never saw, and other limits", [f"- {limit}" for limit in said]),
        ("## Validation", _validation_table(model.validation)),
        ("## Provenance", [provenance]),
    ]
    return "\n".join(line for heading, lines in sections for line in (heading, "", *lines, ""))


def _validation_table(validation: Mapping[str, float]) -> list[str]:
    if not validation:
        return ["No validation was run."]
    rows = [f"| {name} | {value:.3g} |" for name, value in sorted(validation.items())]
    return ["| measure | on patients not fitted on |", "|---|---|", *rows]
