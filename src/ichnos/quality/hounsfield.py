"""Whether the values are Hounsfield units: air, brain and bone where they should be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ichnos.quality.levels import level_of
from ichnos.quality.view import HeadView
from ichnos.verdict import Level, Reason

AIR_HU_OFF = (50.0, 120.0)  # from -1000
BRAIN_PEAK_HU = ((18.0, 48.0), (5.0, 65.0))  # peak: pass within the first pair, refuse beyond the second
BONE_HU = (
    500.0,
    350.0,
)  # 95th percentile of what is denser than 250 HU: warn below the first, refuse below the second


def hounsfield_reasons(view: HeadView) -> Iterator[Reason]:
    """Judge air, brain and bone by their HU."""
    air = view.hu[view.air & (view.hu < -300) & (view.hu != -1000)]
    measured = len(air) > 200
    air_hu = float(np.median(air)) if measured else (-1000.0 if (view.hu == -1000).any() else float("nan"))
    text = (
        f"air measures {air_hu:.0f} HU"
        if not np.isnan(air_hu)
        else "there is no air in the picture to check HU against"
    )
    yield Reason("air_hu", level_of(abs(air_hu + 1000), AIR_HU_OFF), text, air_hu, "HU")
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
    yield from _facts_of_the_head(view)


def _facts_of_the_head(view: HeadView) -> Iterator[Reason]:
    """Note noise and the volume inside the skull: not judged here, watched over many scans by `audit`."""
    inside = view.inside[1:] & view.inside[:-1]
    differences = np.diff(view.hu, axis=0)[inside]
    noise_hu = 1.4826 / 2**0.5 * float(np.median(np.abs(differences))) if len(differences) else float("nan")
    if np.isnan(noise_hu):
        yield Reason("noise_hu", "warn", "there is no brain to measure noise in", noise_hu, "HU")
    else:
        yield Reason("noise_hu", "pass", f"neighbouring voxels differ by {noise_hu:.1f} HU", noise_hu, "HU")
    enclosed_ml = float(view.inside_cm2 @ view.slab_mm) / 10.0
    yield Reason("inside_ml", "pass", f"the skull encloses {enclosed_ml:.0f} mL", enclosed_ml, "mL")


def _brain_hu(view: HeadView) -> Reason:
    from scipy import ndimage

    values = view.hu[ndimage.binary_erosion(view.inside)]
    if len(values) < 500:
        return Reason("brain_hu", "refuse", "there is no brain to check HU against", float("nan"), "HU")
    counts, edges = np.histogram(values, bins=np.arange(-60, 151))
    peak = float(edges[ndimage.gaussian_filter1d(counts.astype(float), 2.0).argmax()] + 0.5)
    good, possible = BRAIN_PEAK_HU
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
