"""k folds: nobody is predicted by a network that saw them, and the average is the mean of the members."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.tiny_model import tiny_model
from builders.trainable_cohort import head, write_trainable_cohort
from ichnos import networks
from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti
from ichnos.inference import Predictor
from ichnos.learning.loop.resources import Resources
from ichnos.learning.nnunet.raw_dataset import export, raw_folder
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.segmentation.folds import (
    OUT_OF_FOLD,
    as_label_maps,
    held_out,
    person_folds,
    train_folds,
)
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.models import Model, load_model, save_model
from ichnos.networks.average import MeanEnsemble
from ichnos.scan import Scan

MEMBER = {
    "name": "unet",
    "arguments": {
        "input_channels": 1,
        "num_classes": 2,
        "dim": 3,
        "features_per_stage": [4, 8],
        "strides": [1, 2],
        "n_conv_per_stage": 1,
        "n_conv_per_stage_decoder": 1,
    },
}


def test_folds_predict_everyone_once_and_average_into_one_model(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train",) * 4, without_tract=())
    settings = TrainSettings().changed(
        targets="ICH",
        spacing_mm=(4.0, 4.0, 4.0),
        patch=(16, 16, 16),
        windows_hu=((0.0, 80.0),),
        width=4,
        steps=30,
        validations=1,
        learning_rate=1e-2,
        precision="fp32",
    )
    model = train_folds(cohort, tmp_path / "model", settings, 2, work=tmp_path / "work")
    assert model.manifest.network.name == "mean_ensemble"
    assert model.manifest.network.arguments["members"] == 2
    for number, patient in enumerate(cohort):
        file = bids.find_target(str(cohort.root), patient.id, "haematoma", (OUT_OF_FOLD,))
        assert file is not None
        mask, truth = nifti.load(file).array == 1, head(number)[1].array > 0
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.2
    scan = Scan(head(4)[0])
    members = [load_model(tmp_path / "work" / f"fold-{k}" / "model") for k in range(2)]
    each = [Predictor(m, backend="torch")(scan).probability("ICH").array for m in members]
    whole = Predictor(model, backend="torch")(scan).probability("ICH").array
    difference = np.abs(whole - np.mean(each, axis=0))  # tiles are blended as logits, not probabilities
    assert difference.mean() < 0.005
    assert difference.max() < 0.1


def test_nobody_is_held_out_twice_and_persons_stay_together() -> None:
    people = tuple(Patient(f"{k:02d}", "A", "train", facts={"person": k // 3}) for k in range(21))
    cohort = Cohort((*people, Patient("t", "A", "test")))
    parts = person_folds(cohort, 3, seed=1)
    assert sorted(p for part in parts for p in part) == [p.id for p in people]
    for part in parts:
        persons = {p.facts["person"] for p in people if p.id in part}
        assert len(part) == 3 * len(persons)
        own = held_out(cohort, part)
        assert {p.id for p in own if p.split == "validation"} == part
        assert own.patients[-1].split == "test"
    assert person_folds(cohort, 3, seed=1) == parts
    assert person_folds(cohort, 3, seed=2) != parts
    with pytest.raises(UsageError, match="give 2 to 7"):
        person_folds(cohort, 8, seed=0)


def test_the_average_is_the_mean_of_probabilities_and_of_coordinates() -> None:
    torch.manual_seed(0)
    network = MeanEnsemble(MEMBER, members=3, coordinates=[1]).eval()
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        out, each = network(image), torch.stack([member(image) for member in network.members])
    assert torch.allclose(torch.sigmoid(out[:, 0]), torch.sigmoid(each[:, :, 0]).mean(0), atol=1e-5)
    assert torch.allclose(out[:, 1], each[:, :, 1].mean(0), atol=1e-5)


def test_the_average_of_labels_that_exclude_each_other_is_the_mean_of_their_probabilities() -> None:
    torch.manual_seed(0)
    network = networks.build("mean_ensemble", member=MEMBER, members=3, softmax=True).eval()
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        out, each = network(image), torch.stack([member(image) for member in network.members])
    assert torch.allclose(torch.softmax(out, 1), torch.softmax(each, 2).mean(0), atol=1e-5)
    assert torch.allclose(torch.softmax(out, 1).sum(1), torch.ones(1, 8, 8, 8))


@dataclass
class Elsewhere:
    """An engine that exports each fold for nnU-Net and returns a network nobody trained."""

    splits: list[dict[str, list[str]]] = field(default_factory=list)
    coarser: bool = False  # the second fold's network sees other voxels

    def __call__(
        self, cohort: Cohort, out: Path, settings: NnunetSettings, *, work: Path, resources: Resources
    ) -> Model:
        export(cohort, settings, work, resources.pipelines)
        self.splits += json.loads((raw_folder(work) / "splits_final.json").read_text())
        torch.manual_seed(len(self.splits))
        model = tiny_model(out)
        if self.coarser and len(self.splits) == 2:
            how = model.manifest.preprocessing.model_copy(update={"spacing_mm": (9.0, 9.0, 9.0)})
            manifest = model.manifest.model_copy(update={"preprocessing": how})
            model = save_model(out, model.network(), manifest)
        return model


def test_nnunet_trains_each_fold_on_the_others_and_the_average_reads(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train",) * 4, without_tract=())
    plan, engine = NnunetSettings(targets=target_specs("ICH"), seed=3), Elsewhere()
    model = train_folds(cohort, tmp_path / "model", plan, 2, work=tmp_path / "work", engine=engine)
    held = [split["val"] for split in engine.splits]
    assert sorted(held[0] + held[1]) == [patient.id for patient in cohort]
    assert all(sorted(split["train"] + split["val"]) == sorted(held[0] + held[1]) for split in engine.splits)
    assert frozenset(held[0]) == person_folds(cohort, 2, seed=3)[0]
    assert model.manifest.network.arguments["members"] == 2
    assert model.manifest.limits[0].startswith("The mean of 2 networks")
    for patient in cohort:
        assert bids.find_target(str(cohort.root), patient.id, "haematoma", (OUT_OF_FOLD,)) is not None


def test_folds_that_see_scans_differently_are_not_averaged(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train",) * 2, without_tract=())
    plan = NnunetSettings(targets=target_specs("ICH"))
    engine = Elsewhere(coarser=True)
    with pytest.raises(InputRefused, match="in different ways"):
        train_folds(cohort, tmp_path / "model", plan, 2, work=tmp_path / "work", engine=engine)
    assert not (tmp_path / "model").exists()


def test_a_mirror_image_gives_mirrored_answers_with_sides_exchanged() -> None:
    torch.manual_seed(0)
    network = networks.build("mean_ensemble", member=MEMBER, members=1, mirrored=[1, 0]).eval()
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        straight, mirrored = network(image), network(image.flip(2))
    assert torch.allclose(straight, mirrored.flip(2)[:, [1, 0]], atol=1e-4)
    plain = MeanEnsemble(MEMBER, members=1).eval()
    with torch.no_grad():
        assert not torch.allclose(plain(image), plain(image.flip(2)).flip(2)[:, [1, 0]], atol=1e-2)


def test_label_maps_hold_each_target_under_its_value() -> None:
    _, blood, tract = head(0)
    sides = {
        "tract_left": tract.with_array(tract.array == 1),
        "tract_right": tract.with_array(tract.array == 2),
    }
    maps = as_label_maps({"ICH": blood.with_array(blood.array > 0), **sides})
    assert sorted(maps) == ["haematoma", "tract"]
    assert np.array_equal(maps["tract"].array, tract.array.astype(np.uint8))
    assert replace(maps["haematoma"]).array.max() == 1
