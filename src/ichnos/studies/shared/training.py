"""One network of a study, trained as its recipe says; resumable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ichnos.files import atomic_file
from ichnos.learning.loop.resources import Resources
from ichnos.learning.nnunet.engine import train_nnunet
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.recipes import segmentation_recipe
from ichnos.learning.segmentation.cases import cases_fingerprint
from ichnos.learning.segmentation.fine_tuning import starting_from
from ichnos.learning.segmentation.preparation import usable_cases
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.training import train_on_cohort
from ichnos.learning.segmentation.validation import history
from ichnos.models import Model, load_model
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.curves import TrainingCurve
from ichnos.studies.shared.labels import StudyLabels
from ichnos.studies.shared.page import PngPicture
from ichnos.studies.shared.processes import each_at_once
from ichnos.studies.shared.recipe import StudyRecipe

_SMOKE_STEPS = 2
FROM_SHIPPED = (
    "begins with the weights that ship, which have seen virtual patients of the same simulator (the MNI head"
    " among them) though none of these, at voxels of 3 mm"
)
NNUNET_ARM = "nnunet"  # the arm that nnU-Net itself trains
NNUNET_TRAINED = (
    "nnU-Net itself was trained beside it, on the same patients; where there is no GPU at the same voxel"
    " size, patch and batch, with the topology that it derives from them."
)
NNUNET_NOT_ASKED = "nnU-Net itself was not asked for (`--with-nnunet` trains it too)."
_FINISHED = "finished.txt"
_PATIENCE = 4  # validations of ten without a better one, after which a training has converged
_NNUNET_ITERATIONS = 250  # of an epoch, nnU-Net's own
SegmentationPlan = TrainSettings | NnunetSettings


def train_arms(
    plans: Mapping[str, SegmentationPlan], labels: StudyLabels, out: Path, budget: StudyBudget
) -> dict[str, Model]:
    """Train every network of a study; on a CPU as many at once as there are workers."""
    return each_at_once(train_arm, {name: (name, plan, labels, out) for name, plan in plans.items()}, budget)


def train_arm(
    name: str, plan: SegmentationPlan, labels: StudyLabels, out: Path, budget: StudyBudget
) -> Model:
    """Train one network until validation stops improving, or for all the steps of its recipe.

    An interrupted training is resumed, a finished one is taken up.
    """
    plan = _asked(name, plan, budget.recipe)
    if isinstance(plan, NnunetSettings):
        return _by_nnunet(name, plan, labels, out, budget)
    work, folder = out / "training" / name, out / "models" / name
    resources = Resources(
        budget.device,
        pipelines=labels.pipelines,
        cases=out / "training" / "cases",
        cache=budget.cache,
        command=f"ichnos study, arm {name}",
    )
    plan = _arm_plan(plan, budget)
    asked = repr((plan, cases_fingerprint(usable_cases(labels.cohort, plan, work, resources))))
    if _finished(work, asked):
        return load_model(folder)
    budget.say(f"training {name}: {plan.loop.steps} steps")
    model = train_on_cohort(labels.cohort, folder, plan, work=work, resources=resources)
    with atomic_file(work / _FINISHED) as temporary:
        temporary.write_text(asked, encoding="utf-8")
    return model


def _asked(name: str, plan: SegmentationPlan, recipe: StudyRecipe) -> SegmentationPlan:
    """Return the plan with the input of the network it starts from, if any, and with the recipe's changes."""
    asked = recipe.applied(name, plan)
    if isinstance(asked, NnunetSettings) or not asked.start:
        return asked
    return recipe.applied(name, starting_from(asked, asked.start))


def _arm_plan(plan: TrainSettings, budget: StudyBudget) -> TrainSettings:
    """Return the plan with what a study asks of every training."""
    if budget.smoke:
        coarse = plan if plan.start else _coarser(plan)
        return coarse.changed(steps=_SMOKE_STEPS, epochs=0, validations=1, width=4, batch=1)
    return plan.changed(seed=budget.seed, patience=plan.loop.patience or _PATIENCE)


def _finished(work: Path, asked: str) -> bool:
    """Return whether a training folder is done with what is asked."""
    return (work / _FINISHED).is_file() and (work / _FINISHED).read_text(encoding="utf-8") == asked


def validation_curves(names: Sequence[str], out: Path) -> list[TrainingCurve]:
    """Return the Dice of the validation patients over the steps of each of a study's networks."""
    curves = []
    for name in names:
        rows = history(out / "training" / name)
        if rows:
            steps, dice = zip(*((row.step, row.score) for row in rows), strict=True)
            curves.append(TrainingCurve(name, "Dice of the validation patients", steps, dice))
    return curves


def train_nnunet_arm(targets: str, labels: StudyLabels, out: Path, budget: StudyBudget) -> Model:
    """Train nnU-Net itself on the same cohort; small, at our plan's voxel size, patch, batch and steps.

    The topology is the one that nnU-Net derives from them.
    """
    plan = segmentation_recipe(targets, budget.recipe.base)
    if isinstance(plan, TrainSettings):
        plan = _coarser(plan).changed(width=4, batch=2, steps=2) if budget.smoke else plan
        steps, how = plan.loop.steps, plan.preprocessing
        plan = NnunetSettings(targets=plan.targets).changed(
            epochs=max(1, round(steps / _NNUNET_ITERATIONS)),
            iterations=min(steps, _NNUNET_ITERATIONS),
            width=plan.architecture.width,
            batch=plan.loop.batch,
            patch=_commas(how.patch),
            spacing=_commas(how.spacing_mm),
            configuration="2d" if plan.flat else "3d_fullres",
            mirrored=False,
        )
    return _by_nnunet(NNUNET_ARM, budget.recipe.applied(NNUNET_ARM, plan), labels, out, budget)


def _by_nnunet(name: str, plan: NnunetSettings, labels: StudyLabels, out: Path, budget: StudyBudget) -> Model:
    budget.say(f"training {name} by nnU-Net: {plan.epochs} epochs of {plan.iterations} iterations")
    return train_nnunet(
        labels.cohort,
        out / "models" / name,
        plan.changed(seed=budget.seed),
        work=out / "training" / name,
        resources=Resources(budget.device, pipelines=labels.pipelines, command=f"ichnos study, arm {name}"),
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
    """Return the picture of the worst validation cases of an arm at its best step, whose weights it keeps, if
    its validation patients have the target.
    """
    work = out / "training" / name
    validations = history(work)
    if not validations:
        return []
    best = max(validations, key=lambda row: row.score)
    file = work / "worst" / f"step-{best.step:06d}.png"
    caption = (
        f"{name}: the worst validation cases at its best step; the label orange, the network blue;"
        " radiological convention."
    )
    return [PngPicture(f"worst-{name}", caption, file.read_bytes())] if file.is_file() else []
