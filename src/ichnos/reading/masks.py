"""From probabilities to masks that agree with each other: blood excludes oedema and leukoaraiosis, ventricular blood lies in ventricles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichnos.anatomy.tract import SIDES, Side, population
from ichnos.inference import Prediction
from ichnos.inference.place import Placement
from ichnos.volume import Box, Volume, box_around

MIN_BLOOD_ML = 0.1  # a smaller speck of blood, or of leukoaraiosis, is not reported
Inside = npt.NDArray[np.bool_] | np.bool_
NAMES = ("ICH", "IVH", "PHE", "leukoaraiosis", "brain", "ventricles", "tract_left", "tract_right")
_INFARCT = "infarct"  # a mask that is taken out of leukoaraiosis and not shown
ICH_ABOVE_BRAIN_HU, IVH_ABOVE_BRAIN_HU = 6.0, 0.0  # mean of a clot against the median of the brain: less is no fresh blood
CALCIUM_HU = 100.0  # the mean of a clot stays below it
TRACT_SHARE = 0.45  # of a population's tracts that cover a place, and of the network's own probability: their mean in a tract, at least
GROWTH_MM, VENTRICLE_REACH_MM = 12.0, 6.0  # how far from what the network is sure of blood is looked for; from its ventricles, for IVH
ALLOWED_PROBABILITY = 0.15  # of blood, and of brain where blood is, by the network: less excludes brain there
POSSIBLE_BLOOD = 0.1  # probability of blood by the network: less excludes it, however dense the scan is
CLOT_SHARE = 0.4  # of the way from the density around a clot to that of the clot, which blood has at least
_TISSUE_HU = 15.0  # tissue, swollen or not, is within this of the median of the brain
_AROUND_MM = (3.0, 9.0)  # from what the network is sure of: there lies what a clot's border fades into, brain or its oedema
LA_BELOW_BRAIN_HU, FLUID_BELOW_BRAIN_HU = 8.0, 20.0  # leukoaraiosis lies between: white matter made some 10 HU darker
IVH_TO_ICH = 0.3  # blood near ventricles is in them from this share of the probability of a haematoma: rarely met, it is said quietly
# Asked of the network where the scan's own density decides after it.
AT_MOST = {"leukoaraiosis": 0.25, "ventricles": 0.5, "IVH": 0.2, "PHE": 0.2}
PHE_BELOW_BRAIN_HU = 1.5  # oedema is darker than the rest of the brain by this at least, blood and its border left out
_LA_SMOOTHING_MM = (1.0, 1.0, 0.7)  # of the scan, before its darkness is judged
_FLUID_SHARE = 0.45  # of a voxel in a ventricle, at least; the rest is brain
_DEEP_MM = 1.5  # from the edge of a ventricle: there is nothing but fluid
_RIM_MM = 1.4  # dark matter that reaches less far in plane is a rim, half fluid and half brain
_SULCI_MM = 12.0  # from the surface of the brain, sulci reach no deeper
_SMOOTHING_MM = 0.7  # of the scan, before its density is judged
_PHE_SMOOTHING_MM = 1.5
PHE_REACH_MM = 30.0  # oedema further from the clot than this is not perihaematomal


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks on the scan's grid in RAS order; each voxel belongs to at most one of ICH, IVH, PHE and leukoaraiosis.

    `expansion` is where the haematoma is expected at follow-up; None where that was not forecast.

    A mask whose name is not in `known` is empty because the model does not look for it: `named` leaves it out.
    """

    ich: Volume
    ivh: Volume
    phe: Volume
    leukoaraiosis: Volume
    brain: Volume
    ventricles: Volume
    tract_left: Volume
    tract_right: Volume
    known: frozenset[str]  # names of the masks that the model draws
    expansion: Volume | None = None

    def named(self) -> dict[str, Volume]:
        """Return the masks under the names that files and segments carry."""
        drawn = {
            "ICH": self.ich,
            "IVH": self.ivh,
            "PHE": self.phe,
            "leukoaraiosis": self.leukoaraiosis,
            "brain": self.brain,
            "ventricles": self.ventricles,
            "tract_left": self.tract_left,
            "tract_right": self.tract_right,
        }
        found = {name: mask for name, mask in drawn.items() if name in self.known}
        return found if self.expansion is None else {**found, "expansion": self.expansion}


def consistent_masks(prediction: Prediction, place: Placement | None = None) -> Masks:
    """Threshold every target at its operating point and settle what two of them claim.

    With a `place` the tract is where the atlas, looked up there, and the network's drawing agree; without, it is what the network drew.
    """
    taught = [t.name for t in prediction.model.manifest.targets if t.name in NAMES or t.name == _INFARCT]
    raw = {name: prediction.mask(name, threshold=cut_of(prediction, name)).reoriented("RAS") for name in taught}
    if "brain" in raw:
        raw["brain"] = raw["brain"].map_array(lambda a: a | _brain_in_blood(prediction, raw))
    ras = prediction.scan.volume.reoriented("RAS")
    nothing = ras.with_array(np.zeros(ras.shape, bool))
    box = _box_of_brain(raw, nothing)
    drawn = {name: mask.cropped(box) for name, mask in raw.items()}
    blood: dict[str, Volume] = {name: prediction.probability(name).reoriented("RAS").cropped(box) for name in ("ICH", "IVH") if name in raw}
    tracts = {} if place is None else {f"tract_{side}": _tract(side, place, prediction).cropped(box) for side in SIDES}
    settled = _settled(drawn, blood, ras.cropped(box), tracts)
    return Masks(
        **{field: nothing.pasted(mask) for field, mask in settled.items()},
        known=(frozenset(raw) & frozenset(NAMES)) | frozenset(tracts),
    )


def _brain_in_blood(prediction: Prediction, raw: dict[str, Volume]) -> npt.NDArray[np.bool_]:
    """Return where blood is possible and brain is not excluded (RAS): a clot does not look like brain, and yet lies in it."""

    def allowed(name: str) -> npt.NDArray[np.bool_]:
        return np.asarray(prediction.mask(name, threshold=ALLOWED_PROBABILITY).reoriented("RAS").array)

    blood, place = ([allowed(name) for name in names if name in raw] for names in (("ICH", "IVH"), ("brain", "ventricles")))
    return np.asarray(np.logical_or.reduce(blood) & np.logical_or.reduce(place)) if blood else np.zeros(raw["brain"].shape, bool)


def cut_of(prediction: Prediction, name: str) -> float:
    """Return the probability above which a target counts."""
    threshold = prediction.model.manifest.targets[prediction.model.manifest.channel(name)].threshold
    return min(threshold, AT_MOST.get(name, 1.0))


def _box_of_brain(raw: dict[str, Volume], nothing: Volume) -> Box:
    """Return the part of the scan in which anything can be found: brain and ventricles, or all of it where the model draws no brain."""
    found = [raw[name].array for name in ("brain", "ventricles") if name in raw]
    if "brain" not in raw or not np.any([mask.any() for mask in found]):
        return Box((0, 0, 0), tuple(nothing.shape))
    return box_around(nothing.with_array(np.logical_or.reduce(found)), margin_mm=VENTRICLE_REACH_MM)


def _settled(raw: dict[str, Volume], probability: dict[str, Volume], hu: Volume, tracts: dict[str, Volume]) -> dict[str, Volume]:
    """Return the masks by the names of the fields of Masks; all on one grid in RAS order, as are HU and the probabilities of blood."""
    nothing = hu.with_array(np.zeros(hu.shape, bool))
    brain = _largest(raw["brain"]) if "brain" in raw else nothing
    ventricles = raw.get("ventricles", nothing)
    inside = np.asarray(brain.array) | np.asarray(ventricles.array) if "brain" in raw else np.True_
    ich, ivh = _blood(probability, raw, hu, brain, ventricles)
    ich = _like_blood(_without_specks(ich.map_array(lambda a: a & inside)), hu, brain, least_hu=ICH_ABOVE_BRAIN_HU)
    ivh = _like_blood(_without_specks(ivh.map_array(lambda a: a & inside)), hu, brain, least_hu=IVH_ABOVE_BRAIN_HU)
    blood = ich.array | ivh.array
    phe = raw.get("PHE", nothing).map_array(lambda a: a & inside & ~blood & ~ventricles.array & _near(ich, PHE_REACH_MM))
    phe = _darker_than_brain(phe, hu, brain, blood)
    other = blood | phe.array | raw.get(_INFARCT, nothing).array
    leukoaraiosis = raw.get("leukoaraiosis", nothing).map_array(lambda a: a & inside & ~other)
    smooth = _smoothed(hu)
    drawn = {name: raw.get(name, nothing) for name in ("tract_left", "tract_right")}
    looked_up = {name: tract.map_array(lambda a: a & inside) for name, tract in tracts.items()}
    return {
        "ich": ich,
        "ivh": ivh,
        "phe": phe,
        "leukoaraiosis": _without_specks(_where_dark(leukoaraiosis, hu, brain, ventricles)),
        "brain": _without_sulci(brain, ventricles, smooth, blood),
        "ventricles": _mostly_fluid(ventricles, smooth, brain, blood).map_array(lambda a: a | ivh.array),
        **(drawn | looked_up),
    }


def _tract(side: Side, place: Placement, prediction: Prediction) -> Volume:
    """Return one tract: the atlas knows its shape, the network, where it draws tracts, how this patient's differs."""
    share = place.looked_up(population(side))
    name = f"tract_{side}"
    if name in [target.name for target in prediction.model.manifest.targets]:
        drawn = prediction.probability(name).reoriented("RAS")
        share = share.map_array(lambda a: (a + drawn.array) / 2)
    return share.map_array(lambda a: a > TRACT_SHARE)


def _without_sulci(brain: Volume, ventricles: Volume, smooth: Volume, blood: npt.NDArray[np.bool_]) -> Volume:
    """Take the fluid of the sulci, which the network's voxels are too coarse to see, out of the outer brain; all in RAS on one grid."""
    fluid = np.asarray(ventricles.array) & ~blood
    tissue = np.asarray(brain.array) & ~fluid & ~blood
    if not tissue.any():
        return brain
    tissue_hu = float(np.median(smooth.array[tissue]))
    seen_hu = smooth.array[fluid & (smooth.array < tissue_hu - LA_BELOW_BRAIN_HU)]
    fluid_hu = float(np.median(seen_hu)) if seen_hu.size * smooth.voxel_ml > MIN_BLOOD_ML else tissue_hu - FLUID_BELOW_BRAIN_HU
    dark = tissue & (smooth.array < tissue_hu - _FLUID_SHARE * (tissue_hu - fluid_hu))
    outer = _near(brain.map_array(lambda a: ~(a | ventricles.array)), _SULCI_MM)
    return brain.map_array(lambda a: a & ~(dark & outer))


def _smoothed(hu: Volume) -> Volume:
    return hu.with_array(ndimage.gaussian_filter(np.asarray(hu.array, np.float32), [_SMOOTHING_MM / step for step in hu.spacing_mm]))


def _where_dark(mask: Volume, hu: Volume, brain: Volume, ventricles: Volume) -> Volume:
    """Keep of leukoaraiosis what is darker than brain, but not fluid, and no mere rim of fluid in plane; all in RAS on one grid."""
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


def _darker_than_brain(oedema: Volume, hu: Volume, brain: Volume, blood: npt.NDArray[np.bool_]) -> Volume:
    """Keep of oedema what is darker than brain; the scan is smoothed without blood and its border, which would brighten what is around."""
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
    return oedema.with_array(np.zeros(oedema.shape, bool)).pasted(part.with_array(np.asarray(part.array) & dark))


def _mostly_fluid(ventricles: Volume, smooth: Volume, brain: Volume, blood: npt.NDArray[np.bool_]) -> Volume:
    """Take out of ventricles what is brain by its density, so that their volume does not hang on the size of the network's voxels."""
    deep = np.asarray(ventricles.array) & ~_near(ventricles.map_array(lambda a: ~a), _DEEP_MM) & ~blood
    tissue = np.asarray(brain.array) & ~np.asarray(ventricles.array) & ~blood
    if np.count_nonzero(deep) * smooth.voxel_ml < MIN_BLOOD_ML or not tissue.any():
        return ventricles
    fluid_hu, tissue_hu = (float(np.median(smooth.array[where])) for where in (deep, tissue))
    like_brain = (smooth.array > tissue_hu - _FLUID_SHARE * (tissue_hu - fluid_hu)) & (smooth.array < tissue_hu + ICH_ABOVE_BRAIN_HU)
    return ventricles.map_array(lambda a: a & ~like_brain)


def _blood(probability: dict[str, Volume], raw: dict[str, Volume], hu: Volume, brain: Volume, ventricles: Volume) -> tuple[Volume, Volume]:
    """Return haematoma and ventricular blood that share no voxel.

    The network sees voxels of some millimetres, the scan is finer: blood reaches as far as the scan is dense around what the network is
    sure of and the network does not exclude it. It is ventricular where the network says so and the ventricles are near.
    """
    nothing = hu.with_array(np.zeros(hu.shape, bool))
    ich, ivh = raw.get("ICH", nothing), raw.get("IVH", nothing)
    sure = np.asarray(ich.array) | np.asarray(ivh.array)
    if not sure.any() or not ("ICH" in raw and "IVH" in raw):
        return ich, ivh.map_array(lambda a: a & ~ich.array)
    box = box_around(nothing.with_array(sure), margin_mm=GROWTH_MM)
    p_ich, p_ivh = (probability[name].cropped(box) for name in ("ICH", "IVH"))
    blood = grown_by_density(nothing.with_array(sure).cropped(box), p_ich.array + p_ivh.array, hu.cropped(box), _brain_hu(hu, brain, sure))
    ventricular = blood & (p_ivh.array > IVH_TO_ICH * p_ich.array) & _near(ventricles.cropped(box), VENTRICLE_REACH_MM)
    return nothing.pasted(p_ich.with_array(blood & ~ventricular)), nothing.pasted(p_ich.with_array(ventricular))


def _brain_hu(hu: Volume, brain: Volume, sure: npt.NDArray[np.bool_]) -> float:
    around = np.asarray(hu.array)[np.asarray(brain.array) & ~sure]
    return float(np.median(around)) if around.size else 33.0


def grown_by_density(sure: Volume, probability: npt.NDArray[np.float32], hu: Volume, brain_hu: float) -> npt.NDArray[np.bool_]:
    """Return what is dense where the network is sure of blood, with all that is dense, allowed by the network and connected to it.

    All on one grid. The network's voxels are coarse: a rim of brain or fluid around what it is sure of is left out, a dark place inside
    a clot is not. A clot that is no denser than brain stays as it is.
    """
    smooth = ndimage.gaussian_filter(np.asarray(hu.array, np.float32), [_SMOOTHING_MM / step for step in hu.spacing_mm])
    clot_hu = float(np.quantile(smooth[np.asarray(sure.array)], 0.75))  # around a small clot half of what is sure may be rim
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
    """Return the density of the tissue around a clot, neither fluid nor bone; that of the brain where there is too little of it."""
    near, far = _AROUND_MM
    around = smooth[_near(sure, far) & ~_near(sure, near) & (np.abs(smooth - brain_hu) < _TISSUE_HU)]
    return float(np.median(around)) if around.size * sure.voxel_ml > MIN_BLOOD_ML else brain_hu


def _like_blood(mask: Volume, hu: Volume, brain: Volume, *, least_hu: float) -> Volume:
    """Drop what cannot be fresh blood, clot by clot: no denser than brain, or as dense as calcium; all in RAS on one grid."""
    import cc3d

    around = np.asarray(hu.array)[np.asarray(brain.array) & ~mask.array]
    if not mask.array.any() or not around.size:
        return mask
    labels, count = cc3d.connected_components(mask.array.astype(np.uint8), connectivity=18, return_N=True)
    clots = np.ravel(labels)
    mean_hu = np.bincount(clots, weights=np.ravel(hu.array), minlength=count + 1) / np.bincount(clots, minlength=count + 1)
    like_blood = (mean_hu >= np.median(around) + least_hu) & (mean_hu <= CALCIUM_HU)
    like_blood[0] = False
    return mask.with_array(like_blood[labels])


def _largest(mask: Volume) -> Volume:
    import cc3d

    return mask.map_array(lambda a: np.asarray(cc3d.largest_k(a.astype(np.uint8), k=1, connectivity=6)) > 0)


def _without_specks(mask: Volume) -> Volume:
    import cc3d

    smallest = int(np.ceil(MIN_BLOOD_ML / mask.voxel_ml))
    return mask.map_array(lambda a: np.asarray(cc3d.dust(a.astype(np.uint8), threshold=smallest, connectivity=18, in_place=False)) > 0)


def _near(mask: Volume, reach_mm: float) -> np.ndarray:
    import edt

    if not mask.array.any():
        return np.zeros(mask.shape, bool)
    distance = edt.edt(np.asfortranarray(~mask.array), anisotropy=mask.spacing_mm, order="F")
    return np.asarray(distance <= reach_mm)
