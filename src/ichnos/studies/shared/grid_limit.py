"""What the voxels of a network leave of a label: the most that any answer on that grid can reach."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ichnos.inference.grid import reading_grid
from ichnos.models import Model
from ichnos.volume import Box, Volume

SpacingMm = tuple[float, float, float]
AT_VOXELS = "_grid"  # after a network's name: the label at that network's voxels
LABEL_AT_VOXELS = "Dice of the label itself, at the network's voxels"


def voxels_of(models: Mapping[str, Model]) -> dict[str, SpacingMm]:
    """Return the voxel size that each network works at."""
    return {name: model.manifest.preprocessing.spacing_mm for name, model in models.items()}


def through_grid(label: Volume, spacing_mm: SpacingMm) -> Volume:
    """Return what is left of a label (RAS) that goes to a network's voxels and back, as a network would draw
    it that answers each voxel with its true share of the label.

    >>> from ichnos.volume import volume_ml
    >>> thin = Volume(np.pad(np.ones((9, 9, 1)), ((3, 3), (3, 3), (2, 2))), np.eye(4))
    >>> [volume_ml(through_grid(thin, (1.0, 1.0, step))) for step in (1.0, 5.0)]
    [0.081, 0.0]
    """
    grid = reading_grid(label, Box((0, 0, 0), label.shape), spacing_mm)
    share = grid.pull(np.asarray(label.array, np.float32))
    return label.with_array(grid.push(share, slice(None)) >= 0.5)
