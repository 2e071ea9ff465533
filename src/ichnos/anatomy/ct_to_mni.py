"""Where a head CT lies in MNI152 space.

The template's brain is the fixed image and only points in and closely around it are compared, so that neck,
face and table of the scan do not matter. The template has no skull: it is painted in HU and given one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import numpy as np
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.registration import Registration, Transform, register
from ichnos.volume import Volume

_LIQUOR_MM, _SKULL_MM = 3.0, 9.0  # outer limits from the brain's surface


@dataclass(frozen=True, eq=False)
class CtToMni:
    """Where a CT lies in MNI space."""

    mni_from_ct: Transform  # maps points of the CT (RAS mm) to MNI mm
    registration: Registration  # numbers by which to judge it

    def share_on(self, atlas: Volume, grid: Volume) -> Volume:
        """Bring a probability map (or mask) in MNI space onto a grid in the CT's space: share of each
        voxel, 0 … 1.
        """
        return self.mni_from_ct.pull_share(atlas, grid)


def register_ct_to_mni(
    ct: Volume,
    *,
    kind: Literal["affine", "deformable"] = "affine",
    exclude: Volume | None = None,
    start: CtToMni | None = None,
    threads: int = 1,
) -> CtToMni:
    """Find where a head CT lies in MNI space; "deformable" follows its anatomy, "affine" only size and pose.

    `exclude` is a mask in the CT's space that takes no part in the deformable step (a haematoma with its
    oedema). `start` is an affine registration of the same CT, where it is known already.
    """
    template, far = template_as_ct()
    both_ct = partial(register, fixed_contrast="ct", moving_contrast="ct", threads=threads)
    if start is None:
        affine = both_ct(template, ct, kind="affine", exclude=far, scale_limit=1.35)
        start = CtToMni(~affine.transform, affine)
    if kind == "affine":
        return start
    beyond = start.mni_from_ct.pull(far, ct, interpolation="nearest", fill=1)
    if exclude is not None:
        bled = exclude.on_grid(ct, interpolation="nearest").array > 0
        beyond = beyond.with_array((beyond.array > 0) | bled)
    bent = both_ct(ct, template, kind="deformable", start=start.mni_from_ct, exclude=beyond, stiffness=0.8)
    return CtToMni(bent.transform, bent)


@lru_cache(maxsize=1)
def template_as_ct() -> tuple[Volume, Volume]:
    """Return the MNI template in HU with a skull, and the mask (uint8) of where it ends."""
    brain = mni.brain_mask()
    margin = [round(_SKULL_MM) + 6] * 3
    wide = brain.padded(margin, margin)
    # the template has 1 mm voxels
    outside_mm = ndimage.distance_transform_edt(~wide.array).astype(np.float32)
    gm, wm = mni.template("gm").array, mni.template("wm").array
    image = np.select([outside_mm <= _LIQUOR_MM, outside_mm <= _SKULL_MM], [12.0, 900.0], -1000.0).astype(
        np.float32
    )
    inner = (slice(margin[0], -margin[0]),) * 3
    image[inner] = np.where(
        brain.array, 37.0 * gm + 28.0 * wm + 8.0 * np.clip(1 - gm - wm, 0, 1), image[inner]
    )
    return wide.with_array(image), wide.with_array((outside_mm > _SKULL_MM).astype(np.uint8))
