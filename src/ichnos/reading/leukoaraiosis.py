"""Leukoaraiosis: millilitres, and how much of it lies around the ventricles."""

from __future__ import annotations

import numpy as np

from ichnos.anatomy.regions import PERIVENTRICULAR_MM
from ichnos.clinical.fazekas import FazekasRegion
from ichnos.inference import Prediction
from ichnos.prognosis.fazekas import load_fazekas_model
from ichnos.reading.masks import Masks
from ichnos.reading.measures.fazekas import fazekas_measures
from ichnos.reading.measures.volume import volume_measure
from ichnos.reading.record import BY_DEFINITION, Finding, Measure, Status
from ichnos.volume import box_around, volume_ml


def read_leukoaraiosis(prediction: Prediction, masks: Masks) -> Finding:
    """Measure white-matter disease outside blood, oedema and ventricles."""
    volume = volume_measure(prediction, "leukoaraiosis", masks.leukoaraiosis, "Leukoaraiosis")
    model, total_ml = load_fazekas_model(prediction.model.folder), volume_ml(masks.leukoaraiosis)
    if not masks.ventricles.array.any():
        sentence = (
            f"Leukoaraiosis {total_ml:.1f} mL; not divided into periventricular and deep, because the"
            " ventricles were not found."
        )
        return _finding("read", sentence, (volume, *fazekas_measures(model, None)))
    near_ml = _periventricular_ml(masks)
    parts_ml: dict[FazekasRegion, float] = {"periventricular": near_ml, "deep": total_ml - near_ml}
    grades = fazekas_measures(model, parts_ml)
    if not masks.leukoaraiosis.array.any():
        return _finding("none found", "No leukoaraiosis.", (volume, *grades))
    parts = (_part(region, ml) for region, ml in parts_ml.items())
    sentence = f"Leukoaraiosis {total_ml:.1f} mL, of which {near_ml:.1f} mL periventricular."
    return _finding("read", sentence, (volume, *parts, *grades))


_PART_LABELS: dict[FazekasRegion, str] = {
    "periventricular": f"Leukoaraiosis within {PERIVENTRICULAR_MM:g} mm of a ventricle",
    "deep": "Leukoaraiosis, deeper",
}


def _part(region: FazekasRegion, ml: float) -> Measure:
    return Measure(
        name=f"{region}_volume",
        label=_PART_LABELS[region],
        value=round(ml, 3),
        unit="mL",
        reason=BY_DEFINITION,
    )


def _finding(status: Status, sentence: str, measures: tuple[Measure, ...]) -> Finding:
    return Finding(
        target="leukoaraiosis", status=status, sentence=sentence, measures=measures, masks=("leukoaraiosis",)
    )


def _periventricular_ml(masks: Masks) -> float:
    import edt

    if not masks.leukoaraiosis.array.any():
        return 0.0
    box = box_around(masks.leukoaraiosis, margin_mm=PERIVENTRICULAR_MM)
    ventricles = masks.ventricles.cropped(box)
    distance = edt.edt(np.asfortranarray(~ventricles.array), anisotropy=ventricles.spacing_mm, order="F")
    return volume_ml(
        masks.leukoaraiosis.cropped(box).map_array(lambda a: a & (distance <= PERIVENTRICULAR_MM))
    )
