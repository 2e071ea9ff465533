"""Fibre orientation distributions as spherical harmonics in voxel axes, from diffusion data, from peaks,
or from MRtrix's FOD.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ichnos.errors import InputRefused, require
from ichnos.transfer.tractography.gradients import GradientTable, image_axes
from ichnos.volume import Array, Volume

BASIS = "descoteaux07"  # dipy's, not the legacy form
ORDER = 8


def fod_from_diffusion(dwi: Volume, table: GradientTable, where: Array, *, fa: Array, md: Array) -> Array:
    """Deconvolve the signal inside a mask by the response of the most coherent white matter; (x, y, z,
    45), 0 elsewhere.
    """
    csd = require("dipy.reconst.csdeconv", extra="diffusion", purpose="deconvolving the diffusion signal")
    use = one_shell(table)
    gradients = _dipy_table(GradientTable(table.b_values[use], table.directions[use]), dwi)
    data = np.maximum(dwi.array[..., use], 1e-3)
    sane = where & (md > 0.3e-3) & (md < 1.3e-3) & (fa < 0.95)
    if np.count_nonzero(sane) < 50:
        raise InputRefused(
            f"only {np.count_nonzero(sane)} voxels of white matter are seen along the tract; the exam does"
            " not cover it"
        )
    count = int(np.count_nonzero(sane))
    limit = np.sort(fa[sane])[-min(300, count // 4)]
    response, _ = csd.response_from_mask_ssst(gradients, data, sane & (fa >= limit))
    directions = int((~table.unweighted[use]).sum())
    order = 8 if directions >= 45 else 6 if directions >= 28 else 4
    model = csd.ConstrainedSphericalDeconvModel(gradients, response, sh_order_max=order)
    out = np.zeros((*dwi.shape, coefficients(ORDER)), np.float32)
    legacy = np.asarray(model.fit(data[where]).shm_coeff, np.float32)
    out[where] = _modern(legacy, order)
    return out


def coefficients(order: int) -> int:
    """Return how many even spherical harmonics there are up to an order.

    >>> coefficients(8)
    45
    """
    return (order + 1) * (order + 2) // 2


def one_shell(table: GradientTable) -> Array:
    """Return which images are unweighted or on the fullest shell (the higher of two equally full ones),
    (n,) bool.
    """
    weighted = table.b_values[~table.unweighted]
    shells = np.unique(np.round(weighted, -2))
    best = max(shells, key=lambda b: (int((np.abs(weighted - b) <= 100).sum()), b))
    return np.asarray(table.unweighted | (np.abs(table.b_values - best) <= 100))


def fod_from_peaks(peaks: Volume) -> Array:
    """Turn peaks in MRtrix's or TractSeg's layout (x, y, z, 3 per peak, world axes, length = amplitude)
    into a FOD; NaN is no peak.
    """
    channels = peaks.array.shape[3] if peaks.array.ndim == 4 else 0
    if channels == 0 or channels % 3:
        raise InputRefused(
            f"peaks of shape {peaks.array.shape} were given; (x, y, z, 3 per peak) is expected, as MRtrix's"
            " sh2peaks writes it"
        )
    vectors = np.nan_to_num(peaks.array.astype(np.float32)).reshape(
        *peaks.shape, channels // 3, 3
    ) @ image_axes(peaks.affine).astype(np.float32)
    length = np.linalg.norm(vectors, axis=-1)
    where = length.max(axis=-1) > 1e-6
    if not where.any():
        raise InputRefused("no voxel holds a peak: the file is empty or all NaN")
    sphere, matrix = _sphere_and_inverse()
    unit = vectors[where] / np.maximum(length[where], 1e-9)[..., None]
    out = np.zeros((*peaks.shape, coefficients(ORDER)), np.float32)
    lobes = np.zeros((int(where.sum()), len(sphere)), np.float32)
    for k in range(unit.shape[1]):
        lobes += length[where][:, k, None] * np.abs(unit[:, k] @ sphere.T) ** 24
    out[where] = lobes @ matrix
    return out


def fod_from_mrtrix(fod: Volume) -> Array:
    """Turn MRtrix's FOD (x, y, z, coefficients; its basis, world axes) into one in voxel axes."""
    shm = require("dipy.reconst.shm", extra="diffusion", purpose="reading a FOD")
    spheres = require("dipy.core.sphere", extra="diffusion", purpose="reading a FOD")
    count = fod.array.shape[3] if fod.array.ndim == 4 else 0
    order = next((o for o in range(2, 17, 2) if coefficients(o) == count), None)
    if order is None:
        raise InputRefused(
            f"a FOD of shape {fod.array.shape} was given; 6, 15, 28, 45 … coefficients per voxel are expected"
        )
    directions, matrix = _sphere_and_inverse()
    world = spheres.Sphere(xyz=directions @ image_axes(fod.affine).T)
    to_values = shm.sh_to_sf_matrix(
        world, sh_order_max=order, basis_type="tournier07", legacy=False, return_inv=False
    )
    values = np.nan_to_num(fod.array.astype(np.float32)) @ np.asarray(to_values, np.float32)
    return np.asarray(np.maximum(values, 0) @ matrix, np.float32)


def _sphere_and_inverse() -> tuple[Array, Array]:
    """Return directions (n, 3) and the matrix (n, 45) that fits spherical harmonics to values on them."""
    data = require("dipy.data", extra="diffusion", purpose="spherical harmonics")
    shm = require("dipy.reconst.shm", extra="diffusion", purpose="spherical harmonics")
    _, inverse = shm.sh_to_sf_matrix(
        data.default_sphere, sh_order_max=ORDER, basis_type=BASIS, legacy=False, return_inv=True
    )
    return np.asarray(data.default_sphere.vertices, np.float32), np.asarray(inverse, np.float32)


def _modern(legacy: Array, order: int) -> Array:
    """Turn dipy's legacy coefficients of one order into ORDER in the basis used here."""
    data = require("dipy.data", extra="diffusion", purpose="spherical harmonics")
    shm = require("dipy.reconst.shm", extra="diffusion", purpose="spherical harmonics")
    forward = shm.sh_to_sf_matrix(
        data.default_sphere, sh_order_max=order, basis_type=BASIS, legacy=True, return_inv=False
    )
    change = np.asarray(forward, np.float32) @ _sphere_and_inverse()[1]
    return np.asarray(legacy @ change, np.float32)


def _dipy_table(table: GradientTable, dwi: Volume) -> Any:
    """Return dipy's table, directions along voxel axes."""
    gradients = require("dipy.core.gradients", extra="diffusion", purpose="diffusion MRI")
    b = np.where(table.unweighted, 0.0, table.b_values)
    vectors = np.where(table.unweighted[:, None], 0.0, table.directions @ image_axes(dwi.affine))
    return gradients.gradient_table(b, bvecs=vectors, b0_threshold=50)
