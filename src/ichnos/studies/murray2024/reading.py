"""Both tracts of one patient in every way, and their injury by the haematoma."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.anatomy.ct_to_mni import CtToMni, register_ct_to_mni
from ichnos.anatomy.tract import SIDES, atlas
from ichnos.clinical.injury import (
    INJURY_GRADES,
    POSITION_SD_MM,
    expected_grade,
    grade_probabilities,
    tract_injury,
)
from ichnos.cohort import Cohort, Patient
from ichnos.evidence.metrics.overlap import dice
from ichnos.inference.grid import SpacingMm, through_grid
from ichnos.simulation.cohort.exam_files import TRUTH
from ichnos.studies.murray2024.design import AGAINST_TRUTH
from ichnos.studies.shared.grid_limit import AT_VOXELS
from ichnos.studies.shared.labels import StudyLabels, label_on_ct
from ichnos.studies.shared.reading import ct_scan, predictor_of
from ichnos.volume import Volume, box_around, volume_ml

Tracts = Mapping[str, Volume | None]  # side -> tract; None where it is not known
_LIKELY = 0.5  # share of the population that has its tract in a voxel of the atlas


@dataclass(frozen=True)
class TractReader:
    """Find both tracts of one patient in every way, compare them with the label, and judge their injury."""

    labels: StudyLabels
    models: dict[str, str]  # name -> folder
    device: str
    register_mm: float | None = None  # voxel size of the CT that the atlas is registered to; None: its own
    voxels: Mapping[str, SpacingMm] = field(default_factory=dict)  # by network

    def __call__(self, patient: Patient, folder: Path) -> dict[str, Any]:
        """Return Dice per side, mL, injury grades, loads and losses of each way."""
        del folder
        scan, cohort = ct_scan(patient), self.labels.cohort
        ich, ivh, oedema = (_drawn(cohort, patient, name) for name in ("ICH", "IVH", "PHE"))
        blood = _either(ich, ivh)
        found: dict[str, Tracts] = {
            name: _read(predictor_of(model, self.device)(scan).mask) for name, model in self.models.items()
        }
        found |= self._atlas_tracts(scan.volume, _either(blood, oedema))
        label, true = self._known(patient, self.labels.pipelines), self._known(patient, (TRUTH,))
        row: dict[str, Any] = {"split": patient.split, "centre": patient.centre}
        for name, mask in (("ich_ml", ich), ("ivh_ml", ivh)):
            row[name] = None if mask is None else round(volume_ml(mask), 3)
        row |= {"side": _bleeding_side(blood)}
        row |= {f"label_{side}": True for side in SIDES if label[side] is not None}
        for way, tracts in {**found, "label": label, "truth": true}.items():
            row |= _overlaps(way, tracts, true if way == "label" else label)
            row |= _overlaps(f"{way}{AGAINST_TRUTH}", tracts, true) if way in found else {}
            row |= {f"{way}_{name}": value for name, value in worse_side(tracts, blood, oedema).items()}
        for name, spacing_mm in self.voxels.items():
            row |= _overlaps(f"{name}{AT_VOXELS}", _at_voxels(label, spacing_mm), label)
        return row

    def _known(self, patient: Patient, pipelines: Sequence[str]) -> Tracts:
        cohort = self.labels.cohort
        return {side: label_on_ct(cohort, patient, f"tract_{side}", pipelines) for side in SIDES}

    def _atlas_tracts(self, ct: Volume, exclude: Volume | None) -> dict[str, Tracts]:
        """Return the comparators: the atlas by an affine and by a deformable registration."""
        coarse = ct if self.register_mm is None else ct.resampled(self.register_mm, fill=-1000.0)
        outside = None if exclude is None else exclude.labels_on_grid(coarse)
        affine = register_ct_to_mni(coarse)
        bent = register_ct_to_mni(coarse, kind="deformable", exclude=outside, start=affine)
        return {"affine": carried_atlas(ct, affine), "deformable": carried_atlas(ct, bent)}


def _overlaps(way: str, tracts: Tracts, reference: Tracts) -> dict[str, float]:
    """Return the Dice of each side that both know, unless both find nothing there."""
    if way == "truth":
        return {}
    found = {}
    for side in SIDES:
        tract, known = tracts[side], reference[side]
        if tract is not None and known is not None and (known.array.any() or tract.array.any()):
            found[f"{way}_{side}_dice"] = round(dice(known, tract), 5)
    return found


def _at_voxels(label: Tracts, spacing_mm: SpacingMm) -> Tracts:
    return {side: None if t is None else through_grid(t, spacing_mm) for side, t in label.items()}


def _read(mask_of: Callable[[str], Volume]) -> Tracts:
    return {side: mask_of(f"tract_{side}") for side in SIDES}


def carried_atlas(ct: Volume, placed: CtToMni) -> Tracts:
    """Return the comparator: the atlas's tracts brought onto the CT by registration."""
    return {
        side: placed.share_on(atlas(side).probability, ct).map_array(lambda share: share > _LIKELY)
        for side in SIDES
    }


def _drawn(cohort: Cohort, patient: Patient, name: str) -> Volume | None:
    """Return drawn blood or oedema; None where nobody has drawn it."""
    return label_on_ct(cohort, patient, name, ("manual", "transfer", TRUTH))


def _either(*masks: Volume | None) -> Volume | None:
    there = [mask for mask in masks if mask is not None]
    return there[0].with_array(np.any([mask.array for mask in there], axis=0)) if there else None


def _bleeding_side(blood: Volume | None) -> str | None:
    """Return on which side of the scan's middle most of the blood lies (RAS)."""
    if blood is None or not blood.array.any():
        return None
    x = blood.world(np.argwhere(blood.array))[:, 0] - blood.centre_mm[0]
    return "left" if np.median(x) < 0 else "right"


def worse_side(tracts: Tracts, blood: Volume | None, oedema: Volume | None) -> dict[str, Any]:
    """Return grade (0 no risk … 3 interrupted), loads and largest loss of the side that is injured more, and
    the greater of both sides' expected grades (`soft`); nothing where it cannot be said.
    """
    if blood is None or not blood.array.any():
        return {}
    found = []
    for tract in tracts.values():
        if tract is None or not tract.array.any():
            return {}
        z_mm = tract.world(
            np.column_stack([np.zeros(tract.shape[2]), np.zeros(tract.shape[2]), np.arange(tract.shape[2])])
        )[:, 2]
        swollen = blood.array & False if oedema is None else oedema.array
        parts = [np.asarray(array, np.float32) for array in (tract.array, blood.array, swollen)]
        found.append(tract_injury(parts[0], parts[1], parts[2], z_mm=z_mm, voxel_ml=tract.voxel_ml))
    soft = [_expected_grade(tract, blood, oedema) for tract in tracts.values() if tract is not None]
    worst = max(found, key=lambda injury: (INJURY_GRADES.index(injury.grade), injury.blood_load_ml))
    return {
        "grade": INJURY_GRADES.index(worst.grade),
        "load_ml": round(worst.blood_load_ml, 4),
        "weighted_load_ml": round(worst.weighted_blood_load_ml, 4),
        "loss": round(worst.largest_loss, 4),
        "soft": round(max(soft), 4),
    }


def _expected_grade(tract: Volume, blood: Volume, oedema: Volume | None) -> float:
    """Return the mean grade over the error of the tract's place."""
    box = box_around(tract, margin_mm=3 * POSITION_SD_MM)
    swollen = blood.with_array(np.zeros_like(blood.array)) if oedema is None else oedema
    parts = [np.asarray(part.cropped(box).array, np.float32) for part in (tract, blood, swollen)]
    spacing_mm = tract.spacing_mm[0], tract.spacing_mm[1]
    return expected_grade(grade_probabilities(parts[0], parts[1], parts[2], spacing_mm=spacing_mm))
