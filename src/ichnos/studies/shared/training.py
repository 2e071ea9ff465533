"""One network of a study, trained for the minutes that the study may spend; resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ichnos.files import atomic_file
from ichnos.learning.loop.resources import Resources
from ichnos.learning.nnunet.engine import train_nnunet
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.segmentation.budget import settings_within
from ichnos.learning.segmentation.cases import cases_fingerprint
from ichnos.learning.segmentation.fine_tuning import starting_from
from ichnos.learning.segmentation.preparation import usable_cases
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.training import train_on_cohort
from ichnos.models import Model, load_model
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.labels import StudyLabels
from ichnos.studies.shared.page import PngPicture

_SMOKE_STEPS = 2
FROM_SHIPPED = (
    "begins with the weights that ship, which have seen virtual patients of the same simulator (the MNI head"
    " among them) though none of these, at their voxel size of 3 mm"
)
NNUNET_ARM = "nnunet"  # the arm that nnU-Net itself trains
NNUNET_TRAINED = (
    "nnU-Net itself was trained beside it, on the same patients; where there is no GPU at the same voxel"
    " size, patch and batch, with the topology that it derives from them."
)
NNUNET_NOT_ASKED = "nnU-Net itself was not asked for (`--with-nnunet` trains it too)."
_FINISHED = "finished.txt"
_NNUNET_SECONDS_PER_ITERATION = 3.0  # of the plans of the studies on one processor core


def train_arm(name: str, plan: TrainSettings, labels: StudyLabels, out: Path, budget: StudyBudget) -> Model:
    """Train one network for the minutes that a study may spend on it; an interrupted training goes on, a
    finished one is taken up.
    """
    work, folder = out / "training" / name, out / "models" / name
    shared = out / "training" / "cases"
    resources = Resources(
        budget.device,
        pipelines=labels.pipelines,
        cases=shared,
        cache=budget.cache,
        command=f"ichnos study, arm {name}",
    )
    if plan.start:
        plan = starting_from(plan, plan.start)
    if budget.smoke:
        coarse = plan if plan.start else _coarser(plan)
        plan = coarse.changed(steps=_SMOKE_STEPS, validations=1, width=4, batch=1)
    asked = repr(
        (plan, budget.minutes, cases_fingerprint(usable_cases(labels.cohort, plan, work, resources)))
    )
    if _finished(work, asked):
        return load_model(folder)
    if not budget.smoke:
        plan = settings_within(
            labels.cohort, plan, work=work, resources=resources, seconds=60 * budget.minutes
        )
        resources = replace(resources, seconds=60 * budget.minutes)
    budget.say(f"training {name}: {plan.loop.steps} steps")
    model = train_on_cohort(labels.cohort, folder, plan, work=work, resources=resources)
    with atomic_file(work / _FINISHED) as temporary:
        temporary.write_text(asked, encoding="utf-8")
    return model


def _finished(work: Path, asked: str) -> bool:
    """Return whether a training folder is done with what is asked; a network that time cut short is not
    trained on at each call.
    """
    return (work / _FINISHED).is_file() and (work / _FINISHED).read_text(encoding="utf-8") == asked


def train_nnunet_arm(plan: TrainSettings, labels: StudyLabels, out: Path, budget: StudyBudget) -> Model:
    """Train nnU-Net itself on the same cohort; without a GPU at our plan's voxel size, patch and batch, with
    the topology it derives.

    nnU-Net counts iterations and not minutes; on a processor as many are taken as its pace in
    benchmarks/training.py lets expect.
    """
    changes: dict[str, Any] = {"epochs": 50, "iterations": 250}
    if budget.device == "cpu":
        plan = _coarser(plan).changed(width=4, batch=2) if budget.smoke else plan
        iterations = (
            2 if budget.smoke else max(10, round(60 * budget.minutes / _NNUNET_SECONDS_PER_ITERATION / 4))
        )
        changes = {
            "epochs": 1 if budget.smoke else 4,
            "iterations": iterations,
            "width": plan.architecture.width,
            "batch": plan.loop.batch,
        }
        changes |= {
            "patch": _commas(plan.preprocessing.patch),
            "spacing": _commas(plan.preprocessing.spacing_mm),
            "mirrored": False,
        }
    budget.say(f"training nnU-Net itself: {changes['epochs']} epochs of {changes['iterations']} iterations")
    configuration = "2d" if plan.flat else "3d_fullres"
    own = NnunetSettings(targets=plan.targets).changed(
        configuration=configuration, seed=budget.seed, **changes
    )
    resources = Resources(budget.device, pipelines=labels.pipelines, command="ichnos study, arm nnU-Net")
    return train_nnunet(
        labels.cohort,
        out / "models" / NNUNET_ARM,
        own,
        work=out / "training" / NNUNET_ARM,
        resources=resources,
    )


def _commas(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _coarser(plan: TrainSettings) -> TrainSettings:
    """Return the plan at twice the voxel size with half the patch; slices keep their distance."""
    how = plan.preprocessing
    x, y, z = how.spacing_mm
    sides = how.patch[0] // 2, how.patch[1] // 2, 1 if plan.flat else how.patch[2] // 2
    return plan.changed(spacing_mm=(2 * x, 2 * y, z if plan.flat else 2 * z), patch=sides)


def worst_cases(name: str, out: Path) -> list[PngPicture]:
    """Return the last picture of the worst validation cases of an arm, if its validation patients have the
    target.
    """
    files = sorted((out / "training" / name / "worst").glob("*.png"))
    caption = (
        f"{name}: the worst validation cases of its last validation; the label orange, the network blue;"
        " radiological convention."
    )
    return [PngPicture(f"worst-{name}", caption, files[-1].read_bytes())] if files else []
