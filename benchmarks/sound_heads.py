"""How often the quality check refuses a sound head, and how often it misses a moved or a damaged one.

python benchmarks/sound_heads.py [--heads 500] [--seed 1]

Heads are made: an ellipsoid head or a blurred, average-like one, of any adult size, pose, tilt, slice step
and noise up to 25 HU, some with a headrest, teeth or an open skull. Each is judged as it is, and once more
with one slice moved by 15 to 30 mm. Prints one row per kind of head: judged, refused and warned of although
sound, with the check that did it, and moved slices that were not refused.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from run import table

KINDS = ("ellipsoids", "average-like", "headrest", "teeth", "open skull")
SHAPE, PIXEL_MM = (96, 96), 2.6


def field_of(kind: str, rng: np.random.Generator) -> Any:
    """Return HU as a function of RAS mm for a head of this kind."""
    from scipy.spatial.transform import Rotation

    from builders.head import head_hu

    noise = float(rng.uniform(2, 25))
    head = head_hu(noise_hu=0.0)
    scale = rng.normal(1.0, 0.05, 3).clip(0.88, 1.12)
    turn = Rotation.from_euler("xyz", rng.normal(0, 6, 3), degrees=True).as_matrix()
    shift = rng.normal(0, 5, 3)
    places = rng.normal(0, 2.5, (6, 3))

    def hu_at(mm: Any) -> Any:
        own = ((np.asarray(mm) - shift) @ turn) / scale
        hu = head(own) if kind != "average-like" else _blurred(head, own, places)
        x, y, z = own[..., 0], own[..., 1], own[..., 2]
        if kind == "headrest":
            hu = np.where((np.abs(np.hypot(x, y) - 122) < 4) & (y < -60), 150.0, hu)
        if kind == "teeth":
            spread = (np.hypot(x / 25, (y - 70) / 14) < 1) & (z < -38)
            hu = np.where(spread & (rng.random(x.shape) < 0.5), 2500.0, hu)
        if kind == "open skull":
            hu = np.where((x > 20) & (np.abs(y) < 35) & (np.abs(z) < 30) & (hu > 300), 40.0, hu)
        return hu + rng.normal(0, noise, hu.shape)

    return hu_at


def _blurred(head: Any, mm: Any, places: Any) -> Any:
    """Return the mean of several heads that lie a little apart, as an average template shows them."""
    return np.mean([head(mm + place) for place in places], axis=0)


def scan_of(kind: str, rng: np.random.Generator) -> Any:
    """Lay a head out as a scan with its source slices."""
    from builders.series import Quirks, affines_of, planes_of
    from ichnos.formats.dicom.geometry import layout_of
    from ichnos.scan import Scan, Source, SourceSlice
    from ichnos.volume import Volume

    step = float(rng.choice([2.5, 3.0, 4.0, 5.0, 6.0, 7.0]))
    tilt = float(rng.choice([0.0, rng.uniform(-20, 20)]))
    quirks = Quirks(shape=SHAPE, pixel_mm=PIXEL_MM, steps_mm=(step,) * int(160 / step), tilt_deg=tilt)
    affines = affines_of(quirks)
    layout = layout_of(affines, SHAPE)
    planes = np.stack([p.hu for p in planes_of(field_of(kind, rng), affines, SHAPE)]).astype(np.float32)
    slices = tuple(SourceSlice(Path(f"{k}"), k, str(k), a, SHAPE) for k, a in enumerate(affines))
    volume = Volume(layout.spread(planes, fill=-1000), layout.affine)
    return Scan(volume, source=Source(Path("made"), slices=slices)), layout, planes


def moved(scan: Any, layout: Any, planes: Any, rng: np.random.Generator) -> Any:
    """Return the scan with one slice at brain level moved sideways."""
    from dataclasses import replace

    from ichnos.volume import Volume

    shown = np.flatnonzero((planes > -300).mean(axis=(1, 2)) > 0.15)
    k = int(rng.choice(shown[len(shown) // 3 : -len(shown) // 4]))
    by = rng.uniform(15, 30, 2) * rng.choice([-1, 1], 2) / PIXEL_MM / np.sqrt(2)
    other = planes.copy()
    other[k] = np.roll(planes[k], np.round(by).astype(int), axis=(0, 1))
    return replace(scan, volume=Volume(layout.spread(other, fill=-1000), scan.volume.affine))


def main(heads: int = 100, seed: int = 1) -> list[dict[str, object]]:
    """Judge `heads` made heads, an equal number of each kind."""
    from ichnos.quality import judge

    rows = []
    for kind in KINDS:
        refused, warned, missed = Counter[str](), Counter[str](), 0
        sound = 0
        for n in range(heads // len(KINDS)):
            rng = np.random.default_rng([seed, KINDS.index(kind), n])
            scan, layout, planes = scan_of(kind, rng)
            verdict = judge(scan)
            sound += verdict.level != "refuse"
            refused.update(reason.name for reason in verdict.at("refuse"))
            warned.update(reason.name for reason in verdict.at("warn"))
            motion = [r for r in judge(moved(scan, layout, planes, rng)).reasons if r.name == "motion"]
            missed += motion[0].level != "refuse"
        count = heads // len(KINDS)
        rows.append(
            {
                "head": kind,
                "judged": count,
                "refused": count - sound,
                "refused by": ", ".join(f"{k} {v}" for k, v in refused.items()) or "none",
                "motion refused": refused["motion"],
                "moved and not refused": missed,
                "warned by": ", ".join(f"{k} {v}" for k, v in warned.items()) or "none",
            }
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(table(main(arguments.heads, arguments.seed)))
