"""The page of Ryu 2025, from a stored run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ichnos.evidence.figures import Figure, scatter_figure
from ichnos.evidence.metrics.agreement import passing_bablok
from ichnos.studies.designs import DESIGNS
from ichnos.studies.ryu2025.associations import association_table
from ichnos.studies.ryu2025.design import WHITE_MATTER_WAYS
from ichnos.studies.ryu2025.registration_arms import registration_table
from ichnos.studies.ryu2025.tables import (
    agreement_table,
    centre_table,
    fazekas_table,
    group_table,
    heterogeneity_table,
)
from ichnos.studies.shared.curves import curve_figures, unsettled
from ichnos.studies.shared.page import StudyPage
from ichnos.studies.shared.record import StudyRecord
from ichnos.studies.shared.rows import known_number, paired_columns
from ichnos.studies.shared.training import FROM_SHIPPED, NNUNET_ARM, NNUNET_NOT_ASKED, NNUNET_TRAINED

_LEAST_DRAWN = 5  # patients of the scatter
_LIMITS = (
    (
        "Virtual patients have the disease that the simulation gives them: these numbers say how the method"
        " works, not how it would do in a hospital."
    ),
    (
        "The paper's cohorts, scanners and FLAIR software are not ours; its numbers stand beside ours for"
        " orientation only."
    ),
    (
        "`limit` compares the label that transfer gave with the simulation's truth: a network learning from"
        " such labels can hardly agree better with them than they do with the truth."
    ),
)


def ryu_page(record: StudyRecord) -> StudyPage:
    """Set the paper's numbers beside those of a stored run."""
    rows = record.rows["patients"]
    asked = [row for row in rows if row["split"] != "validation"]
    external = [row for row in asked if np.isfinite(known_number(row["registered_ml"]))]
    clinical = [row for row in asked if not np.isfinite(known_number(row["registered_ml"]))]
    held = [row for row in rows if row["split"] == "validation"]
    ways = {way: WHITE_MATTER_WAYS[way] for way in record.facts["ways"]}
    return StudyPage(
        "ryu2025",
        "Leukoaraiosis on plain CT, learnt from FLAIR",
        DESIGNS["ryu2025"].paper,
        _design(record, len(external), len(clinical)),
        (
            agreement_table(external, held, ways),
            centre_table(external, held, ways),
            fazekas_table(external, held, ways),
            group_table(external, ways),
            heterogeneity_table(external, ways),
            association_table(clinical or external),
            *([registration_table(known)] if (known := record.rows.get("registration")) else []),
        ),
        (*_scatter(external), *curve_figures(record.curves), *record.pictures),
        (*unsettled(record.curves, smoke=record.smoke), *_LIMITS),
        record.provenance,
        record.curves,
    )


def _scatter(external: Sequence[Mapping[str, Any]]) -> list[Figure]:
    predicted, registered = paired_columns(external, "volume_ml", "registered_ml")
    if len(predicted) < _LEAST_DRAWN:
        return []
    line = passing_bablok(registered, predicted)
    caption = "Volume of the 3-D network against the registered label."
    return [
        scatter_figure("volumes", np.array(registered), np.array(predicted), line, unit="mL", caption=caption)
    ]


def _design(record: StudyRecord, external: int, clinical: int) -> tuple[str, ...]:
    source = (
        "the simulation's truth (a smoke run transfers one pair only)"
        if record.smoke
        else "FLAIR, by transfer"
    )
    nnunet = NNUNET_TRAINED if NNUNET_ARM in record.facts["ways"] else NNUNET_NOT_ASKED
    return (
        (
            f"Labels came from {source}; {record.facts['refused']} pair(s) were refused by transfer and left"
            " out. Both networks see CT alone. The 2-D network has the shape of the published one (slices,"
            f" U-Net) and is trained in our loop: a twin of nnU-Net. The 3-D network {FROM_SHIPPED}. {nnunet}"
        ),
        (
            f"The comparator marks white matter of the atlas (affinely placed) below"
            f" {record.facts['cut_hu']:g} HU, the cut with the best Dice on training patients. Volumes are"
            " calibrated by a Passing-Bablok line from the validation patients to their MRI volumes, then"
            " frozen."
        ),
        (
            f"{external} external patients have a FLAIR, {clinical} clinical ones only a CT. Intervals are"
            " 95 %."
        ),
    )
