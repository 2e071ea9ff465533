"""Haematoma: millilitres per compartment, side, shape and the density signs that go with growth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ichnos.arrays import Floats
from ichnos.inference import Prediction
from ichnos.inference.coordinates import AtlasCoordinates
from ichnos.prognosis.volume import load_volume_calibration
from ichnos.reading.masks import MIN_BLOOD_ML, Masks
from ichnos.reading.measures.blood import DensitySigns, abc2_ml, density_signs, sphericity
from ichnos.reading.measures.site import midline_measure, site_measure
from ichnos.reading.measures.volume import volume_measure
from ichnos.reading.record import BY_DEFINITION, Finding, Measure, Status
from ichnos.targets import targets_in
from ichnos.volume import Volume, centroid_mm

IRREGULAR_BELOW = 0.55  # sphericity; our own limit, not a published one
# Li 2017: at least three small clots apart from the main one (or four joined to it, not counted here).
ISLANDS = 3
_MIDLINE_MM = 5.0  # a clot whose centre is nearer to the midline than this has no side
_ROW_MM = 2.0  # thickness of the rows whose middles are the midline
_ROUNDS = 12  # of turning the rows: each leaves some two thirds of what a head still leans
_MOST_TURNED, _LONGER = np.pi / 4, 1.1  # what turned further, or is rounder, shows no head's length
_WITHOUT_SIDE = ("brainstem",)  # sites that are one structure across the midline


def read_haematoma(
    prediction: Prediction, masks: Masks, hu: Volume, *, coordinates: AtlasCoordinates | None = None
) -> Finding:
    """Measure the blood of a scan; `hu` in RAS on the masks' grid, `coordinates` for its site."""
    volumes = {t.name: _volume(prediction, masks, t.name, t.label) for t in targets_in("haematoma")}
    names = tuple(name for name in volumes if name in masks.known)
    level = _level_text(prediction)
    if not masks.ich.array.any() and not masks.ivh.array.any():
        searched = "intracerebral or intraventricular" if "IVH" in masks.known else "intracerebral"
        sentence = f"No {searched} blood of {MIN_BLOOD_ML:g} mL or more."
        return _finding("none found", sentence, tuple(volumes.values()), names)
    if not masks.ich.array.any():
        sentence = f"Isolated intraventricular haemorrhage, {_amount(volumes['IVH'], level)}."
        return _finding("read", sentence, (*volumes.values(), midline_measure(coordinates)), names)
    side, site = _side(masks), site_measure(coordinates, masks.ich)
    where = (side, site, midline_measure(coordinates))
    measures = (*volumes.values(), *where, *_shape(masks.ich), *_signs(hu, masks.ich))
    return _finding("read", _headline(volumes, side.value, site.value, level), measures, names)


def _finding(status: Status, sentence: str, measures: tuple[Measure, ...], masks: tuple[str, ...]) -> Finding:
    return Finding(target="haematoma", status=status, sentence=sentence, measures=measures, masks=masks)


def _headline(volumes: Mapping[str, Measure], side: object, site: object, level: str) -> str:
    """Return the finding as a radiologist would write it: side, site, volumes."""
    words = [str(side)] if side is not None and site not in _WITHOUT_SIDE else []
    words += [str(site) if site is not None else "intracerebral", "haemorrhage"]
    parts = [f"{' '.join(words).capitalize()}, {_amount(volumes['ICH'], level)}"]
    for name, label in (("IVH", "intraventricular blood"), ("PHE", "perihaematomal oedema")):
        if volumes[name].value is not None:
            parts.append(f"{label} {_amount(volumes[name], '')}" if volumes[name].value else f"no {label}")
    return "; ".join(parts) + "."


def _amount(volume: Measure, level: str) -> str:
    shown = f"{volume.value:.1f} mL"
    if not level or volume.low is None or volume.high is None:
        return shown
    return f"{shown} ({level} {volume.low:.1f} to {volume.high:.1f})"


def _level_text(prediction: Prediction) -> str:
    """Return what a sentence calls the interval of a volume; "" without a calibration."""
    calibration = load_volume_calibration(prediction.model.folder)
    return f"{100 * calibration.level:.0f} % interval" if calibration is not None else ""


def _volume(prediction: Prediction, masks: Masks, name: str, label: str) -> Measure:
    if name in masks.known:
        return volume_measure(prediction, name, masks.named()[name], label)
    reason = "this model does not outline it"
    return Measure(name=f"{name.lower()}_volume", label=label, value=None, unit="mL", reason=reason)


def _side(masks: Masks) -> Measure:
    if "brain" in masks.known:
        return _grade("side", "Side", side_of(masks.ich, masks.brain))
    reason = "this model does not outline the brain, so its midline is unknown"
    return Measure(name="side", label="Side", value=None, reason=reason)


def side_of(mask: Volume, brain: Volume) -> str:
    """Return "left", "right" or "midline" by the clot's centre and the brain's midline.

    Both masks are RAS on one grid.

    >>> from ichnos.volume import sphere
    >>> brain = sphere(radius_mm=60, spacing_mm=2.0)
    >>> clot = brain.map_array(lambda a: a & (np.arange(a.shape[0])[:, None, None] < 20))
    >>> side_of(clot, brain)
    'left'
    """
    offset_mm = _right_of_midline_mm(brain, mask.index(centroid_mm(mask)))
    if abs(offset_mm) < _MIDLINE_MM:
        return "midline"
    return "left" if offset_mm < 0 else "right"


def _right_of_midline_mm(brain: Volume, at: Floats) -> float:
    """Return how far a point (voxels) lies to the right of the plane through the middles of the brain's rows.

    The head may lie turned in the scanner, where middles lean less than the head: rows are turned by as much
    as their middles lean, until these run straight.
    """
    step = np.array(brain.spacing_mm)
    every = [max(1, int(_ROW_MM / mm)) for mm in step]
    points = np.argwhere(np.asarray(brain.array)[:: every[0], :: every[1], :: every[2]]) * (step * every)
    turn = _turn(_angle(points))
    plane = _middles(points @ turn)
    x, y, z = at * step @ turn
    return float((x - plane @ [1.0, y, z]) / np.linalg.norm([1.0, *plane[1:]]))


def _angle(points_mm: Floats) -> float:
    """Return by how much the rows of a brain are to be turned; 0 where it is hardly longer than wide, as in
    a part of a head: there nothing tells how it lies.
    """
    angle = 0.0
    for _ in range(_ROUNDS):
        angle += float(np.arctan(_middles(points_mm @ _turn(angle))[1]))
    width, length, _ = (points_mm @ _turn(angle)).std(axis=0)
    return angle if abs(angle) < _MOST_TURNED and length > _LONGER * width else 0.0


def _turn(angle: float) -> Floats:
    """Return the matrix that turns points (n, 3) within the axial plane."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])


def _middles(points_mm: Floats) -> Floats:
    """Fit a plane x = a + b y + c z to the middles of rows along x; return a, b and c."""
    x, y, z = points_mm.T
    at = np.round(np.stack([y, z]) / _ROW_MM).astype(int)
    at -= at.min(axis=1, keepdims=True)
    row = at[0] * (at[1].max() + 1) + at[1]
    counts = np.bincount(row)
    first, last = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
    np.minimum.at(first, row, x)
    np.maximum.at(last, row, x)
    wide = np.flatnonzero(last - first > 0.5 * (last - first).max())
    centre = [np.bincount(row, axis)[wide] / counts[wide] for axis in (y, z)]
    design = np.column_stack([np.ones(len(wide)), *centre])
    plane, *_ = np.linalg.lstsq(design, (first[wide] + last[wide]) / 2, rcond=None)
    return np.asarray(plane, np.float64)


def _grade(name: str, label: str, value: str | bool) -> Measure:
    return Measure(name=name, label=label, value=value, reason=BY_DEFINITION)


def _number(name: str, label: str, value: float, unit: str = "", *, digits: int = 1) -> Measure:
    return Measure(name=name, label=label, value=round(value, digits), unit=unit, reason=BY_DEFINITION)


def _shape(ich: Volume) -> tuple[Measure, ...]:
    value = sphericity(ich)
    irregular = f"Irregular shape (sphericity below {IRREGULAR_BELOW:g})"
    return (
        _number("abc2", "ABC/2, for comparison", abc2_ml(ich), "mL", digits=2),
        _number("sphericity", "Sphericity (1: a ball)", value, digits=3),
        _grade("irregular", irregular, value < IRREGULAR_BELOW),
    )


def _signs(hu: Volume, ich: Volume) -> tuple[Measure, ...]:
    signs: DensitySigns = density_signs(hu, ich)
    island_sign = f"Island sign ({ISLANDS} or more separate small clots)"
    return (
        _number("mean_density", "Mean density of the clot", signs.mean_hu, "[hnsf'U]"),
        _number("density_sd", "Standard deviation of its density", signs.sd_hu, "[hnsf'U]"),
        _sign("black_hole", "Black-hole sign", signs.black_hole),
        _sign("blend", "Blend sign", signs.blend),
        _sign("swirl", "Swirl sign", signs.swirl),
        _number("islands", "Separate small clots", float(signs.island_count)),
        _grade("island_sign", island_sign, signs.island_count >= ISLANDS),
    )


def _sign(name: str, label: str, value: bool | None) -> Measure:
    if value is not None:
        return _grade(name, label, value)
    reason = "the clot is too small to separate this sign from noise"
    return Measure(name=name, label=label, value=None, reason=reason)
