"""MNI152 space (2009a, symmetric nonlinear, 1 mm): the template's maps and the deep structures named in
them.

The maps are those of nilearn's wheel; they are read straight from its files, because importing
`nilearn.datasets` takes seconds.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Literal

import edt
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichnos.arrays import Mask
from ichnos.errors import MissingExtra
from ichnos.volume import Volume

Map = Literal["t1", "gm", "wm"]

# Structure codes of `structures()`.
(
    CSF,
    VENTRICLE,
    CORTEX,
    WHITE,
    THALAMUS,
    CAUDATE,
    PUTAMEN,
    PALLIDUM,
    HIPPOCAMPUS,
    BRAINSTEM,
    CEREBELLAR_CORTEX,
    CEREBELLAR_WHITE,
) = range(1, 13)

# Deep grey matter: (structure, centre, half axes, degrees by which the long axis turns outward in the axial
# plane), right side, MNI mm.
NUCLEI: tuple[tuple[int, tuple[float, float, float], tuple[float, float, float], float], ...] = (
    (THALAMUS, (11.5, -19.0, 8.0), (7.5, 14.5, 9.5), 24.0),
    (CAUDATE, (12.5, 12.0, 6.5), (6.5, 12.0, 12.0), 12.0),
    (CAUDATE, (16.0, -6.0, 20.0), (4.5, 14.0, 5.0), 8.0),
    (PUTAMEN, (26.5, 2.0, 0.5), (6.0, 19.0, 11.0), 10.0),
    (PALLIDUM, (19.0, -4.5, -1.0), (4.8, 10.0, 6.0), 32.0),
    (HIPPOCAMPUS, (28.0, -22.0, -15.0), (7.5, 17.0, 7.5), 20.0),
    (HIPPOCAMPUS, (23.0, -4.0, -20.0), (8.5, 8.0, 8.5), 0.0),
)


_STORED = Path(__file__).with_name("mni_structures.npz")


@lru_cache(maxsize=3)
def template(name: Map) -> Volume:
    """Return one of the template's maps: T1 (0..255), or the probability of grey or white matter (0..1).

    >>> template("wm").shape
    (197, 233, 189)
    """
    import nibabel

    image = Volume.from_nibabel(
        nibabel.load(_folder() / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
    )
    return image.map_array(lambda array: array.astype(np.float32) / (1 if name == "t1" else 255.0))


def _folder() -> Path:
    found = importlib.util.find_spec("nilearn")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(
            "MNI anatomy needs the maps that nilearn ships, and it is not installed: pip install"
            ' "ichnos[simulation]"'
        )
    return Path(found.submodule_search_locations[0]) / "datasets" / "data"


@lru_cache(maxsize=1)
def brain_mask() -> Volume:
    """Return the inside of the pia, ventricles included (the template's T1 is zero outside)."""
    t1 = template("t1")
    bright = t1.array > 20
    # holes are what the corner's background does not reach; quicker than `binary_fill_holes`
    labels, _ = ndimage.label(~bright)
    return t1.with_array(labels != labels[0, 0, 0])


def coordinates(grid: Volume) -> npt.NDArray[np.float32]:
    """Return the position of each voxel centre, (3, x, y, z) in mm, of a grid whose axes are those of
    space.

    >>> coordinates(Volume(np.zeros((2, 1, 1)), np.diag([2.0, 2.0, 2.0, 1.0])))[0].ravel().tolist()
    [0.0, 2.0]
    """
    steps = [
        np.arange(n, dtype=np.float32) * grid.affine[i, i] + grid.affine[i, 3]
        for i, n in enumerate(grid.shape)
    ]
    return np.stack(np.broadcast_arrays(*np.ix_(*steps))).astype(np.float32)


@lru_cache(maxsize=1)
def structures() -> Volume:
    """Return the template's structures as codes (uint8), 0 outside the brain.

    The same as `named_structures()`, which takes seconds, read from a file.

    >>> structures().shape
    (197, 233, 189)
    """
    with np.load(_STORED, allow_pickle=False) as stored:
        return Volume(stored["codes"], stored["affine"])


def store_structures(path: Path = _STORED) -> Path:
    """Name the structures and write them where `structures` reads them; return the file."""
    named = named_structures()
    np.savez_compressed(path, codes=np.asarray(named.array), affine=named.affine)
    return path


def named_structures() -> Volume:
    """Return the template's structures as codes, named from its maps."""
    gm, wm, brain = template("gm").array, template("wm").array, brain_mask().array
    x, y, z = coordinates(brain_mask())
    csf = brain & (gm + wm < 0.5)
    out = np.where(brain, np.where(csf, CSF, np.where(wm > gm, WHITE, CORTEX)), 0).astype(np.uint8)
    hind = in_hindbrain(x[..., :1], y[..., :1], z)
    out[hind & (out == WHITE)] = CEREBELLAR_WHITE
    out[hind & (out == CORTEX)] = CEREBELLAR_CORTEX
    out[in_brainstem(x, y, z) & brain & ~csf] = BRAINSTEM
    _name_nuclei(out, gm, wm, (x, y, z))
    out[_ventricles(csf, (x, y, z))] = VENTRICLE
    return brain_mask().with_array(out)


def tentorium_mm(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the height of the tentorium: highest in the midline in front, sloping down to both sides and
    to the back.

    >>> tentorium_mm(np.float32([0, 40]), np.float32([-40, -40])).tolist()
    [-3.0, -23.0]
    """
    slope = np.interp(y, [-60, -40], [0.30, 0.50])
    height: npt.NDArray[np.float32] = (-3.0 - slope * np.abs(x) - 0.25 * np.clip(-60 - y, 0, None)).astype(
        np.float32
    )
    return height


def in_hindbrain(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], z: npt.NDArray[np.float32]) -> Mask:
    under: Mask = (z < tentorium_mm(x, y)) & (y < -34 - 0.3 * np.clip(np.abs(x) - 15, 0, None))
    return under


def in_brainstem(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], z: npt.NDArray[np.float32]) -> Mask:
    """Return a curved tube: midbrain with its peduncles at z = -6, pons with its belly at -30, medulla
    below -45.

    >>> x = np.zeros((1, 1, 1), np.float32)
    >>> in_brainstem(x, x - 26, x - 26).item(), in_brainstem(x + 40, x - 26, x - 26).item()
    (True, False)
    """
    level = [-72, -60, -50, -42, -34, -26, -20, -14, -8, -4]
    heights = z[:1, :1]  # the same on every axial plane
    middle = np.interp(heights, level, [-44, -41, -38, -33, -28.5, -26, -25, -24, -23, -24])
    half_x = np.interp(heights, level, [7, 8, 9.5, 14, 17, 15.5, 15, 18.5, 19.5, 13])
    half_y = np.interp(heights, level, [6, 7, 8, 11, 13.5, 13.5, 13.5, 14, 13.5, 9])
    tube: Mask = ((x / half_x) ** 2 + ((y - middle) / half_y) ** 2 < 1) & (z < -3.5)
    return tube


def _name_nuclei(
    out: npt.NDArray[np.uint8],
    gm: npt.NDArray[np.float32],
    wm: npt.NDArray[np.float32],
    xyz: tuple[npt.NDArray[np.float32], ...],
) -> None:
    best = np.full(out.shape, 1.15, np.float32)
    for code, centre, half, turn in NUCLEI:
        for sign in (-1, 1):
            box = _box_around((sign * centre[0], centre[1], centre[2]), 1.2 * max(half), xyz)
            _name_nucleus(
                out[box], best[box], gm[box], wm[box], [axis[box] for axis in xyz], (code, centre, half, turn)
            )


def _box_around(
    centre: tuple[float, float, float], reach_mm: float, xyz: tuple[npt.NDArray[np.float32], ...]
) -> tuple[slice, slice, slice]:
    """Return the part of the template's grid within `reach_mm` of a point on every axis."""
    first = [float(axis[0, 0, 0]) for axis in xyz]
    x, y, z = (
        slice(int(c - reach_mm - f), int(c + reach_mm - f) + 2) for c, f in zip(centre, first, strict=True)
    )
    return x, y, z


def _name_nucleus(
    out: npt.NDArray[np.uint8],
    best: npt.NDArray[np.float32],
    gm: npt.NDArray[np.float32],
    wm: npt.NDArray[np.float32],
    xyz: list[npt.NDArray[np.float32]],
    nucleus: tuple[int, tuple[float, float, float], tuple[float, float, float], float],
) -> None:
    """Name one nucleus of one side in place, where it is the nearest so far."""
    x, y, z = xyz
    code, centre, half, turn = nucleus
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    dx, dy, dz = np.abs(x) - centre[0], y - centre[1], z - centre[2]
    radius = np.sqrt(
        ((c * dx + s * dy) / half[0]) ** 2 + ((-s * dx + c * dy) / half[1]) ** 2 + (dz / half[2]) ** 2
    )
    tissue = wm < 0.93 if code in (PALLIDUM, THALAMUS) else gm > 0.42
    take = (radius < best) & tissue & (gm + wm > 0.5) & (out != BRAINSTEM) & (out != CEREBELLAR_CORTEX)
    out[take], best[take] = code, radius[take]


def _ventricles(csf: Mask, xyz: tuple[npt.NDArray[np.float32], ...]) -> Mask:
    """Return lateral, third and fourth ventricles: cerebrospinal fluid inside hand-drawn hulls, each away
    from sulci and cisterns.
    """
    x, y, z = xyz
    a = np.abs(x)
    body = (
        (a < 28)
        & (y > -50)
        & (y < 34)
        & (z > -4 + 0.1 * np.clip(-y, 0, None))
        & (z < 29)
        & (a < 12 + 0.4 * np.clip(28 - z, 0, None))
    )
    body &= ~((a < 6) & (y < -20) & (z < 10)) & ~((y < -36) & (a < 9))
    atrium = (a > 12) & (a < 37) & (y > -75) & (y < -28) & (z > -8) & (z < 26)
    temporal = (a > 24) & (a < 42) & (y > -42) & (y < -6) & (z > -26) & (z < -2) & (a > 27 - 0.1 * (y + 40))
    third = (a < 4) & (y > -27) & (y < 4) & (z > -12) & (z < 10)
    fourth = (a < 9) & (y > -52) & (y < -34) & (z > -44) & (z < -20)
    hull = edt.edt(brain_mask().array, parallel=1) > 9
    found: Mask = csf & hull & (body | atrium | temporal | third | fourth)
    labels, _ = ndimage.label(found, ndimage.generate_binary_structure(3, 1))
    sizes = np.bincount(labels.ravel())
    kept: Mask = (sizes >= 40)[labels] & (labels > 0)
    return kept
