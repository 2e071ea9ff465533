"""The MNI template's maps of tissues and depth on the grid of an exam."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.arrays import Array
from ichnos.registration.transform import Transform
from ichnos.volume import Volume

_MAP_MM = 2.0  # voxels of the template's maps


@dataclass(frozen=True, eq=False)
class TemplateMaps:
    """Where the template says things are, on the grid of an exam; all float32 (x, y, z)."""

    white: Array  # probability of cerebral white matter, blurred by 2 mm
    cortex: Array  # probability of grey matter, blurred by 2 mm
    brain: Array  # inside of the pia, 0…1
    ventricle: Array  # 0…1, blurred
    depth_mm: Array  # distance to the brain's surface, inwards
    cerebrum: Array  # 1 above the tentorium
    nuclei: Array  # deep grey matter, 0…1
    midline_mm: Array  # distance to the midsagittal plane


def template_maps_on(grid: Volume, *, mni_from_exam: Transform) -> TemplateMaps:
    """Bring the template's maps onto the grid of an exam."""
    pulled = mni_from_exam.pull(_template_maps(), grid).array
    white, cortex, brain, ventricle, depth, cerebrum, nuclei, midline = np.moveaxis(pulled, -1, 0)
    return TemplateMaps(white, cortex, brain, ventricle, depth, cerebrum, nuclei, midline)


_CEREBRAL = (
    mni.WHITE,
    mni.CORTEX,
    mni.THALAMUS,
    mni.CAUDATE,
    mni.PUTAMEN,
    mni.PALLIDUM,
    mni.VENTRICLE,
    mni.HIPPOCAMPUS,
)
_HIND = (mni.BRAINSTEM, mni.CEREBELLAR_CORTEX, mni.CEREBELLAR_WHITE)
_NUCLEI = (mni.THALAMUS, mni.CAUDATE, mni.PUTAMEN, mni.PALLIDUM, mni.HIPPOCAMPUS)


@lru_cache(maxsize=1)
def _template_maps() -> Volume:
    """Return the maps of `TemplateMaps`, in its order, as channels on a 2 mm grid of MNI space."""
    grid = mni.brain_mask().grid_with_spacing(_MAP_MM)
    codes = mni.structures().on_grid(grid, interpolation="nearest").array
    brain = mni.brain_mask().astype(np.uint8).on_grid(grid, interpolation="nearest").array > 0

    def blurred(mask: Array, sigma_mm: float) -> Array:
        return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), sigma_mm / _MAP_MM))

    white, cortex, ventricle = (
        blurred(codes == code, 2.0) for code in (mni.WHITE, mni.CORTEX, mni.VENTRICLE)
    )
    # the surface lies between the voxels
    depth = np.maximum(ndimage.distance_transform_edt(brain) * _MAP_MM - 0.5, 0)
    above = blurred(np.isin(codes, _CEREBRAL), 3.0) >= blurred(np.isin(codes, _HIND), 3.0)
    nuclei, midline = np.isin(codes, _NUCLEI), np.abs(mni.coordinates(grid)[0])
    maps = (white, cortex, brain, ventricle, depth, above, nuclei, midline)
    return grid.with_array(np.stack([m.astype(np.float32) for m in maps], axis=-1))
