"""What can be learnt from a cohort, and in which file and under which label each target lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti
from ichnos.models import TargetSpec
from ichnos.targets import TARGETS, target_named, targets_in
from ichnos.volume import Volume


def target_specs(text: str) -> tuple[TargetSpec, ...]:
    """Return the targets that a comma list names; "haematoma" and "tract" stand for all of theirs.

    >>> [target.name for target in target_specs("tract,leukoaraiosis")]
    ['tract_left', 'tract_right', 'leukoaraiosis']
    """
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    names = list(dict.fromkeys(name for part in wanted for name in _named_by(part)))
    known = [name for name, target in TARGETS.items() if target.label_map]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        maps = dict.fromkeys(TARGETS[name].label_map for name in known)
        raise UsageError(
            f"targets {', '.join(unknown) or 'none'} were asked for; give any of"
            f" {', '.join(dict.fromkeys([*known, *maps]))}"
        )
    return tuple(TargetSpec(name=name, group=TARGETS[name].group) for name in names)


def _named_by(word: str) -> tuple[str, ...]:
    """Return the target of this name, or all of the label map of this name."""
    return (word,) if word in TARGETS else tuple(target.name for target in targets_in(word)) or (word,)


def target_file(
    cohort: Cohort, patient: Patient, name: str, pipelines: Sequence[str]
) -> tuple[Path, tuple[int, ...]] | None:
    """Return a patient's file of a target with the values that count in it; None where its truth is not
    known.

    A cohort on disk is searched in the given pipelines; of any other cohort the patient's own `targets` are
    taken.
    """
    target = target_named(name)
    on_disk = cohort.root is not None and bids.is_cohort(cohort.root)
    for label, values in ((name.replace("_", ""), ()), (target.label_map, target.codes)):
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
