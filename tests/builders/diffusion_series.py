"""A diffusion series in DICOM with its gradients in the standard's attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread

from builders.series import Quirks, ball, build_series

_SIX = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, -1], [0, 1, 1]], float)
SIX_DIRECTIONS = _SIX / np.linalg.norm(_SIX, axis=1, keepdims=True)  # (6, 3), in LPS
B_VALUE = 1000.0  # s/mm2


def inside_of(volume: int) -> int:
    """Return the value inside the ball of a volume, which says which volume it is."""
    return 200 - volume


def build_diffusion(
    folder: Path,
    directions: Sequence[np.ndarray] = tuple(SIX_DIRECTIONS),
    *,
    description: str = "ep2d_diff_DTI",
    manufacturer: str = "SIEMENS",
    header: Mapping[str, object] | None = None,
) -> None:
    """Write an unweighted volume, then one per direction, each an acquisition of the same series."""
    for volume, direction in enumerate([None, *directions]):
        own = {
            "intercept": 0.0,
            "description": description,
            "study_seed": "diffusion",
            "seed": f"{description} {volume}",
            "manufacturer": manufacturer,
        }
        tags = {
            "Modality": "MR",
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",  # MR Image Storage
            "SeriesInstanceUID": f"1.2.3.{sum(map(ord, description))}",
            "AcquisitionNumber": volume + 1,
            "DiffusionBValue": B_VALUE if direction is not None else 0.0,
        }
        if direction is not None:
            tags["DiffusionGradientOrientation"] = [float(part) for part in direction]
        quirks = Quirks(
            steps_mm=(5.0,) * 5, shape=(32, 32), pixel_mm=3.0, header={**own, **(header or {})}, tags=tags
        )
        values = ball(30, inside_hu=float(inside_of(volume)), outside_hu=0.0)
        for file in build_series(values, folder / f"{volume:02d}", quirks):
            data = dcmread(file)
            data.InstanceNumber += 100 * volume  # as a scanner counts: on through the whole series
            data.save_as(file)
