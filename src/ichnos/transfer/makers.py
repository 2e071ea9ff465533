"""One maker per target: from a patient's files to a target on the CT grid, with all that is needed to
judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ichnos.anatomy.tract import SIDES, Side
from ichnos.cohort import Exam, Patient
from ichnos.errors import InputRefused
from ichnos.formats import bids, nifti
from ichnos.registration import Registration, RegistrationKind, register
from ichnos.registration.contrast import contrast_of
from ichnos.transfer.mri_to_mni import register_mri_to_mni
from ichnos.transfer.pair_verdict import PairLimits
from ichnos.verdict import Verdict
from ichnos.volume import Array, Volume, volume_ml

if TYPE_CHECKING:
    from ichnos.transfer.tractography import Tractography
    from ichnos.transfer.tractography.gradients import GradientTable

TransferTarget = Literal["leukoaraiosis", "tract", "expansion"]
PARTNER: dict[TransferTarget, Exam] = {
    "leukoaraiosis": "flair",
    "tract": "diffusion",
    "expansion": "followup",
}


@dataclass(frozen=True)
class TransferOptions:
    """All that decides a result besides the pair."""

    root: str  # the cohort
    given: tuple[str, ...] = (
        "manual",
    )  # pipelines whose masks are taken where they are there (haematoma; leukoaraiosis on the FLAIR)
    undo_shift: bool = False  # expansion: take back what the haematoma has pushed aside
    seeds_per_side: int = 4000  # tract
    denoise: bool = False  # tract
    cut_off: float = 0.3  # tract: membership at the mask's edge; a lower one gives a wider tract
    warp: bool = (
        False  # leukoaraiosis and tract: let the partner exam bend, not only turn; for an exam of another day
    )
    streamlines: Literal["tck", "trx"] = "tck"
    limits: PairLimits = field(default_factory=PairLimits)

    @property
    def kind(self) -> RegistrationKind:
        """Return how far the partner MRI may be changed to fit the CT.

        >>> TransferOptions("cohort").kind, TransferOptions("cohort", warp=True).kind
        ('rigid', 'deformable')
        """
        return "deformable" if self.warp else "rigid"


_Maps = Mapping[tuple[str, bids.MapKind], Volume]  # (label, kind) -> map on the CT grid


@dataclass(frozen=True, eq=False)
class Transferred:
    """What a partner exam gave, on the CT grid."""

    partner: Volume  # the image to show on the contact sheet
    registration: Registration
    maps: _Maps
    shown: Volume  # the one to draw on the sheet: labels or a share
    judged: Mapping[str, Volume]  # name in verdict.PLAUSIBLE -> mask to judge
    verdict: Verdict  # of the target's own making
    numbers: Mapping[str, Any] = field(default_factory=dict)  # volumes and labels for the table
    files: Mapping[str, Callable[[Path], object]] = field(
        default_factory=dict
    )  # further files: name ending -> what writes it


def make_expansion(ct: Volume, patient: Patient, settings: TransferOptions) -> Transferred:
    """Bring the follow-up CT's haematoma onto the baseline CT; both haematomas must be given."""
    from ichnos.transfer.followup import transfer_followup

    followup = nifti.open_nifti(patient.exam("followup")).volume
    before, after = _blood(patient, "ct", settings), _blood(patient, "followup", settings)
    if before is None or after is None:
        raise InputRefused(_no_blood(patient, "ct" if before is None else "followup", settings))
    grown = transfer_followup(
        ct, followup, blood=before, followup_blood=after, undo_shift=settings.undo_shift
    )
    volumes = {f"{name}_ml": round(value, 3) for name, value in grown.volumes_ml.items()}
    labels = {
        f"expanded {name}": None if value is None else int(value) for name, value in grown.expanded.items()
    }
    shown = grown.followup_blood
    return Transferred(
        followup,
        grown.registration,
        {("expansion", "dseg"): shown, ("growth", "mask"): grown.growth.astype(np.uint8)},
        shown,
        {"expansion": shown.with_array(np.isin(shown.array, (1, 2)))},
        grown.verdict,
        {**volumes, **labels},
    )


def make_leukoaraiosis(ct: Volume, patient: Patient, settings: TransferOptions) -> Transferred:
    """Segment white-matter hyperintensities on the FLAIR (or take a given mask) and bring them onto the
    CT.
    """
    from ichnos.transfer import flair as wm
    from ichnos.transfer.flair.segmenter import checked_flair

    flair = _mri(patient, "flair")
    checked_flair(flair)
    blood = _blood(patient, "ct", settings)
    found = register(ct, flair, kind=settings.kind, exclude=blood, fixed_contrast="ct", moving_contrast="mri")
    drawn = given_mask(patient, "leukoaraiosis", "flair", settings)
    if drawn is not None:
        lesions = wm.given_hyperintensities(drawn, flair)
    else:
        lesions = wm.hyperintensities_of(flair, exclude=_blood_on(flair, blood, found))
    on_ct = wm.leukoaraiosis_on_ct(lesions, flair_from_ct=found.transform, ct=ct, blood=blood)
    share = on_ct.share.with_array((np.round(on_ct.share.array * 250) / 250).astype(np.float32))
    mask = on_ct.mask.astype(np.uint8)
    numbers = {
        "leukoaraiosis_ml": round(on_ct.volume_ml, 3),
        "leukoaraiosis_flair_ml": round(volume_ml(lesions.share), 3),
    }
    maps: _Maps = {("leukoaraiosis", "mask"): mask, ("leukoaraiosis", "probseg"): share}
    return Transferred(flair, found, maps, mask, {"leukoaraiosis": on_ct.mask}, on_ct.verdict, numbers)


def _blood_on(partner: Volume, blood: Volume | None, found: Registration) -> Volume | None:
    """Bring the haematoma of the CT onto the partner exam, to be left out there."""
    if blood is None:
        return None
    there = (~found.transform).pull_share(blood.with_array(blood.array > 0), partner)
    return there.with_array(there.array > 0.3)


def make_tract(ct: Volume, patient: Patient, settings: TransferOptions) -> Transferred:
    """Track both corticospinal tracts in the diffusion exam and bring their density onto the CT."""
    from ichnos.transfer import tractography as tracts

    dwi = _mri(patient, "diffusion")
    table = _gradients(patient, dwi)
    first = (
        dwi.with_array(dwi.array[..., table.unweighted].mean(axis=-1))
        if table.unweighted.any()
        else dwi.with_array(dwi.array[..., 0])
    )
    blood = _blood(patient, "ct", settings)
    found = register(ct, first, kind=settings.kind, exclude=blood, fixed_contrast="ct", moving_contrast="mri")
    exclude = _blood_on(first, blood, found)
    ready = ready_orientations(patient, settings)
    if ready is not None:
        to_mni = register_mri_to_mni(first, weighting="b0", exclude=exclude)
        both = tracts.track_fod(
            *ready, to_mni=to_mni, exclude=exclude, seeds_per_side=settings.seeds_per_side
        )
    else:
        both = tracts.track(
            dwi, table, exclude=exclude, denoise=settings.denoise, seeds_per_side=settings.seeds_per_side
        )
    return _tract_on_ct(ct, first, found, both, settings)


def _tract_on_ct(
    ct: Volume, first: Volume, found: Registration, both: Tractography, settings: TransferOptions
) -> Transferred:
    from ichnos.transfer import tractography as tracts

    density = {
        side: tracts.density_on_ct(tract, exam_from_ct=found.transform, ct=ct)
        for side, tract in both.tracts.items()
    }
    labels = _tract_labels(density, settings.cut_off)
    masks = {f"tract_{side}": labels.map_array(partial(np.equal, code)) for code, side in enumerate(SIDES, 1)}
    numbers: dict[str, Any] = {}
    for side, tract in both.tracts.items():
        numbers[f"tract_{side}_ml"] = round(volume_ml(masks[f"tract_{side}"]), 3)
        numbers[f"tract_{side}_complete"] = tract.complete
        numbers[f"tract_{side}_interrupted"] = int(tract.interrupted)
    files = {
        f"tract{side}_streamlines.{settings.streamlines}": partial(_save, tract=tract, reference=first)
        for side, tract in both.tracts.items()
        if tract.streamlines
    }
    shares: _Maps = {(f"tract{side}", "probseg"): volume for side, volume in density.items()}
    maps: _Maps = {("tract", "dseg"): labels, **shares}
    return Transferred(first, found, maps, labels, masks, both.verdict, numbers, files)


def _tract_labels(density: Mapping[Side, Volume], cut_off: float) -> Volume:
    """Return both tracts as labels, 1 left and 2 right; where both are, the denser one wins."""
    left, right = density["left"], density["right"]
    is_left, is_right = left.array >= cut_off, right.array >= cut_off
    right_wins = is_right & (~is_left | (right.array > left.array))
    return left.with_array(np.where(right_wins, 2, is_left).astype(np.uint8))


def _gradients(patient: Patient, dwi: Volume) -> GradientTable:
    from ichnos.transfer.tractography.gradients import gradients_beside

    return gradients_beside(patient.exam("diffusion"), affine=dwi.affine)


def ready_orientations(patient: Patient, settings: TransferOptions) -> tuple[Array, Volume] | None:
    """Return fibre orientations that another program left for the patient, with their grid: a *peaks or an
    MRtrix *fod file.
    """
    from ichnos.transfer.tractography.fibres import fod_from_mrtrix, fod_from_peaks

    for pipeline in settings.given:
        folder = Path(settings.root) / "derivatives" / pipeline / bids.subject(patient.id)
        for ending, read in (("peaks", fod_from_peaks), ("fod", fod_from_mrtrix)):
            for path in sorted([*folder.rglob(f"*{ending}.nii.gz"), *folder.rglob(f"*{ending}.nii")]):
                given = nifti.load(path)
                return read(given), Volume(given.array[..., 0], given.affine)
    return None


MAKERS: dict[TransferTarget, Callable[[Volume, Patient, TransferOptions], Transferred]] = {
    "leukoaraiosis": make_leukoaraiosis,
    "tract": make_tract,
    "expansion": make_expansion,
}


def _save(path: Path, *, tract: Any, reference: Volume) -> None:
    from ichnos.transfer.tractography import save_streamlines

    path.parent.mkdir(parents=True, exist_ok=True)
    save_streamlines(tract, path, reference=reference)


def _blood(patient: Patient, exam: Exam, settings: TransferOptions) -> Volume | None:
    return given_mask(patient, "haematoma", exam, settings)


def _no_blood(patient: Patient, exam: Exam, settings: TransferOptions) -> str:
    """Say that a haematoma mask is missing, and which pipelines have one."""
    pattern = bids.derivative_path(
        "", patient.id, pipeline="*", label="haematoma", kind="dseg", exam=exam
    ).as_posix()
    files = Path(settings.root).glob(pattern.replace("_dseg", "_*"))
    others = sorted({file.parts[-4] for file in files} - set(settings.given))
    remedy = (
        " or ".join(f"--given {name}" for name in others) or "put one there, or name its pipeline: --given"
    )
    return (
        f"patient {patient.id} has no haematoma mask of the {exam} exam in {', '.join(settings.given)};"
        f" {'give ' if others else ''}{remedy}"
    )


def given_mask(patient: Patient, label: str, exam: Exam, settings: TransferOptions) -> Volume | None:
    """Return a mask that somebody has drawn on an exam, from the first of the trusted pipelines that has
    it.
    """
    for pipeline in settings.given:
        for kind in bids.MAP_KINDS:
            path = bids.derivative_path(
                settings.root, patient.id, pipeline=pipeline, label=label, kind=kind, exam=exam
            )
            if path.is_file():
                drawn = nifti.load(path)  # on a sheared CT: onto the grid on which the CT itself is opened
                return (
                    drawn
                    if drawn.is_orthogonal
                    else drawn.on_grid(drawn.orthogonal_grid(), interpolation="nearest")
                )
    return None


def _mri(patient: Patient, exam: Exam) -> Volume:
    """Load an MRI, or refuse what is in truth a CT (exams swapped)."""
    image = nifti.load(patient.exam(exam))
    first = image.with_array(image.array[..., 0]) if image.array.ndim == 4 else image
    if np.isfinite(first.array).any() and contrast_of(first.map_array(np.nan_to_num)) == "ct":
        raise InputRefused(
            f"the {exam} exam of patient {patient.id} is a CT by its values: are the exams swapped?"
        )
    return image
