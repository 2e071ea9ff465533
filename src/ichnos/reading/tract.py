"""The corticospinal tract and its injury, side by side."""

from __future__ import annotations

import numpy as np

from ichnos.clinical.injury import TractInjury, tract_injury
from ichnos.inference.coordinates import AtlasCoordinates
from ichnos.reading.masks import Masks
from ichnos.reading.measures.site import station_measure
from ichnos.reading.record import BY_DEFINITION, Finding, Measure, Status
from ichnos.volume import Volume, box_around, volume_ml

MIN_TRACT_ML = 2.0  # less than this on a side is no tract that could be graded
_OPPOSITE = {"left": "right", "right": "left"}


def read_tract(masks: Masks, *, coordinates: AtlasCoordinates | None = None) -> Finding:
    """Grade the injury of the left and the right tract; `coordinates` name the level of the injury."""
    sides = {"left": masks.tract_left, "right": masks.tract_right}
    small = [side for side, mask in sides.items() if volume_ml(mask) < MIN_TRACT_ML]
    if small:
        sentence = (
            f"The corticospinal tract could not be outlined on the {' and '.join(small)}; its injury is not"
            " graded."
        )
        return _finding("withheld", sentence)
    injuries = {side: _injury(mask, masks.ich, masks.phe) for side, mask in sides.items()}
    weak = Measure(
        name="weakness", label="Side of expected weakness", value=_weak_side(injuries), reason=BY_DEFINITION
    )
    measures = [weak]
    for side, injury in injuries.items():
        touched = masks.ich.with_array(masks.ich.array & sides[side].array)
        level = station_measure(coordinates, side, touched if touched.array.any() else None)
        measures += [*_measures(side, injury), level]
    return _finding("read", _sentence(injuries), tuple(measures))


def _finding(status: Status, sentence: str, measures: tuple[Measure, ...] = ()) -> Finding:
    names = ("tract_left", "tract_right")
    return Finding(target="tract", status=status, sentence=sentence, measures=measures, masks=names)


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
            reason=BY_DEFINITION,
        )

    return (
        Measure(
            name=f"injury_{side}", label=f"Tract injury, {side}", value=injury.grade, reason=BY_DEFINITION
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
    hit = _with_blood(injuries)
    grades = (
        f"{side} {injury.grade}"
        + (f" (serves the {_OPPOSITE[side]} side of the body)" if side in hit else "")
        for side, injury in injuries.items()
    )
    return f"Corticospinal tract: {', '.join(grades)}."


def _with_blood(injuries: dict[str, TractInjury]) -> list[str]:
    """Return the sides whose tract has blood in it."""
    bloody = ("haematoma infiltration", "complete interruption")
    return [side for side, injury in injuries.items() if injury.grade in bloody]


def _weak_side(injuries: dict[str, TractInjury]) -> str:
    """Return the side of the body opposite to a tract with blood in it."""
    return " and ".join(_OPPOSITE[side] for side in _with_blood(injuries)) or "none"
