"""One patient after the other: load truth and prediction, measure, forget. Memory does not grow with the
number of patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ichnos.errors import InputRefused
from ichnos.evidence.metrics.overlap import cl_dice, growth_dice, lesion_detection, overlap
from ichnos.evidence.metrics.surfaces import require_same_grid
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.evidence.pack.predictions import Case
from ichnos.formats import nifti
from ichnos.runs import Summary, apply, settings_hash
from ichnos.volume import Volume

_DEPENDS_ON_EMPTY = ("dice", "iou", "precision", "recall", "nsd", "hd95_mm", "assd_mm")


def measure_cases(
    cases: tuple[Case, ...], plan: EvidencePlan, out: Path, *, workers: int = 1, progress: bool = True
) -> Summary:
    """Measure every case with masks, resuming where an earlier call stopped; a case that fails is named
    and does not stop the rest.
    """
    chosen = [case for case in cases if set(case.truth) & set(case.predicted)]
    settings = {
        "plan": plan.model_dump(
            mode="json", include={"labels", "targets", "lesions", "tubes", "tolerance_mm", "size_bins_ml"}
        ),
        "masks": settings_hash(
            [
                [case.id, *(_stamp(p) for p in (*case.truth.values(), *case.predicted.values()))]
                for case in chosen
            ]
        ),
    }
    task = partial(measure, plan=plan)
    return apply(
        task, chosen, out=out, settings=settings, name="evaluate", workers=workers, progress=progress
    )


def _stamp(path: Path) -> str:
    """Tell a changed mask from the one that was measured before; name and size cost nothing to look up."""
    return f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}"


def measure(case: Case, _: Path, *, plan: EvidencePlan) -> Mapping[str, Any]:
    """Return all measures of one case: {"haematoma ICH": {"dice": …}, …}; targets that only one side has
    are left out.
    """
    found: dict[str, Any] = {}
    for target in sorted(set(case.truth) & set(case.predicted)):
        truth, prediction = nifti.load(case.truth[target]), nifti.load(case.predicted[target])
        require_same_grid(truth, prediction)
        for label, code in plan.labels_of(target).items():
            name = f"{target} {label}".strip()
            found[name] = _measured(_one(truth, code), _one(prediction, code), name, plan)
        if target == "expansion" and "haematoma" in case.truth:
            found["expansion ICH"] |= _growth(case, truth, prediction, plan)
    return found


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


def _growth(case: Case, truth: Volume, prediction: Volume, plan: EvidencePlan) -> dict[str, float]:
    baseline = _one(nifti.load(case.truth["haematoma"]), plan.labels_of("haematoma").get("ICH"))
    code = plan.labels_of("expansion").get("ICH")
    followup, predicted = _one(truth, code), _one(prediction, code)
    return {
        "growth_dice": growth_dice(baseline=baseline, truth_followup=followup, predicted_followup=predicted)
    }


def _one(labels: Volume, code: int | None) -> Volume:
    """Return one label as a mask."""
    if labels.array.ndim != 3:
        raise InputRefused(
            f"a label map with {labels.array.ndim} axes was given where (x, y, z) is expected; give one map"
            " per target"
        )
    return labels.map_array(lambda a: a != 0 if code is None else a == code)
