"""Resample bare arrays in voxel indices; `Volume` knows where they lie in space."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ichnos.arrays import Array, Floats
from ichnos.errors import InputRefused

Interpolation = Literal["nearest", "linear", "cubic"]
SPLINE_ORDER: dict[Interpolation, int] = {"nearest": 0, "linear": 1, "cubic": 3}


class SitkMemory:
    """A SimpleITK image as a source of numpy memory. SimpleITK's own view does not keep its image alive,
    and then crashes.
    """

    def __init__(self, image: Any, *, writeable: bool = False) -> None:
        import SimpleITK as sitk

        self.image = image
        interface = sitk.GetArrayViewFromImage(image).__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], not writeable)}


def sample(array: Array, matrix: Floats, shape: tuple[int, int, int], order: int, fill: float) -> Array:
    """Pull `array` through index_in = matrix @ index_out; beyond half a voxel outside lies `fill`."""
    if array.ndim == 4:
        return np.stack(
            [sample(array[..., c], matrix, shape, order, fill) for c in range(array.shape[3])], axis=-1
        )
    if array.dtype.kind not in "biuf":
        raise InputRefused(
            f"an image of {array.dtype} values cannot be resampled; numbers or booleans are expected"
        )
    is_mask = array.dtype.kind == "b"
    source = array.view(np.uint8) if is_mask else array.astype(array.dtype.newbyteorder("="), copy=False)
    if source.dtype == np.float16 or (order > 0 and source.dtype.kind != "f"):
        source = source.astype(np.float32)
    out = (
        _sample_cubic(source, matrix, shape, fill)
        if order == 3
        else _sample_itk(source, matrix, shape, order, fill)
    )
    return out.astype(bool) if is_mask and order == 0 else out


def _sample_itk(source: Array, matrix: Floats, shape: tuple[int, int, int], order: int, fill: float) -> Array:
    """Sample with SimpleITK in voxel indices: the same values as scipy's affine_transform, several times
    as fast.
    """
    import SimpleITK as sitk

    # ITK's first axis is the one that runs fastest in memory, which is x or z; taking it as it lies saves a
    # copy.
    axes = [0, 1, 2] if source.flags.f_contiguous else [2, 1, 0]
    image = sitk.GetImageFromArray(source.T if axes[0] == 0 else source)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3][np.ix_(axes, axes)].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3][axes].tolist())
    sampler = sitk.ResampleImageFilter()
    sampler.SetSize([int(shape[axis]) for axis in axes])
    sampler.SetTransform(transform)
    sampler.SetInterpolator(sitk.sitkLinear if order == 1 else sitk.sitkNearestNeighbor)
    sampler.SetDefaultPixelValue(float(fill))
    out = np.asarray(SitkMemory(sampler.Execute(image), writeable=True))
    return out.T if axes[0] == 0 else out


def _sample_cubic(source: Array, matrix: Floats, shape: tuple[int, int, int], fill: float) -> Array:
    from scipy import ndimage

    out: Array = ndimage.affine_transform(
        source, matrix[:3, :3], matrix[:3, 3], shape, order=3, mode="nearest"
    )
    steps = [np.arange(n).reshape([-1 if a == axis else 1 for a in range(3)]) for axis, n in enumerate(shape)]
    for row, n in zip(matrix[:3], source.shape, strict=True):
        at = row[0] * steps[0] + row[1] * steps[1] + row[2] * steps[2] + row[3]
        out[(at < -0.5 - 1e-6) | (at > n - 0.5 + 1e-6)] = fill
    return out
