"""Follow-up CT onto the baseline CT: where blood has come since, how much, and whether that counts as
expansion.

Volumes are taken from each CT on its own grid, so that no registration changes them. The growth mask lies on
the baseline grid. By default the heads are aligned rigidly: the mask then shows the later haematoma where it
lies in the skull, pushed tissue and all. With `undo_shift` a smooth displacement takes back what the
haematoma has pushed aside, which suits questions about tissue rather than space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ichnos.clinical.expansion import DEFINITIONS, ExpansionDefinition
from ichnos.errors import InputRefused
from ichnos.registration import Registration, register
from ichnos.verdict import Reason, Verdict
from ichnos.volume import Volume, volume_ml

ICH, IVH, PHE = 1, 2, 3  # labels of a haematoma map
Blood = Volume | Callable[[Volume], Volume]  # a label map on the CT's grid, or what draws one (a model)
SPECK_ML = 0.05  # growth in pieces smaller than this is the noise of two outlines


@dataclass(frozen=True, eq=False)
class Growth:
    """What the follow-up CT shows of a haematoma, on the baseline grid."""

    # uint8 labels of the follow-up (1 ICH, 2 IVH, 3 PHE) on the baseline grid: the target "expansion"
    followup_blood: Volume
    growth: Volume  # bool: blood at follow-up where there was none, specks left out
    volumes_ml: Mapping[str, float]  # ich, ivh, phe, each at baseline and followup_…, and growth
    expanded: Mapping[str, bool | None]  # under each definition; None where it cannot be said
    registration: Registration  # followup_from_ct
    verdict: Verdict


def transfer_followup(
    ct: Volume,
    followup: Volume,
    *,
    blood: Blood,
    followup_blood: Blood,
    definitions: Mapping[str, ExpansionDefinition] = DEFINITIONS,
    undo_shift: bool = False,
    threads: int = 1,
) -> Growth:
    """Bring a follow-up CT's haematoma onto the baseline CT; masks are label maps (1 ICH, 2 IVH, 3 PHE) or
    functions that draw them.
    """
    before = _drawn(blood, ct, "baseline")
    after = _drawn(followup_blood, followup, "follow-up")
    found = register(
        ct,
        followup,
        kind="deformable" if undo_shift else "rigid",
        exclude=_around(before),
        fixed_contrast="ct",
        moving_contrast="ct",
        stiffness=1.5,
        threads=threads,
    )
    later = found.transform.pull_labels(after, ct)
    growth = _new_blood(before, later)
    volumes = blood_volumes_ml(before) | {
        f"followup_{name}": ml for name, ml in blood_volumes_ml(after).items()
    }
    volumes["growth"] = volume_ml(growth)
    labels = {name: expansion_label(d, volumes) for name, d in definitions.items()}
    return Growth(later, growth, volumes, labels, found, _judged(volumes, later))


def _drawn(blood: Blood, ct: Volume, which: str) -> Volume:
    labels = blood(ct) if callable(blood) else blood
    if not labels.same_grid(ct, tolerance_mm=0.05):
        raise InputRefused(
            f"the haematoma of the {which} CT lies on another grid than the CT; draw it on that CT"
        )
    found = set(np.unique(labels.array).tolist())
    if not found <= {0, ICH, IVH, PHE}:
        raise InputRefused(
            f"the haematoma map of the {which} CT holds the values {sorted(found)}; 0, 1 (ICH), 2 (IVH) and 3"
            " (PHE) are known"
        )
    return labels.astype(np.uint8)


def _around(before: Volume) -> Volume:
    """Return the haematoma with its oedema and a rim of about 4 mm: what changes between the exams takes
    no part.
    """
    steps = np.array(before.spacing_mm)
    distance = (
        ndimage.distance_transform_edt(before.array == 0, sampling=steps)
        if before.array.any()
        else np.full(before.shape, 99.0)
    )
    return before.with_array((distance <= 4.0).astype(np.uint8))


def _new_blood(before: Volume, later: Volume) -> Volume:
    new = np.isin(later.array, (ICH, IVH)) & ~np.isin(before.array, (ICH, IVH))
    labels, _ = ndimage.label(new)
    sizes_ml = np.bincount(labels.ravel()) * before.voxel_ml
    return before.with_array((sizes_ml >= SPECK_ML)[labels] & new)


def blood_volumes_ml(labels: Volume) -> dict[str, float]:
    """Return the volumes of ICH, IVH and PHE in a haematoma map."""
    names = {"ich": ICH, "ivh": IVH, "phe": PHE}
    return {name: volume_ml(labels.with_array(labels.array == label)) for name, label in names.items()}


def expansion_label(definition: ExpansionDefinition, volumes: Mapping[str, float]) -> bool | None:
    """Say whether volumes (ich, ivh, followup_ich, followup_ivh, in mL) are an expansion; None: undefined.

    >>> from ichnos.clinical.expansion import DEFAULT_DEFINITION
    >>> volumes = {"ich": 20.0, "ivh": 0.0, "followup_ich": 27.0, "followup_ivh": 0.0}
    >>> expansion_label(DEFINITIONS[DEFAULT_DEFINITION], volumes)
    True
    """
    said = float(definition(volumes["ich"], volumes["followup_ich"], volumes["ivh"], volumes["followup_ivh"]))
    if np.isnan(said) or volumes["ich"] + volumes["ivh"] == 0:
        return None  # without a haematoma at baseline there is nothing to expand
    return bool(said)


def _judged(volumes: Mapping[str, float], later: Volume) -> Verdict:
    """Say what of the target itself looks wrong, registration aside."""
    reasons = []
    first, then = volumes["ich"] + volumes["ivh"], volumes["followup_ich"] + volumes["followup_ivh"]
    if first == 0:
        text = "the baseline CT has no haematoma, so expansion is not defined"
        reasons.append(Reason("no_baseline_blood", "warn", text, 0.0, "mL"))
    brought = volume_ml(later.with_array(np.isin(later.array, (ICH, IVH))))
    if then > 1 and brought < 0.8 * then:
        text = (
            f"of {then:.1f} mL of blood at follow-up, {brought:.1f} mL lie inside the baseline CT's field of"
            " view"
        )
        reasons.append(Reason("followup_cut", "warn", text, brought, "mL"))
    if first > 5 and then < 0.4 * first:
        text = (
            f"the haematoma shrank from {first:.1f} to {then:.1f} mL: surgery, a late follow-up, or exams in"
            " the wrong order"
        )
        reasons.append(Reason("shrunk", "warn", text, then - first, "mL"))
    return Verdict(tuple(reasons))
