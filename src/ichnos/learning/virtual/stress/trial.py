"""One simulated patient of a stress test: read, compared with the truth, changed and read again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache as kept_once
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.anatomy.tract import SIDES, population
from ichnos.evidence.metrics.overlap import dice
from ichnos.inference import Prediction, Predictor
from ichnos.inference.coordinates import AtlasCoordinates
from ichnos.learning.virtual.batches import scanned
from ichnos.learning.virtual.stress.changes import (
    CLOTS_ML,
    SHIFTS_HU,
    MaskReader,
    mask_reader,
    shifted,
    with_clot,
)
from ichnos.models import load_model
from ichnos.prognosis.volume import load_volume_calibration
from ichnos.reading.masks import Masks, consistent_masks
from ichnos.reading.measures.site import shift_at, site_measure
from ichnos.runs import Numbered
from ichnos.scan import Scan
from ichnos.simulation.exams.scanners import CENTRES, CtProtocol, draw_protocol
from ichnos.simulation.heads.from_labels import labelled_head
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient
from ichnos.volume import Volume, volume_ml

# Mask -> the target whose volume has an interval.
WITH_INTERVAL = {"ich": "ICH", "ivh": "IVH", "phe": "PHE", "leukoaraiosis": "leukoaraiosis"}
STRESSED = (*WITH_INTERVAL, "tract_left", "tract_right", "brain", "ventricles")
THICKNESS_MM = (1.0, 2.5, 5.0, 6.0)
TILTS_DEG = (-15.0, 15.0)
ATLAS_SHARE = 0.4  # of a population's tracts: the mask of the atlas alone
_SEED = 770_000  # far from every seed of a training


@dataclass(frozen=True)
class StressTrial:
    """Who is simulated, what reads, and how much is done with each."""

    model: Path
    heads: tuple[Path, ...]  # held out; empty: the MNI head, which the model has seen
    cache: Path | None
    changed: int  # of the first so many patients, those who bled are shifted, thickened and tilted too
    threads: int = 1

    def patient(self, number: int) -> VirtualPatient:
        """Simulate the patient of a number; every third has no haematoma."""
        spec = PatientSpec(haematoma_probability=0.0 if number % 3 == 0 else 1.0, followup=False)
        return simulate_patient(_SEED + number, self._head(number), spec)

    def _head(self, number: int) -> SourceHead:
        if not self.heads:
            return mni_head(self.cache)
        return labelled_head(self.heads[number % len(self.heads)], self.cache)


@kept_once
def _predictor(model: Path, threads: int) -> Predictor:
    return Predictor(load_model(model), threads=threads)


def stress_patient(case: Numbered, folder: Path, *, trial: StressTrial) -> dict[str, Any]:
    """Simulate and read one patient; return the comparison with the truth, and with changed scans."""
    del folder
    number, predict = case.number, _predictor(trial.model, trial.threads)
    patient = trial.patient(number)
    rng = np.random.default_rng([_SEED, number])
    protocol = draw_protocol(CENTRES[sorted(CENTRES)[number % len(CENTRES)]], rng=rng)
    scan, truth = scanned(patient, protocol, number, STRESSED)
    row = {
        "number": number,
        "head": patient.latent.source,
        "scanner": protocol.scanner.vendor,
        "thickness_mm": protocol.thickness_mm,
        "bled": patient.latent.has_haematoma,
        **_reading_row(predict, scan, truth, patient),
    }
    read = mask_reader(predict)
    if not patient.latent.has_haematoma:
        row["clots"] = _pasted_clots(scan, truth, read, rng)
    elif number < trial.changed:
        row["changes"] = _changed_scans(patient, protocol, scan, read)
    return row


def _reading_row(
    predict: Predictor, scan: Scan, truth: dict[str, Volume], patient: VirtualPatient
) -> dict[str, Any]:
    started = time.perf_counter()
    prediction = predict(scan)
    coordinates = prediction.atlas_coordinates()
    masks = consistent_masks(prediction, coordinates)
    seconds = time.perf_counter() - started
    site = site_measure(coordinates, masks.ich).value if masks.ich.array.any() else None
    row = {
        "seconds": seconds,
        "blood_ml": _blood_ml(masks),
        "targets": {name: _compared(name, masks, truth[name], prediction) for name in STRESSED},
        "tracts": _tract_methods(prediction, coordinates, truth),
        "tracts_swapped": _swapped(masks, truth),
        "site": (patient.latent.site, site),
        "shift_mm": (patient.truth.midline_shift_mm, None if coordinates is None else shift_at(coordinates)),
    }
    if prediction.refined is not None:
        first = consistent_masks(replace(prediction, refined=None), coordinates)
        overlaps = {name: dice(truth[name], getattr(first, name)) for name in STRESSED}
        row["first"] = {**overlaps, "blood_ml": _blood_ml(first)}
    return row


def _blood_ml(masks: Masks) -> float:
    return volume_ml(masks.ich) + volume_ml(masks.ivh)


def _compared(name: str, masks: Masks, truth: Volume, prediction: Prediction) -> dict[str, Any]:
    """Compare one mask, and the interval of its volume where there is one, with the truth."""
    mask, true_ml = getattr(masks, name), volume_ml(truth)
    calibration = load_volume_calibration(prediction.model.folder) if name in WITH_INTERVAL else None
    interval = calibration.interval_ml(WITH_INTERVAL[name], volume_ml(mask)) if calibration else None
    inside = None if interval is None else bool(interval[0] <= true_ml <= interval[1])
    return {
        "dice": dice(truth, mask),
        "ml": volume_ml(mask),
        "true_ml": true_ml,
        "interval_ml": interval,
        "inside": inside,
    }


def _tract_methods(
    prediction: Prediction, coordinates: AtlasCoordinates | None, truth: dict[str, Volume]
) -> list[dict[str, float]]:
    """Return the overlap of each tract by the atlas alone, and by the first network alone."""
    if coordinates is None:
        return []
    first = replace(prediction, refined=None)
    rows = []
    for side in SIDES:
        true = truth[f"tract_{side}"]
        atlas = coordinates.look_up(population(side)).map_array(lambda share: share > ATLAS_SHARE)
        drawn = first.mask(f"tract_{side}").reoriented("RAS")
        rows.append({"atlas": dice(true, atlas), "network": dice(true, drawn)})
    return rows


def _swapped(masks: Masks, truth: dict[str, Volume]) -> bool:
    """Say whether a tract overlaps more with the truth of the other side than with that of its own."""
    left, right = (truth[f"tract_{side}"] for side in SIDES)
    drawn = (masks.tract_left, masks.tract_right)
    own = (dice(left, drawn[0]), dice(right, drawn[1]))
    other = (dice(right, drawn[0]), dice(left, drawn[1]))
    return any(crossed > straight for crossed, straight in zip(other, own, strict=True))


def _pasted_clots(
    scan: Scan, truth: dict[str, Volume], read: MaskReader, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Paste clots into a head without blood, one at a time; return the overlap as haematoma and as blood."""
    ventricles = np.asarray(truth["ventricles"].array)
    tissue = truth["brain"].with_array(np.asarray(truth["brain"].array) > ventricles)
    out = {}
    for ml in CLOTS_ML:
        pasted, clot = with_clot(scan, tissue, ml=ml, rng=rng)
        masks = read(pasted)
        blood = masks.ich.with_array(np.asarray(masks.ich.array) | np.asarray(masks.ivh.array))
        out[f"{ml:g}"] = {"ich": dice(clot, masks.ich), "blood": dice(clot, blood)}
    return out


def _changed_scans(
    patient: VirtualPatient, protocol: CtProtocol, scan: Scan, read: MaskReader
) -> dict[str, Any]:
    """Shift, thicken and tilt the scan of a patient who bled; return the volumes read from each."""
    still = replace(protocol, motion_mm=0.0, metal=False)

    def rescanned(changed: CtProtocol) -> Callable[[], Scan]:
        return lambda: scanned(patient, changed, 1, STRESSED)[0]

    def with_thickness(mm: float) -> CtProtocol:
        return replace(still, thickness_mm=mm, step_mm=mm, noise_hu=3.5 * (5 / mm) ** 0.5)

    offsets: dict[float, Callable[[], Scan]] = {hu: _shift_of(scan, hu) for hu in SHIFTS_HU}
    thickness = {mm: rescanned(with_thickness(mm)) for mm in THICKNESS_MM}
    tilts = {deg: rescanned(replace(still, tilt_deg=deg)) for deg in (0.0, *TILTS_DEG)}
    return {
        "offsets": _volumes(offsets, read),
        "thickness": _volumes(thickness, read),
        "tilts": _volumes(tilts, read),
    }


def _shift_of(scan: Scan, hu: float) -> Callable[[], Scan]:
    return lambda: shifted(scan, hu=hu)


def _volumes(scans: dict[float, Callable[[], Scan]], read: MaskReader) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {"ich": {}, "ventricles": {}}
    for key, scan in scans.items():
        masks = read(scan())
        for name, volumes in out.items():
            volumes[f"{key:g}"] = volume_ml(getattr(masks, name))
    return out
