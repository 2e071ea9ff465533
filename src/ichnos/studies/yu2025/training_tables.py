"""Tables of Yu 2025 on training: what synthesis adds to oversampling, seeds, and the synthetic images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import auc
from ichnos.evidence.tables import Cell, Table
from ichnos.studies.shared.page import cell, comparison
from ichnos.studies.shared.rows import cells_of
from ichnos.studies.yu2025.risks import KnownPatients, MethodRisk, Risks, centre_scores
from ichnos.studies.yu2025.synthetic import FEATURES_NAME, MOST_ALIGNED
from ichnos.studies.yu2025.tables import paired_differences


def beyond_table(people: KnownPatients, risks: Risks) -> Table:
    """Compare each synthesis arm with oversampling at its own ratio, on the same patients."""
    made = [name for name in risks if "synthesis" in name]
    rows: list[dict[str, Cell]] = []
    for name in made:
        against = f"published, oversample {name.rpartition(' ')[2]}"
        row: dict[str, Cell] = {"method": name, "against": against}
        pair = {
            against: risks.get(against, MethodRisk(reason=f"{against} was not trained")),
            name: risks[name],
        }
        for centre in people.centres:
            gap, p = paired_differences(people, pair, centre, against=against)[name]
            row |= {f"difference of AUC, {centre}": gap, f"p, {centre}": p}
        rows.append(row)
    if not rows:
        rows = [
            {"method": "no synthesis arm", "against": "neither part, `synthesis` or `conditional`, was run"}
        ]
    note = "DeLong's paired tests: the question is whether synthesis helps beyond oversampling."
    return comparison("beyond", "Synthesis against oversampling", rows, note=note)


def seed_table(people: KnownPatients, risks: Risks) -> Table:
    """How far the AUC of each classifier depends on the seed."""
    rows: list[dict[str, Cell]] = [
        {
            "method": name,
            **{f"AUC by seed, {c}": cell(partial(_by_seed, people, method, c)) for c in people.centres},
        }
        for name, method in risks.items()
        if method.out_of_fold
    ]
    if not rows:
        rows = [{"method": "no method", "why": "no classifier could be trained over folds"}]
    note = "Networks of one seed alone: mean, and least to greatest."
    return comparison("seeds", "How much depends on the seed", rows, note=note)


def _by_seed(people: KnownPatients, method: MethodRisk, centre: str) -> str:
    if not method.by_seed:
        raise InputRefused("one seed alone was trained")
    areas = []
    for risk in method.by_seed:
        scores = centre_scores(people, MethodRisk(risk), centre)
        areas.append(auc(scores.outcome, scores.score).value)
    return f"{np.mean(areas):.3f} ({min(areas):.3f} to {max(areas):.3f})"


def synthetic_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Show how near, how new and how useful the synthetic images of each fold are."""
    shown = [cells_of(row) for row in rows]
    if not shown:
        shown = [
            {
                "images": "none were made",
                "why": "neither part, `synthesis` or `conditional`, was run, or a class has too few patients",
            }
        ]
    note = (
        "Distances to slices of expanded patients of the external centres; the floor is the same distance"
        f" between two halves of those patients. Features: {FEATURES_NAME}. A copy is more similar, when"
        " aligned over shifts, turns, scales and mirroring, than 99 in 100 slices of other patients (of more"
        f" than {MOST_ALIGNED} images of a kind so many are aligned)."
        " Membership: AUC of telling training from other patients by the synthetic images, 0.5 betrays"
        " nobody. Use: AUC on the external patients of one classifier of these features."
    )
    return comparison("synthesis", "Synthetic images", shown, note=note)
