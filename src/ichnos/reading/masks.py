"""From probabilities to masks that agree with each other: blood excludes oedema and leukoaraiosis, ventricular blood lies in ventricles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichnos.anatomy.tract import Side, population
from ichnos.inference import Prediction
from ichnos.reading.place import Placement
from ichnos.volume import Volume

MIN_BLOOD_ML = 0.1  # a smaller speck of blood is not reported
Inside = npt.NDArray[np.bool_] | np.bool_
NAMES = ("ICH", "IVH", "PHE", "leukoaraiosis", "brain", "ventricles", "tract_left", "tract_right")
_INFARCT = "infarct"  # a mask that is taken out of leukoaraiosis and not shown
ICH_ABOVE_BRAIN_HU, IVH_ABOVE_BRAIN_HU = 6.0, 0.0  # mean of a clot against the median of the brain: less is no fresh blood
CALCIUM_HU = 100.0  # the mean of a clot stays below it
TRACT_SHARE = 0.4  # of a population's tracts that cover a place, for it to count as tract
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

    With a `place` the tract is looked up in the atlas; without, it is what the network drew.
    """
    taught = [t.name for t in prediction.model.manifest.targets if t.name in NAMES or t.name == _INFARCT]
    raw = {name: prediction.mask(name).reoriented("RAS") for name in taught}
    ras = prediction.scan.volume.reoriented("RAS")
    nothing = ras.with_array(np.zeros(ras.shape, bool))
    brain = _largest(raw["brain"]) if "brain" in raw else nothing
    ventricles = raw.get("ventricles", nothing)
    inside = np.asarray(brain.array) | np.asarray(ventricles.array) if "brain" in raw else np.True_
    ich = _without_specks(raw.get("ICH", nothing).map_array(lambda a: a & inside))
    ich = _like_blood(ich, ras, brain, least_hu=ICH_ABOVE_BRAIN_HU)
    ivh = _without_specks(raw.get("IVH", nothing).map_array(lambda a: a & inside & ~ich.array))
    ivh = _like_blood(ivh, ras, brain, least_hu=IVH_ABOVE_BRAIN_HU)
    blood = ich.array | ivh.array
    phe = raw.get("PHE", nothing).map_array(lambda a: a & inside & ~blood & _near(ich, PHE_REACH_MM))
    other = blood | phe.array | raw.get(_INFARCT, nothing).array
    leukoaraiosis = raw.get("leukoaraiosis", nothing).map_array(lambda a: a & inside & ~other)
    return Masks(
        ich=ich,
        ivh=ivh,
        phe=phe,
        leukoaraiosis=leukoaraiosis,
        brain=brain,
        ventricles=ventricles.map_array(lambda a: a | ivh.array),
        tract_left=raw.get("tract_left", nothing) if place is None else _looked_up("left", place, inside),
        tract_right=raw.get("tract_right", nothing) if place is None else _looked_up("right", place, inside),
        known=(frozenset(raw) & frozenset(NAMES)) | frozenset(() if place is None else ("tract_left", "tract_right")),
    )


def _looked_up(side: Side, place: Placement, inside: Inside) -> Volume:
    return place.looked_up(population(side)).map_array(lambda a: (a > TRACT_SHARE) & inside)


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
