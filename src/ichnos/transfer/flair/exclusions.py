"""What is bright on FLAIR for another reason than white-matter disease, and is left out."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ichnos.arrays import Array
from ichnos.registration.transform import Transform
from ichnos.transfer.flair.brightness import IN_PLANE, Brightness
from ichnos.transfer.flair.template_maps import TemplateMaps
from ichnos.volume import Affine, Volume

SURFACE_MM, SURFACE_SHARE, SURFACE_ML = (
    8.0,
    0.25,
    1.0,
)  # a bright part this large, with this share so near the surface, is an infarct
ONE_SIDED_ML = 4.0  # a lesion part this large without a partner in the other hemisphere is no leukoaraiosis
EDGE_MM, RIM_MM = (
    1.0,
    4.0,
)  # from what the caller excludes: its border is that uncertain; bright parts within the rim are its edge
RIM_SHARE = 0.7  # a part with more than this of itself in the rim is nothing but rim
PARTNER_MM = 8.0  # how far about the mirrored place the partner may lie
PARTNER_SHARE = 0.1  # how much of the part it must make up at least


def in_white_matter(
    even: Array, candidates: Array, brightness: Brightness, maps: TemplateMaps, grid: Volume
) -> tuple[Array, Array]:
    """Grow candidates to their edge, and drop parts that lie in cortex, septum, ventricles or are single
    noisy voxels.
    """
    bright = (even > brightness.threshold) & (maps.cerebrum > 0.5) & (maps.brain > 0.5)
    allowed = (maps.white > 0.2) & (maps.depth_mm > 4) & (maps.nuclei < 0.6)
    septum = (maps.midline_mm < 4) & (ndimage.gaussian_filter(maps.ventricle, 2) > 0.1)
    allowed &= ~septum & ~_inside_fluid(even)
    labels, count = ndimage.label(bright & allowed)
    if count == 0:
        return np.zeros_like(bright), bright
    index = np.arange(1, count + 1)
    size_ml = np.bincount(labels.ravel())[1:] * grid.voxel_ml
    white = ndimage.mean(maps.white, labels, index)
    cortex = ndimage.mean((maps.cortex > 0.4) & (maps.depth_mm < 12), labels, index)
    seeded = ndimage.maximum(candidates, labels, index) > 0
    good = (white > 0.35) & (cortex < 0.5) & seeded & (size_ml > 0.01)
    kept = np.concatenate([[False], good])[labels]
    return kept, bright & ~kept


def reaching_surface(bright: Array, maps: TemplateMaps, grid: Volume) -> Array:
    """Return bright parts of SURFACE_ML or more, a good share of which is near the brain's surface:
    infarcts, no white-matter disease.
    """
    core = ndimage.binary_opening(bright & (maps.cerebrum > 0.5) & (maps.brain > 0.5), IN_PLANE)
    labels, count = ndimage.label(core)
    if count == 0:
        return np.zeros_like(bright)
    superficial = ndimage.mean(maps.depth_mm < SURFACE_MM, labels, np.arange(1, count + 1))
    size_ml = np.bincount(labels.ravel())[1:] * grid.voxel_ml
    infarct = np.concatenate([[False], (superficial > SURFACE_SHARE) & (size_ml > SURFACE_ML)])
    return np.asarray(ndimage.binary_dilation(infarct[labels], IN_PLANE, iterations=2))


def _inside_fluid(even: Array) -> Array:
    """Return bright islands that dark fluid surrounds: plexus, and flow in the third and fourth ventricle."""
    fluid = even < 0.55
    closed = np.zeros_like(fluid)
    for z in range(fluid.shape[2]):
        closed[:, :, z] = ndimage.binary_fill_holes(fluid[:, :, z])
    holes, count = ndimage.label(closed & ~fluid)
    sizes = np.bincount(holes.ravel())
    small = sizes < 0.02 * np.prod(fluid.shape[:2])
    small[0] = False
    return np.asarray(small[holes]) if count else closed & ~fluid


def without_excluded(
    kept: Array, excluded: Array, grid: Volume, flair_from_mni: Transform, *, partners: Array
) -> tuple[Array, Array]:
    """Remove what the caller excludes with its rim, and large parts without a partner in the other
    hemisphere.
    """
    dropped = kept & ~_beyond(excluded, kept, grid)
    kept = kept & ~dropped
    lonely = _without_partner(kept, kept | partners, grid, flair_from_mni)
    return kept & ~lonely, dropped | lonely


def _beyond(excluded: Array, kept: Array, grid: Volume) -> Array:
    """Return what lies beyond an excluded region, its uncertain border, and the bright rim that is nothing
    but its edge.

    A lesion that runs into the region is cut there and stays: only parts that hardly reach further than the
    rim go.
    """
    if not excluded.any():
        return kept
    distance = ndimage.distance_transform_edt(~excluded, sampling=grid.spacing_mm)
    left = kept & (distance > EDGE_MM)
    rim = distance <= RIM_MM
    labels, count = ndimage.label((left & ~rim) | ndimage.binary_opening(left, IN_PLANE))
    in_rim = np.bincount(labels[rim], minlength=count + 1) / np.maximum(
        np.bincount(labels.ravel(), minlength=count + 1), 1
    )
    lasting = in_rim <= RIM_SHARE
    lasting[0] = False
    return np.asarray(lasting[labels])


def _without_partner(kept: Array, partners: Array, grid: Volume, flair_from_mni: Transform) -> Array:
    """Return parts with more than ONE_SIDED_ML around whose mirror image there is little that is bright,
    be it dimly.
    """
    if not kept.any():
        return kept
    mirror = Transform.of(Affine(np.diag([-1.0, 1.0, 1.0, 1.0])))
    across = flair_from_mni @ mirror @ ~flair_from_mni
    sigma = [PARTNER_MM / s for s in grid.spacing_mm]
    own = ndimage.gaussian_filter(kept.astype(np.float32), sigma)
    other = ndimage.gaussian_filter(
        across.pull(grid.with_array(partners.astype(np.float32)), grid).array, sigma
    )
    labels, count = ndimage.label(kept & (other < 3 * PARTNER_SHARE * own))
    surely_ml = np.bincount(labels[other < PARTNER_SHARE * own], minlength=count + 1) * grid.voxel_ml
    large = surely_ml > ONE_SIDED_ML
    large[0] = False
    return np.asarray(large[labels])
