"""FLAIR to leukoaraiosis: whose segmentation, and how it comes onto the CT.

Three ways to a mask, in the order of trust: one the user already has (manual, LST-AI, SAMSEG, BIANCA, any),
LST-AI if it is installed and a T1 is there, or the own segmenter of `wmh.py`. Each is carried to the CT as
the share of every CT voxel that is lesion, so that a thick FLAIR slice on a thin CT slice, or the reverse,
becomes a fraction rather than a guess.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ichnos.arrays import Array
from ichnos.errors import InputRefused, MissingExtra
from ichnos.registration.transform import Transform
from ichnos.transfer.flair.segmenter import Hyperintensities, checked_flair, segment_hyperintensities
from ichnos.transfer.flair.thick_slices import between_slices, softened
from ichnos.transfer.mri_to_mni import register_mri_to_mni
from ichnos.verdict import Level, Reason, Verdict
from ichnos.volume import Volume, volume_ml

_LOOSE_PLACING = 0.3  # a template that correlates less with the exam is not to be believed


@dataclass(frozen=True, eq=False)
class Leukoaraiosis:
    """White-matter disease as FLAIR shows it, on the CT grid."""

    share: Volume  # float32, which share of each CT voxel is lesion, 0…1
    mask: Volume  # bool, at least half
    on_flair: Hyperintensities
    verdict: Verdict

    @property
    def volume_ml(self) -> float:
        """Return the volume on the CT, partial voxels counted by their share."""
        return volume_ml(self.share)


def hyperintensities_of(
    flair: Volume, *, exclude: Volume | None = None, threads: int = 1
) -> Hyperintensities:
    """Segment a FLAIR exam with nothing but the exam: place the MNI template, then find the outliers of white
    matter.

    `exclude` is a mask on any grid in the FLAIR's space (blood, its oedema, an infarct) that is no
    leukoaraiosis.
    """
    checked_flair(flair)
    to_mni = register_mri_to_mni(flair, weighting="flair", exclude=exclude, threads=threads)
    found = segment_hyperintensities(flair, flair_from_mni=to_mni.exam_from_mni, exclude=exclude)
    level: Level = "pass" if to_mni.correlation > _LOOSE_PLACING else "warn"
    text = f"the MNI template correlates with the FLAIR at {to_mni.correlation:.2f} after placing"
    reason = Reason("template_placing", level, text, to_mni.correlation)
    return Hyperintensities(found.share, found.brightness, found.left_out, found.verdict + Verdict((reason,)))


def given_hyperintensities(mask: Volume, flair: Volume) -> Hyperintensities:
    """Take a mask or probability map that somebody else made on the FLAIR; on another grid it is resampled
    onto the exam's.

    >>> flair = Volume(np.ones((8, 8, 8), np.float32), np.eye(4))
    >>> float(given_hyperintensities(flair.astype(bool), flair).share.array.mean())
    1.0
    """
    values = _checked_values(mask)
    share = mask.with_array(np.minimum(values, 1.0))  # labels above 1 (LST-AI's regions) are all lesion
    share = share if share.same_grid(flair) else share.on_grid(flair)
    if np.isin(share.array, (0, 1)).all():
        share = softened(share, flair)
    volume = volume_ml(share)
    reason = Reason("wmh_volume", "pass", f"{volume:.1f} mL in the mask given", volume, "mL")
    nothing = flair.with_array(np.zeros(flair.shape, bool))
    return Hyperintensities(share, None, nothing, Verdict((reason,)))


def _checked_values(mask: Volume) -> Array:
    """Return the values of a mask or probability map, or refuse what is neither."""
    values = np.nan_to_num(mask.array.astype(np.float32))
    if values.ndim != 3:
        raise InputRefused(
            f"the lesion mask has shape {values.shape}; one three-dimensional mask is expected"
        )
    if values.min() < 0 or (values.max() > 1 and not np.array_equal(values, np.round(values))):
        raise InputRefused(
            f"the lesion mask holds values from {values.min():g} to {values.max():g}; a mask or a probability"
            " 0…1 is expected"
        )
    return values


def lst_ai_hyperintensities(
    flair: Path, t1: Path, *, device: str = "cpu", threads: int = 1
) -> Hyperintensities:
    """Run LST-AI, which the user has installed (`lst` on the path), on a FLAIR and a T1 file (.nii.gz)."""
    from ichnos.formats import nifti

    if shutil.which("lst") is None:
        raise MissingExtra(
            "LST-AI is not installed: no program named lst is on the path; leave it out to use the own"
            " segmenter"
        )
    with tempfile.TemporaryDirectory() as folder:
        call = ["lst", "--flair", str(flair), "--t1", str(t1), "--output", folder, "--segment_only"]
        call += ["--device", device, "--threads", str(threads)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        masks = sorted(Path(folder).glob("*seg-lst.nii.gz"), key=lambda path: "flair" not in path.name)
        if done.returncode != 0 or not masks:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
            raise InputRefused(f"LST-AI made no mask of {flair} (exit code {done.returncode}): {last[0]}")
        return given_hyperintensities(nifti.load(masks[0]), nifti.load(flair))


def leukoaraiosis_on_ct(
    found: Hyperintensities, *, flair_from_ct: Transform, ct: Volume, blood: Volume | None = None
) -> Leukoaraiosis:
    """Carry hyperintensities onto the CT grid; `blood` (a mask on the CT: haematoma and oedema) is never
    leukoaraiosis.
    """
    share = flair_from_ct.pull_share(between_slices(found.share), ct)
    if blood is not None:
        share = share.with_array(
            np.where(blood.on_grid(ct, interpolation="nearest").array > 0, 0, share.array)
        )
    on_flair, on_ct = volume_ml(found.share), volume_ml(share)
    kept = on_ct / on_flair if on_flair > 0.5 else 1.0
    text = f"{on_flair:.1f} mL on FLAIR became {on_ct:.1f} mL on CT"
    reason = Reason("volume_kept", "pass" if 0.75 <= kept <= 1.33 else "warn", text, kept)
    mask = share.with_array(share.array >= 0.5)
    return Leukoaraiosis(share, mask, found, found.verdict + Verdict((reason,)))
