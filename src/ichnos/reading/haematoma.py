"""Haematoma: millilitres per compartment, side, shape and the density signs that go with growth."""

from __future__ import annotations

import numpy as np

from ichnos.inference import Prediction
from ichnos.inference.coordinates import AtlasCoordinates
from ichnos.reading.blood import DensitySigns, abc2_ml, density_signs, sphericity
from ichnos.reading.masks import MIN_BLOOD_ML, Masks
from ichnos.reading.record import Finding, Measure
from ichnos.reading.site import midline_measure, site_measure
from ichnos.reading.volumes import volume_measure
from ichnos.targets import targets_in
from ichnos.volume import Volume, centroid_mm

_DEFINITION = "defined by the mask; it has no interval of its own"
IRREGULAR_BELOW = 0.55  # our own limit, not a published one
# Li 2017: at least three small clots apart from the main one (or four joined to it, which are not counted
# here)
ISLANDS = 3
_MIDLINE_MM = 5.0  # a clot whose centre is nearer to the midline than this has no side


def read_haematoma(
    prediction: Prediction, masks: Masks, hu: Volume, *, coordinates: AtlasCoordinates | None = None
) -> Finding:
    """Measure the blood of a scan; `hu` in RAS on the masks' grid, `coordinates` for its site."""
    labels = {target.name: target.label for target in targets_in("haematoma")}
    volumes = tuple(_volume(prediction, masks, name, label) for name, label in labels.items())
    names = tuple(name for name in labels if name in masks.known)
    said = ", ".join(_said(m) for m in volumes if isinstance(m.value, float))
    if not masks.ich.array.any() and not masks.ivh.array.any():
        searched = "intracerebral or intraventricular" if "IVH" in masks.known else "intracerebral"
        sentence = f"The brain was searched and no {searched} blood of {MIN_BLOOD_ML:g} mL or more was found."
        return Finding(
            target="haematoma", status="none found", sentence=sentence, measures=volumes, masks=names
        )
    if not masks.ich.array.any():
        sentence = f"Blood was found in the ventricles alone: {said}."
        return Finding(
            target="haematoma",
            status="read",
            sentence=sentence,
            measures=(*volumes, midline_measure(coordinates)),
            masks=names,
        )
    side, site = _side(masks), site_measure(coordinates, masks.ich)
    where = ", ".join(str(m.value) for m in (side, site) if m.value is not None) or "side not known"
    measures = (
        *volumes,
        side,
        site,
        midline_measure(coordinates),
        *_shape(masks.ich),
        *_signs(hu, masks.ich),
    )
    return Finding(
        target="haematoma",
        status="read",
        sentence=f"Blood was found ({where}): {said}.",
        measures=measures,
        masks=names,
    )


def _said(volume: Measure) -> str:
    word = {"ich_volume": "ICH", "ivh_volume": "ventricular blood", "phe_volume": "oedema"}[volume.name]
    return f"{word} {volume.value:.1f} mL" if volume.value else f"no {word}"


def _volume(prediction: Prediction, masks: Masks, name: str, label: str) -> Measure:
    if name not in masks.known:
        return Measure(
            name=f"{name.lower()}_volume",
            label=label,
            value=None,
            unit="mL",
            reason="this model does not draw it",
        )
    return volume_measure(prediction, name, masks.named()[name], label)


def _side(masks: Masks) -> Measure:
    if "brain" not in masks.known:
        return Measure(
            name="side",
            label="Side",
            value=None,
            reason="this model draws no brain, so its midline is not known",
        )
    return _grade("side", "Side", side_of(masks.ich, masks.brain))


def side_of(mask: Volume, brain: Volume) -> str:
    """Return "left", "right" or "midline": the clot's centre against the brain's midline at its height; both
    masks RAS on one grid.

    >>> from ichnos.volume import sphere
    >>> brain = sphere(radius_mm=60, spacing_mm=2.0)
    >>> clot = brain.map_array(lambda a: a & (np.arange(a.shape[0])[:, None, None] < 20))
    >>> side_of(clot, brain)
    'left'
    """
    centre = mask.index(centroid_mm(mask))
    middle = _midline_x(brain, centre)
    offset_mm = (centre[0] - middle) * brain.spacing_mm[0]
    if abs(offset_mm) < _MIDLINE_MM:
        return "midline"
    return "left" if offset_mm < 0 else "right"


def _midline_x(brain: Volume, at: np.ndarray) -> float:
    """Fit a plane x = a + b y + c z to the middles of the brain's rows, and return its x beside a point
    (voxels).
    """
    filled = np.asarray(brain.array).astype(bool)
    width = filled.sum(axis=0)
    y, z = np.nonzero(width > 0.5 * width.max())
    first = filled[:, y, z].argmax(axis=0)
    last = filled.shape[0] - 1 - filled[::-1, y, z].argmax(axis=0)
    design = np.column_stack([np.ones(len(y)), y, z])
    plane, *_ = np.linalg.lstsq(design, (first + last) / 2, rcond=None)
    return float(plane @ [1.0, at[1], at[2]])


def _grade(name: str, label: str, value: str | bool) -> Measure:
    return Measure(name=name, label=label, value=value, reason=_DEFINITION)


def _shape(ich: Volume) -> tuple[Measure, ...]:
    round_ = sphericity(ich)
    return (
        Measure(
            name="abc2",
            label="ABC/2, for comparison",
            value=round(abc2_ml(ich), 2),
            unit="mL",
            reason=_DEFINITION,
        ),
        Measure(
            name="sphericity", label="Sphericity (1: a ball)", value=round(round_, 3), reason=_DEFINITION
        ),
        _grade(
            "irregular", f"Irregular shape (sphericity below {IRREGULAR_BELOW:g})", round_ < IRREGULAR_BELOW
        ),
    )


def _signs(hu: Volume, ich: Volume) -> tuple[Measure, ...]:
    signs: DensitySigns = density_signs(hu, ich)
    density = (
        Measure(
            name="mean_density",
            label="Mean density of the clot",
            value=round(signs.mean_hu, 1),
            unit="[hnsf'U]",
            reason=_DEFINITION,
        ),
        Measure(
            name="density_sd",
            label="Spread of its density",
            value=round(signs.sd_hu, 1),
            unit="[hnsf'U]",
            reason=_DEFINITION,
        ),
    )
    named = [
        ("black_hole", "Black-hole sign", signs.black_hole),
        ("blend", "Blend sign", signs.blend),
        ("swirl", "Swirl sign", signs.swirl),
    ]
    too_small = "the clot is too small for this sign to be told from noise"
    graded = tuple(
        _grade(name, label, value)
        if value is not None
        else Measure(name=name, label=label, value=None, reason=too_small)
        for name, label, value in named
    )
    islands = Measure(
        name="islands", label="Separate small clots", value=float(signs.island_count), reason=_DEFINITION
    )
    sign = _grade(
        "island_sign", f"Island sign ({ISLANDS} or more separate small clots)", signs.island_count >= ISLANDS
    )
    return (*density, *graded, islands, sign)
