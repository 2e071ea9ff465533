"""A cohort as nnU-Net's raw dataset: scans in RAS, and one label map per patient of all targets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.files import atomic_file
from ichnos.formats import nifti, nnunet
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.segmentation.cases import check_splits
from ichnos.learning.segmentation.target_files import target_degree, target_file
from ichnos.models.store import sha256
from ichnos.volume import Volume

NUMBER = 1
_NAME = "Cohort"


@dataclass(frozen=True)
class _Outlined:
    """A patient with all targets."""

    patient: Patient
    files: tuple[tuple[Path, tuple[int, ...]], ...]  # of each target: the file, and the values in it

    def fingerprint(self) -> list[Any]:
        p = self.patient
        return [p.id, p.split, sha256(p.exam("ct")), [[sha256(f), list(v)] for f, v in self.files]]

    def combined(self) -> tuple[Volume, npt.NDArray[np.int64]]:
        """Return the CT, and in each of its voxels a bit for every target that holds it."""
        ct = nifti.open_nifti(self.patient.exam("ct")).volume
        bits = np.zeros(ct.shape, np.int64)
        for channel, (file, values) in enumerate(self.files):
            bits |= (target_degree(file, values, ct) >= 0.5).astype(np.int64) << channel
        return ct, bits


def raw_folder(work: Path) -> Path:
    """Return where the raw dataset lies in a work folder."""
    return nnunet.dataset_folder(work / "nnUNet_raw", NUMBER, _NAME)


def preprocessed_folder(work: Path) -> Path:
    """Return where nnU-Net puts the dataset's plans and preprocessed cases."""
    return work / "nnUNet_preprocessed" / f"Dataset{NUMBER:03d}_{_NAME}"


def export(cohort: Cohort, settings: NnunetSettings, work: Path, pipelines: Sequence[str]) -> dict[str, Any]:
    """Write the raw dataset, scans in RAS; return its labels, and a hash of all that went into it.

    Targets that overlap are trained as regions (each its own sigmoid), the others as labels (softmax), as
    nnU-Net does.
    """
    names = [target.name for target in settings.targets]
    whole = _outlined(cohort, names, pipelines)
    digest = hashlib.sha256(json.dumps([[each.fingerprint() for each in whole], names]).encode()).hexdigest()
    kept = work / "exported.json"
    if kept.is_file() and json.loads(kept.read_text(encoding="utf-8"))["data"] == digest:
        content: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return content
    patients = [each.patient for each in whole]
    labels = _labels(names, _write_cases(raw_folder(work), whole))
    _write_dataset(raw_folder(work), labels, patients)
    content = {"data": digest, "labels": labels, "patients": [p.id for p in patients]}
    with atomic_file(kept) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    return content


def _outlined(cohort: Cohort, names: Sequence[str], pipelines: Sequence[str]) -> list[_Outlined]:
    """Return the patients to train and validate on who have every target."""
    check_splits(cohort)
    whole = []
    for patient in cohort.of_split("train", "validation").with_exams("ct"):
        files = [target_file(cohort, patient, name, pipelines) for name in names]
        known = tuple(file for file in files if file is not None)
        if len(known) == len(names):
            whole.append(_Outlined(patient, known))
    for split in ("train", "validation"):
        if not any(each.patient.split == split for each in whole):
            raise InputRefused(
                f"no patient of the split '{split}' has all of {', '.join(names)} drawn, and nnU-Net needs"
                " every target in every patient; train with our engine, which knows partial labels, or with"
                " fewer targets"
            )
    return whole


def _write_cases(folder: Path, whole: Sequence[_Outlined]) -> dict[int, tuple[int, ...]]:
    """Write scans with label maps in which each combination of targets that occurs has a number; return
    number -> targets' channels.
    """
    packed = [(each.patient, *each.combined()) for each in whole]
    occurring = {int(code) for _, _, bits in packed for code in np.unique(bits)} - {0}
    order = sorted(occurring, key=lambda code: (code.bit_count(), code))
    number = {code: k for k, code in enumerate(order, start=1)}
    numbered = np.vectorize(lambda code: number.get(code, 0), otypes=[np.uint8])
    for patient, ct, bits in packed:
        labels = ct.with_array(numbered(bits)).reoriented("RAS")
        nnunet.add_case(folder, patient.id, ct.reoriented("RAS"), labels, split=patient.split)
    return {k: tuple(c for c in range(code.bit_length()) if code >> c & 1) for code, k in number.items()}


def _labels(names: Sequence[str], codes: dict[int, tuple[int, ...]]) -> dict[str, list[int]]:
    """Return for each target the numbers in which it takes part."""
    labels = {
        name: [k for k, channels in codes.items() if channel in channels]
        for channel, name in enumerate(names)
    }
    empty = [name for name, numbers in labels.items() if not numbers]
    if empty:
        raise InputRefused(
            f"the target {empty[0]} is drawn in no voxel of any patient, so there is nothing to learn of it"
        )
    return labels


def _write_dataset(folder: Path, labels: dict[str, list[int]], patients: Sequence[Patient]) -> None:
    regions = overlapping(labels)
    own = labels if regions else {name: numbers[0] for name, numbers in labels.items()}
    content: dict[str, Any] = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **own},
        "numTraining": len(patients),
        "file_ending": ".nii.gz",
    }
    if regions:
        content["regions_class_order"] = list(range(1, len(labels) + 1))
    split = {
        part: sorted(p.id for p in patients if p.split == name)
        for part, name in (("train", "train"), ("val", "validation"))
    }
    for name, value in (("dataset.json", content), ("splits_final.json", [split])):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(json.dumps(value, indent=2), encoding="utf-8")


def overlapping(labels: dict[str, list[int]]) -> bool:
    """Say whether targets share voxels, so that nnU-Net trains them as regions.

    >>> overlapping({"ICH": [1], "IVH": [2]}), overlapping({"ICH": [1, 2], "blood": [2]})
    (False, True)
    """
    return any(len(numbers) > 1 for numbers in labels.values())
