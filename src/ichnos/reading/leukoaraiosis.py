"""Leukoaraiosis: millilitres, and how much of it lies around the ventricles."""

from __future__ import annotations

import numpy as np

from ichnos.inference import Prediction
from ichnos.reading.haematoma import volume_measure
from ichnos.reading.masks import Masks
from ichnos.reading.record import Finding, Measure
from ichnos.volume import volume_ml

PERIVENTRICULAR_MM = 10.0  # white matter nearer to a ventricle than this is periventricular (DeCarli 2005)
_NO_INTERVAL = "defined by the mask; it has no interval of its own"
_NO_FAZEKAS = "no calibration from volume to Fazekas grades has been fitted and validated yet"


def read_leukoaraiosis(prediction: Prediction, masks: Masks) -> Finding:
    """Measure white-matter disease outside blood, oedema and ventricles."""
    names = ("leukoaraiosis",)
    volume = volume_measure(prediction, "leukoaraiosis", masks.leukoaraiosis, "Leukoaraiosis")
    fazekas = Measure(name="fazekas", label="Fazekas grade", value=None, reason=_NO_FAZEKAS)
    if not masks.leukoaraiosis.array.any():
        sentence = "The white matter was searched and no leukoaraiosis was found."
        return Finding(target="leukoaraiosis", status="none found", sentence=sentence, measures=(volume, fazekas), masks=names)
    if not masks.ventricles.array.any():
        sentence = f"Leukoaraiosis {volume.value:.1f} mL; the ventricles were not found, so it could not be divided."
        return Finding(target="leukoaraiosis", status="read", sentence=sentence, measures=(volume, fazekas), masks=names)
    periventricular_ml = _periventricular_ml(masks)
    total_ml = volume_ml(masks.leukoaraiosis)
    parts = tuple(
        Measure(name=name, label=label, value=round(value, 3), unit="mL", reason=_NO_INTERVAL)
        for name, label, value in (
            ("periventricular_volume", "… within 10 mm of a ventricle", periventricular_ml),
            ("deep_volume", "… deeper", total_ml - periventricular_ml),
        )
    )
    sentence = f"Leukoaraiosis {total_ml:.1f} mL, of which {periventricular_ml:.1f} mL lie around the ventricles."
    return Finding(target="leukoaraiosis", status="read", sentence=sentence, measures=(volume, *parts, fazekas), masks=names)


def _periventricular_ml(masks: Masks) -> float:
    import edt

    distance = edt.edt(np.asfortranarray(~masks.ventricles.array), anisotropy=masks.ventricles.spacing_mm, order="F")
    near = masks.leukoaraiosis.map_array(lambda a: a & (distance <= PERIVENTRICULAR_MM))
    return volume_ml(near)
