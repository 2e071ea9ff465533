"""A cohort as nnU-Net's raw dataset, written without nnU-Net."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ichnos.cohort import Cohort, Patient, Split
from ichnos.errors import InputRefused
from ichnos.formats import bids, nifti
from ichnos.formats.bids import TRUSTED_PIPELINES
from ichnos.learning.nnunet.raw_dataset import export, overlapping, preprocessed_folder, raw_folder
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.volume import Volume

GRID = np.diag([30.0, 32.0, 40.0, 1.0])


def cohort_of(root: Path, outlined: dict[str, Split], *, blood: bool = True) -> Cohort:
    """Write a cohort of tiny CTs with haematoma label maps: id -> split."""
    for k, name in enumerate(outlined):
        hu = np.full((6, 5, 4), 35.0 + k, np.float32)
        hu[0], hu[-1] = -1000.0, 900.0  # air, and bone
        ct = Volume(hu, GRID)
        labels = np.zeros((6, 5, 4), np.uint8)
        if blood:
            labels[1:3, 1:3, 1:3] = 1
            labels[4, 4, 3] = 2
        bids.write_exam(root, name, "ct", ct)
        bids.write_derivative(
            root, name, ct.with_array(labels), pipeline="manual", label="haematoma", kind="dseg"
        )
    bids.write_cohort([Patient(name, "A", split) for name, split in outlined.items()], root, name="made")
    return bids.read_cohort(root)


def test_labels_that_share_numbers_are_regions() -> None:
    assert overlapping({"a": [1], "b": [1, 2]})
    assert not overlapping({"a": [1], "b": [2]})
    assert not overlapping({})


def test_folders_are_where_nnunet_looks_for_them(tmp_path: Path) -> None:
    assert raw_folder(tmp_path) == tmp_path / "nnUNet_raw" / "Dataset001_Cohort"
    assert preprocessed_folder(tmp_path) == tmp_path / "nnUNet_preprocessed" / "Dataset001_Cohort"


def test_targets_become_labels_and_the_splits_are_kept(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "cohort", {"01": "train", "02": "train", "03": "validation", "04": "test"})
    content = export(cohort, NnunetSettings(targets="ICH,IVH"), tmp_path / "work", TRUSTED_PIPELINES)
    assert content["labels"] == {"ICH": [1], "IVH": [2]}
    assert content["patients"] == ["01", "02", "03"], "a test patient is never exported"
    folder = raw_folder(tmp_path / "work")
    about = json.loads((folder / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "ICH": 1, "IVH": 2}
    assert about["numTraining"] == 3
    assert json.loads((folder / "splits_final.json").read_text()) == [{"train": ["01", "02"], "val": ["03"]}]
    labels = nifti.load(folder / "labelsTr" / "01.nii.gz").array
    assert (int((labels == 1).sum()), int((labels == 2).sum())) == (8, 1)


def test_the_same_cohort_is_written_once_and_another_one_anew(tmp_path: Path) -> None:
    people: dict[str, Split] = {"01": "train", "02": "validation"}
    settings, work = NnunetSettings(targets="ICH"), tmp_path / "work"
    first = export(cohort_of(tmp_path / "a", people), settings, work, TRUSTED_PIPELINES)
    image = raw_folder(work) / "imagesTr" / "01_0000.nii.gz"
    image.unlink()
    assert export(bids.read_cohort(tmp_path / "a"), settings, work, TRUSTED_PIPELINES) == first
    assert not image.exists(), "what was exported before is trusted"
    other = cohort_of(tmp_path / "b", people | {"03": "train"})
    assert export(other, settings, work, TRUSTED_PIPELINES)["data"] != first["data"]
    assert image.exists()


def test_a_split_without_outlines_is_named(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "cohort", {"01": "train", "02": "validation"})
    for file in (tmp_path / "cohort" / "derivatives").rglob("sub-02*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(InputRefused, match=r"no patient of the split 'validation' has all of ICH drawn"):
        export(
            bids.read_cohort(tmp_path / "cohort"), NnunetSettings(targets="ICH"), tmp_path, TRUSTED_PIPELINES
        )
    assert len(cohort) == 2


def test_a_target_without_a_voxel_is_named(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "cohort", {"01": "train", "02": "validation"}, blood=False)
    with pytest.raises(InputRefused, match="ICH is drawn in no voxel of any patient"):
        export(cohort, NnunetSettings(targets="ICH"), tmp_path / "work", TRUSTED_PIPELINES)
