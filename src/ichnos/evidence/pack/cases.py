"""One patient after the other: load truth and prediction, measure, forget. Memory does not grow with the
number of patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.clinical.injury import tract_injury
from ichnos.evidence.metrics.overlap import cl_dice, growth_dice, lesion_detection, overlap
from ichnos.evidence.metrics.surfaces import require_same_grid
from ichnos.evidence.pack.evaluation import EvaluationCase
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.evidence.pack.predictions import Layer
from ichnos.formats import nifti
from ichnos.runs import Summary, apply, settings_hash
from ichnos.volume import Volume, box_around, volume_ml

CaseRows = Sequence[Mapping[str, Any]]  # what `measure_cases` gives: one row per case
TRUE = "true_"  # prefix of what was measured on the true masks: columns of facts, not scores
_DEPENDS_ON_EMPTY = ("dice", "iou", "precision", "recall", "nsd", "hd95_mm", "assd_mm")
_LEAST_TRACT_ML = 2.0  # a smaller tract was not found; it is not one without injury
_GROWN, _BASELINE, _OEDEMA = "expansion ICH", "haematoma ICH", "haematoma PHE"


def measure_cases(
    cases: tuple[EvaluationCase, ...],
    plan: EvidencePlan,
    out: Path,
    *,
    name: str = "evaluate",
    workers: int = 1,
    progress: bool = True,
) -> Summary:
    """Measure every case with masks, resuming where an earlier call stopped; a case that fails is named
    and does not stop the rest. `name` tells the ledger of one group of cases from that of another.
    """
    chosen = [case for case in cases if _shared(case) or case.grade_injury or _volumes_asked(case)]
    settings = {
        "plan": plan.model_dump(
            mode="json", include={"labels", "targets", "lesions", "tubes", "tolerance_mm", "size_bins_ml"}
        ),
        "masks": settings_hash([[case.id, *_stamps(case), *_volumes_asked(case)] for case in chosen]),
    }
    task = partial(measure_case, plan=plan)
    return apply(task, chosen, out=out, settings=settings, name=name, workers=workers, progress=progress)


def _shared(case: EvaluationCase) -> list[str]:
    """Return the masks that both sides hold, in the order of their names."""
    return sorted(set(case.truth) & set(case.predicted))


def _volumes_asked(case: EvaluationCase) -> list[str]:
    """Return the true masks whose volume is asked for and not in the cohort's table."""
    return sorted(set(case.facts_ml) & set(case.truth))


def _stamps(case: EvaluationCase) -> list[str]:
    """Tell a changed mask from the one that was measured before; name and size cost nothing to look up."""
    files = dict.fromkeys(layer.path for layer in (*case.truth.values(), *case.predicted.values()))
    return [f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]


def measure_case(case: EvaluationCase, _: Path, *, plan: EvidencePlan) -> Mapping[str, Any]:
    """Return all measures of one case: {"haematoma ICH": {"dice": …}, …}; masks that only one side has
    are left out.
    """
    load = lru_cache(maxsize=4)(nifti.load)  # the labels of one map are read one after the other

    def mask(layer: Layer) -> Volume:
        return layer.of(load(layer.path))

    row: dict[str, Any] = {}
    for name in _shared(case):
        truth, prediction = mask(case.truth[name]), mask(case.predicted[name])
        require_same_grid(truth, prediction)
        row[name] = _measured(truth, prediction, name, plan)
        if name == _GROWN and _BASELINE in case.truth:
            baseline = mask(case.truth[_BASELINE])
            row[name]["growth_dice"] = growth_dice(
                baseline=baseline, truth_followup=truth, predicted_followup=prediction
            )
    for name in _volumes_asked(case):
        row[f"{TRUE}{case.facts_ml[name]}"] = volume_ml(mask(case.truth[name]))
    if case.grade_injury:
        row |= _true_injury({name: mask(layer) for name, layer in case.truth.items()})
    return row


def _measured(truth: Volume, prediction: Volume, name: str, plan: EvidencePlan) -> dict[str, Any]:
    measured = overlap(truth, prediction, tolerance_mm=plan.tolerance_mm)
    row: dict[str, Any] = {**measured.row(), "empty": measured.empty}
    scored = measured.under("scored").row()
    row["scored"] = {name: scored[name] for name in _DEPENDS_ON_EMPTY}
    if name in plan.lesions:
        row["lesions"] = [
            asdict(count) for count in lesion_detection(truth, prediction, bins_ml=plan.size_bins_ml)
        ]
    if name in plan.tubes:
        row["cl_dice"] = cl_dice(truth, prediction)
    return row


def _true_injury(truth: Mapping[str, Volume]) -> dict[str, Any]:
    """Grade each side's tract on the true masks, by the definition that readings use; empty without them."""
    if _BASELINE not in truth:
        return {}
    row: dict[str, Any] = {}
    for side in ("left", "right"):
        tract = truth.get(f"tract {side}")
        if tract is None or volume_ml(tract) < _LEAST_TRACT_ML:
            continue
        ras = tract.reoriented("RAS")
        box = box_around(ras)
        near = ras.cropped(box)
        blood, oedema = (_like(truth.get(name), ras).cropped(box) for name in (_BASELINE, _OEDEMA))
        heights = np.zeros((near.shape[2], 3))
        heights[:, 2] = np.arange(near.shape[2])
        injury = tract_injury(
            *(np.asarray(part.array, np.float32) for part in (near, blood, oedema)),
            z_mm=near.world(heights)[:, 2],
            voxel_ml=near.voxel_ml,
        )
        row |= {
            f"{TRUE}injury_{side}": injury.grade,
            f"{TRUE}blood_load_{side}": injury.blood_load_ml,
            f"{TRUE}largest_loss_{side}": injury.largest_loss,
        }
    return row


def _like(mask: Volume | None, grid: Volume) -> Volume:
    return grid.map_array(np.zeros_like) if mask is None else mask.reoriented("RAS")
