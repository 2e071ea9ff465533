"""Named regions in MNI152 space: the stations of the corticospinal tract, white matter by depth, lobes and
deep sites.
"""

from __future__ import annotations

from functools import lru_cache

import edt
import numpy as np
import numpy.typing as npt

from ichnos.anatomy import mni, tract
from ichnos.anatomy.tract import Side
from ichnos.arrays import Mask
from ichnos.errors import UsageError
from ichnos.volume import Volume

STATIONS: tuple[str, ...] = (
    "cortex",
    "corona_radiata",
    "plic",
    "peduncle",
    "pons",
    "medulla",
)  # from the top of the tract down
WHITE_MATTER: tuple[str, ...] = ("periventricular", "deep_white")
LOBES: tuple[str, ...] = ("frontal", "parietal", "occipital", "temporal", "insula", "cerebellum")
DEEP: tuple[str, ...] = ("thalamus", "caudate", "putamen", "pallidum", "brainstem")
REGIONS: tuple[str, ...] = STATIONS + WHITE_MATTER + LOBES + DEEP

PERIVENTRICULAR_MM = 10.0  # white matter up to this distance from the lateral ventricles is periventricular


def region(name: str, *, side: Side | None = None) -> Volume:
    """Return a region as a mask on the template's 1 mm grid, one side or both.

    >>> plic = region("plic", side="left")
    >>> x, y, z = plic.world(np.argwhere(plic.array).mean(0)).round()
    >>> bool(-28 < x < -14), bool(-24 < y < -2), bool(0 < z < 18)
    (True, True, True)
    """
    if name not in REGIONS:
        raise UsageError(f"there is no region {name!r}; the regions are {', '.join(REGIONS)}")
    volume = _region(name)
    if side is None:
        return volume
    x = mni.coordinates(volume)[0]
    return volume.with_array(volume.array & ((x < 0) if side == "left" else (x > 0)))


def station_of_height(z_mm: float) -> str:
    """Return the station of the corticospinal tract at a height of MNI152 space.

    >>> station_of_height(8.0), station_of_height(-14.0), station_of_height(30.0)
    ('plic', 'peduncle', 'corona_radiata')
    """
    for name, lowest in _LOWEST_MM.items():
        if z_mm >= lowest:
            return name
    return "medulla"


def sites_at(mni_mm: npt.NDArray[np.float32], *, reach_mm: float = 6.0) -> npt.NDArray[np.str_]:
    """Name the place of points (n, 3) as clinicians name a haematoma's site; by geometry alone, so that no
    template is needed.

    The nuclei reach some mm beyond their edge, since the capsules around them count as theirs. "" is nowhere
    in the brain's rough shape.

    >>> points = [[-27, 2, 2], [12, -19, 8], [0, -28, -30], [25, -65, -35], [-35, 40, 25]]
    >>> sites_at(np.array(points, np.float32)).tolist()
    ['basal ganglia', 'thalamus', 'brainstem', 'cerebellum', 'frontal lobe']
    """
    xyz = np.asarray(mni_mm, np.float32).T[:, None, None, :]
    x, y, z = xyz
    thalamus, *ganglia = (
        _nucleus_radius(code, xyz, reach_mm)
        for code in (mni.THALAMUS, mni.CAUDATE, mni.PUTAMEN, mni.PALLIDUM)
    )
    nearest = np.minimum.reduce(ganglia)
    white = np.full(x.shape, mni.WHITE, np.uint8)
    places = {
        "brainstem": mni.in_brainstem(x, y, z),
        "cerebellum": mni.in_hindbrain(x, y, z),
        "thalamus": (thalamus < 1) & (thalamus <= nearest),
        "basal ganglia": nearest < 1,
        **{f"{name} lobe": _lobe(name, xyz, white) for name in _LOBES},
    }
    named: npt.NDArray[np.str_] = np.select([*places.values()], [*places], default="")[0, 0]
    return named


def _nucleus_radius(code: int, xyz: npt.NDArray[np.float32], reach_mm: float) -> npt.NDArray[np.float32]:
    """Return how far points lie from the middle of a deep nucleus of either side: 1 at `reach_mm` beyond its
    edge.
    """
    x, y, z = xyz
    nearest = np.full(x.shape, np.inf, np.float32)
    for _, (cx, cy, cz), half, turn in (nucleus for nucleus in mni.NUCLEI if nucleus[0] == code):
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        dx, dy = np.abs(x) - cx, y - cy
        parts = (c * dx + s * dy, -s * dx + c * dy, z - cz)
        radius = np.sqrt(sum((part / (h + reach_mm)) ** 2 for part, h in zip(parts, half, strict=True)))
        nearest = np.minimum(nearest, radius)
    return nearest


_LOBES = ("temporal", "occipital", "parietal", "frontal")  # where several fit, the first
_LOWEST_MM = {"cortex": 48.0, "corona_radiata": 18.0, "plic": -1.0, "peduncle": -20.0, "pons": -43.0}


@lru_cache(maxsize=len(REGIONS))
def _region(name: str) -> Volume:
    structures = mni.structures()
    xyz = mni.coordinates(structures)
    if name in STATIONS:
        mask = _capsule(xyz, structures.array) if name == "plic" else _station(name, xyz)
    elif name in WHITE_MATTER:
        mask = _white(name, xyz, structures)
    elif name in DEEP:
        mask = structures.array == getattr(mni, name.upper())
    else:
        mask = _lobe(name, xyz, structures.array)
    return structures.with_array(mask)


def _station(name: str, xyz: npt.NDArray[np.float32]) -> Mask:
    """Return the part of a generous tract (2 mm beyond its surface) in the station's range of heights."""
    names = list(STATIONS)
    lowest = [*_LOWEST_MM.values(), -80.0][names.index(name)]
    highest = [90.0, *_LOWEST_MM.values()][names.index(name)]
    near = [tract.atlas(side).distance_mm.array <= 2.0 for side in tract.SIDES]
    part: Mask = (near[0] | near[1]) & (xyz[2] >= lowest) & (xyz[2] < highest)
    return part


def _capsule(xyz: npt.NDArray[np.float32], codes: npt.NDArray[np.uint8]) -> Mask:
    """Return the posterior limb of the internal capsule: white matter between thalamus and lentiform
    nucleus, behind the genu.
    """
    x, y, z = xyz
    a = np.abs(x)
    middle = np.interp(y, [-26, -18, -10, -2], [27.0, 23.5, 19.5, 15.5]) + 0.12 * (z - 6)
    band = (np.abs(a - middle) < 4.5) & (y > -26) & (y < -2) & (z >= _LOWEST_MM["plic"]) & (z < 18)
    part: Mask = band & (codes == mni.WHITE)
    return part


def _white(name: str, xyz: npt.NDArray[np.float32], structures: Volume) -> Mask:
    white = structures.array == mni.WHITE
    lateral = (structures.array == mni.VENTRICLE) & ((np.abs(xyz[0]) > 4) | (xyz[2] > 12))
    near = edt.edt(np.ascontiguousarray(~lateral), parallel=1) <= PERIVENTRICULAR_MM
    chosen: Mask = white & (near if name == "periventricular" else ~near) & (xyz[2] > -12)
    return chosen


def _lobe(name: str, xyz: npt.NDArray[np.float32], codes: npt.NDArray[np.uint8]) -> Mask:
    """Return a lobe (cortex and white matter) by planes along the great sulci."""
    x, y, z = xyz
    a = np.abs(x)
    if name == "cerebellum":
        hind: Mask = np.isin(codes, (mni.CEREBELLAR_CORTEX, mni.CEREBELLAR_WHITE))
        return hind
    hemisphere = np.isin(codes, (mni.CORTEX, mni.WHITE))
    insula = (a > 30) & (a < 44) & (np.abs(y - 2) < 22) & (np.abs(z - 2) < 14) & (codes == mni.CORTEX)
    sylvian = 4 - 0.30 * (y + 10)  # the lateral sulcus rises towards the back
    temporal = (a > 22) & (z < np.minimum(sylvian, 16)) & (y < 20) & (y > -56)
    central = -4 - 0.35 * z + 0.25 * (a - 30)  # the central sulcus runs forward and down
    occipital = y < -62 - 0.18 * (z - 20)
    parietal = ~occipital & ~temporal & (y < np.minimum(central, 0)) & (z > 8)
    chosen = {
        "insula": insula,
        "temporal": temporal & ~occipital & ~insula,
        "occipital": occipital,
        "parietal": parietal & ~insula,
        "frontal": ~occipital & ~temporal & ~parietal & ~insula & (y > -30),
    }[name]
    lobe: Mask = hemisphere & chosen
    return lobe
