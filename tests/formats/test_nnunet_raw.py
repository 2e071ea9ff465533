"""nnU-Net raw datasets: out, back in, and what nnU-Net itself says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti, nnunet
from ichnos.volume import Volume

LABELS = {"ICH": 1, "IVH": 2, "PHE": 3}


def image(seed: int = 0) -> Volume:
    hu = np.random.default_rng(seed).integers(-1000, 900, (8, 7, 6)).astype(np.int16)
    return Volume(hu, np.diag([-1.0, 1.0, 5.0, 1.0]))


def labels(seed: int = 0) -> Volume:
    return image().with_array(np.random.default_rng(seed).integers(0, 4, (8, 7, 6)).astype(np.uint8))


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    root = tmp_path / "cohort"
    splits = {"A1": "train", "A2": "train", "A3": "validation", "B1": "test", "B2": "test", "C1": "train"}
    bids.write_cohort([Patient(i, split=s) for i, s in splits.items()], root, name="six")  # type: ignore[arg-type]
    for seed, patient_id in enumerate(splits):
        bids.write_exam(root, patient_id, "ct", image(seed))
        if patient_id not in ("B2", "C1"):
            bids.write_derivative(
                root, patient_id, labels(seed), pipeline="manual", label="haematoma", kind="dseg"
            )
    return bids.read_cohort(root)


def test_a_cohort_goes_out_and_comes_back(cohort: Cohort, tmp_path: Path) -> None:
    folder = nnunet.export_cohort(
        cohort, nnunet.dataset_folder(tmp_path, 501, "Haematoma"), "haematoma", LABELS
    )
    assert sorted(p.name for p in (folder / "imagesTr").iterdir()) == [f"A{k}_0000.nii.gz" for k in (1, 2, 3)]
    assert sorted(p.name for p in (folder / "labelsTr").iterdir()) == [f"A{k}.nii.gz" for k in (1, 2, 3)]
    assert sorted(p.name for p in (folder / "imagesTs").iterdir()) == ["B1_0000.nii.gz", "B2_0000.nii.gz"]
    about = json.loads((folder / "dataset.json").read_text())
    assert about == {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **LABELS},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    back = nnunet.read_dataset(folder, "haematoma")
    assert {p.id: p.split for p in back} == {
        "A1": "train",
        "A2": "train",
        "A3": "validation",
        "B1": "test",
        "B2": "test",
    }
    for patient in back:
        assert np.array_equal(
            nifti.load(patient.exam("ct")).array,
            image(list(["A1", "A2", "A3", "B1", "B2"]).index(patient.id)).array,
        )
    assert np.array_equal(nifti.load(back.patients[0].targets["haematoma"]).array, labels(0).array)
    assert "haematoma" not in back.patients[4].targets


def test_no_patient_is_on_both_sides(cohort: Cohort, tmp_path: Path) -> None:
    folder = nnunet.export_cohort(cohort, tmp_path / "Dataset501_Haematoma", "haematoma", LABELS)
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    assert fold == {"train": ["A1", "A2"], "val": ["A3"]}


@pytest.mark.filterwarnings("ignore")
def test_nnunet_itself_accepts_the_dataset(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nnunetv2")
    folder = nnunet.export_cohort(cohort, tmp_path / "Dataset501_Haematoma", "haematoma", LABELS)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path))
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(str(folder), num_processes=1)
    mask = labels().map_array(lambda a: a + 1)
    nifti.save(mask, folder / "labelsTr" / "A1.nii.gz")
    with pytest.raises(RuntimeError, match="unexpected labels"):  # so the check above could have failed
        verify_dataset_integrity(str(folder), num_processes=1)


def test_labels_that_nnunet_cannot_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="another grid"):
        nnunet.add_case(tmp_path, "A", image(), labels().padded((1, 0, 0), (0, 0, 0)))
    with pytest.raises(InputRefused, match="not whole numbers"):
        nnunet.add_case(tmp_path, "A", image(), labels().map_array(lambda a: a * np.float32(0.3)))
    with pytest.raises(InputRefused, match="0 to 255"):
        nnunet.add_case(tmp_path, "A", image(), labels().map_array(lambda a: a.astype(np.int16) - 1))
    with pytest.raises(InputRefused, match="no labels"):
        nnunet.add_case(tmp_path, "A", image(), None)
    with pytest.raises(UsageError, match="case id"):
        nnunet.add_case(tmp_path, "../A", image(), labels())
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_finished_only_when_it_makes_sense(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="nothing to train on"):
        nnunet.finish_dataset(tmp_path, LABELS)
    nnunet.add_case(tmp_path, "A", image(), labels())
    with pytest.raises(UsageError, match="without a gap"):
        nnunet.finish_dataset(tmp_path, {"ICH": 1, "PHE": 3})
    with pytest.raises(UsageError, match="not among the 1"):
        nnunet.finish_dataset(tmp_path, LABELS, validation=["B"])
    with pytest.raises(UsageError, match="dataset name"):
        nnunet.dataset_folder(tmp_path, 1000, "x")


def test_foreign_datasets_are_read_or_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"no dataset\.json"):
        nnunet.read_dataset(tmp_path, "haematoma")
    (tmp_path / "imagesTr").mkdir()
    for content, reason in (
        ("{", "not JSON"),
        ("[1]", "one JSON object"),
        ('{"channel_names": {"0": "CT", "1": "CTA"}}', "2 channels"),
        ('{"channel_names": {"0": "CT"}, "file_ending": ".png"}', "only NIfTI"),
        ('{"modality": {"0": "CT"}}', "holds no image"),
    ):
        (tmp_path / "dataset.json").write_text(content)
        with pytest.raises(InputRefused, match=reason):
            nnunet.read_dataset(tmp_path, "haematoma")
    nifti.save(image(), tmp_path / "imagesTr" / "case_001_0000.nii.gz")
    (patient,) = nnunet.read_dataset(tmp_path, "haematoma")
    assert (patient.id, patient.split, patient.targets) == ("case_001", "train", {})
