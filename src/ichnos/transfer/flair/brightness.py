"""What tissues look like in one FLAIR exam once its receive field is evened out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from ichnos.arrays import Array
from ichnos.errors import InputRefused
from ichnos.transfer.flair.template_maps import TemplateMaps
from ichnos.volume import Volume

# a voxel and its four neighbours in the slice
IN_PLANE = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])


@dataclass(frozen=True)
class Brightness:
    """What tissues look like in one exam, in units of normal-appearing white matter above the darkest
    fluid.
    """

    white_spread: float  # standard deviation of normal-appearing white matter, noise and structure
    cortex: float  # typical cortex, 1.1…1.4
    lesion: float  # typical hyperintensity; an assumption where too little is seen
    threshold: float  # of a lesion's edge: first half-way from white matter, then by `volume_cut`


def even_brightness(flair: Volume, maps: TemplateMaps) -> Array:
    """Divide out the receive field and the scale: the darkest becomes 0 and normal-appearing white matter
    1.
    """
    array = flair.array - float(np.percentile(flair.array, 0.5))
    inside = (maps.brain > 0.5) & (array > 0)
    if np.count_nonzero(inside) * flair.voxel_ml < 200:
        raise InputRefused(
            "the MNI template and the FLAIR exam do not overlap: the exam may not show a head, or its"
            " position is damaged"
        )
    array = array / float(np.median(array[inside]))
    array = array / _receive_field(flair.with_array(array), maps)
    return np.asarray(array / white_peak(array[(maps.white > 0.7) & inside]), np.float32)


# Width of the smoothing in mm, and how far brightness may lie from the field and still count: ever narrower.
_FIELD_STEPS = (
    (40.0, 1.0),
    (30.0, 0.7),
    (25.0, 0.5),
    (20.0, 0.35),
    (18.0, 0.25),
    (16.0, 0.2),
    (16.0, 0.15),
)


def _receive_field(flair: Volume, maps: TemplateMaps) -> Array:
    """Estimate the smooth factor that the coil puts on the image, from what the template expects in each
    place.

    On voxels of 4 mm, the difference of the logarithms of seen and expected brightness is averaged over ever
    smaller distances; fluid, lesions and misplaced cortex differ too much from their surroundings and lose
    their weight.
    """
    grid = flair.grid_with_spacing([max(4.0, s) for s in flair.spacing_mm])
    seen, white, cortex = (
        flair.with_array(a).on_grid(grid).array for a in (flair.array, maps.white, maps.cortex)
    )
    tissue = np.clip(white + cortex, 0, 1)
    use = (tissue > 0.5) & (seen > 0.3)
    log = np.where(use, np.log(np.maximum(seen, 0.1)) - np.log1p(0.15 * cortex / np.maximum(tissue, 0.1)), 0)
    field = np.full(grid.shape, float(np.median(log[use])) if use.any() else 0.0)
    for width_mm, trust in _FIELD_STEPS:
        left = log - field
        weight = use / (1 + (left / np.where(left > 0, trust, 1.5 * trust)) ** 2) ** 2
        blurred = partial(ndimage.gaussian_filter, sigma=[width_mm / s for s in grid.spacing_mm])
        field = field + blurred(weight * left) / (blurred(weight) + 1e-3)
    smooth = Volume(field.astype(np.float32), grid.affine).on_grid(flair, fill=0.0)
    return np.asarray(np.exp(smooth.array), np.float32)


def white_peak(values: Array) -> float:
    """Return the mode of normal-appearing white matter: the fullest narrow window, so that lesions and cortex
    do not pull it up.

    >>> rng = np.random.default_rng(0)
    >>> mixed = np.concatenate([rng.normal(1.0, 0.05, 7000), rng.normal(1.7, 0.1, 3000)])
    >>> abs(white_peak(mixed) - 1.0) < 0.02
    True
    """
    values = values[(values > 0.3 * np.median(values)) & (values < 2.5 * np.median(values))]
    counts, edges = np.histogram(values, bins=200)
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 4)
    at = int(smooth.argmax())
    return float((edges[at] + edges[at + 1]) / 2)


def learned_brightness(even: Array, maps: TemplateMaps) -> tuple[Brightness, Array]:
    """Learn the brightness of tissues; return it with the first candidates."""
    white = even[(maps.white > 0.7) & (maps.depth_mm > 6)]
    below = white[(white < 1.0) & (white > 0.6)]
    spread = float(np.clip(1.4826 * np.median(1.0 - below), 0.02, 0.2)) if below.size > 100 else 0.1
    ribbon = even[(maps.cortex > 0.6) & (even > 0.7) & (even < 1.6)]
    cortex, brightest = (
        (float(v) for v in np.percentile(ribbon, (50, 90))) if ribbon.size > 100 else (1.15, 1.25)
    )
    floor = max(1 + 3 * spread, brightest + spread, 1.2)
    zone = (maps.white > 0.35) & (maps.cerebrum > 0.5) & (maps.depth_mm > 8) & (maps.nuclei < 0.5)
    candidates = zone & (even > floor)
    core = ndimage.binary_erosion(candidates, IN_PLANE)
    seen = even[core] if np.count_nonzero(core) > 30 else even[candidates]
    lesion = float(np.percentile(seen, 60)) if seen.size > 30 else 1.6
    lesion = float(np.clip(lesion, floor + 0.1, 3.0))
    threshold = max(floor, (1 + lesion) / 2)
    return Brightness(spread, cortex, lesion, threshold), candidates
