"""The networks of Murray 2024 and the ways to find a tract on CT."""

from __future__ import annotations

from typing import Any

from ichnos.learning.segmentation.fine_tuning import SHIPPED_NAME
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.training import NNUNET_ARM
from ichnos.transfer.makers import TransferTarget

TRACT_LABEL: TransferTarget = "tract"
_SEEN: dict[str, Any] = {"spacing_mm": (2.0, 2.0, 2.0), "patch": (64, 64, 64), "batch": 2, "width": 16}
TRACT_PLANS = {
    # As published: a U-Net in three dimensions, taught by the pairs alone.
    "pairs": TrainSettings(targets=target_specs(TRACT_LABEL)).changed(**_SEEN),
    # Ours: begun with the weights that ship, a loss that minds that a tract is one thread, and simulated
    # patients in half of the batches.
    "thread": TrainSettings(targets=target_specs(TRACT_LABEL)).changed(
        cl_dice_weight=0.5, simulated_share=0.5, start=SHIPPED_NAME
    ),
}
TRACT_WAYS = {
    NNUNET_ARM: "nnU-Net itself, 3-D",
    "pairs": "3-D U-Net on pairs in our loop (twin of nnU-Net)",
    "thread": "from the weights that ship, with a centre-line loss, ours",
    "affine": "atlas, affine",
    "deformable": "atlas, deformable",
}
MIXED = "draws half of its batches from simulated patients"
UNMIXED = "no simulated patients (too short a training for them)"
_LEAST_MINUTES = 8.0  # of training on a processor, from which simulated patients are made for it


def without_simulation(plan: TrainSettings, budget: StudyBudget) -> TrainSettings:
    """Leave simulated patients out of a short training: making the first of them takes longer than all of
    its steps.
    """
    return plan.changed(simulated_share=0.0) if short_training(budget) else plan


def short_training(budget: StudyBudget) -> bool:
    return budget.smoke or (budget.device == "cpu" and budget.minutes < _LEAST_MINUTES)
