"""A Model's answer to a Scan: a probability per target on the network's grid, and masks on the scan's own
grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ichnos.arrays import Floats32
from ichnos.inference.coordinates import LEAST_BRAIN, AtlasCoordinates, smoothed_coordinates
from ichnos.inference.grid import SLAB, ReadingGrid
from ichnos.models import Model
from ichnos.scan import Scan
from ichnos.volume import Volume


@dataclass(frozen=True, eq=False)
class Refined:
    """What the refinement made of some targets, on a finer grid."""

    probabilities: Floats32  # (target, x, y, z)
    grid: ReadingGrid
    model: Model  # the refinement; its targets are the rows
    coordinates: AtlasCoordinates | None  # by the first network


@dataclass(frozen=True, eq=False)
class Prediction:
    """Probabilities on the network's grid; the scan's own grid is reached slab by slab.

    Targets that the model's refinement knows are taken from there: probability, operating point and all.
    """

    probabilities: Floats32  # (target, x, y, z) on the network's grid; coordinates in MNI152 mm
    grid: ReadingGrid
    scan: Scan
    model: Model
    refined: Refined | None = None

    def threshold(self, target: str) -> float:
        """Return a target's operating point."""
        manifest = self._source(target).model.manifest
        return manifest.targets[manifest.channel(target)].threshold

    def refines(self, target: str) -> bool:
        """Say whether a target comes from the refinement, which saw the scan at nearly its own voxel size."""
        return self.refined is not None and target in [
            spec.name for spec in self.refined.model.manifest.targets
        ]

    def mask(self, target: str, *, threshold: float | None = None) -> Volume:
        """Return a target's mask on the scan's own grid and orientation."""
        cut = self.threshold(target) if threshold is None else threshold
        ras = self._ras()
        out = np.zeros(ras.shape, bool)
        for place, values in self._source(target).grid.above(self.channel(target), cut):
            out[place] = values > cut
        return ras.with_array(out).reoriented(self.scan.volume.orientation)

    def volumes_ml(self, target: str, thresholds: Sequence[float]) -> tuple[float, ...]:
        """Return the volume of a target's mask at each of several thresholds, in mL."""
        counts = np.zeros(len(thresholds))
        for _, values in self._source(target).grid.above(self.channel(target), min(thresholds)):
            counts += [np.count_nonzero(values > cut) for cut in thresholds]
        return tuple(float(count) * self.scan.volume.voxel_ml for count in counts)

    def probability(self, target: str) -> Volume:
        """Return a target's probability on the scan's own grid and orientation."""
        ras = self._ras()
        out = np.zeros(ras.shape, np.float32)
        for at, slab in self._slabs(target):
            out[(*self.grid.box.slices[:2], at)] = slab
        return ras.with_array(out).reoriented(self.scan.volume.orientation)

    def position_mm(self) -> Floats32 | None:
        """Return where each voxel of the network's grid lies in MNI152 space (3, x, y, z), or None if the
        model does not say.
        """
        names = [target.name for target in self.model.manifest.targets]
        axes = ("mni_x", "mni_y", "mni_z")
        if not set(axes) <= set(names):
            return None
        return self.probabilities[[names.index(axis) for axis in axes]]

    def atlas_coordinates(self) -> AtlasCoordinates | None:
        """Return where the scan lies in MNI152 space; None without coordinates, or with too little brain."""
        if self.refined is not None:
            return self.refined.coordinates  # known already: the refinement was shown the atlas there
        position = self.position_mm()
        if position is None:
            return None
        brain = self.probabilities[self.model.manifest.channel("brain")]
        if int((brain > 0.5).sum()) < LEAST_BRAIN:
            return None
        spacing_mm = self.model.manifest.preprocessing.spacing_mm
        return AtlasCoordinates(
            smoothed_coordinates(position, brain, spacing_mm), brain, self.grid, self._ras()
        )

    def channel(self, target: str) -> Floats32:
        """Return a target's probabilities (x, y, z) on the grid that they were made on."""
        source = self._source(target)
        found: Floats32 = source.probabilities[source.model.manifest.channel(target)]
        return found

    def _source(self, target: str) -> Refined | Prediction:
        return self.refined if self.refined is not None and self.refines(target) else self

    def _slabs(self, target: str) -> Iterator[tuple[slice, Floats32]]:
        channel, grid = self.channel(target), self._source(target).grid
        first, last = grid.box.start[2], grid.box.stop[2]
        for z in range(first, last, SLAB):
            end = min(z + SLAB, last)
            yield slice(z, end), grid.push(channel, slice(z - first, end - first))

    def _ras(self) -> Volume:
        return self.scan.volume.reoriented("RAS")
