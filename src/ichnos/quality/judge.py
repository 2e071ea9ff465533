"""May this scan be read? pass, warn or refuse, with reasons, each with its number.

The limits are those of a careful reader of head CT, not of a study; they stand below as constants, by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.scan import Scan
from ichnos.verdict import Level, Reason, Verdict
from ichnos.volume import Array, Floats

# Each limit: beyond the first number a warning, beyond the second a refusal.
SLICE_STEP_MM = (7.6, 10.5)
GAP_MM = (0.5, 12.0)  # unseen between two slices
VERTEX_MISSING_MM = (6.0, 30.0)
BASE_MISSING_MM = (6.0, 45.0)
FIELD_CUT_MM = (12.0, 100.0)  # of the head's outline that lies on the border of the image
METAL_ML = (0.3, 15.0)
JUMP_MM = (4.0, 12.0)  # of one slice against its neighbours
AIR_HU_OFF = (50.0, 120.0)  # from -1000
BRAIN_HU = ((18.0, 48.0), (5.0, 65.0))  # peak: pass within the first pair, refuse beyond the second
BONE_HU = (
    500.0,
    350.0,
)  # 95th percentile of what is denser than 250 HU: warn below the first, refuse below the second
BRAIN_ML = (350.0, 120.0)  # enclosed by the skull: warn below, refuse below

_BRIDGE_VOXELS = 8  # of about 2 mm, each way
_AIR_SHARE = 0.05  # a frontal sinus may lie behind an opening of the skull, a nose may not
FEWEST_SLICES = 8
_INTRACRANIAL_HEIGHT_MM = 112.0  # inner vertex to foramen magnum, a small adult's
_WORK_MM = 2.0  # the checks look at voxels of about this size
_WITHOUT = re.compile(r"non.?con|without|w/?o\b|ncct|nect|plain|unenhanced|nati[fv]|ohne", re.IGNORECASE)

Mask = npt.NDArray[np.bool_]


def judge(scan: Scan) -> Verdict:
    """Judge whether a scan may be read as a non-contrast head CT."""
    reasons = [*_declared(scan), *_slices(scan)]
    broken = int(np.count_nonzero(~np.isfinite(scan.hu))) if scan.hu.dtype.kind == "f" else 0
    if broken:
        return Verdict(
            (
                *reasons,
                Reason(
                    "finite", "refuse", f"{broken} voxels are not finite (NaN or infinite)", float(broken)
                ),
            )
        )
    if min(scan.volume.shape) < FEWEST_SLICES:
        text = (
            f"the image is only {min(scan.volume.shape)} voxels thick along one axis; at least"
            f" {FEWEST_SLICES} are needed"
        )
        return Verdict((*reasons, Reason("size", "refuse", text, float(min(scan.volume.shape)))))
    view = _view(scan)
    reasons += [
        *_head(view),
        *_coverage(view),
        *_hounsfield(view),
        _field_of_view(view),
        _metal(view),
        _motion(view),
    ]
    return Verdict(tuple(reasons))


def _level(value: float, limits: tuple[float, float]) -> Level:
    """Return the level of a value that should be small; an undefined one warns."""
    if np.isnan(value):
        return "warn"
    return "refuse" if value > limits[1] else "warn" if value > limits[0] else "pass"


# ---- what the files declare
# ---------------------------------------------------------------------------------------------


def _declared(scan: Scan) -> Iterator[Reason]:
    acquisition = scan.acquisition
    is_ct = acquisition.modality == "CT"
    yield Reason(
        "modality",
        "pass" if is_ct else "refuse",
        "the modality is CT" if is_ct else f"the modality is {acquisition.modality}, not CT",
    )
    if acquisition.contrast_agent is None:
        yield Reason("contrast", "pass", "no contrast agent is declared", 0.0)
    elif _WITHOUT.search(acquisition.series_description or ""):
        yield Reason(
            "contrast", "warn", "a contrast agent is declared, though the series is described as without", 1.0
        )
    else:
        yield Reason("contrast", "refuse", "a contrast agent was given; a plain scan is needed", 1.0)


def _slices(scan: Scan) -> Iterator[Reason]:
    steps = _steps_mm(scan)
    largest = float(max(steps, default=scan.volume.spacing_mm[_slice_axis(scan)]))
    yield Reason(
        "slice_step",
        _level(largest, SLICE_STEP_MM),
        f"slices are up to {largest:.1f} mm apart",
        largest,
        "mm",
    )
    unseen, text = _largest_gap(steps, scan.acquisition.slice_thickness_mm)
    yield Reason("gaps", _level(unseen, GAP_MM), text, unseen, "mm")
    count = (
        len(scan.source.slices)
        if scan.source and scan.source.slices
        else scan.volume.shape[_slice_axis(scan)]
    )
    few = count < FEWEST_SLICES
    yield Reason(
        "slices",
        "refuse" if few else "pass",
        f"{count} slices{f', fewer than {FEWEST_SLICES}' if few else ''}",
        float(count),
    )


def _steps_mm(scan: Scan) -> Floats:
    """Return the distances between neighbouring source slices; those of the grid where there are no source
    slices.
    """
    if scan.source is None or len(scan.source.slices) < 2:
        axis = _slice_axis(scan)
        return np.full(scan.volume.shape[axis] - 1, scan.volume.spacing_mm[axis])
    normal = scan.source.slices[0].affine[:3, 2]
    return np.asarray(np.diff([s.affine[:3, 3] @ normal for s in scan.source.slices]), np.float64)


def _slice_axis(scan: Scan) -> int:
    """Return the array axis that runs nearest to head and feet."""
    directions = scan.volume.affine[:3, :3] / np.array(scan.volume.spacing_mm)
    return int(np.abs(directions[2]).argmax())


def _largest_gap(steps: Floats, thickness_mm: float | None) -> tuple[float, str]:
    """Return the mm that no slice shows between two slices, and a sentence: a step that stands out, or
    slices thinner than their step.
    """
    if len(steps) > 2:
        padded = np.concatenate([steps[1:2], steps, steps[-2:-1]])
        beside = np.maximum(padded[:-2], padded[2:])
        out = np.where(steps > 1.6 * beside, steps - beside, 0.0)
        if out.max() > 0:
            count = int(np.round(steps / beside - 1)[out > 0].sum())
            return (
                float(out.max()),
                (
                    f"{count} slice(s) missing: up to {out.max():.1f} mm of the head between two slices are"
                    " not there"
                ),
            )
    if thickness_mm and len(steps) and steps.min() > 1.05 * thickness_mm:
        unseen = float(steps.min() - thickness_mm)
        return (
            unseen,
            (
                f"slices are {thickness_mm:.1f} mm thick and {steps.min():.1f} mm apart: {unseen:.1f} mm"
                " between them are not seen"
            ),
        )
    return 0.0, "no slice is missing"


# ---- what the picture shows
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _View:
    """The scan thinned out for the checks: (right, front, head) axes, about 2 mm in plane, one plane per
    slice (or 2.5 mm).
    """

    hu: Array  # (x, y, z) float32
    step_mm: tuple[float, float]  # in plane
    depth_mm: Floats  # (z,): place of each plane, feet to head
    frame: Mask  # (x, y, z): pixels that were acquired (a tilted stack fills its grid only in part)
    body: Mask
    skull: Mask  # denser than 250 HU, within the body, small openings closed in plane
    inside: Mask  # enclosed by skull in plane, soft
    air: Mask  # acquired, outside the body

    @property
    def pixel_cm2(self) -> float:
        return self.step_mm[0] * self.step_mm[1] / 100.0

    @property
    def slab_mm(self) -> Floats:
        """Thickness that each plane stands for."""
        return np.abs(np.gradient(self.depth_mm))

    @property
    def inside_cm2(self) -> Floats:
        """Area enclosed by the skull on each plane."""
        return np.asarray(self.inside.sum(axis=(0, 1)) * self.pixel_cm2, np.float64)


def _view(scan: Scan) -> _View:
    from scipy import ndimage

    volume = scan.volume.reoriented("RAS")
    thin = [max(1, round(_WORK_MM / s)) for s in volume.spacing_mm[:2]]
    planes = _planes(
        scan,
        volume.shape[2],
        volume.spacing_mm[2],
        flipped=bool(scan.volume.affine[2, _slice_axis(scan)] < 0),
    )

    def thinned(array: Array) -> Array:
        return scan.volume.with_array(array).reoriented("RAS").array[:: thin[0], :: thin[1]][..., planes]

    hu = thinned(scan.hu).astype(np.float32)
    step = (volume.spacing_mm[0] * thin[0], volume.spacing_mm[1] * thin[1])
    cross = np.zeros((3, 3, 3), bool)
    cross[:, 1, 1] = cross[1, :, 1] = True
    body = _largest(ndimage.binary_opening(hu > -300, cross))
    bone = (hu > 250) & body
    skull = ndimage.binary_closing(bone, cross, iterations=3)
    filled = _bridged(skull, _filled(skull), hu, cross)
    inside = _largest(ndimage.binary_opening(filled & ~bone & (hu > -60) & (hu < 150), cross, iterations=2))
    frame = _acquired(scan, thinned, hu.shape)
    air = frame & ~ndimage.binary_dilation(body, cross, iterations=2)
    return _View(hu, step, planes.astype(np.float64) * volume.spacing_mm[2], frame, body, skull, inside, air)


def _bridged(skull: Mask, filled: Mask, hu: Array, cross: Mask) -> Mask:
    """Fill the planes in which a craniotomy, a fracture or an orbit leaves the skull open, where no air lies
    behind the opening.

    A gap of up to 3 cm is bridged; where that does not close the skull either, its convex hull does.
    """
    from scipy import ndimage

    n = _BRIDGE_VOXELS
    padded = np.pad(skull, [(n, n), (n, n), (0, 0)])
    wide = _filled(ndimage.binary_closing(padded, cross, iterations=n)[n:-n, n:-n])
    out = filled.copy()
    for k in range(skull.shape[2]):
        for whole in (wide[..., k], _hull(skull[..., k])):
            added = whole & ~out[..., k]
            if (
                out[..., k].sum() < 0.7 * whole.sum()
                and np.count_nonzero(hu[..., k][added] < -150) <= _AIR_SHARE * added.sum()
            ):
                out[..., k] |= whole
    return out


def _hull(plane: Mask) -> Mask:
    """Return the convex hull of a plane's mask; the mask itself where that has no area."""
    from scipy.spatial import ConvexHull, QhullError

    points = np.argwhere(plane)
    try:
        edges = ConvexHull(points).equations if len(points) > 3 else np.empty((0, 3))
    except QhullError:
        return plane
    if not len(edges):
        return plane
    x, y = np.indices(plane.shape)
    inside = np.ones(plane.shape, bool)
    for a, b, c in edges:
        inside &= a * x + b * y + c <= 1e-9
    return inside


def _planes(scan: Scan, count: int, spacing_mm: float, *, flipped: bool) -> npt.NDArray[np.intp]:
    """Return which planes of the RAS grid to look at: the middle of each source slice, or every 2.5 mm."""
    if scan.source is not None and len(scan.source.slices) > 1 and spacing_mm < 2.5:
        at = [scan.volume.index(s.affine[:3, 3])[_slice_axis(scan)] for s in scan.source.slices]
        found = np.clip(np.round(at), 0, count - 1).astype(np.intp)
        planes = np.unique(count - 1 - found if flipped else found)
        if len(planes) >= FEWEST_SLICES:
            return np.asarray(planes[:: max(1, round(2.5 * len(planes) / (count * spacing_mm)))], np.intp)
    return np.arange(0, count, max(1, round(2.5 / spacing_mm)))


def _acquired(scan: Scan, thinned: Callable[[Array], Array], shape: tuple[int, ...]) -> Mask:
    """Return where the thinned grid holds acquired pixels; everywhere for a scan without tilt."""
    volume = scan.volume
    if scan.source is None or len(scan.source.slices) < 2 or scan.source.slices[0].shape == volume.shape[:2]:
        return np.broadcast_to(np.True_, shape)
    corners = volume.index(np.array([s.affine[:3, 3] for s in scan.source.slices]))
    nearest = np.abs(corners[:, 2, None] - np.arange(volume.shape[2])).argmin(axis=0)  # slice of each plane
    x, y, plane = (
        thinned(np.broadcast_to(ramp, volume.shape))
        for ramp in np.ogrid[tuple(slice(n) for n in volume.shape)]
    )
    first = np.round(corners[nearest, :2]).astype(np.intp)[plane]  # (x, y, z, 2)
    columns, rows = scan.source.slices[0].shape
    return np.asarray(
        (x >= first[..., 0])
        & (x < first[..., 0] + columns)
        & (y >= first[..., 1])
        & (y < first[..., 1] + rows)
    )


def _largest(mask: Mask) -> Mask:
    """Return the largest connected part."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def _filled(mask: Mask) -> Mask:
    """Fill what a mask encloses, plane by plane."""
    from scipy import ndimage

    return np.stack([ndimage.binary_fill_holes(mask[..., k]) for k in range(mask.shape[2])], axis=2)


def _head(view: _View) -> Iterator[Reason]:
    brain_ml = float((view.inside_cm2 * view.slab_mm).sum() / 10.0)
    level: Level = "refuse" if brain_ml < BRAIN_ML[1] else "warn" if brain_ml < BRAIN_ML[0] else "pass"
    text = f"{brain_ml:.0f} mL of soft tissue enclosed by skull"
    yield Reason(
        "head",
        level,
        text if level == "pass" else f"{text}: not a head, or only a small part of one",
        brain_ml,
        "mL",
    )


def _coverage(view: _View) -> Iterator[Reason]:
    area, depth = view.inside_cm2, view.depth_mm
    if area.max() < 20:
        return
    slab, shown = view.slab_mm, np.flatnonzero(area > 2.0)
    radius_cm = np.sqrt(area.max() / np.pi)
    vertex = (
        float(10 * (radius_cm - np.sqrt(max(0.0, radius_cm**2 - area[-1] / np.pi))))
        if shown[-1] == len(area) - 1
        else 0.0
    )
    top = depth[shown[-1]] + slab[shown[-1]] / 2 + vertex
    covered = float(top - depth[0] + slab[0] / 2)
    base = max(0.0, _INTRACRANIAL_HEIGHT_MM - covered) if area[0] > 0.15 * area.max() else 0.0
    yield _missing("vertex", vertex, VERTEX_MISSING_MM)
    yield _missing("base", base, BASE_MISSING_MM)


def _missing(part: str, missing_mm: float, limits: tuple[float, float]) -> Reason:
    level = _level(missing_mm, limits)
    text = (
        f"the {part} is covered"
        if level == "pass"
        else f"about {missing_mm:.0f} mm of the {part} are missing"
    )
    return Reason(f"{part}_missing", level, text, missing_mm, "mm")


def _hounsfield(view: _View) -> Iterator[Reason]:
    air = view.hu[view.air & (view.hu < -300) & (view.hu != -1000)]
    measured = len(air) > 200
    air_hu = float(np.median(air)) if measured else (-1000.0 if (view.hu == -1000).any() else float("nan"))
    text = (
        f"air measures {air_hu:.0f} HU"
        if not np.isnan(air_hu)
        else "there is no air in the picture to check HU against"
    )
    yield Reason("air_hu", _level(abs(air_hu + 1000), AIR_HU_OFF), text, air_hu, "HU")
    yield _brain_hu(view)
    bone = view.hu[view.body & (view.hu > 250)]
    bone_hu = float(np.percentile(bone, 95)) if len(bone) > 200 else float("nan")
    level: Level = "refuse" if not bone_hu >= BONE_HU[1] else "warn" if bone_hu < BONE_HU[0] else "pass"
    text = (
        "there is hardly any bone in the picture"
        if np.isnan(bone_hu)
        else f"dense bone measures {bone_hu:.0f} HU"
    )
    yield Reason("bone_hu", level, text, bone_hu, "HU")


def _brain_hu(view: _View) -> Reason:
    from scipy import ndimage

    values = view.hu[ndimage.binary_erosion(view.inside)]
    if len(values) < 500:
        return Reason("brain_hu", "refuse", "there is no brain to check HU against", float("nan"), "HU")
    counts, edges = np.histogram(values, bins=np.arange(-60, 151))
    peak = float(edges[ndimage.gaussian_filter1d(counts.astype(float), 2.0).argmax()] + 0.5)
    good, possible = BRAIN_HU
    level: Level = (
        "pass" if good[0] <= peak <= good[1] else "warn" if possible[0] <= peak <= possible[1] else "refuse"
    )
    text = f"the commonest value inside the skull is {peak:.0f} HU"
    return Reason(
        "brain_hu",
        level,
        text if level == "pass" else f"{text}; {good[0]:.0f} to {good[1]:.0f} are expected",
        peak,
        "HU",
    )


def _field_of_view(view: _View) -> Reason:
    """Measure how much of the head's outline lies on the border of what was acquired, on the worst slice
    at brain level.
    """
    area = view.inside_cm2
    levels = np.flatnonzero(area > 0.3 * area.max()) if area.max() > 0 else np.arange(len(area))
    cut = max((_cut_mm(view, int(k)) for k in levels), default=0.0)
    level = _level(cut, FIELD_CUT_MM)
    text = (
        "the head lies within the field of view"
        if level == "pass"
        else f"the field of view cuts {cut:.0f} mm of the head's outline"
    )
    return Reason("field_of_view", level, text, cut, "mm")


def _cut_mm(view: _View, k: int) -> float:
    frame, body = view.frame[..., k], view.body[..., k]
    rows, columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
    if not len(rows):
        return 0.0
    x, y = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inner, hu = body[x, y], view.hu[x, y, k]
    along_y, along_x = max(inner[0].sum(), inner[-1].sum()), max(inner[:, 0].sum(), inner[:, -1].sum())
    straight = max(along_y * view.step_mm[1], along_x * view.step_mm[0])
    return float(max(straight, _round_cut_mm(inner, hu, view.step_mm)))


def _round_cut_mm(body: Mask, hu: Array, step_mm: tuple[float, float]) -> float:
    """Return how much body lies along the rim of a round field of view; 0 if the field is not round."""
    nx, ny = body.shape
    across = np.minimum(nx * step_mm[0], ny * step_mm[1]) / 2
    x, y = np.ogrid[:nx, :ny]
    radius = np.hypot((x - (nx - 1) / 2) * step_mm[0], (y - (ny - 1) / 2) * step_mm[1])
    outside = hu[radius > across + 1.5 * max(step_mm)]
    if not len(outside) or np.ptp(outside) > 0:
        return 0.0
    rim = (radius <= across - 0.5 * max(step_mm)) & (radius > across - 2.0 * max(step_mm))
    return float(body[rim].mean() * 2 * np.pi * across)


def _metal(view: _View) -> Reason:
    metal_ml = float(((view.hu > 2800) & view.body).sum(axis=(0, 1)) @ view.slab_mm * view.pixel_cm2 / 10.0)
    level = _level(metal_ml, METAL_ML)
    text = (
        "no metal"
        if level == "pass"
        else f"{metal_ml:.1f} mL are as dense as metal; streaks may hide or mimic blood"
    )
    return Reason("metal", level, text, metal_ml, "mL")


def _motion(view: _View) -> Reason:
    """Measure the largest step sideways of one slice's skull against the run of its neighbours, at brain
    level.
    """
    area = view.inside_cm2
    levels = np.flatnonzero(area > 0.45 * area.max()) if area.max() > 20 else np.array([], int)
    if len(levels) < 5:
        return Reason("motion", "warn", "too little brain to check for motion", float("nan"), "mm")
    outline = np.stack([_hull(view.skull[..., k]) for k in levels], axis=2)
    x, y = np.arange(outline.shape[0]) * view.step_mm[0], np.arange(outline.shape[1]) * view.step_mm[1]
    size = np.maximum(outline.sum(axis=(0, 1)), 1)
    place = np.stack([outline.sum(axis=1).T @ x / size, outline.sum(axis=0).T @ y / size], axis=1)
    moves = np.diff(place, axis=0)
    padded = np.pad(moves, ((2, 2), (0, 0)), mode="edge")
    trend = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5, axis=0), axis=2)
    jump = float(np.linalg.norm(moves - trend, axis=1).max())
    level = _level(jump, JUMP_MM)
    text = (
        "slices follow each other smoothly"
        if level == "pass"
        else f"a slice lies {jump:.1f} mm beside its neighbours, as if the head had moved"
    )
    return Reason("motion", level, text, jump, "mm")
