"""The tables of Ryu 2025: agreement, groups, associations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.agreement import fit_volume_calibrator
from ichnos.evidence.metrics.resampling import (
    resampled_concordance,
    resampled_pearson,
    resampled_spearman,
)
from ichnos.evidence.tables import Cell, Table
from ichnos.studies.ryu2025.design import LARGE_INFARCT_ML, RISK, WHITE_MATTER_WAYS
from ichnos.studies.shared.labels import StudyLabels
from ichnos.studies.shared.page import cell, comparison
from ichnos.studies.shared.rows import (
    PatientRow,
    adjusted_effect,
    column_mean,
    known_number,
    paired_columns,
    table_row,
)

_SPARE = 4  # patients more than terms, without whom a regression is not tried


def _against(rows: Sequence[PatientRow], statistic: Any, other: str) -> Any:
    """Return the function of a way to read that compares its volumes with another column."""
    return lambda way: cell(lambda: statistic(*paired_columns(rows, f"{way}_ml", other)))


def agreement_table(
    external: Sequence[PatientRow], held: Sequence[PatientRow], ways: Mapping[str, str]
) -> Table:
    label = _against(external, resampled_concordance, "true_ml")("registered")
    no_truth = "no truth for MRI volumes: they are the reference"
    rows = [
        table_row(
            "Dice against the registered label",
            0.527,
            ways,
            lambda way: column_mean(external, f"{way}_dice", of="a label that is not empty"),
            column_mean(external, "label_dice", of="label and truth"),
        ),
        table_row(
            "r, volume against the registered label",
            0.953,
            ways,
            _against(external, resampled_pearson, "registered_ml"),
            "1 by definition",
        ),
        table_row(
            "CCC, volume against the registered label",
            0.919,
            ways,
            _against(external, resampled_concordance, "registered_ml"),
            label,
        ),
        table_row(
            "r, volume against MRI", 0.951, ways, _against(external, resampled_pearson, "mri_ml"), no_truth
        ),
        table_row(
            "CCC, volume against MRI",
            0.760,
            ways,
            _against(external, resampled_concordance, "mri_ml"),
            no_truth,
        ),
        table_row(
            "CCC, calibrated volume against MRI",
            "not reported",
            ways,
            lambda way: _calibrated(external, held, way),
            no_truth,
        ),
        table_row(
            "CCC, volume against the truth",
            "unknown outside a simulation",
            ways,
            _against(external, resampled_concordance, "true_ml"),
            label,
        ),
        table_row(
            "rho, volume against the sum of both Fazekas grades",
            "r 0.832 (external), 0.891 (US)",
            ways,
            _against(external, resampled_spearman, "fazekas"),
            cell(lambda: resampled_spearman(*paired_columns(external, "true_ml", "fazekas"))),
        ),
    ]
    return comparison("ryu2025", "The paper's table, and ours", rows, note="External patients with FLAIR.")


def _calibrated(external: Sequence[PatientRow], held: Sequence[PatientRow], way: str) -> Cell:
    def compute() -> Cell:
        calibrate = fit_volume_calibrator(
            *paired_columns(held, f"{way}_ml", "mri_ml"), fitted_on="validation"
        )
        predicted, reference = paired_columns(external, f"{way}_ml", "mri_ml")
        return resampled_concordance(calibrate(predicted), reference)

    return cell(compute)


def group_table(external: Sequence[PatientRow], ways: Mapping[str, str]) -> Table:
    """CCC against the registered label by centre, vendor and size of an acute infarct."""
    centres = sorted({str(row["centre"]) for row in external})
    vendors = sorted({str(row["vendor"]) for row in external})
    groups: list[tuple[str, Cell, list[PatientRow]]] = [
        *[
            (f"centre {name or '(none)'}", "not reported", [row for row in external if row["centre"] == name])
            for name in centres
        ],
        *[
            (f"vendor {name}", "0.875 to 0.950", [row for row in external if row["vendor"] == name])
            for name in vendors
        ],
    ]
    small = [row for row in external if known_number(row["infarct_ml"]) <= LARGE_INFARCT_ML]
    large = [row for row in external if known_number(row["infarct_ml"]) > LARGE_INFARCT_ML]
    groups += [
        ("acute infarct up to 10 mL, or none", 0.912, small),
        ("acute infarct above 10 mL", 0.922, large),
    ]
    rows = [
        table_row(
            f"CCC, {name} (n = {len(group)})",
            paper,
            ways,
            _against(group, resampled_concordance, "registered_ml"),
            "see above",
        )
        for name, paper, group in groups
    ]
    return comparison("groups", "Agreement with the registered label, by group", rows)


def association_table(rows: Sequence[PatientRow], labels: StudyLabels) -> Table:
    """Who has more of it, and how they fare; each term adjusted for the others."""
    if not labels.rows and not rows:
        raise InputRefused("no patient is left to look at; see the contact sheets of the transfer")
    table = pd.DataFrame([{k: known_number(v) if k != "sex" else v for k, v in row.items()} for row in rows])
    volumes = {
        "volume": WHITE_MATTER_WAYS["volume"],
        "threshold": WHITE_MATTER_WAYS["threshold"],
        "true": "limit",
    }
    out: list[dict[str, Cell]] = []
    for term in RISK:
        out.append({"measure": f"ln(1 + mL) per unit of {term}", "paper": "associated; size not at hand"})
        out[-1] |= {
            title: _effect("linear", f"ln_{key} ~ {' + '.join(RISK)}", table, key, term)
            for key, title in volumes.items()
        }
    out.append(
        {"measure": "odds of a worse mRS at 90 days per ln(1 + mL)", "paper": "associated; size not at hand"}
    )
    out[-1] |= {
        title: _effect("ordinal", f"mrs_90d ~ ln_{key} + age_years + nihss", table, key, f"ln_{key}")
        for key, title in volumes.items()
    }
    return comparison(
        "associations",
        f"Associations in {len(rows)} clinical patients",
        out,
        note="limit: with the simulation's true volume.",
    )


def _effect(kind: Any, formula: str, table: pd.DataFrame, key: str, term: str) -> Cell:
    def compute() -> Cell:
        terms = formula.count("+") + 1
        if f"{key}_ml" not in table or len(table) < terms + _SPARE:
            raise InputRefused(
                f"{len(table)} patients are too few for {terms} terms; {terms + _SPARE} are the least"
            )
        data = table.assign(**{f"ln_{key}": np.log1p(table[f"{key}_ml"])})
        return adjusted_effect(kind, formula, data, term, of="patients")

    return cell(compute)
