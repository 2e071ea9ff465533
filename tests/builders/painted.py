"""A head painted from the MNI template: CT, T1-like and FLAIR-like images of one anatomy, in any pose, on
any grid.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ichnos.anatomy import mni
from ichnos.registration import Displacement, Transform
from ichnos.volume import Affine, Volume

Look = Literal["ct", "t1", "flair"]
# air, scalp, bone, fluid, grey, white
VALUES: dict[Look, tuple[float, ...]] = {
    "ct": (-1000, 15, 1000, 8, 38, 28),
    "t1": (0, 130, 8, 25, 75, 110),
    "flair": (0, 90, 6, 15, 100, 80),
}


@lru_cache(maxsize=1)
def anatomy() -> Volume:
    """Return tissue codes (index into VALUES) at 2 mm: brain, fluid, skull that is thicker on one side,
    scalp, air.
    """
    brain = mni.brain_mask().padded((20, 20, 20), (20, 20, 20)).resampled(2.0)
    gm, wm = (mni.template(name).on_grid(brain).array for name in ("gm", "wm"))
    inside = mni.brain_mask().astype(np.float32).on_grid(brain).array > 0.5
    tissue = np.select([wm > np.maximum(gm, 0.4), gm > 0.4], [5, 4], 3)
    distance = ndimage.distance_transform_edt(~inside) * 2
    x = brain.world(np.indices(brain.shape).transpose(1, 2, 3, 0))[..., 0]
    outside = np.select([distance <= 3, distance <= np.where(x > 0, 11, 8), distance <= 17], [3, 2, 1], 0)
    codes = brain.with_array(np.where(inside, tissue, outside).astype(np.uint8))
    return _torque(codes).pull(codes, codes, interpolation="nearest")


def _torque(codes: Volume) -> Transform:
    """Return a smooth map that makes the nearly symmetrical template as lopsided as a person."""
    x, y, z = np.moveaxis(codes.world(np.indices(codes.shape).transpose(1, 2, 3, 0)), -1, 0)
    field = np.stack([4 * np.sin(y / 28 + z / 45), 5 * np.sin(x / 38), 4 * np.sin(x / 30 + 1)], axis=-1)
    return Transform.of(Displacement(Volume(field.astype(np.float32), codes.affine)))


def painted(look: Look, *, seed: int = 0, tissue: Volume | None = None, noise: float | None = None) -> Volume:
    """Paint tissue codes like an exam, with noise and, for MRI, an uneven receive field."""
    rng = np.random.default_rng(seed)
    tissue = tissue or anatomy()
    image = ndimage.gaussian_filter(np.array(VALUES[look], np.float32)[tissue.array], 0.4)
    if look != "ct":
        image = image * (1 + 0.2 * np.sin(np.linspace(0, 2.5, image.shape[1]))[None, :, None])
    image = image + rng.normal(0, 4.0 if noise is None else noise, image.shape)
    return tissue.with_array((image if look == "ct" else np.abs(image)).astype(np.float32))


def posed(
    image: Volume, rotation_deg: tuple[float, float, float], shift_mm: tuple[float, float, float]
) -> tuple[Volume, Affine]:
    """Turn and shift an image by its header; return it with the map from the old to the new millimetres."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix()
    centre = image.centre_mm
    matrix[:3, 3] = centre + shift_mm - matrix[:3, :3] @ centre
    return Volume(image.array, matrix @ image.affine), Affine(matrix)


def brain_points() -> np.ndarray:
    """Return some hundred points (n, 3) in the brain, mm."""
    tissue = anatomy()
    return tissue.world(np.argwhere(tissue.array >= 4)[::400])


def ventricles() -> Volume:
    """Return the ventricles of the painted head (uint8, 2 mm)."""
    codes = mni.structures()
    fluid = codes.with_array((codes.array == mni.VENTRICLE).astype(np.float32))
    return _torque(anatomy()).pull(fluid, anatomy()).map_array(lambda a: (a > 0.5).astype(np.uint8))
