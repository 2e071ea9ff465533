"""The page of Abramova 2024, from a stored run."""

from __future__ import annotations

from ichnos.studies.abramova2024.tables import forecast_table, ratio_table
from ichnos.studies.designs import DESIGNS
from ichnos.studies.shared.curves import curve_figures, unsettled
from ichnos.studies.shared.page import StudyPage
from ichnos.studies.shared.record import StudyRecord


def abramova_page(record: StudyRecord) -> StudyPage:
    """Set the paper's numbers beside those of a stored run."""
    scores = record.rows["scores"]
    return StudyPage(
        name="abramova2024",
        title="What will the haematoma look like tomorrow?",
        paper=DESIGNS["abramova2024"].paper,
        design=_design(record),
        tables=(forecast_table(scores), ratio_table(scores)),
        pictures=(*curve_figures(record.curves), *record.pictures),
        limits=_limits(record),
        provenance=record.provenance,
        curves=record.curves,
    )


def _design(record: StudyRecord) -> tuple[str, ...]:
    facts = record.facts
    alone = facts["groups"] == facts["patients"]
    left = "one patient at a time" if alone else f"in {facts['groups']} groups"
    region, voxel = (" x ".join(f"{side:g}" for side in facts[name]) for name in ("region, mm", "voxel, mm"))
    return (
        (
            f"{facts['patients']} of {facts['cohort']} patients with both lesions and growth (median net"
            f" growth {facts['median growth, mL']:.1f} mL). Patients were left out {left}; every number is of"
            " patients that the model had not seen."
        ),
        (
            f"Regions of {region} mm around the haematoma at {voxel} mm. A quarter of the patients learnt"
            " from, the inner fold, ended each training and chose the operating point of ours. Synthetic"
            " follow-ups: lesions dilated to 1.33, 1.68 and 2.0 times their volume, avoiding fluid, the CT"
            " moved along."
        ),
        (
            "Against the paper: the smoothness term of the warp reaches the gradient, no training is stopped"
            " by synthetic copies of its own patients, and growth is compared as a set."
        ),
    )


def _limits(record: StudyRecord) -> tuple[str, ...]:
    limits = [*unsettled(record.curves, smoke=record.smoke)]
    if record.simulated:
        limits.append(
            "Simulated patients: blood grows by the simulation's law, and the oracle knows that law."
        )
    without_ct = record.facts["patients"] - record.facts.get("follow-up CTs", record.facts["patients"])
    if without_ct:
        limits.append(
            f"Of {without_ct} patients the lesion at follow-up is known and the follow-up CT is not: there"
            " the warp's loss has no part for the CT."
        )
    return (
        *limits,
        (
            "The outline at baseline is given (true or drawn by hand), as in the paper; with a network's"
            " outline errors add up."
        ),
        "Every patient here expanded; how the same models do where nothing grows is asked in yu2025.",
        "The paper's patients are not at hand: its column comes from the publication, on other patients.",
    )
