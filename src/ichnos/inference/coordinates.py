"""Where each voxel of a scan lies in MNI152 space, from the coordinates that the network regressed, and what
an atlas says there.

The network's answer is unbiased but noisy per voxel. A cubic polynomial over all of the brain takes out the
noise; what it cannot follow (a haematoma's mass effect, one person's shape) is kept as the smoothed residual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ichnos.arrays import Floats, Floats32
from ichnos.inference.grid import ReadingGrid
from ichnos.volume import Volume

LEAST_BRAIN = 2000  # voxels of the network's grid; from fewer no position is fitted
_SMOOTHING_MM = 7.0  # of what the polynomial leaves
_ORDER = 3
_SLAB = 8


@dataclass(frozen=True, eq=False)
class AtlasCoordinates:
    """MNI152 position of every voxel of a network's grid."""

    mni_mm: Floats32  # (3, x, y, z)
    brain: Floats32  # probability of brain (x, y, z) on the same grid
    grid: ReadingGrid
    scan_ras: Volume  # the scan in RAS order, whose head the grid covers

    def look_up(self, atlas: Volume) -> Volume:
        """Return an atlas map on the scan's grid, in RAS order: linear, 0 outside the atlas; slab by slab."""
        grid, ras = self.grid, self.scan_ras
        coarse = sample_atlas(atlas, self.mni_mm)
        near = ndimage.maximum_filter(coarse, size=3).astype(np.float32)
        out = np.zeros(ras.shape, np.float32)
        first, last = grid.box.start[2], grid.box.stop[2]
        for z in range(first, last, _SLAB):
            end = min(z + _SLAB, last)
            slab = slice(z - first, end - first)
            candidates = grid.push(near, slab) > 0
            if candidates.any():
                at = np.stack([grid.push(axis, slab)[candidates] for axis in self.mni_mm])
                values = np.zeros(candidates.shape, np.float32)
                values[candidates] = sample_atlas(atlas, at)
                out[(*grid.box.slices[:2], slice(z, end))] = values
        return ras.with_array(out)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Return the voxel size of the network's grid, in mm."""
        voxels = np.array([b - a for a, b in zip(self.grid.box.start, self.grid.box.stop, strict=True)])
        return tuple(float(s) for s in voxels * self.scan_ras.spacing_mm / self.grid.shape)

    def positions_mm(self, mask: Volume, *, most: int = 4000) -> Floats32:
        """Return MNI mm (n, 3) of up to so many voxels of a mask in RAS on the scan's grid."""
        index = np.argwhere(np.asarray(mask.array).astype(bool))
        index = index[:: max(1, len(index) // most)]
        box, last = np.array(self.grid.box.start), np.array(self.grid.shape) - 1
        size = np.array(self.grid.box.stop) - box
        # Both grids share their middle and, nearly, their extent.
        at = (index - box + 0.5) / size * np.array(self.grid.shape) - 0.5
        x, y, z = np.clip(np.round(at).astype(int), 0, last).T
        return np.asarray(self.mni_mm[:, x, y, z].T, np.float32)


def smoothed_coordinates(
    position_mm: Floats32, weight: Floats32, spacing_mm: tuple[float, float, float]
) -> Floats32:
    """Return positions (3, x, y, z) as a cubic polynomial of the place plus a smooth residual.

    `weight` (x, y, z) says where they are known. No sum depends on the number of threads.
    """
    inside = weight > 0.5
    terms = _terms(weight.shape)
    design = np.stack([term[inside] for term in terms], axis=1).astype(np.float64)
    factors = [_robust_fit(design, axis[inside]).astype(np.float32) for axis in position_mm]
    smooth = np.stack([np.einsum("t,txyz->xyz", own, terms) for own in factors])
    sigma = [_SMOOTHING_MM / step for step in spacing_mm]
    known = inside.astype(np.float32)
    share = ndimage.gaussian_filter(known, sigma) + 0.05  # far from the brain the rest fades to nothing
    rest = [
        ndimage.gaussian_filter((p - s) * known, sigma) / share
        for p, s in zip(position_mm, smooth, strict=True)
    ]
    return np.asarray(smooth + np.stack(rest), np.float32)


def _robust_fit(design: Floats, values: Floats32) -> Floats:
    """Fit the terms by least squares, and once more without what lies far off the first fit."""
    error = values - np.einsum("nt,t->n", design, _least_squares(design, values))
    deviation = np.abs(error - np.median(error))
    good = deviation < 3 * 1.4826 * np.median(deviation) + 1e-6
    return _least_squares(design[good], values[good])


def _least_squares(design: Floats, values: Floats32) -> Floats:
    """Solve the normal equations; einsum adds in one fixed order, which a threaded BLAS does not."""
    products = np.einsum("ni,nj->ij", design, design)
    return np.asarray(np.linalg.solve(products, np.einsum("ni,n->i", design, values.astype(np.float64))))


def _terms(shape: tuple[int, ...]) -> Floats32:
    """Return the monomials up to the third order on a grid whose axes run from -1 to 1, (20, x, y, z)."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij")
    powers = [
        (i, j, k) for i in range(_ORDER + 1) for j in range(_ORDER + 1 - i) for k in range(_ORDER + 1 - i - j)
    ]
    return np.stack([x**i * y**j * z**k for i, j, k in powers])


def sample_atlas(atlas: Volume, mni_mm: Floats32) -> Floats32:
    """Sample an atlas at positions (3, ...) by linear interpolation, 0 outside it."""
    inverse = np.linalg.inv(atlas.affine).astype(np.float32)
    index = np.einsum("ij,j...->i...", inverse[:3, :3], mni_mm) + inverse[:3, 3].reshape(
        3, *[1] * (mni_mm.ndim - 1)
    )
    return np.asarray(
        ndimage.map_coordinates(np.asarray(atlas.array, np.float32), index, order=1, mode="constant"),
        np.float32,
    )
