"""From probabilities to masks that agree: blood excludes oedema and leukoaraiosis, IVH lies in ventricles."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from ichnos.anatomy.tract import SIDES, Side, population
from ichnos.formats.dicom.geometry import shared_slabs
from ichnos.inference import Prediction
from ichnos.inference.coordinates import AtlasCoordinates
from ichnos.reading.density import (
    ICH_ABOVE_BRAIN_HU,
    IVH_ABOVE_BRAIN_HU,
    darker_than_brain,
    grown_by_density,
    hu_of_brain,
    like_blood,
    mostly_fluid,
    near,
    smoothed,
    where_dark,
    without_sulci,
)
from ichnos.targets import TARGETS
from ichnos.volume import Box, Volume, box_around

MIN_BLOOD_ML = 0.1  # a smaller component of blood, or of leukoaraiosis, is not reported
_INFARCT = "infarct"  # a mask that is taken out of leukoaraiosis and not shown
# Mean of the population's tract probability and the network's own, from which a voxel is tract.
TRACT_SHARE = 0.42
GROWTH_MM = 12.0  # blood is looked for this far from what the network is sure of
VENTRICLE_REACH_MM = 6.0  # ventricular blood lies this near to the network's ventricles
ALLOWED_PROBABILITY = 0.15  # of blood, and of brain where blood is: below it, no brain under the blood
# Blood near ventricles is ventricular from this ratio of the probabilities of IVH and ICH. A network meets
# ventricular blood rarely, so its probability is low; a refinement's less so.
IVH_TO_ICH = 0.3
FINE_IVH_TO_ICH = 0.7
# Thresholds where the scan's own density decides afterwards.
AT_MOST = {"leukoaraiosis": 0.25, "ventricles": 0.5, "IVH": 0.2, "PHE": 0.2}
PHE_REACH_MM = 30.0  # oedema further from the clot than this is not perihaematomal


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks on the scan's grid in RAS order; ICH, IVH, PHE and leukoaraiosis share no voxel, and planes that
    one slice fills are alike, so that masks on slices hold the same millilitres.

    `expansion` is where the haematoma is expected at follow-up; None where that was not forecast. A mask
    whose name is not in `known` is empty because the model does not outline it: `named` leaves it out.
    """

    ich: Volume
    ivh: Volume
    phe: Volume
    leukoaraiosis: Volume
    brain: Volume
    ventricles: Volume
    tract_left: Volume
    tract_right: Volume
    known: frozenset[str]  # names of the masks that the model outlines
    expansion: Volume | None = None
    others: Mapping[str, Volume] = field(default_factory=dict)  # of targets that no rule here knows

    def named(self) -> dict[str, Volume]:
        """Return the masks under the names that files and segments carry."""
        own = {name: self.others.get(name, getattr(self, name.lower(), None)) for name in TARGETS}
        shown = self.known if self.expansion is None else self.known | {"expansion"}
        return {name: mask for name, mask in own.items() if mask is not None and name in shown}


def consistent_masks(prediction: Prediction, coordinates: AtlasCoordinates | None = None) -> Masks:
    """Threshold every target at its operating point and settle what two of them claim.

    With `coordinates` the tract is where the atlas, looked up there, and the network's drawing agree;
    without, it is what the network drew.
    """
    raw = _thresholded(prediction)
    ras = prediction.scan.volume.reoriented("RAS")
    nothing = ras.with_array(np.zeros(ras.shape, bool))
    box = _box_of_brain(raw, nothing)
    drawn = {name: mask.cropped(box) for name, mask in raw.items()}
    blood: dict[str, Volume] = {
        name: prediction.probability(name).reoriented("RAS").cropped(box)
        for name in ("ICH", "IVH")
        if name in raw
    }
    tracts = _tracts(prediction, coordinates, box)
    settled = _settled(drawn, blood, ras.cropped(box), tracts, fine=prediction.refines("ICH"))
    others = {name: _inside(mask, drawn) for name, mask in drawn.items() if _has_no_rule(name)}
    slabs = shared_slabs(prediction.scan)

    def whole(mask: Volume) -> Volume:
        return slabs.one_each(nothing.pasted(mask)) if slabs is not None else nothing.pasted(mask)

    return Masks(
        **{name: whole(mask) for name, mask in settled.items()},
        known=(frozenset(raw) - {_INFARCT}) | frozenset(tracts),
        others={name: whole(mask) for name, mask in others.items()},
    )


def _thresholded(prediction: Prediction) -> dict[str, Volume]:
    """Return what the network outlines at its operating points, in RAS; the brain reaches under the blood."""
    outlined = [t.name for t in prediction.model.manifest.targets if t.kind == "mask"]
    raw = {
        name: prediction.mask(name, threshold=threshold_of(prediction, name)).reoriented("RAS")
        for name in outlined
        if name in _reported() or name == _INFARCT
    }
    if "brain" in raw:
        raw["brain"] = raw["brain"].map_array(lambda a: a | _brain_in_blood(prediction, raw))
    return raw


def _tracts(prediction: Prediction, coordinates: AtlasCoordinates | None, box: Box) -> dict[str, Volume]:
    if coordinates is None:
        return {}
    with ThreadPoolExecutor(2) as beside_each_other:
        found = beside_each_other.map(lambda side: _tract(side, coordinates, prediction).cropped(box), SIDES)
        return {f"tract_{side}": tract for side, tract in zip(SIDES, found, strict=True)}


def _reported() -> tuple[str, ...]:
    return tuple(name for name, target in TARGETS.items() if target.reported)


def _has_no_rule(name: str) -> bool:
    return name != _INFARCT and name.lower() not in {field.name for field in fields(Masks)}


def _inside(mask: Volume, drawn: dict[str, Volume]) -> Volume:
    """Keep of a mask what lies in brain or ventricles, where the model draws a brain."""
    if "brain" not in drawn:
        return mask
    inside = np.logical_or.reduce([drawn[name].array for name in ("brain", "ventricles") if name in drawn])
    return mask.map_array(lambda a: a & inside)


def _brain_in_blood(prediction: Prediction, raw: dict[str, Volume]) -> npt.NDArray[np.bool_]:
    """Return where blood is possible and brain is not excluded (RAS): a clot lies in brain unlike it."""

    def allowed(name: str) -> npt.NDArray[np.bool_]:
        return np.asarray(prediction.mask(name, threshold=ALLOWED_PROBABILITY).reoriented("RAS").array)

    blood, tissue = (
        [allowed(name) for name in names if name in raw]
        for names in (("ICH", "IVH"), ("brain", "ventricles"))
    )
    if not blood:
        return np.zeros(raw["brain"].shape, bool)
    return np.asarray(np.logical_or.reduce(blood) & np.logical_or.reduce(tissue))


def threshold_of(prediction: Prediction, name: str) -> float:
    """Return the probability above which a voxel belongs to a target's mask."""
    threshold = prediction.threshold(name)
    return threshold if prediction.refines(name) else min(threshold, AT_MOST.get(name, 1.0))


def _box_of_brain(raw: dict[str, Volume], nothing: Volume) -> Box:
    """Return the box of brain and ventricles, or the whole scan where the model outlines no brain."""
    parts = [raw[name].array for name in ("brain", "ventricles") if name in raw]
    if "brain" not in raw or not np.any([mask.any() for mask in parts]):
        return Box((0, 0, 0), tuple(nothing.shape))
    return box_around(nothing.with_array(np.logical_or.reduce(parts)), margin_mm=VENTRICLE_REACH_MM)


def _settled(
    drawn: dict[str, Volume],
    probability: dict[str, Volume],
    hu: Volume,
    tracts: dict[str, Volume],
    *,
    fine: bool,
) -> dict[str, Volume]:
    """Return the masks by the names of the fields of Masks; all on one grid in RAS order.

    The scan's density draws the borders of blood, and where no refinement did (not `fine`) those of the rest.
    """
    nothing = hu.with_array(np.zeros(hu.shape, bool))
    raw = {name: drawn.get(name, nothing) for name in (*_reported(), _INFARCT)}
    brain, ventricles = _largest(raw["brain"]), raw["ventricles"]
    inside = np.asarray(brain.array) | np.asarray(ventricles.array) if "brain" in drawn else np.True_
    ich, ivh = _dense_blood(_blood(drawn, probability, hu, brain, fine=fine), hu, brain, inside)
    blood = np.asarray(ich.array | ivh.array)
    phe = raw["PHE"].map_array(lambda a: a & inside & ~blood & ~ventricles.array & near(ich, PHE_REACH_MM))
    phe = phe if fine else darker_than_brain(phe, hu, brain, blood)
    taken = blood | phe.array | raw[_INFARCT].array
    leukoaraiosis = raw["leukoaraiosis"].map_array(lambda a: a & inside & ~taken)
    if not fine:
        smooth = smoothed(hu)
        leukoaraiosis = where_dark(leukoaraiosis, hu, brain, ventricles)
        outer = without_sulci(brain, ventricles, smooth, blood)
        brain, ventricles = outer, mostly_fluid(ventricles, smooth, brain, blood)
    both = {name: tracts.get(name, raw[name]) for name in ("tract_left", "tract_right")}
    return {
        "ich": ich,
        "ivh": ivh,
        "phe": phe,
        "leukoaraiosis": _without_specks(leukoaraiosis),
        "brain": brain,
        "ventricles": ventricles.map_array(lambda a: a | ivh.array),
        **{name: mask.map_array(lambda a: a & inside) for name, mask in both.items()},
    }


def _dense_blood(
    blood: tuple[Volume, Volume], hu: Volume, brain: Volume, inside: npt.NDArray[np.bool_] | np.bool_
) -> tuple[Volume, Volume]:
    """Keep of ICH and IVH what lies inside, is no speck, and is as dense as blood."""
    ich, ivh = (
        like_blood(_without_specks(mask.map_array(lambda a: a & inside)), hu, brain, least_hu=least_hu)
        for mask, least_hu in zip(blood, (ICH_ABOVE_BRAIN_HU, IVH_ABOVE_BRAIN_HU), strict=True)
    )
    return ich, ivh


def _tract(side: Side, coordinates: AtlasCoordinates, prediction: Prediction) -> Volume:
    """Return one tract: the atlas gives its shape, the network's own drawing how this patient's differs."""
    share = coordinates.look_up(population(side))
    name = f"tract_{side}"
    if name in [target.name for target in prediction.model.manifest.targets]:
        drawn = prediction.probability(name).reoriented("RAS")
        share = share.map_array(lambda a: (a + drawn.array) / 2)
    return share.map_array(lambda a: a > TRACT_SHARE)


def _blood(
    drawn: dict[str, Volume], probability: dict[str, Volume], hu: Volume, brain: Volume, *, fine: bool
) -> tuple[Volume, Volume]:
    """Return haematoma and ventricular blood that share no voxel.

    The scan's density shows the border of blood more sharply than any network: blood reaches as far as the
    scan is dense around what the network is sure of, unless the network excludes it. It is ventricular where
    the network says so near the ventricles.
    """
    nothing = hu.with_array(np.zeros(hu.shape, bool))
    ich, ivh = drawn.get("ICH", nothing), drawn.get("IVH", nothing)
    sure = np.asarray(_without_specks(ich.map_array(lambda a: a | ivh.array)).array)
    if not sure.any() or not ("ICH" in drawn and "IVH" in drawn):
        return ich, ivh.map_array(lambda a: a & ~ich.array)
    box = box_around(nothing.with_array(sure), margin_mm=GROWTH_MM)
    p_ich, p_ivh = (probability[name].cropped(box) for name in ("ICH", "IVH"))
    seed, brain_hu = p_ich.with_array(sure[box.slices]), hu_of_brain(hu, brain, sure)
    blood = grown_by_density(seed, p_ich.array + p_ivh.array, hu.cropped(box), brain_hu)
    ventricles = drawn.get("ventricles", nothing).cropped(box)
    ratio = FINE_IVH_TO_ICH if fine else IVH_TO_ICH
    ventricular = blood & (p_ivh.array > ratio * p_ich.array) & near(ventricles, VENTRICLE_REACH_MM)
    return nothing.pasted(p_ich.with_array(blood & ~ventricular)), nothing.pasted(
        p_ich.with_array(ventricular)
    )


def _largest(mask: Volume) -> Volume:
    import cc3d

    return mask.map_array(lambda a: np.asarray(cc3d.largest_k(a.astype(np.uint8), k=1, connectivity=6)) > 0)


def _without_specks(mask: Volume) -> Volume:
    import cc3d

    smallest = int(np.ceil(MIN_BLOOD_ML / mask.voxel_ml))
    return mask.map_array(
        lambda a: (
            np.asarray(cc3d.dust(a.astype(np.uint8), threshold=smallest, connectivity=18, in_place=False)) > 0
        )
    )
