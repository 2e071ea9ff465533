"""What the studies of a target on CT share: labels by transfer, networks trained on them, every patient
read once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.evidence.metrics import regression
from ichnos.evidence.metrics.intervals import Estimate, mean_interval
from ichnos.evidence.tables import Cell
from ichnos.files import atomic_file
from ichnos.formats import bids, nifti
from ichnos.inference import Predictor
from ichnos.learning.loop.resources import Resources
from ichnos.learning.nnunet.engine import train_nnunet
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.segmentation.budget import settings_within
from ichnos.learning.segmentation.cases import cases_fingerprint
from ichnos.learning.segmentation.fine_tuning import starting_from
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_degree, target_file
from ichnos.learning.segmentation.training import train_on_cohort, usable_cases
from ichnos.models import Model, load_model
from ichnos.runs import apply
from ichnos.runs.ledger import settings_hash
from ichnos.scan import Scan
from ichnos.studies.page import Effort, Image, cell, hardware_of, time_spent
from ichnos.transfer.makers import TransferOptions, TransferTarget
from ichnos.transfer.pairs import ACCEPTED, pairs_of, settle, transfer_pair
from ichnos.transfer.run import transfer_cohort
from ichnos.volume import Volume

Row = Mapping[str, Any]
TRUTH = "truth"
SMOKE_STEPS = 2
BEGUN = (
    "begins with the weights that ship, which have seen virtual patients of the same simulator (the MNI head"
    " among them) though none of these, at their voxel size of 3 mm"
)
NNUNET = "nnunet"  # the arm that nnU-Net itself trains
NNUNET_TOLD = (
    "nnU-Net itself was trained beside it, on the same patients; where there is no GPU at the same voxel"
    " size, patch and batch, with the topology that it derives from them."
)
NNUNET_NOT_ASKED = "nnU-Net itself was not asked for (`--with-nnunet` trains it too)."
_FINISHED = "finished.txt"
_LEAST_FOR_INTERVAL = 3
_BEYOND = 1e4  # an odds ratio or its inverse that says that the data do not determine it
_NNUNET_SECONDS_PER_ITERATION = 3.0  # of the plans of the studies on one processor core


@dataclass(frozen=True)
class Labels:
    """What transfer gave: the cohort with its targets, where they came from, and a row per pair."""

    cohort: Cohort
    pipelines: tuple[str, ...]
    rows: Mapping[str, Row]  # patient -> numbers of the pair, with its verdict
    refused: int


def labelled(cohort: Cohort, target: TransferTarget, effort: Effort) -> Labels:
    """Transfer the target of every pair. A smoke run transfers one pair and takes the labels of all from
    the simulation's truth.
    """
    if cohort.root is None:
        raise InputRefused(
            "the cohort has no folder, and transfer writes targets into it; read it with"
            " formats.bids.read_cohort"
        )
    root = cohort.root.resolve()
    settings = TransferOptions(str(root))
    pipelines: tuple[str, ...] = (TRUTH,) if effort.smoke else ("manual", ACCEPTED)
    if effort.smoke:
        pairs = pairs_of(cohort, [target])[-1:]
        done = apply(
            partial(transfer_pair, settings=settings),
            pairs,
            out=root,
            settings=asdict(settings),
            name="transfer-smoke",
            progress=False,
        )
        bids.write_pipeline(root, ACCEPTED)
        rows, failures = settle(root, done.rows, {}), len(done.failures)
    else:
        result = transfer_cohort(root, [target], settings=settings, workers=effort.workers, progress=False)
        rows, failures = list(result.rows), len(result.failures)
    by_patient = {str(row["id"]).rpartition("-")[0]: row for row in rows}
    refused = failures + sum(row["verdict"] == "refuse" for row in rows)
    return Labels(
        with_validation(bids.read_cohort(root, pipelines=pipelines)), pipelines, by_patient, refused
    )


def with_validation(cohort: Cohort) -> Cohort:
    """Return the cohort with every fifth training patient set aside for validation, if nobody is yet."""
    if len(cohort.of_split("validation")):
        return cohort
    train = [p.id for p in cohort.of_split("train")]
    held = set(train[4::5] or train[-1:])
    return replace(
        cohort, patients=tuple(replace(p, split="validation") if p.id in held else p for p in cohort)
    )


def trained(name: str, plan: TrainSettings, labels: Labels, out: Path, effort: Effort) -> Model:
    """Train one network for the minutes that a study may spend on it; an interrupted training goes on, a
    finished one is taken up.
    """
    work, folder = out / "training" / name, out / "models" / name
    shared = out / "training" / "cases"
    resources = Resources(
        effort.device,
        pipelines=labels.pipelines,
        cases=shared,
        cache=effort.cache,
        command=f"ichnos study, arm {name}",
    )
    if plan.start:
        plan = starting_from(plan, plan.start)
    if effort.smoke:
        coarse = plan if plan.start else _coarser(plan)
        plan = coarse.changed(steps=SMOKE_STEPS, validations=1, width=4, batch=1)
    asked = repr(
        (plan, effort.minutes, cases_fingerprint(usable_cases(labels.cohort, plan, work, resources)))
    )
    if _finished(work, asked):
        return load_model(folder)
    if not effort.smoke:
        plan = settings_within(
            labels.cohort, plan, work=work, resources=resources, seconds=60 * effort.minutes
        )
        resources = replace(resources, seconds=60 * effort.minutes)
    effort.say(f"training {name}: {plan.loop.steps} steps")
    model = train_on_cohort(labels.cohort, folder, plan, work=work, resources=resources)
    with atomic_file(work / _FINISHED) as temporary:
        temporary.write_text(asked, encoding="utf-8")
    return model


def _finished(work: Path, asked: str) -> bool:
    """Return whether a training folder is done with what is asked; a network that time cut short is not
    trained on at each call.
    """
    return (work / _FINISHED).is_file() and (work / _FINISHED).read_text(encoding="utf-8") == asked


def trained_by_nnunet(plan: TrainSettings, labels: Labels, out: Path, effort: Effort) -> Model:
    """Train nnU-Net itself on the same cohort; without a GPU at our plan's voxel size, patch and batch, with
    the topology it derives.

    nnU-Net counts iterations and not minutes; on a processor as many are taken as its pace in
    benchmarks/training.py lets expect.
    """
    changes: dict[str, Any] = {"epochs": 50, "iterations": 250}
    if effort.device == "cpu":
        plan = _coarser(plan).changed(width=4, batch=2) if effort.smoke else plan
        iterations = (
            2 if effort.smoke else max(10, round(60 * effort.minutes / _NNUNET_SECONDS_PER_ITERATION / 4))
        )
        changes = {
            "epochs": 1 if effort.smoke else 4,
            "iterations": iterations,
            "width": plan.architecture.width,
            "batch": plan.loop.batch,
        }
        changes |= {
            "patch": _commas(plan.preprocessing.patch),
            "spacing": _commas(plan.preprocessing.spacing_mm),
            "mirrored": False,
        }
    effort.say(f"training nnU-Net itself: {changes['epochs']} epochs of {changes['iterations']} iterations")
    configuration = "2d" if plan.flat else "3d_fullres"
    own = NnunetSettings(targets=plan.targets).changed(
        configuration=configuration, seed=effort.seed, **changes
    )
    resources = Resources(effort.device, pipelines=labels.pipelines, command="ichnos study, arm nnU-Net")
    return train_nnunet(
        labels.cohort, out / "models" / NNUNET, own, work=out / "training" / NNUNET, resources=resources
    )


def _commas(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _coarser(plan: TrainSettings) -> TrainSettings:
    """Return the plan at twice the voxel size with half the patch; slices keep their distance."""
    how = plan.preprocessing
    x, y, z = how.spacing_mm
    sides = how.patch[0] // 2, how.patch[1] // 2, 1 if plan.flat else how.patch[2] // 2
    return plan.changed(spacing_mm=(2 * x, 2 * y, z if plan.flat else 2 * z), patch=sides)


def worst_picture(name: str, out: Path) -> list[Image]:
    """Return the last picture of the worst validation cases of an arm, if its validation patients have the
    target.
    """
    files = sorted((out / "training" / name / "worst").glob("*.png"))
    caption = (
        f"{name}: the worst validation cases of its last validation; the label orange, the network blue;"
        " radiological convention."
    )
    return [Image(f"worst-{name}", caption, files[-1].read_bytes())] if files else []


# ---- reading every patient once
# ------------------------------------------------------------------------------------------


def told_of(models: Mapping[str, Model]) -> dict[str, list[Any]]:
    """Return what decides the masks of each model: with another one every patient is read anew."""
    return {
        name: [model.manifest.weights_sha256, *(t.threshold for t in model.manifest.targets)]
        for name, model in models.items()
    }


def read_patients(
    task: Any, patients: Sequence[Patient], out: Path, effort: Effort, *, settings: Any
) -> list[dict[str, Any]]:
    """Apply a reading task to patients, resumably; a patient who cannot be read is left out and told.
    Other networks read anew.
    """
    done = apply(
        task,
        patients,
        out=out / "readings" / settings_hash(settings),
        settings=settings,
        name="read",
        workers=effort.workers,
        progress=False,
    )
    for failure in done.failures:
        effort.say(f"sub-{failure.id} could not be read: {failure.why}")
    return list(done.rows)


@lru_cache(maxsize=4)
def predictor(folder: str, device: str) -> Predictor:
    """Return the predictor of a model folder (loaded once per process).

    All but plain U-Nets run in torch: OpenVINO takes minutes to make U-Mamba's graph, which a few patients do
    not pay back.
    """
    model = load_model(folder)
    return Predictor(
        model,
        backend="auto" if model.manifest.network.name in ("unet", "planned") else "torch",
        device=device,
        threads=1,
    )


def scan_of(patient: Patient) -> Scan:
    """Return a patient's CT in RAS."""
    opened = nifti.open_nifti(patient.exam("ct"))
    return Scan(opened.volume.reoriented("RAS"), opened.acquisition)


def label_of(cohort: Cohort, patient: Patient, name: str, pipelines: Sequence[str]) -> Volume | None:
    """Return a patient's label of a target as a mask on the RAS CT; None where there is none."""
    found = target_file(cohort, patient, name, pipelines)
    if found is None:
        return None
    ct = nifti.open_nifti(patient.exam("ct")).volume
    return ct.with_array(target_degree(*found, ct) >= 0.5).reoriented("RAS")


def truth_rows(cohort: Cohort) -> dict[str, dict[str, str]]:
    """Return the simulation's table of truths by patient; empty for a real cohort."""
    assert cohort.root is not None
    folder = cohort.root / "derivatives" / TRUTH
    return (
        {row["participant_id"]: row for row in bids.read_participants(folder)}
        if (folder / "participants.tsv").is_file()
        else {}
    )


def number(text: object) -> float:
    """Return a number as it stands in a table; NaN for what is not known.

    >>> number("3.5"), number("")
    (3.5, nan)
    """
    try:
        return float(str(text))
    except ValueError:
        return float("nan")


def paired_columns(rows: Sequence[Row], first: str, second: str) -> tuple[list[float], list[float]]:
    """Return two columns of the rows that have both."""
    pairs = [(number(row.get(first)), number(row.get(second))) for row in rows]
    kept = [(a, b) for a, b in pairs if np.isfinite(a) and np.isfinite(b)]
    return [a for a, _ in kept], [b for _, b in kept]


def effect_of(kind: regression.ModelKind, formula: str, table: Any, term: str, *, of: str) -> Estimate:
    """Return an adjusted effect; where patients do not determine it, say so in words that do not need the
    formula.
    """
    few = f"{len(table)} {of} do not determine it: too few, or too alike, for its terms"
    try:
        found = regression.fit(kind, formula, table).effect(term).estimate
    except InputRefused:
        raise InputRefused(few) from None
    if kind != "linear" and not 1 / _BEYOND < found.low < found.high < _BEYOND:
        raise InputRefused(few)
    return found


def mean_of(rows: Sequence[Row], column: str, *, of: str) -> Cell:
    """Return the mean of a column with its interval, or why there is none."""
    values = [value for row in rows if np.isfinite(value := number(row.get(column)))]
    if not values:
        return f"no patient with {of}"
    if len(values) < _LEAST_FOR_INTERVAL:
        return Estimate(float(np.mean(values)), float("nan"), float("nan"), len(values))
    return cell(lambda: mean_interval(values))


def provenance_of(
    cohort: Cohort, effort: Effort, models: Mapping[str, Model]
) -> dict[str, str | float | int]:
    """Return where the numbers of a page come from."""
    weights = {
        name: f"{m.manifest.weights_sha256[:16]}, step {m.manifest.provenance.steps}"
        for name, m in models.items()
    }
    splits = {
        split or "no split": sum(p.split == split for p in cohort)
        for split in dict.fromkeys(p.split for p in cohort)
    }
    return {
        "patients": ", ".join(f"{count} {split}" for split, count in splits.items()),
        "scale": (
            "own cohort"
            if effort.scale is None and not effort.smoke
            else ("smoke" if effort.smoke else f"{effort.scale:g}")
        ),
        "smoke": int(effort.smoke),
        "minutes of training per network": "a few steps" if effort.smoke else effort.minutes,
        "seed": effort.seed,
        "hardware": hardware_of(effort),
        **time_spent(effort),
        **{f"weights of {name}": told for name, told in weights.items()},
    }


Compare = Callable[[str], Cell]  # column of a way to read -> what its cell holds


def table_row(
    measure: str, paper: Cell, ways: Mapping[str, str], compare: Compare, limit: Cell
) -> dict[str, Cell]:
    """Return one row: the paper's value, one cell per way to read, and what is reachable."""
    return {
        "measure": measure,
        "paper": paper,
        **{title: compare(key) for key, title in ways.items()},
        "limit": limit,
    }
