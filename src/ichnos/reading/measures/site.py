"""Where a haematoma lies, how far it pushes the midline, and which level of the tract it meets: from
positions in MNI152 space.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ichnos.anatomy import regions
from ichnos.inference.coordinates import AtlasCoordinates
from ichnos.reading.record import Measure
from ichnos.volume import Volume

NO_PLACE = "this model does not say where in the atlas a voxel lies"
_NUCLEI = ("basal ganglia", "thalamus")
_DEEP_SHARE = 0.17  # of a clot, in deep nuclei: it began there, however far it reaches into a lobe
_STATION_WORDS = {
    "corona_radiata": "corona radiata",
    "plic": "posterior limb of the internal capsule",
    "peduncle": "cerebral peduncle",
}
_SEPTUM_Y_MM, _SEPTUM_Z_MM = (-25.0, 25.0), (-2.0, 24.0)  # septum pellucidum and third ventricle
_FALX_Y_MM = (-65.0, 45.0)  # behind the first and before the second, the falx is fixed to the skull
_FEWEST_ROWS = 12
_LEAST_SHIFT_MM = 4.0  # under it, what is measured hardly follows the truth (`ichnos stress`)


def site_measure(coordinates: AtlasCoordinates | None, ich: Volume) -> Measure:
    """Name the site of a haematoma; `ich` in RAS on the scan's grid, not empty."""
    if coordinates is None:
        return Measure(name="site", label="Site", value=None, reason=NO_PLACE)
    names, counts = np.unique(regions.sites_at(coordinates.positions_mm(ich)), return_counts=True)
    shares = {
        str(name): int(count) / int(counts.sum()) for name, count in zip(names, counts, strict=True) if name
    }
    if not shares:
        return Measure(
            name="site", label="Site", value=None, reason="the haematoma lies where the atlas names nothing"
        )
    deep = {name: share for name, share in shares.items() if name in _NUCLEI}
    among = deep if sum(deep.values()) > _DEEP_SHARE else shares
    best = max(among, key=among.__getitem__)
    rule = (
        f"; deep nuclei with more than {100 * _DEEP_SHARE:.0f} % go before lobes"
        if best != max(shares, key=shares.__getitem__)
        else ""
    )
    reason = (
        f"{100 * shares[best]:.0f} % of it lie there by the network's own atlas position{rule}; a large clot"
        " may have begun elsewhere"
    )
    return Measure(name="site", label="Site", value=best, reason=reason)


def station_measure(coordinates: AtlasCoordinates | None, side: str, touched: Volume | None) -> Measure:
    """Name the level at which a tract meets the blood; `touched` in RAS on the scan's grid, None where no
    blood meets it.
    """
    name, label = f"level_{side}", f"Level of the injury, {side}"
    if touched is None:
        return Measure(name=name, label=label, value=None, reason="no blood meets this tract")
    if coordinates is None:
        return Measure(name=name, label=label, value=None, reason=NO_PLACE)
    height_mm = float(np.median(coordinates.positions_mm(touched)[:, 2]))
    station = _STATION_WORDS.get(regions.station_of_height(height_mm), regions.station_of_height(height_mm))
    return Measure(
        name=name, label=label, value=station, reason=f"from its height in MNI152 space, {height_mm:.0f} mm"
    )


def midline_measure(coordinates: AtlasCoordinates | None) -> Measure:
    """Measure how far septum and third ventricle stand beside the line between the fixed ends of the falx,
    in mm; withheld where it is too small to be told from error.
    """
    shift = None if coordinates is None else shift_at(coordinates)
    if coordinates is None:
        value, reason = None, NO_PLACE
    elif shift is None:
        value, reason = None, "too little of the falx and the septum lies in the scan"
    elif shift < _LEAST_SHIFT_MM:
        value = None
        reason = (
            f"under {_LEAST_SHIFT_MM:g} mm this measure hardly follows the truth, and it may miss a larger"
            " shift: judge it by eye"
        )
    else:
        value, reason = round(shift, 1), "septum against the ends of the falx; uncertain, so judge it by eye"
    return Measure(name="midline_shift", label="Midline shift", value=value, unit="mm", reason=reason)


def shift_at(coordinates: AtlasCoordinates) -> float | None:
    """Return the size of the midline's shift as it is measured, mm, however small; None where too little is
    seen.
    """
    shift = midline_shift_mm(coordinates.mni_mm, coordinates.brain > 0.5, coordinates.spacing_mm)
    return None if shift is None else abs(shift)


def midline_shift_mm(
    mni_mm: npt.NDArray[np.float32], brain: npt.NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> float | None:
    """Return the shift of the midline, + to the right, of positions (3, x, y, z) whose axes are RAS; None
    where too little is seen.

    The plane MNI x = 0 is found on each row of voxels. A flat plane is laid through those rows where the falx
    is fixed to the skull, before and behind; the median distance from it of the rows through septum and third
    ventricle is the shift.
    """
    crossing = _crossings(np.where(brain, mni_mm[0], np.nan))
    y_index, z_index = np.nonzero(np.isfinite(crossing))
    if len(y_index) < 2 * _FEWEST_ROWS:
        return None
    x = crossing[y_index, z_index]
    at = mni_mm[1:, np.round(x).astype(int), y_index, z_index]
    fixed = ((at[0] < _FALX_Y_MM[0]) | (at[0] > _FALX_Y_MM[1])) & (at[1] > 0)
    septum = _between(at[0], _SEPTUM_Y_MM) & _between(at[1], _SEPTUM_Z_MM)
    if min(fixed.sum(), septum.sum()) < _FEWEST_ROWS or np.ptp(at[0][fixed]) < 80:
        return None
    design = np.column_stack([np.ones(len(x)), y_index, z_index])
    plane, *_ = np.linalg.lstsq(design[fixed], x[fixed], rcond=None)
    across_mm = float(np.median(x[septum] - design[septum] @ plane)) * spacing_mm[0]
    lean = plane[1:] * spacing_mm[0] / spacing_mm[1:]  # of the plane: distances from it are at right angles
    return across_mm / float(np.sqrt(1 + lean @ lean))


def _between(values: npt.NDArray[np.float32], ends: tuple[float, float]) -> npt.NDArray[np.bool_]:
    return np.asarray((values > ends[0]) & (values < ends[1]))


def _crossings(mni_x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the voxel index along x, (y, z), at which MNI x passes through zero; NaN where it does not,
    or leaves the brain there.
    """
    with np.errstate(invalid="ignore"):
        passes = (mni_x[:-1] <= 0) & (mni_x[1:] > 0)
    first = passes.argmax(axis=0)
    y, z = np.indices(first.shape)
    below, above = mni_x[first, y, z], mni_x[first + 1, y, z]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = first - below / (above - below)
    return np.where(passes.any(axis=0), found, np.nan)
