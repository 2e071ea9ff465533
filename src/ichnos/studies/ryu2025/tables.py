"""The tables of Ryu 2025: agreement, grades, groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ichnos.arrays import Floats
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.agreement import fit_volume_calibrator, weighted_kappa
from ichnos.evidence.metrics.resampling import (
    concordance_of,
    pair_moments,
    resampled_concordance,
    resampled_pearson,
    resampled_spearman,
)
from ichnos.evidence.metrics.thresholds import youden_point
from ichnos.evidence.tables import Cell, Table, p_value
from ichnos.studies.ryu2025.design import LARGE_INFARCT_ML
from ichnos.studies.shared.grid_limit import AT_VOXELS, LABEL_AT_VOXELS
from ichnos.studies.shared.page import cell, comparison
from ichnos.studies.shared.rows import (
    PatientRow,
    column_mean,
    known_number,
    paired_columns,
    table_row,
)

_DICE = "Dice against the registered label"
_R_LABEL = "r, volume against the registered label"
_CCC_LABEL = "CCC, volume against the registered label"
_R_MRI, _CCC_MRI = "r, volume against MRI", "CCC, volume against MRI"
_RHO = "rho, volume against the sum of both Fazekas grades"
_PAPER_ALL: Mapping[str, Cell] = {
    _DICE: 0.527,
    _R_LABEL: 0.953,
    _CCC_LABEL: 0.919,
    _R_MRI: 0.951,
    _CCC_MRI: 0.760,
    _RHO: "r 0.832 (external), 0.891 (US)",
}
_PAPER_BY_CENTRE: Mapping[str, Mapping[str, Cell]] = {
    "B": {**_PAPER_ALL, _RHO: "r 0.832"},
    "E": {_RHO: "r 0.891"},
}
_FAZEKAS_GRADES = 4
_LEAST_GROUP = 5  # patients, below which a group's agreement is not tested
_PERMUTATIONS = 999


def _against(rows: Sequence[PatientRow], statistic: Any, other: str) -> Any:
    """Return the function of a way to read that compares its volumes with another column."""
    return lambda way: cell(lambda: statistic(*paired_columns(rows, f"{way}_ml", other)))


def agreement_table(
    external: Sequence[PatientRow], held: Sequence[PatientRow], ways: Mapping[str, str]
) -> Table:
    """Overlap, volumes and grades on all external patients with FLAIR."""
    rows = _agreement_rows(external, held, ways, _PAPER_ALL)
    return comparison("ryu2025", "The paper's table, and ours", rows, note="External patients with FLAIR.")


def centre_table(
    external: Sequence[PatientRow], held: Sequence[PatientRow], ways: Mapping[str, str]
) -> Table:
    """The same measures in each external centre: B is the paper's external set, E the one of the US."""
    rows = [
        {**row, "measure": f"{row['measure']}, {centre} (n = {len(group)})"}
        for centre, group in _by(external, "centre").items()
        for row in _agreement_rows(group, held, ways, _PAPER_BY_CENTRE.get(centre, {}))
    ]
    if not rows:
        rows = [{"measure": "nothing to compare", "paper": "no external patient has a FLAIR"}]
    return comparison("centres", "Each external centre apart", rows)


def _by(rows: Sequence[PatientRow], column: str) -> dict[str, list[PatientRow]]:
    groups: dict[str, list[PatientRow]] = {}
    for row in sorted(rows, key=lambda row: str(row[column])):
        groups.setdefault(str(row[column]) or "(none)", []).append(row)
    return groups


def _agreement_rows(
    rows: Sequence[PatientRow],
    held: Sequence[PatientRow],
    ways: Mapping[str, str],
    paper: Mapping[str, Cell],
) -> list[dict[str, Cell]]:
    label = _against(rows, resampled_concordance, "true_ml")("registered")
    no_truth, definition = "no truth for MRI volumes: they are the reference", "1 by definition"

    def column(statistic: Any, other: str) -> Any:
        return _against(rows, statistic, other)

    asked: tuple[tuple[str, Any, Cell], ...] = (
        (_DICE, partial(_dice, rows), column_mean(rows, "label_dice", of="label and truth")),
        (_R_LABEL, column(resampled_pearson, "registered_ml"), definition),
        (_CCC_LABEL, column(resampled_concordance, "registered_ml"), label),
        (_R_MRI, column(resampled_pearson, "mri_ml"), no_truth),
        (_CCC_MRI, column(resampled_concordance, "mri_ml"), no_truth),
        ("CCC, calibrated volume against MRI", partial(_calibrated, rows, held), no_truth),
        ("CCC, volume against the truth", column(resampled_concordance, "true_ml"), label),
        (
            _RHO,
            column(resampled_spearman, "fazekas"),
            cell(lambda: resampled_spearman(*paired_columns(rows, "true_ml", "fazekas"))),
        ),
    )
    if any(f"{way}{AT_VOXELS}_dice" in row for row in rows for way in ways):
        asked = (*asked, (LABEL_AT_VOXELS, partial(_dice_at_voxels, rows), definition))
    return [
        table_row(measure, paper.get(measure, "not reported"), ways, compare, limit)
        for measure, compare, limit in asked
    ]


def _dice_at_voxels(rows: Sequence[PatientRow], way: str) -> Cell:
    known = any(f"{way}{AT_VOXELS}_dice" in row for row in rows)
    return _dice(rows, f"{way}{AT_VOXELS}") if known else "no network"


def _dice(rows: Sequence[PatientRow], way: str) -> Cell:
    return column_mean(rows, f"{way}_dice", of="a label that is not empty")


def fazekas_table(
    external: Sequence[PatientRow], held: Sequence[PatientRow], ways: Mapping[str, str]
) -> Table:
    """Weighted kappa of the grade that a volume gives, by cuts chosen on the validation patients."""
    rows = [
        table_row(
            f"weighted kappa, {name} Fazekas",
            "r reported, no kappa",
            ways,
            partial(_kappa, external, held, f"fazekas_{name}"),
            _kappa(external, held, f"fazekas_{name}", "true"),
        )
        for name in ("periventricular", "deep")
    ]
    note = (
        "A grade is the number of cuts that the volume exceeds; each cut tells the validation patients of"
        " that grade or above best from the others (Youden). Quadratic weights."
    )
    return comparison("fazekas", "Grades from volumes", rows, note=note)


def _kappa(external: Sequence[PatientRow], held: Sequence[PatientRow], grade: str, way: str) -> Cell:
    def compute() -> Cell:
        cuts = grade_cuts(*paired_columns(held, f"{way}_ml", grade))
        volumes, grades = paired_columns(external, f"{way}_ml", grade)
        found = (np.array(volumes)[:, None] >= cuts).sum(axis=1)
        return weighted_kappa(found.astype(float), grades, grades=_FAZEKAS_GRADES)

    return cell(compute)


def grade_cuts(volumes_ml: Sequence[float], grades: Sequence[float]) -> np.ndarray:
    """Return the volumes from which a grade is 1, 2 and 3 or more; no cut below another.

    >>> grade_cuts([0.1, 0.2, 4, 5, 9, 10, 30, 40], [0, 0, 1, 1, 2, 2, 3, 3]).tolist()
    [4.0, 9.0, 30.0]
    """
    volumes, known = np.array(volumes_ml, float), np.array(grades, float)
    cuts = []
    for grade in range(1, _FAZEKAS_GRADES):
        above = known >= grade
        if not above.any() or above.all():
            cuts.append(np.inf if not above.any() else -np.inf)
            continue
        cuts.append(youden_point(above.astype(float), volumes, chosen_on="validation").threshold)
    return np.asarray(np.maximum.accumulate(cuts))


def heterogeneity_table(external: Sequence[PatientRow], ways: Mapping[str, str]) -> Table:
    """Test whether agreement differs between vendors and between sizes of the acute infarct."""
    large = {True: "above", False: "up to"}
    sized = [
        {**row, "size": large[known_number(row["infarct_ml"]) > LARGE_INFARCT_ML]}
        for row in external
        if np.isfinite(known_number(row["infarct_ml"]))
    ]
    rows = [
        table_row(
            f"CCC between {title}",
            paper,
            ways,
            partial(_differs, _by(group, column)),
            "see the groups",
        )
        for title, column, group, paper in (
            ("vendors", "vendor", external, "0.875 to 0.950, no test"),
            ("infarct sizes", "size", sized, "0.912 and 0.922, no test"),
            ("centres", "centre", external, "not reported"),
        )
    ]
    note = (
        "Cochran's Q of Fisher's z of each group's CCC against the registered label, a group of n weighing"
        f" n - 2; p from {_PERMUTATIONS} permutations of the patients over the groups."
    )
    return comparison("heterogeneity", "Does agreement depend on the group?", rows, note=note)


def _differs(groups: Mapping[str, Sequence[PatientRow]], way: str) -> Cell:
    def compute() -> str:
        large = [rows for rows in groups.values() if len(rows) >= _LEAST_GROUP]
        if len(large) < 2:
            raise InputRefused(f"{len(large)} group(s) of {_LEAST_GROUP} patients or more; 2 are the least")
        pairs = [paired_columns(rows, f"{way}_ml", "registered_ml") for rows in large]
        volumes = np.concatenate([np.stack(pair) for pair in pairs], axis=1)
        sizes = [len(first) for first, _ in pairs]
        q, rng = _spread(volumes, sizes), np.random.default_rng(0)
        drawn = [_spread(volumes[:, rng.permutation(volumes.shape[1])], sizes) for _ in range(_PERMUTATIONS)]
        p = (1 + sum(one >= q for one in drawn)) / (_PERMUTATIONS + 1)
        return f"Q {q:.1f} ({len(large) - 1}), p {p_value(p)}"

    return cell(compute)


def _spread(volumes: Floats, sizes: Sequence[int]) -> float:
    """Return Cochran's Q of the concordances of groups that follow each other."""
    groups = np.split(volumes, np.cumsum(sizes)[:-1], axis=1)
    found = [float(concordance_of(pair_moments(group[0], group[1]))) for group in groups]
    z, weight = np.arctanh(np.clip(found, -0.9999, 0.9999)), np.array(sizes) - 2.0
    return float(weight @ (z - weight @ z / weight.sum()) ** 2)


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
    groups: list[tuple[str, Cell, Sequence[PatientRow]]] = [
        *((f"centre {name}", "not reported", rows) for name, rows in _by(external, "centre").items()),
        *((f"vendor {name}", "0.875 to 0.950", rows) for name, rows in _by(external, "vendor").items()),
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
