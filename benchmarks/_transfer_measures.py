"""What `benchmarks/transfer.py` measures of one patient whose truth is known, in stages that each take a
minute or less.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.anatomy.tract import SIDES
from ichnos.cohort import Exam
from ichnos.formats import bids, nifti
from ichnos.registration import Registration, Transform, assess, read_transform, register, write_transform
from ichnos.transfer import flair as white
from ichnos.transfer.flair import Hyperintensities
from ichnos.transfer.followup import transfer_followup
from ichnos.transfer.pair_numbers import measure_pair
from ichnos.transfer.pair_verdict import judge_pair
from ichnos.transfer.tractography import TRACT_CUT_OFF, density_on_ct, gradients_beside, track
from ichnos.volume import Affine, Volume, volume_ml

BROKEN = ("wrong_patient", "flipped", "shifted", "half_missing")


@dataclass(frozen=True)
class Pair:
    """One patient whose truth is known, and the one whose FLAIR stands for a wrong pairing."""

    home: Path
    patient_id: str
    stranger_id: str
    results: Path  # where a stage leaves its transform for the next

    def exam(self, exam: Exam) -> Volume:
        """Load an exam."""
        return nifti.load(bids.exam_path(self.home, self.patient_id, exam))

    def true(self, label: str, kind: bids.MapKind, exam: Exam = "ct") -> Volume:
        """Load a map of the truth."""
        return derivative(self.home, self.patient_id, label, kind, exam)

    def blood(self) -> Volume:
        """Return the haematoma with its oedema, bool."""
        labels = self.true("haematoma", "dseg")
        return labels.with_array(labels.array > 0)

    def found(self, name: str) -> Transform:
        """Return a transform that an earlier stage has found."""
        return read_transform(self.results / f"{self.patient_id}_{name}.h5")


def measure_rigid(pair: Pair, folder: Path) -> dict[str, Any]:
    """Register the FLAIR rigidly and judge the pair."""
    ct, flair = pair.exam("ct"), pair.exam("flair")
    row: dict[str, Any] = {"thickness_ct_mm": ct.spacing_mm[2], "thickness_flair_mm": max(flair.spacing_mm)}
    with _Clock(row, "rigid"):
        rigid = register(ct, flair)
    row.update(
        errors(
            rigid, true_transform(pair.home, pair.patient_id, "flair"), pair.true("brain", "dseg"), "rigid"
        )
    )
    with _Clock(row, "verdict"):
        row.update(_verdict("right", ct, flair, rigid))
    write_transform(rigid.transform, folder / f"{pair.patient_id}_rigid.h5")
    return row


def measure_deformable(pair: Pair, folder: Path) -> dict[str, Any]:
    """Let the FLAIR bend from where the rigid step has left it."""
    row: dict[str, Any] = {}
    ct, flair, rigid = pair.exam("ct"), pair.exam("flair"), pair.found("rigid")
    with _Clock(row, "deformable"):
        bent = register(ct, flair, kind="deformable", start=rigid, exclude=pair.blood())
    row.update(
        errors(
            bent,
            true_transform(pair.home, pair.patient_id, "flair"),
            pair.true("brain", "dseg"),
            "deformable",
        )
    )
    write_transform(bent.transform, folder / f"{pair.patient_id}_deformable.h5")
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


def measure_leukoaraiosis(pair: Pair, folder: Path) -> dict[str, Any]:
    """Carry the true FLAIR mask by each transform, and what our own segmenter finds by the rigid one."""
    ct, flair, blood = pair.exam("ct"), pair.exam("flair"), pair.blood()
    lesions, on_ct = pair.true("leukoaraiosis", "mask", "flair"), pair.true("leukoaraiosis", "mask")
    maps = {
        "truth": true_transform(pair.home, pair.patient_id, "flair"),
        **{n: pair.found(n) for n in ("rigid", "deformable")},
    }
    row: dict[str, Any] = {"la_ml": volume_ml(on_ct)}
    there = (~maps["rigid"]).pull_share(blood, flair)
    with _Clock(row, "wmh"):
        own = white.hyperintensities_of(
            flair, exclude=there.with_array(there.array > 0.3) if there.array.any() else None
        )
    row["own_la_flair_dice"] = dice(own.mask.array, lesions.array > 0)
    true_ml = np.count_nonzero(lesions.array) * lesions.voxel_ml
    row["own_la_flair_bias"] = 100 * (volume_ml(own.mask) / true_ml - 1) if true_ml else None
    given = white.given_hyperintensities(lesions, flair)

    def carried(found: Hyperintensities, transform: Transform) -> float | None:
        mask = white.leukoaraiosis_on_ct(found, flair_from_ct=transform, ct=ct).mask
        return dice(mask.array, on_ct.array > 0)

    for name, transform in maps.items():
        row[f"{name}_la_dice"] = carried(given, transform)
    row["own_la_dice"] = carried(own, maps["rigid"])
    row["nearest_la_dice"] = dice(
        maps["truth"].pull(lesions, ct, interpolation="nearest").array > 0, on_ct.array > 0
    )
    return row


def measure_tract(pair: Pair, folder: Path) -> dict[str, Any]:
    """Track, carry the densities to the CT rigidly, and compare with the true tract there."""
    ct, path = pair.exam("ct"), bids.exam_path(pair.home, pair.patient_id, "diffusion")
    if not path.is_file():
        return {}
    dwi = nifti.load(path)
    table = gradients_beside(path, affine=dwi.affine)
    first = dwi.with_array(dwi.array[..., table.unweighted].mean(axis=-1))
    row: dict[str, Any] = {}
    found = register(ct, first, fixed_contrast="ct", moving_contrast="mri")
    there = (~found.transform).pull_share(pair.blood(), first)
    with _Clock(row, "tract"):
        both = track(dwi, table, exclude=there.with_array(there.array > 0.3))
    true = pair.true("tract", "dseg").array
    masks = {
        s: density_on_ct(t, exam_from_ct=found.transform, ct=ct).array >= TRACT_CUT_OFF
        for s, t in both.tracts.items()
    }
    for code, side in enumerate(SIDES, 1):
        row[f"tract_{side}_dice"] = dice(masks[side], true == code)
        row[f"tract_{side}_swapped"] = dice(masks[side], true == 3 - code) > row[f"tract_{side}_dice"]
        row[f"tract_{side}_interrupted"] = both.tracts[side].interrupted
    truth = true_transform(pair.home, pair.patient_id, "diffusion")
    inside = np.argwhere(true > 0)[::37]
    error = np.linalg.norm(found.transform.map(ct.world(inside)) - truth.map(ct.world(inside)), axis=1)
    row["diffusion_tre_median_mm"] = float(np.median(error)) if len(error) else None
    return row


def errors(found: Registration, truth: Transform, brain: Volume, name: str) -> dict[str, Any]:
    """Return target registration errors over the brain (mm), and the overlap of the true ventricles with
    themselves as carried over.
    """
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


def measure_broken(pair: Pair, folder: Path) -> dict[str, Any]:
    """Judge pairs that are broken on purpose."""
    ct, flair, rigid = pair.exam("ct"), pair.exam("flair"), pair.found("rigid")
    stranger = nifti.load(bids.exam_path(pair.home, pair.stranger_id, "flair"))
    flipped = flair.with_array(np.ascontiguousarray(flair.array[::-1]))
    shift = np.eye(4)
    shift[:3, 3] = (0, 16, 12)  # 20 mm
    half = np.array(flair.array)
    half[: flair.shape[0] // 2] = 0
    missing = flair.with_array(half)
    return {
        **_verdict("wrong_patient", ct, stranger, register(ct, stranger)),
        **_verdict("flipped", ct, flipped, register(ct, flipped)),
        **_verdict("shifted", ct, flair, assess(Transform.of(Affine(shift)) @ rigid, ct, flair)),
        **_verdict("half_missing", ct, missing, assess(rigid, ct, missing)),
    }


def _verdict(name: str, ct: Volume, partner: Volume, found: Registration) -> dict[str, Any]:
    numbers = measure_pair(ct, partner, found)
    row = numbers.as_row()
    kept = ("margin", "least_margin", "mirror_margin", "head_overlap", "brain_coverage")
    return {name: judge_pair(numbers).level, **{f"{name}_{key}": row[key] for key in kept}}


def measure_followup(pair: Pair, folder: Path) -> dict[str, Any]:
    """Compare the growth mask with the truth: blood at follow-up, where there was none, in the skull's own
    frame.
    """
    ct, followup = pair.exam("ct"), pair.exam("followup")
    before, after = pair.true("haematoma", "dseg"), pair.true("haematoma", "dseg", "followup")
    true_later = pair.true("expansion", "dseg")
    if not np.isin(before.array, (1, 2)).any():
        return {"growth_error_ml": None, "growth_dice": None, "followup_dice": None}
    row: dict[str, Any] = {}
    with _Clock(row, "followup"):
        found = transfer_followup(ct, followup, blood=before, followup_blood=after)
    true_new = np.isin(true_later.array, (1, 2)) & ~np.isin(before.array, (1, 2))
    later = np.isin(found.followup_blood.array, (1, 2))
    return row | {
        "growth_error_ml": float(volume_ml(found.growth) - np.count_nonzero(true_new) * ct.voxel_ml),
        "growth_dice": dice(found.growth.array, true_new)
        if np.count_nonzero(true_new) * ct.voxel_ml > 1
        else None,
        "followup_dice": dice(later, np.isin(true_later.array, (1, 2))),
    }


STAGES: dict[str, Callable[[Pair, Path], dict[str, Any]]] = {
    "rigid": measure_rigid,
    "broken": measure_broken,
    "deformable": measure_deformable,
    "leukoaraiosis": measure_leukoaraiosis,
    "followup": measure_followup,
    "tract": measure_tract,
}


def true_transform(home: Path, patient_id: str, exam: str) -> Transform:
    """Return the true map from CT mm to the exam's mm."""
    who = bids.subject(patient_id)
    matrix = np.loadtxt(home / "derivatives" / "truth" / who / f"{who}_from-{exam}_to-ct_xfm.txt")
    return Transform.of(~Affine(matrix))


def derivative(home: Path, patient_id: str, label: str, kind: bids.MapKind, exam: Any = "ct") -> Volume:
    return nifti.load(
        bids.derivative_path(home, patient_id, pipeline="truth", label=label, kind=kind, exam=exam)
    )


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Dice coefficient of two masks; NaN if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")
