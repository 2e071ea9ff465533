"""nnU-Net's raw datasets in and out: DatasetNNN_Name/{imagesTr,labelsTr,imagesTs,labelsTs}/, dataset.json,
patient-level splits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.cohort import Cohort, Patient, Split
from ichnos.errors import InputRefused, UsageError, foreign
from ichnos.files import atomic_file
from ichnos.formats import nifti
from ichnos.formats.text import read_json
from ichnos.volume import Volume

_NAME = re.compile(r"Dataset\d{3}_\w+")
_TEST_SPLITS = ("test", "external")


def dataset_folder(root: str | Path, number: int, name: str) -> Path:
    """Return where a dataset lies among raw datasets.

    >>> dataset_folder("raw", 7, "Haematoma").as_posix()
    'raw/Dataset007_Haematoma'
    """
    folder = f"Dataset{number:03d}_{name}"
    if not 1 <= number <= 999 or not _NAME.fullmatch(folder):
        raise UsageError(
            f"{folder} is no nnU-Net dataset name; give a number from 1 to 999 and a name of letters and"
            " digits"
        )
    return Path(root) / folder


def add_case(
    folder: str | Path, case_id: str, image: Volume, labels: Volume | None, *, split: Split = "train"
) -> Path:
    """Write one case; labels are whole numbers on the image's grid. Patients of "test" and "external" go
    to imagesTs.
    """
    folder = Path(folder)
    if not re.fullmatch(r"\w+", case_id):
        raise UsageError(f"case id {case_id!r} cannot name an nnU-Net file; use letters, digits and _")
    part = "Ts" if split in _TEST_SPLITS else "Tr"
    if labels is None and part == "Tr":
        raise InputRefused(
            f"case {foreign(case_id)} has no labels, and nnU-Net trains on labelled cases only; leave it"
            " out or put it"
            " into the test split"
        )
    path = folder / f"images{part}" / f"{case_id}_0000.nii.gz"
    if labels is not None:
        _check_labels(case_id, image, labels)
        nifti.save(labels.astype(np.uint8), folder / f"labels{part}" / f"{case_id}.nii.gz")
    nifti.save(image, path)
    return path


def _check_labels(case_id: str, image: Volume, labels: Volume) -> None:
    if not labels.same_grid(image):
        raise InputRefused(
            f"the labels of case {foreign(case_id)} lie on another grid than its image; resample them first"
            " (labels_on_grid)"
        )
    array = np.asarray(labels.array)
    if array.dtype.kind not in "iub" and not np.array_equal(array, np.round(array)):
        raise InputRefused(
            f"the labels of case {foreign(case_id)} are not whole numbers; threshold the probabilities first"
        )
    if array.size and not (array.min() >= 0 and array.max() < 256):
        raise InputRefused(
            f"the labels of case {foreign(case_id)} go from {array.min()} to {array.max()}; 0 to 255 are"
            " possible"
        )


def finish_dataset(
    folder: str | Path,
    labels: Mapping[str, int],
    *,
    channels: Sequence[str] = ("CT",),
    validation: Sequence[str] = (),
) -> Path:
    """Write dataset.json for the cases that are there, and splits_final.json if some are kept for validation.

    nnU-Net looks for splits_final.json in its *preprocessed* folder of this dataset: copy it there after
    planning.
    """
    folder = Path(folder)
    training = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").glob("*.nii.gz"))
    _check_dataset(folder, labels, training, validation)
    content = {
        "channel_names": {str(number): channel for number, channel in enumerate(channels)},
        "labels": {"background": 0, **labels},
        "numTraining": len(training),
        "file_ending": ".nii.gz",
    }
    _write_json(folder / "dataset.json", content)
    if validation:
        fold = {"train": sorted(set(training) - set(validation)), "val": sorted(validation)}
        _write_json(folder / "splits_final.json", [fold])
    return folder


def _check_dataset(
    folder: Path, labels: Mapping[str, int], training: Sequence[str], validation: Sequence[str]
) -> None:
    if not training:
        raise InputRefused(
            f"{foreign(folder)} holds no labelled training case, so there is nothing to train on"
        )
    if sorted(labels.values()) != list(range(1, len(labels) + 1)):
        raise UsageError(
            f"labels {dict(labels)} must be numbered from 1 on without a gap; 0 is the background"
        )
    absent = sorted(set(validation) - set(training))
    if absent:
        raise UsageError(
            f"the validation case(s) {', '.join(absent[:5])} are not among the {len(training)} training cases"
        )


def export_cohort(cohort: Cohort, folder: str | Path, target: str, labels: Mapping[str, int]) -> Path:
    """Write a cohort's CTs and one of its targets as a raw dataset; patients without the target are left
    out of training.
    """
    for patient in cohort:
        if "ct" not in patient.exams or (target not in patient.targets and patient.split not in _TEST_SPLITS):
            continue
        drawn = nifti.load(patient.targets[target]) if target in patient.targets else None
        add_case(folder, patient.id, nifti.load(patient.exam("ct")), drawn, split=patient.split)
    held = [p.id for p in cohort.of_split("validation") if target in p.targets and "ct" in p.exams]
    return finish_dataset(folder, labels, validation=held)


def read_dataset(folder: str | Path, target: str) -> Cohort:
    """Read a raw dataset, in place, as a cohort whose label files are `target`; a second channel is
    refused.
    """
    folder = Path(folder)
    ending, held = _ending(folder), _validation(folder)
    parts: tuple[tuple[str, Split], ...] = (("Tr", "train"), ("Ts", "test"))
    patients = []
    for part, split in parts:
        for image in sorted((folder / f"images{part}").glob(f"*_0000{ending}")):
            case = image.name.removesuffix(f"_0000{ending}")
            label = folder / f"labels{part}" / f"{case}{ending}"
            chosen: Split = "validation" if case in held else split
            drawn = {target: label} if label.is_file() else {}
            patients.append(Patient(case, "", chosen, {"ct": image}, drawn))
    if not patients:
        raise InputRefused(
            f"{foreign(folder)} holds no image named *_0000{foreign(ending)} in imagesTr or imagesTs"
        )
    return Cohort(tuple(patients), folder)


def _ending(folder: Path) -> str:
    """Return how the dataset's images end; refuse what is not one channel in NIfTI files."""
    about = read_description(folder)
    channels = about.get("channel_names") or about.get("modality") or {}
    if not isinstance(channels, dict) or not isinstance(about.get("labels", {}), dict):
        raise InputRefused(
            f"{foreign(folder / 'dataset.json')} does not map channels and labels to names; correct it"
        )
    if len(channels) != 1:
        names = foreign(", ".join(map(str, channels.values())))
        raise InputRefused(
            f"{foreign(folder)} has {len(channels)} channels ({names}); one, the CT, is expected"
        )
    ending = str(about.get("file_ending", ".nii.gz"))
    if ending not in nifti.SUFFIXES:
        raise InputRefused(f"{foreign(folder)} holds {foreign(ending)} files; only NIfTI is read")
    return ending


def read_description(folder: str | Path) -> dict[str, Any]:
    """Return what dataset.json says."""
    path = Path(folder) / "dataset.json"
    if not path.is_file():
        raise InputRefused(f"{foreign(folder)} is not an nnU-Net raw dataset: it has no dataset.json")
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputRefused(f"{foreign(path)} holds a {type(content).__name__}; one JSON object is expected")
    return content


def _validation(folder: Path) -> frozenset[str]:
    path = folder / "splits_final.json"
    folds = read_json(path) if path.is_file() else []
    try:
        return frozenset(str(case) for case in folds[0]["val"]) if folds else frozenset()
    except (KeyError, IndexError, TypeError):
        raise InputRefused(
            f'{foreign(path)} is not a list of folds with "train" and "val"; correct it'
        ) from None


def _write_json(path: Path, content: Any) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
