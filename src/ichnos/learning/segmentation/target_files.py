"""What can be learnt from a cohort, and in which file and under which label each target lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti
from ichnos.models import TargetSpec
from ichnos.volume import Volume

Group = Literal["haematoma", "leukoaraiosis", "tract", "anatomy"]


@dataclass(frozen=True)
class Place:
    """Where a target lies: a map `label-<label>` on the CT, and the values in it that are the target
    (none: every voxel that is not 0).
    """

    label: str
    values: tuple[int, ...] = ()
    group: Group = "anatomy"


# A map that names a target itself (label-ICH) is taken before the map of its group (label-haematoma).
PLACES: dict[str, Place] = {
    "brain": Place("brain", (1, 2)),  # the ventricles lie inside it
    "ventricles": Place("brain", (2,)),
    "ICH": Place("haematoma", (1,), "haematoma"),
    "IVH": Place("haematoma", (2,), "haematoma"),
    "PHE": Place("haematoma", (3,), "haematoma"),
    "leukoaraiosis": Place("leukoaraiosis", (), "leukoaraiosis"),
    "tract_left": Place("tract", (1,), "tract"),
    "tract_right": Place("tract", (2,), "tract"),
}
GROUPS: dict[str, tuple[str, ...]] = {
    "haematoma": ("ICH", "IVH", "PHE"),
    "tract": ("tract_left", "tract_right"),
}
OTHER_SIDE = {"tract_left": "tract_right", "tract_right": "tract_left"}


def target_specs(text: str) -> tuple[TargetSpec, ...]:
    """Return the targets that a comma list names; "haematoma" and "tract" stand for all of theirs.

    >>> [target.name for target in target_specs("tract,leukoaraiosis")]
    ['tract_left', 'tract_right', 'leukoaraiosis']
    """
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    names = list(dict.fromkeys(name for part in wanted for name in GROUPS.get(part, (part,))))
    unknown = [name for name in names if name not in PLACES]
    if unknown or not names:
        raise UsageError(
            f"targets {', '.join(unknown) or 'none'} were asked for; give any of"
            f" {', '.join([*PLACES, *GROUPS])}"
        )
    return tuple(TargetSpec(name=name, group=PLACES[name].group) for name in names)


def target_file(
    cohort: Cohort, patient: Patient, name: str, pipelines: Sequence[str]
) -> tuple[Path, tuple[int, ...]] | None:
    """Return a patient's file of a target with the values that count in it; None where its truth is not
    known.

    A cohort on disk is searched in the given pipelines; of any other cohort the patient's own `targets` are
    taken.
    """
    place = PLACES[name]
    on_disk = cohort.root is not None and bids.is_cohort(cohort.root)
    for label, values in ((name.replace("_", ""), ()), (place.label, place.values)):
        found = (
            bids.find_target(str(cohort.root), patient.id, label, pipelines)
            if on_disk
            else patient.targets.get(label)
        )
        if found is not None:
            return found, values
    return None


def target_degree(file: Path, values: Sequence[int], ct: Volume) -> npt.NDArray[np.float32]:
    """Return the degree 0..1 to which each voxel of the CT is target."""
    drawn = nifti.load(file)
    if not drawn.same_grid(ct):
        raise InputRefused(
            f"{file} lies on another grid than its CT; resample it first, or transfer it anew (ichnos"
            " transfer)"
        )
    if drawn.array.dtype.kind == "f" and not values:
        return np.clip(np.asarray(drawn.array, np.float32), 0, 1)
    inside = np.isin(np.round(drawn.array), values) if values else drawn.array != 0
    return inside.astype(np.float32)
