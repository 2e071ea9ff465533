"""The settings of a training by nnU-Net."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from ichnos.learning.loop.settings import changed
from ichnos.learning.segmentation.settings import TargetList
from ichnos.learning.segmentation.target_files import target_specs

PLANNERS = {
    "plain": "ExperimentPlanner",
    "resenc_m": "nnUNetPlannerResEncM",
    "resenc_l": "nnUNetPlannerResEncL",
    "resenc_xl": "nnUNetPlannerResEncXL",
}


class NnunetSettings(BaseModel):
    """What nnU-Net trains; 0 or an empty value leaves a choice to its planner.

    >>> NnunetSettings(targets="ICH", network="resenc_m").planner
    'nnUNetPlannerResEncM'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: TargetList = Field(default=target_specs("haematoma"), description="what is learnt")
    # the last three are ours, in the topology that nnU-Net plans
    network: Literal["plain", "resenc_m", "resenc_l", "resenc_xl", "unet", "umamba_bot", "umamba_enc"] = (
        Field(default="plain", description="nnU-Net's plain or resenc_*, or ours in its topology")
    )
    configuration: Literal["2d", "3d_fullres"] = Field(default="3d_fullres", description="2d or 3d_fullres")
    epochs: int = Field(default=50, ge=1, description="epochs")
    iterations: int = Field(default=250, ge=1, description="iterations of each epoch")
    learning_rate: float = Field(
        default=0.0, ge=0, description="initial learning rate; 0: nnU-Net's own 0.01"
    )
    memory_gb: float = Field(default=0.0, ge=0, description="GPU memory to plan for")
    width: int = Field(default=0, ge=0, description="features of the first stage")
    batch: int = Field(default=0, ge=0, description="patches in each step")
    patch: str = Field(default="", description="voxels x,y,z")
    spacing: str = Field(default="", description="voxel size x,y,z in mm")
    mirrored: bool = Field(default=True, description="validate with mirroring, up to eight times as slow")
    seed: int = Field(default=0, description="same seed, same numbers")
    threads: int = Field(default=1, ge=1, description="CPU threads of the network")
    workers: int = Field(default=0, ge=0, description="processes that augment; 0: none beside the training")

    @property
    def planner(self) -> str:
        """Return the name of nnU-Net's planner.

        >>> NnunetSettings(network="resenc_l").planner, NnunetSettings(network="unet").planner
        ('nnUNetPlannerResEncL', 'ExperimentPlanner')
        """
        return PLANNERS.get(self.network, PLANNERS["plain"])

    def changed(self, **changes: Any) -> Self:
        """Return the settings with some of them changed.

        >>> NnunetSettings().changed(epochs=3).epochs
        3
        """
        return changed(self, changes)
