"""The networks of Ryu 2025 and the ways to measure leukoaraiosis on CT."""

from __future__ import annotations

from ichnos.learning.segmentation.fine_tuning import SHIPPED_NAME
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.studies.shared.training import NNUNET_ARM
from ichnos.transfer.makers import TransferTarget

WHITE_MATTER_LABEL: TransferTarget = "leukoaraiosis"
WHITE_MATTER_PLANS = {
    # As published: slices of a CT at its own thickness, one network of slices.
    "slices": TrainSettings(targets=target_specs(WHITE_MATTER_LABEL)).changed(
        spacing_mm=(1.0, 1.0, 5.0), patch=(192, 192, 1), batch=8, width=16
    ),
    # Ours: the whole context of a coarser head in three dimensions, begun with the weights that ship.
    "volume": TrainSettings(targets=target_specs(WHITE_MATTER_LABEL), start=SHIPPED_NAME),
}
WHITE_MATTER_WAYS = {
    NNUNET_ARM: "nnU-Net itself, 2-D",
    "slices": "2-D U-Net in our loop (twin of nnU-Net)",
    "volume": "3-D network from the weights that ship, ours",
    "threshold": "HU threshold in white matter",
}
LARGE_INFARCT_ML = 10.0
RISK = ("age_years", "hypertension", "diabetes", "hyperlipidaemia", "smoking", "atrial_fibrillation")
