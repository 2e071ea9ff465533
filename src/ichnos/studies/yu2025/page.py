"""The page of Yu 2025, from a stored run."""

from __future__ import annotations

from ichnos.evidence.tables import Table
from ichnos.studies.designs import DESIGNS
from ichnos.studies.shared.curves import curve_figures, unsettled
from ichnos.studies.shared.page import PagePicture, StudyPage
from ichnos.studies.shared.record import StudyRecord
from ichnos.studies.yu2025.automatic import automatic_table
from ichnos.studies.yu2025.outlines import outline_table
from ichnos.studies.yu2025.risks import KnownPatients, known_patients, risks_of
from ichnos.studies.yu2025.tables import (
    auc_table,
    benefit_table,
    calibration_table,
    conformal_table,
    operating_table,
    reach_table,
    roc_pictures,
)
from ichnos.studies.yu2025.training_tables import beyond_table, seed_table, synthetic_table

_SYNTHETIC = (
    "Synthetic images come from a generator trained on the fold's own training patients, no image was"
    " selected, and their ledger lies beside the models."
)
_ENOUGH_EVENTS = 100  # below which a validation is imprecise (Vergouwe 2005)


def yu_page(record: StudyRecord) -> StudyPage:
    """Set the paper's numbers beside those of a stored run."""
    tables: list[Table] = []
    pictures: list[PagePicture] = []
    people = known_patients(record.rows.get("people", ()))
    if "risks" in record.rows:
        tables, pictures = _expansion(record, people)
    if "outlines" in record.rows:
        facts = record.facts
        table = outline_table(record.rows["outlines"], facts["untrained"], facts.get("memory_gib", {}))
        tables.insert(1, table)
    return StudyPage(
        name="yu2025",
        title=DESIGNS["yu2025"].question,
        paper=DESIGNS["yu2025"].paper,
        design=_design(record, people),
        tables=tuple(tables),
        pictures=(*pictures, *curve_figures(record.curves), *record.pictures),
        limits=_limits(record, people),
        provenance=record.provenance,
        curves=record.curves,
    )


def _expansion(record: StudyRecord, people: KnownPatients) -> tuple[list[Table], list[PagePicture]]:
    risks = risks_of(record.rows["risks"])
    tables = [
        auc_table(people, risks),
        beyond_table(people, risks),
        seed_table(people, risks),
        operating_table(people, risks),
        calibration_table(people, risks),
        benefit_table(people, risks),
        conformal_table(people, risks),
        reach_table(people, risks),
        automatic_table(people, risks, risks_of(record.rows.get("automatic", ()))),
        synthetic_table(record.rows["synthesis"]),
    ]
    return tables, list(roc_pictures(people, risks))


def _design(record: StudyRecord, people: KnownPatients) -> tuple[str, ...]:
    paragraphs = []
    if "outlines" in record.rows:
        paragraphs.append(
            "Outlines: the networks share patients and loop, and all but ours the grid; one in five training"
            " patients chose each network's best step."
        )
    if "risks" in record.rows:
        paragraphs += _expansion_design(record, people)
    return tuple(paragraphs)


def _expansion_design(record: StudyRecord, people: KnownPatients) -> list[str]:
    outcomes = {c: [p.outcome for p in people.external if p.centre == c] for c in people.centres}
    counts = [f"{c}: {len(those)} ({sum(those):.0f})" for c, those in outcomes.items()]
    events = sum(p.outcome for p in people.training)
    seeds = record.facts["seeds"]
    return [
        (
            f"{record.facts['patients']} patients; expansion (> 33 % or > 6 mL) is known of"
            f" {len(people.training)} to train ({events:.0f} expanded) and of the external ones,"
            f" {', '.join(counts)}. {record.facts['folds']} folds, {seeds} seed(s); a risk is the mean over"
            " the networks of all folds and seeds."
        ),
        (
            "Classifiers see drawn outlines, so that they do not inherit the errors of outlining. Published:"
            " three slices around the largest area, tight box, 0 to 90 HU, ViT, mean score of the slices."
            " Ours: a region of 96 x 96 x 96 mm with outlines as channels, and measured signs with onset and"
            f" anticoagulation as tokens. Recipe: {record.facts['recipe']}. Every network is trained to its"
            " last epoch; its curve on the patients left out is drawn below, and nothing is chosen by it."
        ),
        *((_SYNTHETIC,) if record.rows["synthesis"] else ()),
    ]


def _limits(record: StudyRecord, people: KnownPatients) -> tuple[str, ...]:
    events = sum(p.outcome for p in people.external)
    limits = [*unsettled(record.curves, smoke=record.smoke)]
    if people.external and events < _ENOUGH_EVENTS:
        limits.append(
            f"{events:.0f} expansions at the external centres: intervals are wide, and no difference is"
            " proven."
        )
    if record.simulated:
        limits.append("Simulated patients: signs, growth and the oracle follow one prognostic model.")
    if record.facts["parts"]:
        limits.append(f"Only these parts were run: {', '.join(record.facts['parts'])}.")
    if record.facts.get("start"):
        limits.append(
            "The published classifier is a small one here. It starts from weights that tell what was measured"
            " of the training patients' haematomas, not from weights of photographs."
        )
    limits.append(
        "The paper's patients are not at hand: its columns come from the publication, on other patients."
    )
    return tuple(limits)
