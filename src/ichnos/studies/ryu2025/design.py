"""The networks of Ryu 2025 and the ways to measure leukoaraiosis on CT."""

from __future__ import annotations

from collections.abc import Iterable

from ichnos.learning.recipes import segmentation_recipe
from ichnos.learning.segmentation.fine_tuning import SHIPPED_NAME
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.training import NNUNET_ARM, SegmentationPlan
from ichnos.transfer.makers import TransferTarget

WHITE_MATTER_LABEL: TransferTarget = "leukoaraiosis"
WHITE_MATTER_WAYS = {
    NNUNET_ARM: "nnU-Net itself, 2-D",
    "slices": "2-D U-Net in our loop (twin of nnU-Net)",
    "volume": "3-D network from the weights that ship, ours",
    "threshold": "HU threshold in white matter",
}
LARGE_INFARCT_ML = 10.0
RISK_FACTORS = (
    "age_years",
    "male",
    "hypertension",
    "diabetes",
    "hyperlipidaemia",
    "smoking",
    "atrial_fibrillation",
    "earlier_stroke",
)


def white_matter_plans(budget: StudyBudget) -> dict[str, SegmentationPlan]:
    """Return what is trained: as published, one network of slices of a CT at its own thickness; and ours.

    Ours sees the whole context of a coarser head in three dimensions, and begins with the weights that ship.
    """
    return {
        "slices": segmentation_recipe(WHITE_MATTER_LABEL, budget.recipe.base),
        "volume": TrainSettings(targets=target_specs(WHITE_MATTER_LABEL), start=SHIPPED_NAME),
    }


def white_matter_ways(models: Iterable[str]) -> list[str]:
    """Return the ways to measure that a run has taken, in the order of the tables.

    >>> white_matter_ways(["volume", "slices"])
    ['slices', 'volume', 'threshold']
    """
    taken = {*models, "threshold"}
    return [way for way in WHITE_MATTER_WAYS if way in taken]
