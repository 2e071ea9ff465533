"""The corticospinal tract and its injury, side by side."""

from __future__ import annotations

import numpy as np

from ichnos.clinical.injury import TractInjury, tract_injury
from ichnos.inference.coordinates import AtlasCoordinates
from ichnos.reading.masks import Masks
from ichnos.reading.record import Finding, Measure
from ichnos.reading.site import station_measure
from ichnos.volume import Volume, box_around, volume_ml

MIN_TRACT_ML = 2.0  # less than this on a side is a tract that was not found, not a tract without injury
_NO_INTERVAL = "defined by the masks; it has no interval of its own"
_OPPOSITE = {"left": "right", "right": "left"}


def read_tract(masks: Masks, *, coordinates: AtlasCoordinates | None = None) -> Finding:
    """Grade the injury of the left and the right tract; `coordinates` names the level, where the network says
    where in the atlas it is.
    """
    names = ("tract_left", "tract_right")
    sides = {"left": masks.tract_left, "right": masks.tract_right}
    small = [side for side, mask in sides.items() if volume_ml(mask) < MIN_TRACT_ML]
    if small:
        sentence = (
            f"The corticospinal tract could not be found on the {' and '.join(small)}; its injury cannot be"
            " graded."
        )
        return Finding(target="tract", status="could not look", sentence=sentence, masks=names)
    injuries = {side: _injury(mask, masks.ich, masks.phe) for side, mask in sides.items()}
    touched = {side: masks.ich.with_array(masks.ich.array & mask.array) for side, mask in sides.items()}
    levels = {
        side: station_measure(coordinates, side, mask if mask.array.any() else None)
        for side, mask in touched.items()
    }
    weakness = Measure(
        name="weakness", label="Side of expected weakness", value=_weak_side(injuries), reason=_NO_INTERVAL
    )
    measures = (
        weakness,
        *(m for side, injury in injuries.items() for m in (*_measures(side, injury), levels[side])),
    )
    return Finding(
        target="tract", status="read", sentence=_sentence(injuries), measures=measures, masks=names
    )


def _injury(tract: Volume, ich: Volume, phe: Volume) -> TractInjury:
    box = box_around(tract)
    near = tract.cropped(box)
    heights = np.column_stack([np.zeros(near.shape[2]), np.zeros(near.shape[2]), np.arange(near.shape[2])])
    blood, oedema = (mask.cropped(box).array.astype(np.float32) for mask in (ich, phe))
    return tract_injury(
        near.array.astype(np.float32), blood, oedema, z_mm=near.world(heights)[:, 2], voxel_ml=near.voxel_ml
    )


def _measures(side: str, injury: TractInjury) -> tuple[Measure, ...]:
    def number(name: str, label: str, value: float, unit: str) -> Measure:
        return Measure(
            name=f"{name}_{side}",
            label=f"{label}, {side}",
            value=round(value, 3),
            unit=unit,
            reason=_NO_INTERVAL,
        )

    return (
        Measure(
            name=f"injury_{side}", label=f"Tract injury, {side}", value=injury.grade, reason=_NO_INTERVAL
        ),
        number("largest_loss", "Largest share of its cross-section in blood", 100 * injury.largest_loss, "%"),
        number("blood_load", "Tract in blood", injury.blood_load_ml, "mL"),
        number(
            "weighted_blood_load",
            "Tract in blood, weighted by cross-section",
            injury.weighted_blood_load_ml,
            "mL",
        ),
        number("oedema_load", "Tract in oedema", injury.oedema_load_ml, "mL"),
    )


def _sentence(injuries: dict[str, TractInjury]) -> str:
    grades = "; ".join(f"{side} {injury.grade}" for side, injury in injuries.items())
    if (weak := _weak_side(injuries)) == "none":
        return f"Corticospinal tract: {grades}."
    return f"Corticospinal tract: {grades}. Weakness would be expected on the {weak} side of the body."


def _weak_side(injuries: dict[str, TractInjury]) -> str:
    """Return the side of the body opposite to a tract with blood in it."""
    hit = [
        side
        for side, injury in injuries.items()
        if injury.grade in ("haematoma infiltration", "complete interruption")
    ]
    return " and ".join(_OPPOSITE[side] for side in hit) or "none"
