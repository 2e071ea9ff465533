"""The gradient table of a diffusion exam in world axes, and the diffusion tensor fitted with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ichnos.arrays import Array, Floats
from ichnos.errors import InputRefused
from ichnos.formats import bids

B0_LIMIT = 50.0  # s/mm²: below it an image counts as unweighted


@dataclass(frozen=True, eq=False)
class GradientTable:
    """The b-value and direction of every image of a diffusion series."""

    b_values: Floats  # (n,), s/mm²
    directions: Floats  # (n, 3), unit vectors in RAS world axes; zero where unweighted

    def __post_init__(self) -> None:
        if self.directions.shape != (len(self.b_values), 3):
            raise InputRefused(
                f"{len(self.b_values)} b-values and directions of shape {self.directions.shape} do not belong"
                " together"
            )

    def __len__(self) -> int:
        return len(self.b_values)

    @property
    def unweighted(self) -> Array:
        """Return which images are unweighted, (n,) bool.

        >>> GradientTable(np.array([0.0, 5.0, 1000.0]), np.zeros((3, 3))).unweighted.tolist()
        [True, True, False]
        """
        return np.asarray(self.b_values < B0_LIMIT)

    def scaled(self, factor: float) -> GradientTable:
        """Return the table with every b-value multiplied.

        >>> GradientTable(np.array([0.0, 1000.0]), np.zeros((2, 3))).scaled(2.0).b_values.tolist()
        [0.0, 2000.0]
        """
        return GradientTable(self.b_values * factor, self.directions)

    def turned(self, matrix: Floats) -> GradientTable:
        """Return the table with every direction multiplied by a 3 x 3 matrix.

        >>> table = GradientTable(np.array([1000.0]), np.array([[1.0, 0.0, 0.0]]))
        >>> table.turned(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])).directions.tolist()
        [[0.0, 1.0, 0.0]]
        """
        return GradientTable(self.b_values, self.directions @ np.asarray(matrix).T)


def image_axes(affine: Floats) -> Floats:
    """Return the unit vectors of the voxel axes in world space, as columns; the nearest rotation (or
    reflection) to the affine.

    >>> image_axes(np.diag([-2.0, 2.0, 5.0, 1.0])).diagonal().round(6).tolist()
    [-1.0, 1.0, 1.0]
    """
    left, _, right = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    axes: Floats = left @ right
    return axes


def gradients_beside(dwi: str | Path, *, affine: Floats) -> GradientTable:
    """Read the .bval and .bvec files beside a diffusion image (FSL's layout) into world axes."""
    b_values, vectors = bids.read_gradients(dwi)
    return fsl_gradients(b_values, vectors, affine=affine)


def fsl_gradients(b_values: Floats, vectors: Floats, *, affine: Floats) -> GradientTable:
    """Turn FSL's voxel-axis vectors (n, 3) into a table in world axes.

    >>> table = fsl_gradients(np.array([0.0, 1000.0]), np.array([[0.0, 0, 0], [1, 0, 0]]), affine=np.eye(4))
    >>> table.directions[1].tolist()
    [-1.0, 0.0, 0.0]
    """
    sign = np.array([-1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0, 1.0, 1.0])
    return _table(b_values, (vectors * sign) @ image_axes(affine).T)


def _table(b_values: Floats, vectors: Floats) -> GradientTable:
    """Make directions unit vectors; a vector of another length scales its b-value by the square of that
    length, as scanners mean it.
    """
    b_values = np.nan_to_num(np.asarray(b_values, np.float64))
    vectors = np.nan_to_num(np.asarray(vectors, np.float64))
    if (b_values < 0).any():
        raise InputRefused("the table holds negative b-values; they are expected in s/mm², zero or more")
    length = np.linalg.norm(vectors, axis=1)
    weighted = length > 0.05
    unit = np.where(weighted[:, None], vectors / np.maximum(length, 1e-9)[:, None], 0.0)
    square = np.where(weighted & (np.abs(length - 1) > 0.02) & (length < 1), length**2, 1.0)
    return GradientTable(b_values * square, unit)


@dataclass(frozen=True, eq=False)
class TensorMaps:
    """The diffusion tensor, voxel by voxel."""

    fa: Array  # (x, y, z), 0…1
    md: Array  # (x, y, z), mm²/s
    direction: Array  # (x, y, z, 3), principal direction in the axes of the table it was fitted with


def fit_tensor(data: Array, table: GradientTable, mask: Array) -> TensorMaps:
    """Fit the diffusion tensor by weighted least squares inside a mask; shells above 1600 s/mm² are left out
    where others exist.

    `data` is (x, y, z, n); principal directions come back in the axes that the table's directions have.
    """
    use = (table.b_values <= 1600) | table.unweighted
    if (use & ~table.unweighted).sum() < 6:
        use = np.ones(len(table), bool)
    signal = np.maximum(data[mask][:, use].astype(np.float64), 1e-6)
    b, g = table.b_values[use] * 1e-3, table.directions[use]
    design = np.column_stack(
        [-b[:, None] * g**2, -2 * b[:, None] * g[:, [0, 0, 1]] * g[:, [1, 2, 2]], np.ones(len(b))]
    )
    log = np.log(np.maximum(signal, signal.max(axis=1, keepdims=True) * 1e-3))
    tensor = _weighted_fit(design, log)[:, [0, 3, 4, 3, 1, 5, 4, 5, 2]].reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(tensor)
    values = np.maximum(values, 1e-4)  # μm²/ms
    md = values.mean(axis=1)
    fa = np.sqrt(1.5 * ((values - md[:, None]) ** 2).sum(axis=1) / (values**2).sum(axis=1))
    maps = [np.zeros((*mask.shape, *tail), np.float32) for tail in ((), (), (3,))]
    maps[0][mask], maps[1][mask], maps[2][mask] = fa, md * 1e-3, vectors[:, :, 2]
    return TensorMaps(*maps)


def _weighted_fit(design: Floats, log: Floats) -> Floats:
    """Return the coefficients (v, 7) of log signals (v, n), each weighted by the squared signal that a plain
    fit expects.
    """
    first = log @ np.linalg.pinv(design).T
    weight = np.exp(2 * np.clip(first @ design.T - first[:, -1:], -10, 2))
    normal = np.einsum("vn,ni,nj->vij", weight, design, design, optimize=True)
    right = np.einsum("vn,vn,ni->vi", weight, log, design, optimize=True)
    solved: Floats = np.linalg.solve(normal + 1e-9 * np.eye(7), right[..., None])[..., 0]
    return solved
