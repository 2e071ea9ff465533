"""What the voxels of a network leave of a label that it answers without error."""

from __future__ import annotations

from collections.abc import Mapping

from ichnos.inference.grid import SpacingMm
from ichnos.models import Model

AT_VOXELS = "_grid"  # after a network's name: the label at that network's voxels
LABEL_AT_VOXELS = "Dice of the label itself, at the network's voxels"


def voxels_of(models: Mapping[str, Model]) -> dict[str, SpacingMm]:
    """Return the voxel size that each network works at."""
    return {name: model.manifest.preprocessing.spacing_mm for name, model in models.items()}
