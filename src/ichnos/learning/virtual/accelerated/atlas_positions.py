"""Smoothed MNI positions and the tract atlas there, on a device: the twin of `inference.coordinates`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ichnos.anatomy.tract import SIDES, population

_ORDER, _SMOOTHING_MM, _REST = 3, 7.0, 0.05  # as reading smooths positions
_RIDGE = 1e-6  # of the normal equations, relative


def smoothed_positions(position_mm: Tensor, brain: Tensor, step_mm: float) -> Tensor:
    """Return positions (3, x, y, z) as a cubic polynomial plus a smooth rest, where `brain` is its share."""
    terms = _terms(tuple(brain.shape), brain.device)
    inside = (brain > 0.5).reshape(-1)
    design = terms.reshape(len(terms), -1)
    polynomial = torch.stack([_fitted(design, axis.reshape(-1), inside) for axis in position_mm])
    smooth = polynomial.reshape(position_mm.shape)
    known = (brain > 0.5).float()
    rest = _blurred((position_mm - smooth) * known, step_mm)
    share = _blurred(known[None], step_mm) + _REST
    return smooth + rest / share


def _fitted(design: Tensor, values: Tensor, inside: Tensor) -> Tensor:
    """Fit by least squares where `inside`, then again without the outliers; return the fit everywhere."""
    weight = inside.double()
    factors = _solved(design, values, weight)
    error = values - design.T @ factors
    own = error[inside]
    centre = own.median()
    spread = (own - centre).abs().median()
    good = inside & ((error - centre).abs() < 3 * 1.4826 * spread + 1e-6)
    return design.T @ _solved(design, values, good.double())


def _solved(design: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    a = design.double()
    normal = (a * weight) @ a.T
    normal = normal + _RIDGE * normal.diagonal().mean() * torch.eye(len(a), device=a.device).double()
    factors: Tensor = torch.linalg.solve(normal, (a * weight) @ values.double())
    return factors.float()


@lru_cache(maxsize=4)
def _terms(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    axes = [torch.linspace(-1, 1, n, device=device) for n in shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    powers = [
        (i, j, k) for i in range(_ORDER + 1) for j in range(_ORDER + 1 - i) for k in range(_ORDER + 1 - i - j)
    ]
    return torch.stack([x**i * y**j * z**k for i, j, k in powers])


def _blurred(fields: Tensor, step_mm: float) -> Tensor:
    sigma = _SMOOTHING_MM / step_mm
    reach = int(4 * sigma + 0.5)
    at = torch.arange(-reach, reach + 1, device=fields.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    out = fields[:, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(kernel)
        padding = [0, 0, 0]
        padding[axis] = reach
        out = functional.conv3d(out, kernel.view(shape), padding=padding)
    return out[:, 0]


def atlas_at(mni_mm: Tensor) -> Tensor:
    """Return the population's share of tracts (side, ...) at positions (3, ...), 0 outside the atlas."""
    maps, inverse = _atlas(mni_mm.device)
    flat = mni_mm.reshape(3, -1)
    index = inverse[:3, :3] @ flat + inverse[:3, 3:]
    size = torch.tensor(maps.shape[1:], device=flat.device)
    unit = index * (2.0 / (size - 1))[:, None] - 1
    grid = unit.flip(0).T.reshape(1, 1, 1, -1, 3)
    shares = functional.grid_sample(maps[None], grid, align_corners=True)[0, :, 0, 0]
    return shares.reshape(len(SIDES), *mni_mm.shape[1:])


@lru_cache(maxsize=4)
def _atlas(device: torch.device) -> tuple[Tensor, Tensor]:
    volumes = [population(side) for side in SIDES]
    maps = torch.stack([torch.from_numpy(np.array(volume.array, np.float32)) for volume in volumes])
    inverse = torch.from_numpy(np.linalg.inv(volumes[0].affine).astype(np.float32))
    return maps.to(device), inverse.to(device)
