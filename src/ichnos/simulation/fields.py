"""Maps on grids in millimetres: sample one where another points to, enlarge a coarse one, draw a smooth
random one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ichnos.volume import Floats


@dataclass(frozen=True, eq=False)
class Grid:
    """An isotropic, axis-aligned grid whose every fourth voxel is a voxel of the coarse grid that carries
    smooth fields.
    """

    affine: Floats  # (4, 4) voxel index -> mm
    coarse_shape: tuple[int, int, int]
    spacing_mm: float
    step: int = 4

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the number of fine voxels along x, y, z.

        >>> Grid(np.eye(4), (3, 3, 2), 1.0).shape
        (9, 9, 5)
        """
        x, y, z = ((n - 1) * self.step + 1 for n in self.coarse_shape)
        return x, y, z

    @property
    def coarse_affine(self) -> Floats:
        """Return the affine of the coarse grid.

        >>> Grid(np.eye(4), (3, 3, 2), 1.0).coarse_affine.diagonal().tolist()
        [4.0, 4.0, 4.0, 1.0]
        """
        return self.affine @ np.diag([self.step, self.step, self.step, 1.0])

    def coarse_points(self, device: torch.device) -> Tensor:
        """Return the positions of the coarse voxels, (3, x, y, z) mm."""
        return points_of(self.coarse_affine, self.coarse_shape, device)

    def box(self, mask: Tensor, *, margin: int = 0) -> tuple[slice, slice, slice]:
        """Return the coarse slices around a coarse mask (all of it if empty), at least two voxels wide.

        >>> mask = torch.zeros(5, 5, 5, dtype=torch.bool)
        >>> mask[2, 1:4, 0] = True
        >>> Grid(np.eye(4), (5, 5, 5), 1.0).box(mask)
        (slice(2, 4, None), slice(1, 4, None), slice(0, 2, None))
        """
        slices = []
        for axis, n in enumerate(self.coarse_shape):
            others = [i for i in range(3) if i != axis]
            hits = mask.any(dim=others[1]).any(dim=others[0]).nonzero()
            first, last = (int(hits[0]), int(hits[-1])) if len(hits) else (0, n - 1)
            first, last = max(0, first - margin), min(n - 1, last + margin)
            if first == last:
                first, last = (first - 1, last) if last == n - 1 else (first, last + 1)
            slices.append(slice(first, last + 1))
        return slices[0], slices[1], slices[2]

    def fine(self, coarse: tuple[slice, slice, slice]) -> tuple[slice, slice, slice]:
        """Return the fine slices that a coarse box covers.

        >>> Grid(np.eye(4), (3, 3, 3), 1.0).fine((slice(0, 2), slice(1, 3), slice(0, 3)))
        (slice(0, 5, None), slice(4, 9, None), slice(0, 9, None))
        """
        x, y, z = (slice(s.start * self.step, (s.stop - 1) * self.step + 1) for s in coarse)
        return x, y, z

    def enlarged(self, field: Tensor, *, step: int | None = None) -> Tensor:
        """Interpolate a coarse field (c, x, y, z), or a box of one, to fine voxels (or to `step` voxels
        per coarse one).
        """
        return enlarged(field, step or self.step)


def enlarged(field: Tensor, step: int) -> Tensor:
    """Interpolate (c, x, y, z) linearly to (n - 1) * step + 1 voxels per axis; three small matrix
    products, faster than `interpolate`.

    >>> enlarged(torch.tensor([0.0, 4.0]).reshape(1, 2, 1, 1), 4).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    wx, wy, wz = (_weights(n, step, field.device) for n in field.shape[1:])
    c, nx = field.shape[:2]
    along_z = field @ wz.T
    along_y = torch.matmul(wy, along_z)
    return torch.matmul(wx, along_y.reshape(c, nx, -1)).reshape(c, len(wx), len(wy), len(wz))


def _weights(n: int, step: int, device: torch.device) -> Tensor:
    fine = torch.arange((n - 1) * step + 1, device=device, dtype=torch.float32) / step
    return (1 - (fine[:, None] - torch.arange(n, device=device)).abs()).clamp(min=0)


def points_of(affine: Floats, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return voxel positions (3, x, y, z) in mm of an axis-aligned grid.

    >>> points_of(np.diag([2.0, 2.0, 5.0, 1.0]), (1, 2, 2), torch.device("cpu"))[:, 0, 1, 1].tolist()
    [0.0, 2.0, 5.0]
    """
    axes = [
        torch.arange(n, device=device, dtype=torch.float32) * float(affine[i, i]) + float(affine[i, 3])
        for i, n in enumerate(shape)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def indices_of(points_mm: Tensor, affine: Floats) -> Tensor:
    """Return fractional voxel indices (3, ...) of points (3, ...).

    >>> indices_of(torch.tensor([3.0, 2.0, 5.0]), np.diag([2.0, 2.0, 5.0, 1.0])).tolist()
    [1.5, 1.0, 1.0]
    """
    inverse = torch.from_numpy(np.linalg.inv(affine)).to(points_mm)
    if np.count_nonzero(affine[:3, :3] - np.diag(np.diag(affine[:3, :3]))) == 0:
        shape = (3,) + (1,) * (points_mm.ndim - 1)
        return points_mm * inverse.diagonal()[:3].reshape(shape) + inverse[:3, 3].reshape(shape)
    return torch.einsum("ij,j...->i...", inverse[:3, :3], points_mm) + inverse[:3, 3].reshape(
        (3,) + (1,) * (points_mm.ndim - 1)
    )


def sampled(volume: Tensor, affine: Floats, points_mm: Tensor, *, fill: float | None = None) -> Tensor:
    """Interpolate (c, x, y, z) at points (3, X, Y, Z); beyond its edge the nearest value, or `fill`.

    >>> row = torch.tensor([0.0, 10.0, 20.0]).reshape(1, 3, 1, 1)
    >>> sampled(row, np.eye(4), torch.tensor([1.5, 0.0, 0.0]).reshape(3, 1, 1, 1)).item()
    15.0
    """
    index = indices_of(points_mm, affine)
    size = torch.tensor(volume.shape[1:], device=index.device, dtype=index.dtype).reshape(3, 1, 1, 1)
    scaled = index * (2 / (size - 1).clamp(min=1)) - 1
    grid = scaled.flip(0).permute(1, 2, 3, 0)[None]
    out = F.grid_sample(volume[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0]
    if fill is None:
        return out
    outside = (scaled.abs() > 1).any(0)
    return torch.where(outside, fill, out)


def gathered(codes: Tensor, index: Tensor) -> Tensor:
    """Return the code (uint8) nearest to each fractional index (3, ...); beyond the edge the edge's code.

    >>> codes = torch.tensor([3, 7, 9], dtype=torch.uint8).reshape(3, 1, 1)
    >>> gathered(codes, torch.tensor([[0.8, 5.0], [0.0, 0.0], [0.0, 0.0]])).tolist()
    [7, 9]
    """
    flat = torch.zeros(index.shape[1:], dtype=torch.int32, device=index.device)
    for axis, n in enumerate(codes.shape):
        flat.mul_(n).add_(index[axis].round().clamp_(0, n - 1).int())
    return codes.reshape(-1).index_select(0, flat.reshape(-1)).reshape(flat.shape)


def looked_up(table: Tensor, codes: Tensor) -> Tensor:
    """Return `table[codes]` for uint8 codes, quicker than advanced indexing.

    >>> looked_up(torch.tensor([5, 6, 7]), torch.tensor([2, 0], dtype=torch.uint8)).tolist()
    [7, 5]
    """
    return table.index_select(0, codes.reshape(-1).int()).reshape(codes.shape)


def smooth_noise(
    shape: tuple[int, ...],
    *,
    correlation: float,
    generator: torch.Generator,
    device: torch.device,
    channels: int = 1,
) -> Tensor:
    """Return smooth noise (channels, x, y, z) of unit variance, correlated over `correlation` voxels,
    drawn on the generator's device.
    """
    small = [max(4, int(np.ceil(n / correlation)) + 3) for n in shape]
    draw = torch.randn((1, channels, *small), generator=generator, device=generator.device).to(device)
    # back to unit variance
    draw = F.avg_pool3d(F.pad(draw, (1, 1, 1, 1, 1, 1), mode="replicate"), 3, 1) * 5.4
    return F.interpolate(draw, size=list(shape), mode="trilinear", align_corners=True)[0]


def gradient(field: Tensor) -> Tensor:
    """Return the gradient (3, x, y, z) per voxel of a map (x, y, z).

    >>> gradient(torch.arange(8.0).reshape(2, 2, 2)).amax((1, 2, 3)).tolist()
    [4.0, 2.0, 1.0]
    """
    return torch.stack(torch.gradient(field))
