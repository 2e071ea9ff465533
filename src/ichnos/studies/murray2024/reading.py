"""Both tracts of one patient in every way, and their injury by the haematoma."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.anatomy.ct_to_mni import CtToMni, register_ct_to_mni
from ichnos.anatomy.tract import SIDES, atlas
from ichnos.clinical.injury import INJURY_GRADES, tract_injury
from ichnos.cohort import Cohort, Patient
from ichnos.evidence.metrics.overlap import dice
from ichnos.simulation.cohort.exam_files import TRUTH
from ichnos.studies.shared.labels import StudyLabels, label_on_ct
from ichnos.studies.shared.reading import ct_scan, predictor_of
from ichnos.volume import Volume, volume_ml

Tracts = Mapping[str, Volume | None]  # side -> tract; None where it is not known
_LIKELY = 0.5  # share of the population that has its tract in a voxel of the atlas


@dataclass(frozen=True)
class TractReader:
    """Find both tracts of one patient in every way, compare them with the label, and judge their injury."""

    labels: StudyLabels
    models: dict[str, str]  # name -> folder
    device: str

    def __call__(self, patient: Patient, folder: Path) -> dict[str, Any]:
        """Return Dice per side, mL, injury grades and loads of each way."""
        del folder
        scan, cohort = ct_scan(patient), self.labels.cohort
        found: dict[str, Tracts] = {
            name: _read(predictor_of(model, self.device)(scan).mask) for name, model in self.models.items()
        }
        blood, oedema = (_blood(cohort, patient, name) for name in (("ICH", "IVH"), ("PHE",)))
        affine = register_ct_to_mni(scan.volume)
        bent = register_ct_to_mni(
            scan.volume, kind="deformable", exclude=_either(blood, oedema), start=affine
        )
        found |= {
            "affine": carried_atlas(scan.volume, affine),
            "deformable": carried_atlas(scan.volume, bent),
        }
        label: Tracts = {
            side: label_on_ct(cohort, patient, f"tract_{side}", self.labels.pipelines) for side in SIDES
        }
        true: Tracts = {side: label_on_ct(cohort, patient, f"tract_{side}", (TRUTH,)) for side in SIDES}
        row: dict[str, Any] = {"split": patient.split, "centre": patient.centre}
        row |= {
            "ich_ml": None if blood is None else round(volume_ml(blood), 3),
            "side": _bleeding_side(blood),
        }
        for way, tracts in {**found, "label": label, "truth": true}.items():
            for side in SIDES:
                reference = true[side] if way == "label" else label[side]
                tract = tracts[side]
                if (
                    way != "truth"
                    and tract is not None
                    and reference is not None
                    and (reference.array.any() or tract.array.any())
                ):
                    row[f"{way}_{side}_dice"] = round(dice(reference, tract), 5)
            row |= {f"{way}_{name}": value for name, value in worse_side(tracts, blood, oedema).items()}
        return row


def _read(mask_of: Callable[[str], Volume]) -> Tracts:
    return {side: mask_of(f"tract_{side}") for side in SIDES}


def carried_atlas(ct: Volume, placed: CtToMni) -> Tracts:
    """Return the comparator: the atlas's tracts brought onto the CT by registration."""
    return {
        side: placed.share_on(atlas(side).probability, ct).map_array(lambda share: share > _LIKELY)
        for side in SIDES
    }


def _blood(cohort: Cohort, patient: Patient, names: Sequence[str]) -> Volume | None:
    """Return drawn blood or oedema; None where nobody has drawn it."""
    return _either(*(label_on_ct(cohort, patient, name, ("manual", "transfer", TRUTH)) for name in names))


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
    """Return grade (0 no risk … 3 interrupted) and loads of the side that is injured more; nothing where
    it cannot be said.
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
    worst = max(found, key=lambda injury: (INJURY_GRADES.index(injury.grade), injury.blood_load_ml))
    return {
        "grade": INJURY_GRADES.index(worst.grade),
        "load_ml": round(worst.blood_load_ml, 4),
        "weighted_load_ml": round(worst.weighted_blood_load_ml, 4),
    }
