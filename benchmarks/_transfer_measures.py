"""What `benchmarks/transfer.py` measures of one patient whose truth is known."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.formats import bids, nifti
from ichnos.registration import Registration, Transform, assess, register
from ichnos.transfer import flair as white
from ichnos.transfer.followup import transfer_followup
from ichnos.transfer.gradients import read_fsl_gradients
from ichnos.transfer.tractography import TRACT_DENSITY, density_on_ct, track
from ichnos.transfer.verdict import judge_pair, measure_pair
from ichnos.transfer.wmh import Hyperintensities
from ichnos.volume import Affine, Volume, volume_ml

BROKEN = ("wrong_patient", "flipped", "shifted", "half_missing")


def measure_patient(home: Path, patient_id: str, stranger_id: str) -> dict[str, Any]:
    """Measure one patient's pairs: FLAIR, follow-up and diffusion as they are, and FLAIR broken in four ways."""
    ct, flair = (nifti.load(bids.exam_path(home, patient_id, exam)) for exam in ("ct", "flair"))
    truth, brain = true_transform(home, patient_id, "flair"), derivative(home, patient_id, "brain", "dseg")
    row: dict[str, Any] = {"thickness_ct_mm": ct.spacing_mm[2], "thickness_flair_mm": max(flair.spacing_mm)}
    with _Clock(row, "rigid"):
        rigid = register(ct, flair)
    row.update(errors(rigid, truth, brain, "rigid"))
    row.update(_verdict("right", ct, flair, rigid))
    row.update(_broken(ct, flair, rigid, nifti.load(bids.exam_path(home, stranger_id, "flair"))))
    blood = derivative(home, patient_id, "haematoma", "dseg")
    with _Clock(row, "deformable"):
        bent = register(ct, flair, kind="deformable", start=rigid.transform, exclude=blood.with_array(blood.array > 0))
    row.update(errors(bent, truth, brain, "deformable"))
    row.update(_leukoaraiosis(ct, flair, {"truth": truth, "rigid": rigid.transform, "deformable": bent.transform}, blood, home, patient_id))
    row.update(_followup(ct, nifti.load(bids.exam_path(home, patient_id, "followup")), home, patient_id))
    if bids.exam_path(home, patient_id, "diffusion").is_file():
        row.update(_tract(ct, blood, home, patient_id))
    return row


class _Clock:
    """Notes wall and processor seconds of what happens inside."""

    def __init__(self, row: dict[str, Any], name: str) -> None:
        self.row, self.name = row, name

    def __enter__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.row[f"{self.name}_s"] = time.perf_counter() - self.began[0]
        self.row[f"{self.name}_cpu_s"] = time.process_time() - self.began[1]


def _leukoaraiosis(ct: Volume, flair: Volume, maps: dict[str, Transform], blood: Volume, home: Path, patient_id: str) -> dict[str, Any]:
    """Carry the true FLAIR mask by each transform, and what our own segmenter finds by the rigid one."""
    lesions, on_ct = derivative(home, patient_id, "leukoaraiosis", "mask", "flair"), derivative(home, patient_id, "leukoaraiosis", "mask")
    row: dict[str, Any] = {"la_ml": volume_ml(on_ct)}
    there = (~maps["rigid"]).pull_share(blood.with_array(blood.array > 0), flair)
    with _Clock(row, "wmh"):
        own = white.hyperintensities_of(flair, exclude=there.with_array(there.array > 0.3) if there.array.any() else None)
    row["own_la_flair_dice"] = dice(own.mask.array, lesions.array > 0)
    given = white.given_hyperintensities(lesions, flair)

    def carried(found: Hyperintensities, transform: Transform) -> float | None:
        mask = white.leukoaraiosis_on_ct(found, flair_from_ct=transform, ct=ct).mask
        return dice(mask.array, on_ct.array > 0)

    for name, transform in maps.items():
        row[f"{name}_la_dice"] = carried(given, transform)
    row["own_la_dice"] = carried(own, maps["rigid"])
    row["nearest_la_dice"] = dice(maps["truth"].pull(lesions, ct, interpolation="nearest").array > 0, on_ct.array > 0)
    return row


def _tract(ct: Volume, blood: Volume, home: Path, patient_id: str) -> dict[str, Any]:
    """Track, carry the densities to the CT rigidly, and compare with the true tract there."""
    path = bids.exam_path(home, patient_id, "diffusion")
    dwi = nifti.load(path)
    stem = str(path).removesuffix(".nii.gz")
    table = read_fsl_gradients(Path(stem + ".bval"), Path(stem + ".bvec"), affine=dwi.affine)
    first = dwi.with_array(dwi.array[..., table.unweighted].mean(axis=-1))
    row: dict[str, Any] = {}
    found = register(ct, first, fixed_contrast="ct", moving_contrast="mri")
    there = (~found.transform).pull_share(blood.with_array(blood.array > 0), first)
    with _Clock(row, "tract"):
        both = track(dwi, table, exclude=there.with_array(there.array > 0.3))
    true = derivative(home, patient_id, "tract", "dseg").array
    masks = {s: density_on_ct(t, exam_from_ct=found.transform, ct=ct).array >= TRACT_DENSITY for s, t in both.tracts.items()}
    for code, side in enumerate(("left", "right"), 1):
        row[f"tract_{side}_dice"] = dice(masks[side], true == code)
        row[f"tract_{side}_swapped"] = dice(masks[side], true == 3 - code) > row[f"tract_{side}_dice"]
        row[f"tract_{side}_interrupted"] = both.tracts[side].interrupted
    truth = true_transform(home, patient_id, "diffusion")
    inside = np.argwhere(true > 0)[::37]
    error = np.linalg.norm(found.transform.map(ct.world(inside)) - truth.map(ct.world(inside)), axis=1)
    row["diffusion_tre_median_mm"] = float(np.median(error)) if len(error) else None
    return row


def errors(found: Registration, truth: Transform, brain: Volume, name: str) -> dict[str, Any]:
    """Return target registration errors over the brain (mm), and the overlap of the true ventricles with themselves as carried over."""
    points = brain.world(np.argwhere(brain.array > 0)[::499])
    error = np.linalg.norm(found.transform.map(points) - truth.map(points), axis=1)
    ventricles = brain.with_array((brain.array == 2).astype(np.float32))
    carried = (~truth @ found.transform).pull(ventricles, brain).array >= 0.5
    return {
        f"{name}_tre_median_mm": float(np.median(error)),
        f"{name}_tre_p95_mm": float(np.percentile(error, 95)),
        f"{name}_ventricle_dice": dice(carried, ventricles.array > 0),
        f"{name}_jacobian_min": found.jacobian_min,
    }


def _broken(ct: Volume, flair: Volume, rigid: Registration, stranger: Volume) -> dict[str, Any]:
    """Judge pairs that are broken on purpose."""
    flipped = flair.with_array(np.ascontiguousarray(flair.array[::-1]))
    shift = np.eye(4)
    shift[:3, 3] = (0, 16, 12)  # 20 mm
    shifted = Transform.of(Affine(shift)) @ rigid.transform
    half = np.array(flair.array)
    half[: flair.shape[0] // 2] = 0
    missing = flair.with_array(half)
    return {
        **_verdict("wrong_patient", ct, stranger, register(ct, stranger)),
        **_verdict("flipped", ct, flipped, register(ct, flipped)),
        **_verdict("shifted", ct, flair, assess(shifted, ct, flair)),
        **_verdict("half_missing", ct, missing, assess(rigid.transform, ct, missing)),
    }


def _verdict(name: str, ct: Volume, partner: Volume, found: Registration) -> dict[str, Any]:
    numbers = measure_pair(ct, partner, found)
    row = numbers.as_row()
    kept = ("margin", "least_margin", "mirror_margin", "head_overlap", "brain_coverage")
    return {name: judge_pair(numbers).level, **{f"{name}_{key}": row[key] for key in kept}}


def _followup(ct: Volume, followup: Volume, home: Path, patient_id: str) -> dict[str, Any]:
    """Compare the growth mask with the truth: blood at follow-up, where there was none, in the skull's own frame."""
    before = derivative(home, patient_id, "haematoma", "dseg")
    after = derivative(home, patient_id, "haematoma", "dseg", "followup")
    true_later = derivative(home, patient_id, "expansion", "dseg")
    if not np.isin(before.array, (1, 2)).any():
        return {"growth_error_ml": None, "growth_dice": None, "followup_dice": None, "label_right": None}
    began = time.perf_counter()
    found = transfer_followup(ct, followup, blood=before, followup_blood=after)
    true_new = np.isin(true_later.array, (1, 2)) & ~np.isin(before.array, (1, 2))
    later = np.isin(found.followup_blood.array, (1, 2))
    return {
        "followup_s": time.perf_counter() - began,
        "growth_error_ml": float(volume_ml(found.growth) - np.count_nonzero(true_new) * ct.voxel_ml),
        "growth_dice": dice(found.growth.array, true_new) if np.count_nonzero(true_new) * ct.voxel_ml > 1 else None,
        "followup_dice": dice(later, np.isin(true_later.array, (1, 2))),
    }


def true_transform(home: Path, patient_id: str, exam: str) -> Transform:
    """Return the true map from CT mm to the exam's mm."""
    who = bids.subject(patient_id)
    matrix = np.loadtxt(home / "derivatives" / "truth" / who / f"{who}_from-{exam}_to-ct_xfm.txt")
    return Transform.of(~Affine(matrix))


def derivative(home: Path, patient_id: str, label: str, kind: bids.Kind, exam: Any = "ct") -> Volume:
    return nifti.load(bids.derivative_path(home, patient_id, pipeline="truth", label=label, kind=kind, exam=exam))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Dice coefficient of two masks; NaN if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")
