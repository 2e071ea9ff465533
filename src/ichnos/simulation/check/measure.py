"""Measure a simulated cohort against what is known of real ones; `check.page` draws the sheet.

What it costs is bounded whatever the cohort's size: so many images, masks and maps are opened and no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.formats import bids, nifti
from ichnos.simulation.check.best_answer import cohort_auc, oracle_growth_dice
from ichnos.simulation.check.noise import measured_noise_power
from ichnos.simulation.check.population import population_rows
from ichnos.simulation.check.realism import IntervalEstimate, RealismRow, bootstrapped
from ichnos.simulation.check.shapes import Shape, shape_of
from ichnos.simulation.check.voxels import shape_rows, voxel_rows
from ichnos.simulation.cohort.exam_files import TRUTH
from ichnos.simulation.disease import law
from ichnos.volume import Array, Floats, Volume

IMAGES = 24  # patients whose images are opened; tables use all
SHOWN = 8  # patients whose slices are shown: those with the most findings
SHAPED = 150  # patients whose masks are measured
DRAWN = 20_000  # patients drawn without images for the population's rows
BLOOD_LABELS = {"ICH": 1, "IVH": 2, "oedema": 3}
PUBLISHED = {  # Yu 2025 (three sets); sites: general knowledge, no source looked up
    "baseline_median_ml": 20.4,
    "baseline_iqr_ml": 21.9,
    "followup_median_ml": 22.7,
    "followup_iqr_ml": 26.2,
    "expansion": {"train": 0.198, "D": 0.218, "E": 0.200},
    "sites": {
        "putamen": 0.40,
        "thalamus": 0.20,
        "lobar": 0.25,
        "cerebellum": 0.08,
        "pons": 0.05,
        "caudate": 0.03,
    },
}


@dataclass(frozen=True, eq=False)
class Example:
    """A patient whose slices the sheet shows, with what the simulation put there."""

    id: str
    findings: tuple[str, ...]
    ct: Volume
    blood: Volume | None  # truth labels: 1 ICH, 2 IVH, 3 oedema
    leukoaraiosis: Volume | None


@dataclass(frozen=True, eq=False)
class Check:
    """Everything the sheet shows."""

    cohort: Cohort
    truth: tuple[dict[str, Any], ...]  # one row per patient, numbers as float
    hu: dict[str, Floats]  # tissue -> HU of a sample of its voxels
    spectra: dict[str, tuple[Floats, Floats]]  # centre -> frequency per mm, power in HU2 mm2
    examples: tuple[Example, ...]
    realism: tuple[RealismRow, ...]  # population, shapes and voxels against the published
    oracle_auc: IntervalEstimate
    growth_dice: IntervalEstimate  # of the oracle's map at its best threshold, patients who expanded
    growth_threshold: float


def measure(root: str | Path) -> Check:
    """Read a simulated cohort and measure it; refuses a cohort without the simulation's truth."""
    root = Path(root)
    cohort = bids.read_cohort(root)
    truth = _truth_rows(root)
    hu, spectra = _densities_and_noise(root, _spread(cohort.patients, IMAGES))
    row_of = {row["participant_id"]: row for row in truth}
    dice, threshold = oracle_growth_dice(root, cohort, truth)
    return Check(
        cohort=cohort,
        truth=truth,
        hu=hu,
        spectra=spectra,
        examples=tuple(_example(root, p, row_of[p.id]) for p in _telling(cohort.patients, row_of)),
        realism=(*drawn_rows(), *_cohort_rows(root, cohort, truth)),
        oracle_auc=cohort_auc(truth),
        growth_dice=dice,
        growth_threshold=threshold,
    )


def drawn_rows() -> list[RealismRow]:
    """Return the population's rows, of 20,000 patients drawn without images."""
    return population_rows(law.draw(DRAWN, torch.Generator().manual_seed(0)))


def _truth_rows(root: Path) -> tuple[dict[str, Any], ...]:
    folder = root / "derivatives" / TRUTH
    if not (folder / "provenance.json").is_file():
        raise InputRefused(
            f"{root} was not made by `ichnos simulate`: it holds no derivatives/{TRUTH}/provenance.json"
        )
    return tuple(
        {n: text if n == "participant_id" else _number(text) for n, text in row.items()}
        for row in bids.read_participants(folder)
    )


def _densities_and_noise(
    root: Path, patients: Sequence[Patient]
) -> tuple[dict[str, Floats], dict[str, tuple[Floats, Floats]]]:
    """Return HU of each tissue, and the mean noise spectrum of each centre."""
    hu: dict[str, list[Floats]] = {}
    spectra: dict[str, list[tuple[Floats, Floats]]] = {}
    for patient in patients:
        ct = nifti.load(patient.exam("ct"))
        masks = _masks(root, patient)
        for tissue, values in _tissue_hu(ct, masks).items():
            hu.setdefault(tissue, []).append(values)
        noise = measured_noise_power(ct, masks["brain"])
        if noise is not None:
            spectra.setdefault(patient.centre, []).append(noise)
    means = {
        centre: (parts[0][0], np.mean([power for _, power in parts], axis=0))
        for centre, parts in spectra.items()
    }
    return {tissue: np.concatenate(parts) for tissue, parts in hu.items()}, means


def _number(text: str) -> float | str:
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return text


def _spread(patients: Sequence[Patient], count: int) -> tuple[Patient, ...]:
    """Take `count` patients evenly over the cohort."""
    if len(patients) <= count:
        return tuple(patients)
    return tuple(patients[int(k)] for k in np.linspace(0, len(patients) - 1, count))


def _findings(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what a truth row says is to be seen, in words."""
    found = [str(row["site"])] if isinstance(row["site"], str) and row["site"] else []
    found += str(row["signs"]).split() if isinstance(row["signs"], str) else []
    amounts = [("ivh_ml", 1.0, "ventricular blood"), ("infarct_old_ml", 3.0, "old infarct")]
    amounts += [("leukoaraiosis_ml", 15.0, "leukoaraiosis"), ("infarct_acute_ml", 3.0, "acute infarct")]
    found += [words for name, least, words in amounts if float(row.get(name, 0.0)) > least]
    if row["has_haematoma"] == 1.0 and float(row.get("phe_ml", 1.0)) < 0.2:
        found.append("no oedema")
    if isinstance(row.get("operation"), str) and row["operation"]:
        found += str(row["operation"]).split()
    return tuple(found)


def _telling(patients: Sequence[Patient], row_of: dict[Any, dict[str, Any]]) -> list[Patient]:
    """Choose up to `SHOWN` patients, each the one that adds most to the findings shown so far."""
    shown: set[str] = set()
    chosen: list[Patient] = []
    left = list(patients)
    while left and len(chosen) < SHOWN:
        best = max(left, key=lambda p: len(set(_findings(row_of[p.id])) - shown))
        left.remove(best)
        chosen.append(best)
        shown |= set(_findings(row_of[best.id]))
    return chosen


def _example(root: Path, patient: Patient, row: dict[str, Any]) -> Example:
    blood, leuko = (
        _optional(bids.find_target(root, patient.id, name)) for name in ("haematoma", "leukoaraiosis")
    )
    return Example(patient.id, _findings(row), nifti.load(patient.exam("ct")), blood, leuko)


def _cohort_rows(root: Path, cohort: Cohort, truth: Sequence[dict[str, Any]]) -> list[RealismRow]:
    shapes: dict[str, list[Shape]] = {"haematoma": [], "ventricular blood": []}
    for patient in _spread(cohort.patients, SHAPED):
        path = bids.find_target(root, patient.id, "haematoma")
        labels = None if path is None else nifti.load(path)
        for label, kind in enumerate(shapes, 1):
            shape = None if labels is None else shape_of(labels.with_array(labels.array == label))
            if shape is not None:
                shapes[kind].append(shape)
    bled = [row for row in truth if row["has_haematoma"] == 1.0]
    followed = [row for row in bled if np.isfinite(float(row.get("expanded_drawn", np.nan)))]
    return [
        *shape_rows(shapes),
        *voxel_rows(
            _numbers(bled, "midline_shift_mm"),
            _numbers(bled, "ich_ml"),
            _numbers(truth, "fazekas_periventricular"),
            _numbers(followed, "expanded") == _numbers(followed, "expanded_drawn"),
        ),
    ]


def _numbers(rows: Sequence[dict[str, Any]], name: str) -> Floats:
    return np.array([row[name] for row in rows], np.float64)


def _optional(path: Path | None) -> Volume | None:
    return None if path is None else nifti.load(path)


def _masks(root: Path, patient: Patient) -> dict[str, Array]:
    """Return label maps of a patient's truth on the CT grid: blood, brain, leukoaraiosis."""
    kinds: dict[str, bids.MapKind] = {"haematoma": "dseg", "brain": "dseg", "leukoaraiosis": "mask"}
    return {
        label: nifti.load(
            bids.derivative_path(root, patient.id, pipeline=TRUTH, label=label, kind=kind)
        ).array
        for label, kind in kinds.items()
    }


def _tissue_hu(ct: Volume, masks: dict[str, Array]) -> dict[str, Floats]:
    """Return up to 4,000 HU values of each tissue."""
    hu = ct.array
    blood, brain, leuko = masks["haematoma"], masks["brain"], masks["leukoaraiosis"] > 0
    where = {name: blood == label for name, label in BLOOD_LABELS.items()}
    where["leukoaraiosis"] = leuko & (blood == 0)
    where["ventricles"] = (brain == 2) & (blood == 0)
    where["brain without lesion"] = (brain == 1) & (blood == 0) & ~leuko
    where["bone"] = hu > 300
    found = {}
    for name, mask in where.items():
        values = np.asarray(hu[mask], np.float64)
        if len(values):
            found[name] = values[:: max(1, len(values) // 4000)]
    return found


def site_shares(truth: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the share of each site among the bleeds.

    >>> site_shares([{"site": "putamen"}, {"site": "lobar"}, {"site": None}])
    {'putamen': 0.5, 'lobar': 0.5}
    """
    sites = Counter(row["site"] for row in truth if isinstance(row["site"], str))
    total = sum(sites.values())
    return {site: count / total for site, count in sites.items()} if total else {}


def column(truth: Sequence[dict[str, Any]], name: str) -> Floats:
    """Return a truth column of the bleeds as numbers, undefined ones left out.

    >>> rows = [{"has_haematoma": 1.0, "ich_ml": 20.0}, {"has_haematoma": 0.0, "ich_ml": 0.0}]
    >>> column(rows, "ich_ml").tolist()
    [20.0]
    """
    values = np.array([row.get(name, np.nan) for row in truth if row["has_haematoma"] == 1.0], np.float64)
    return values[np.isfinite(values)]


def prevalence(check: Check, name: str) -> IntervalEstimate:
    """Return the share of bleeds that expanded in a centre or a split."""
    wanted = {p.id for p in check.cohort if name in (p.centre, p.split)}
    values = column([row for row in check.truth if row["participant_id"] in wanted], "expanded")
    return bootstrapped(lambda index: float(values[index].mean()), len(values))
