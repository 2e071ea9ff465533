"""A made head and a rule instead of a network, so that every number of a reading has a known answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ichnos.inference import Predictor
from ichnos.models import Manifest, Model, NetworkSpec, Preprocessing, Provenance, TargetSpec
from ichnos.reading import Reading, read_scan
from ichnos.scan import Scan
from ichnos.verdict import Verdict
from ichnos.volume import Volume

TARGETS = ("brain", "ventricles", "ICH", "IVH", "PHE", "leukoaraiosis", "tract_left", "tract_right")


def model() -> Model:
    manifest = Manifest(
        name="rule",
        version="1",
        limits=("A rule, not a network.",),
        network=NetworkSpec(name="unet"),
        preprocessing=Preprocessing(spacing_mm=(2, 2, 2), windows_hu=((-1000, 1000),), patch=(48, 48, 48)),
        targets=tuple(TargetSpec(name=name) for name in TARGETS),
        provenance=Provenance(
            code_version="0",
            command="none",
            seeds=(0,),
            steps=0,
            data={},
            hardware="none",
            trained="2026-01-01",
        ),
    )
    return Model(Path("nowhere"), manifest)


def rule(tile: np.ndarray) -> np.ndarray:
    """Call voxels by their HU alone, each tissue of the made head having its own."""
    hu = (tile[:, 0] + 1) * 1000 - 1000
    bands = {
        "ventricles": (5, 12),
        "leukoaraiosis": (18, 22),
        "PHE": (23, 27),
        "tract_left": (32, 35),
        "tract_right": (36, 39),
        "ICH": (50, 80),
    }
    steep = [8 * (1 - np.abs(hu - (low + high) / 2) / ((high - low) / 2)) for low, high in bands.values()]
    by_name = dict(zip(bands, steep, strict=True))
    by_name["brain"] = np.where((hu > 0) & (hu < 100), 8.0, -8.0)
    # goes on under the clot
    by_name["tract_left"] = np.maximum(by_name["tract_left"], 8 * (1 - np.abs(hu - 57)))
    by_name["IVH"] = np.full_like(hu, -8)
    return np.stack([by_name[name].clip(-8, 8) for name in TARGETS], axis=1).astype(np.float32)


def head(*, clot: bool = True, orientation: str = "RAS") -> Scan:
    """Make a brain of 30 HU with ventricles, a tract on each side, white-matter disease, and a clot with
    oedema through the left tract.
    """
    shape, spacing = (100, 100, 60), np.array([2.0, 2.0, 2.0])
    x, y, z = (np.indices(shape) - np.array(shape)[:, None, None, None] / 2 + 0.5) * spacing[
        :, None, None, None
    ]
    hu = np.full(shape, -1000.0)
    radius = np.sqrt((x / 80) ** 2 + (y / 90) ** 2 + (z / 55) ** 2)
    hu[radius < 1] = 1200
    hu[radius < 0.92] = 29.5
    hu[np.abs(x) + np.abs(y) < 20] = np.where((np.abs(z) < 12) & (radius < 0.9), 8.5, hu)[
        np.abs(x) + np.abs(y) < 20
    ]
    hu[(np.abs(x + 34) < 7) & (np.abs(y) < 7) & (np.abs(z) < 40)] = 33.5
    hu[(np.abs(x - 34) < 7) & (np.abs(y) < 7) & (np.abs(z) < 40)] = 37.5
    hu[(np.abs(x - 10) < 6) & (np.abs(y - 40) < 6) & (np.abs(z) < 8)] = 20
    if clot:
        hu[(x + 34) ** 2 + y**2 + z**2 < 19**2] = 25
        hu[(x + 34) ** 2 + y**2 + z**2 < 14**2] = 67
        hu[(hu == 67) & (np.abs(x + 34) < 7) & (np.abs(y) < 7)] = 57
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
    return Scan(Volume(hu.astype(np.float32), affine).reoriented(orientation), quality=Verdict())


def reading(**options: object) -> Reading:
    return read_scan(head(**options), Predictor(model(), backend=rule), name="made")  # type: ignore[arg-type]
