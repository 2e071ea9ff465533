"""Leukoaraiosis: millilitres, and how much of it lies around the ventricles."""

from __future__ import annotations

import numpy as np

from ichnos.clinical.fazekas import FazekasRegion
from ichnos.inference import Prediction
from ichnos.prognosis.fazekas import load_fazekas_model
from ichnos.reading.fazekas import fazekas_measures
from ichnos.reading.masks import Masks
from ichnos.reading.record import Finding, Measure, Status
from ichnos.reading.volumes import volume_measure
from ichnos.volume import box_around, volume_ml

PERIVENTRICULAR_MM = 10.0  # white matter nearer to a ventricle than this is periventricular (DeCarli 2005)
_NO_INTERVAL = "defined by the mask; it has no interval of its own"


def read_leukoaraiosis(prediction: Prediction, masks: Masks) -> Finding:
    """Measure white-matter disease outside blood, oedema and ventricles."""
    volume = volume_measure(prediction, "leukoaraiosis", masks.leukoaraiosis, "Leukoaraiosis")
    model, total_ml = load_fazekas_model(prediction.model.folder), volume_ml(masks.leukoaraiosis)
    if not masks.ventricles.array.any():
        sentence = (
            f"Leukoaraiosis {total_ml:.1f} mL; the ventricles were not found, so it could not be divided."
        )
        return _finding("read", sentence, (volume, *fazekas_measures(model, None)))
    periventricular_ml = _periventricular_ml(masks)
    parts_ml: dict[FazekasRegion, float] = {
        "periventricular": periventricular_ml,
        "deep": total_ml - periventricular_ml,
    }
    grades = fazekas_measures(model, parts_ml)
    if not masks.leukoaraiosis.array.any():
        return _finding(
            "none found", "The white matter was searched and no leukoaraiosis was found.", (volume, *grades)
        )
    labels = {"periventricular": f"… within {PERIVENTRICULAR_MM:g} mm of a ventricle", "deep": "… deeper"}
    parts = tuple(
        Measure(name=f"{name}_volume", label=labels[name], value=round(ml, 3), unit="mL", reason=_NO_INTERVAL)
        for name, ml in parts_ml.items()
    )
    sentence = (
        f"Leukoaraiosis {total_ml:.1f} mL, of which {periventricular_ml:.1f} mL lie around the ventricles."
    )
    return _finding("read", sentence, (volume, *parts, *grades))


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
