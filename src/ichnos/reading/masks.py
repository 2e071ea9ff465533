"""From probabilities to masks that agree with each other: blood excludes oedema and leukoaraiosis, ventricular blood lies in ventricles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ichnos.inference import Prediction
from ichnos.volume import Volume

MIN_BLOOD_ML = 0.1  # a smaller speck of blood is not reported
NAMES = ("ICH", "IVH", "PHE", "leukoaraiosis", "brain", "ventricles", "tract_left", "tract_right")
_INFARCT = "infarct"  # a mask that is taken out of leukoaraiosis and not shown
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


def consistent_masks(prediction: Prediction) -> Masks:
    """Threshold every target at its operating point and settle what two of them claim."""
    taught = [t.name for t in prediction.model.manifest.targets if t.name in NAMES or t.name == _INFARCT]
    raw = {name: prediction.mask(name).reoriented("RAS") for name in taught}
    ras = prediction.scan.volume.reoriented("RAS")
    nothing = ras.with_array(np.zeros(ras.shape, bool))
    brain = _largest(raw["brain"]) if "brain" in raw else nothing
    ventricles = raw.get("ventricles", nothing)
    inside = np.asarray(brain.array) | np.asarray(ventricles.array) if "brain" in raw else np.True_
    ich = _without_specks(raw.get("ICH", nothing).map_array(lambda a: a & inside))
    ivh = _without_specks(raw.get("IVH", nothing).map_array(lambda a: a & inside & ~ich.array))
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
        tract_left=raw.get("tract_left", nothing),
        tract_right=raw.get("tract_right", nothing),
        known=frozenset(raw) & frozenset(NAMES),
    )


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
