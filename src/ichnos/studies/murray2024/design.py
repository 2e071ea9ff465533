"""The networks of Murray 2024 and the ways to find a tract on CT."""

from __future__ import annotations

from collections.abc import Iterable

from ichnos.learning.recipes import segmentation_recipe
from ichnos.learning.segmentation.fine_tuning import SHIPPED_NAME
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.training import NNUNET_ARM, SegmentationPlan
from ichnos.transfer.makers import TransferTarget

TRACT_LABEL: TransferTarget = "tract"
TRACT_WAYS = {
    NNUNET_ARM: "nnU-Net itself, 3-D",
    "pairs": "3-D U-Net on pairs in our loop (twin of nnU-Net)",
    "thread": "from the weights that ship, with a centre-line loss, ours",
    "affine": "atlas, affine",
    "deformable": "atlas, deformable",
}

AGAINST_TRUTH = "_true"  # after a way's name: its overlap with the simulation's own tract


def tract_plans(budget: StudyBudget) -> dict[str, SegmentationPlan]:
    """Return what is trained: as published, a U-Net in three dimensions on the pairs alone; and ours.

    Ours begins with the weights that ship, and its loss minds that a tract is one thread.
    """
    pairs = segmentation_recipe(TRACT_LABEL, budget.recipe.base)
    ours = TrainSettings(targets=target_specs(TRACT_LABEL), start=SHIPPED_NAME)
    return {"pairs": pairs, "thread": ours.changed(cl_dice_weight=0.5)}


def tract_ways(models: Iterable[str]) -> list[str]:
    """Return the ways to find a tract that a run has taken, in the order of the tables.

    >>> tract_ways(["pairs", "thread"])
    ['pairs', 'thread', 'affine', 'deformable']
    """
    taken = {*models, "affine", "deformable"}
    return [way for way in TRACT_WAYS if way in taken]
