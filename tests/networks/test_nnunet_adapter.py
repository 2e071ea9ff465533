"""nnU-Net builds, trains and reads back our networks through its own extension points."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ichnos.errors import UsageError
from ichnos.networks import nnunet

pytest.importorskip("nnunetv2")

CONFIGURATION: dict[str, Any] = {
    "data_identifier": "plans_3d_fullres",
    "batch_size": 2,
    "patch_size": [8, 16, 16],
    "spacing": [5.0, 0.5, 0.5],
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 8, 16],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
            "n_conv_per_stage": [2, 2, 2],
            "n_conv_per_stage_decoder": [2, 2],
        },
        "_kw_requires_import": ["conv_op"],
    },
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """nnU-Net and its libraries warn of many things that are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nnunet.prepare()
        yield


@pytest.mark.parametrize("name", nnunet.NETWORKS)
def test_plans_build_our_network(name: str) -> None:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    plans = {
        "configurations": {"3d_fullres": CONFIGURATION, "3d_cascade_fullres": {"inherits_from": "3d_fullres"}}
    }
    changed = (
        nnunet.with_network(plans, name, mamba_residual=True)
        if name != "unet"
        else nnunet.with_network(plans, name)
    )
    assert plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"].endswith(
        "PlainConvUNet"
    )
    architecture = json.loads(json.dumps(changed))["configurations"]["3d_fullres"]["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        2,
        deep_supervision=True,
    )
    outputs = network(torch.zeros(1, 1, 8, 16, 16))
    assert [tuple(o.shape) for o in outputs] == [(1, 2, 8, 16, 16), (1, 2, 8, 8, 8)]
    network.decoder.deep_supervision = False
    assert network(torch.zeros(1, 1, 8, 16, 16)).shape == (1, 2, 8, 16, 16)
    assert network.compute_conv_feature_map_size((8, 16, 16)) > 0


@pytest.mark.parametrize(
    "trainer", ["nnUNetTrainerUMambaEnc", "nnUNetTrainerUMambaBot", "nnUNetTrainerIchnosUNet"]
)
def test_trainers_are_found_by_name_and_build(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    monkeypatch.setenv("nnUNet_extTrainer", str(nnunet.extension_folder()))
    found = recursive_find_trainer_class_by_name(trainer)
    network = found.build_network_architecture(None, ConfigurationManager(CONFIGURATION), 1, 3, True)
    assert [o.shape[1] for o in network(torch.zeros(1, 1, 8, 16, 16))] == [3, 3]


def test_other_networks_are_refused() -> None:
    with pytest.raises(UsageError, match="vit is not a segmentation network"):
        nnunet.with_network({"configurations": {"3d_fullres": CONFIGURATION}}, "vit")


def write_dataset(folder: Path) -> None:
    """Six small scans of noise with a bright ball each."""
    import SimpleITK as sitk

    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in range(6):
        z, y, x = np.meshgrid(*(np.arange(n) for n in (12, 32, 32)), indexing="ij")
        centre = rng.integers([4, 10, 10], [8, 22, 22])
        ball = ((z - centre[0]) / 3) ** 2 + ((y - centre[1]) / 6) ** 2 + ((x - centre[2]) / 6) ** 2 < 1
        for part, name, array in (
            ("imagesTr", f"case_{case}_0000", rng.normal(30, 8, ball.shape) + 40 * ball),
            ("labelsTr", f"case_{case}", ball),
        ):
            image = sitk.GetImageFromArray(array.astype(np.float32 if part == "imagesTr" else np.uint8))
            image.SetSpacing((1.0, 1.0, 4.0))
            sitk.WriteImage(image, str(folder / part / f"{name}.nii.gz"))
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["umamba_enc", "unet"])
def test_nnunet_plans_trains_and_predicts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("nnUNet_n_proc_DA", "1"), ("nnUNet_def_n_proc", "1"), ("nnUNet_compile", "f")):
        monkeypatch.setenv(variable, value)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    write_dataset(tmp_path / "nnUNet_raw" / "Dataset001_Ball")
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    extract_fingerprints([1], num_processes=1)
    plan_experiments([1])
    preprocess([1], configurations=["3d_fullres"], num_processes=[1])
    folder = tmp_path / "nnUNet_preprocessed" / "Dataset001_Ball"
    small = {"features_per_stage": None}
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    planned = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    small["features_per_stage"] = [4 * 2 ** min(s, 3) for s in range(planned["n_stages"])]
    plans = nnunet.with_network(plans, name, **small) | {"continue_training": False}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = nnUNetTrainer(
        plans=plans,
        configuration="3d_fullres",
        fold=0,
        dataset_json=json.loads((folder / "dataset.json").read_text()),
        device=torch.device("cpu"),
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 2, 4, 1
    trainer.run_training()
    losses = trainer.logger.local_logger.my_fantastic_logging["train_losses"]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert type(trainer.network).__name__ in ("UMambaEnc", "ResidualUNet")
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    image = np.random.default_rng(1).normal(30, 8, (1, 12, 32, 32)).astype(np.float32)
    mask = predictor.predict_single_npy_array(image, {"spacing": [4.0, 1.0, 1.0]})
    assert mask.shape == (12, 32, 32)
