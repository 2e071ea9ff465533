"""The scan's own density corrects masks: borders that coarse voxels blur, and what cannot be blood or oedema.

A network of 3 mm voxels includes rims of neighbouring tissue and loses what is thin; the scan is finer. Of
the masks of a refinement only blood is still corrected.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichnos.volume import Volume, box_around

_LEAST_ML = 0.1  # no density is estimated from less than this
# Mean of a clot above the median of the brain: below it there is no fresh blood.
ICH_ABOVE_BRAIN_HU, IVH_ABOVE_BRAIN_HU = 6.0, 0.0
CALCIUM_HU = 100.0  # the mean of a clot stays below it
POSSIBLE_BLOOD = 0.1  # probability of blood below which a dense voxel is none
CLOT_SHARE = 0.4  # of the way from the density around a clot to that of the clot: its border
_TISSUE_HU = 15.0  # tissue, swollen or not, is within this of the median of the brain
_AROUND_MM = (3.0, 9.0)  # shell around a sure clot whose density its border fades into
# Leukoaraiosis lies between these below the brain's median: white matter made some 10 HU darker, no fluid.
LA_BELOW_BRAIN_HU, FLUID_BELOW_BRAIN_HU = 8.0, 20.0
PHE_BELOW_BRAIN_HU = 1.5  # oedema is darker than the rest of the brain by this at least
_LA_SMOOTHING_MM = (1.0, 1.0, 0.7)  # of the scan, before its darkness is judged
_FLUID_SHARE = 0.45  # of a voxel in a ventricle, at least; the rest is brain
_DEEP_MM = 1.5  # from the edge of a ventricle there is nothing but fluid
_RIM_MM = 1.4  # dark matter that reaches less far in plane is a rim, half fluid and half brain
_SULCI_MM = 12.0  # from the surface of the brain, sulci reach no deeper
_SMOOTHING_MM = 0.7  # of the scan, before its density is judged
_PHE_SMOOTHING_MM = 1.5


def without_sulci(brain: Volume, ventricles: Volume, smooth: Volume, blood: npt.NDArray[np.bool_]) -> Volume:
    """Remove the fluid of the sulci from the outer brain; all in RAS on one grid."""
    fluid = np.asarray(ventricles.array) & ~blood
    tissue = np.asarray(brain.array) & ~fluid & ~blood
    if not tissue.any():
        return brain
    tissue_hu = float(np.median(smooth.array[tissue]))
    seen_hu = smooth.array[fluid & (smooth.array < tissue_hu - LA_BELOW_BRAIN_HU)]
    fluid_hu = (
        float(np.median(seen_hu))
        if seen_hu.size * smooth.voxel_ml > _LEAST_ML
        else tissue_hu - FLUID_BELOW_BRAIN_HU
    )
    dark = tissue & (smooth.array < tissue_hu - _FLUID_SHARE * (tissue_hu - fluid_hu))
    outer = near(brain.map_array(lambda a: ~(a | ventricles.array)), _SULCI_MM)
    return brain.map_array(lambda a: a & ~(dark & outer))


def smoothed(hu: Volume) -> Volume:
    """Return a scan with most of its noise smoothed away (Gaussian, 0.7 mm)."""
    return hu.with_array(
        ndimage.gaussian_filter(
            np.asarray(hu.array, np.float32), [_SMOOTHING_MM / step for step in hu.spacing_mm]
        )
    )


def where_dark(mask: Volume, hu: Volume, brain: Volume, ventricles: Volume) -> Volume:
    """Keep of leukoaraiosis what is darker than brain but no fluid, nor a rim of it; all RAS, one grid."""
    inside = np.asarray(brain.array) | np.asarray(ventricles.array)
    if not mask.array.any() or not brain.array.any():
        return mask
    brain_hu = float(np.median(np.asarray(hu.array)[np.asarray(brain.array)]))
    sigma = [smoothing / step for smoothing, step in zip(_LA_SMOOTHING_MM, hu.spacing_mm, strict=True)]
    smooth = ndimage.gaussian_filter(np.where(inside, np.asarray(hu.array, np.float32), brain_hu), sigma)
    dark = (smooth < brain_hu - LA_BELOW_BRAIN_HU) & (smooth > brain_hu - FLUID_BELOW_BRAIN_HU)
    reach = [max(1, round(_RIM_MM / step)) for step in hu.spacing_mm[:2]]
    size = (2 * reach[0] + 1, 2 * reach[1] + 1, 1)
    return mask.map_array(lambda a: ndimage.grey_opening((a & dark).astype(np.uint8), size=size) > 0)


def darker_than_brain(oedema: Volume, hu: Volume, brain: Volume, blood: npt.NDArray[np.bool_]) -> Volume:
    """Keep of oedema what is darker than brain; smoothing leaves out blood and its bright border."""
    if not oedema.array.any() or not brain.array.any():
        return oedema
    box = box_around(oedema, margin_mm=4 * _PHE_SMOOTHING_MM)
    inside = np.asarray(brain.array) & ~ndimage.binary_dilation(blood)
    if not inside.any():
        return oedema
    brain_hu = float(np.median(np.asarray(hu.array)[inside]))
    weight = inside[box.slices].astype(np.float32)
    sigma = [_PHE_SMOOTHING_MM / step for step in hu.spacing_mm]
    below = ndimage.gaussian_filter((np.asarray(hu.array, np.float32)[box.slices] - brain_hu) * weight, sigma)
    share = ndimage.gaussian_filter(weight, sigma)
    dark = (below < -PHE_BELOW_BRAIN_HU * share) & (share > 1e-3)
    part = oedema.cropped(box)
    return oedema.with_array(np.zeros(oedema.shape, bool)).pasted(
        part.with_array(np.asarray(part.array) & dark)
    )


def mostly_fluid(ventricles: Volume, smooth: Volume, brain: Volume, blood: npt.NDArray[np.bool_]) -> Volume:
    """Remove from ventricles what has the density of brain; all in RAS on one grid."""
    deep = np.asarray(ventricles.array) & ~near(ventricles.map_array(lambda a: ~a), _DEEP_MM) & ~blood
    tissue = np.asarray(brain.array) & ~np.asarray(ventricles.array) & ~blood
    if np.count_nonzero(deep) * smooth.voxel_ml < _LEAST_ML or not tissue.any():
        return ventricles
    fluid_hu, tissue_hu = (float(np.median(smooth.array[where])) for where in (deep, tissue))
    like_brain = (smooth.array > tissue_hu - _FLUID_SHARE * (tissue_hu - fluid_hu)) & (
        smooth.array < tissue_hu + ICH_ABOVE_BRAIN_HU
    )
    return ventricles.map_array(lambda a: a & ~like_brain)


def hu_of_brain(hu: Volume, brain: Volume, sure: npt.NDArray[np.bool_]) -> float:
    """Return the median HU of the brain outside sure blood; 33 HU, a usual value, without any.

    >>> nothing = Volume(np.zeros((2, 2, 2), bool), np.eye(4))
    >>> hu_of_brain(nothing, nothing, nothing.array)
    33.0
    """
    around = np.asarray(hu.array)[np.asarray(brain.array) & ~sure]
    return float(np.median(around)) if around.size else 33.0


def grown_by_density(
    sure: Volume, probability: npt.NDArray[np.float32], hu: Volume, brain_hu: float
) -> npt.NDArray[np.bool_]:
    """Return sure blood that is dense, and what is dense, possible and connected to it; all on one grid.

    The network's voxels are coarse: a rim of brain or fluid around sure blood is removed, a dark part inside
    a clot is kept. A clot that is no denser than brain stays as it is.
    """
    smooth = ndimage.gaussian_filter(
        np.asarray(hu.array, np.float32), [_SMOOTHING_MM / step for step in hu.spacing_mm]
    )
    # The upper quartile: around a small clot half of what is sure may be rim.
    clot_hu = float(np.quantile(smooth[np.asarray(sure.array)], 0.75))
    if clot_hu < brain_hu + ICH_ABOVE_BRAIN_HU:
        return np.asarray(sure.array)
    around_hu = _around_hu(sure, smooth, brain_hu)
    dense = smooth > around_hu + CLOT_SHARE * (clot_hu - around_hu)
    core = np.asarray(sure.array) & dense
    labels, _ = ndimage.label(core | (dense & (smooth < CALCIUM_HU) & (probability > POSSIBLE_BLOOD)))
    touched = np.unique(labels[core])
    blood = np.isin(labels, touched[touched > 0])
    return np.asarray(blood | (ndimage.binary_fill_holes(blood) & sure.array))


def _around_hu(sure: Volume, smooth: npt.NDArray[np.float32], brain_hu: float) -> float:
    """Return the density of the tissue around a clot, no fluid or bone; the brain's where there is little."""
    inner, outer = _AROUND_MM
    around = smooth[near(sure, outer) & ~near(sure, inner) & (np.abs(smooth - brain_hu) < _TISSUE_HU)]
    return float(np.median(around)) if around.size * sure.voxel_ml > _LEAST_ML else brain_hu


def like_blood(mask: Volume, hu: Volume, brain: Volume, *, least_hu: float) -> Volume:
    """Drop clots that cannot be fresh blood: no denser than brain, or as dense as calcium; all RAS, one grid.

    >>> from ichnos.volume import sphere
    >>> brain = sphere(radius_mm=30, spacing_mm=2.0)
    >>> x = np.indices(brain.shape)[0]
    >>> clot = brain.with_array(brain.array & (x < 8))
    >>> hu = brain.with_array(np.where(clot.array, 60.0, 33.0))
    >>> bool(like_blood(clot, hu, brain, least_hu=6).array.any())
    True
    >>> bool(like_blood(clot, hu.map_array(lambda a: a * 0 + 33), brain, least_hu=6).array.any())
    False
    """
    import cc3d

    around = np.asarray(hu.array)[np.asarray(brain.array) & ~mask.array]
    if not mask.array.any() or not around.size:
        return mask
    labels, count = cc3d.connected_components(mask.array.astype(np.uint8), connectivity=18, return_N=True)
    clots = np.ravel(labels)
    mean_hu = np.bincount(clots, weights=np.ravel(hu.array), minlength=count + 1) / np.bincount(
        clots, minlength=count + 1
    )
    like_blood = (mean_hu >= np.median(around) + least_hu) & (mean_hu <= CALCIUM_HU)
    like_blood[0] = False
    return mask.with_array(like_blood[labels])


def near(mask: Volume, reach_mm: float) -> np.ndarray:
    """Return where a mask is no further away than this; nowhere for an empty mask.

    >>> from ichnos.volume import sphere
    >>> ball = sphere(radius_mm=5, spacing_mm=1.0)
    >>> bool((near(ball, 0.0) == ball.array).all()), bool(near(ball.map_array(np.zeros_like), 9.0).any())
    (True, False)
    """
    import edt

    if not mask.array.any():
        return np.zeros(mask.shape, bool)
    distance = edt.edt(np.asfortranarray(~mask.array), anisotropy=mask.spacing_mm, order="F")
    return np.asarray(distance <= reach_mm)
