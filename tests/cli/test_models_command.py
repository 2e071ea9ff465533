"""`ichnos models`: list, show, verify, export to other programs, import from nnU-Net's and U-Mamba's
result folders.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders.tiny_model import tiny_model
from ichnos import networks
from ichnos.cli.main import run
from ichnos.inference import Predictor
from ichnos.models import load_model
from ichnos.scan import Scan
from ichnos.volume import Volume

HU = {"mean": 40.0, "std": 12.0, "percentile_00_5": 0.0, "percentile_99_5": 90.0}
UNET: dict[str, Any] = {
    "input_channels": 1,
    "num_classes": 3,
    "dim": 3,
    "features_per_stage": [4, 8],
    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "n_conv_per_stage": [1, 1],
    "n_conv_per_stage_decoder": [1],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny").folder


def result_folder(
    root: Path, *, architecture: dict[str, Any] | None, weights: dict[str, torch.Tensor], **dataset: Any
) -> Path:
    """Write what nnU-Net leaves of a training."""
    folder = root / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    configuration: dict[str, Any] = {
        "spacing": [5.0, 4.0, 4.0],
        "patch_size": [8, 16, 16],
        "normalization_schemes": ["CTNormalization"],
    }
    if architecture is None:
        configuration |= {"UNet_class_name": "UMambaBot", "pool_op_kernel_sizes": UNET["strides"]}
    else:
        configuration |= {"architecture": architecture}
    plans = {
        "configurations": {"3d_fullres": configuration},
        "transpose_forward": [0, 1, 2],
        "original_median_spacing_after_transp": [5.0, 4.0, 4.0],
        "foreground_intensity_properties_per_channel": {"0": HU},
    }
    told = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "hematoma": 1, "phe": 2}, **dataset}
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(told))
    content = {"network_weights": weights, "init_args": {"plans": plans, "configuration": "3d_fullres"}}
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def made_scan() -> Scan:
    hu = np.full((24, 24, 16), -1000.0, np.float32)
    hu[4:20, 4:20, 3:13] = 30 + np.random.default_rng(0).normal(0, 10, (16, 16, 10))
    return Scan(Volume(hu, np.diag([4.0, 4.0, 5.0, 1.0])))


def test_listing_verifying_and_showing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "list", str(model)]) == 0
    assert "(tiny 1): brain" in capsys.readouterr().out
    assert run(["models", "verify", str(model)]) == 0
    assert "files verified" in capsys.readouterr().out
    assert run(["models", "show", str(model)]) == 0
    assert "Random weights." in capsys.readouterr().out
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.json").write_bytes((model / "model.json").read_bytes())
    assert run(["models", "verify", str(tmp_path / "half"), "--json"]) == 2
    assert "incomplete" in json.loads(capsys.readouterr().out)[0]["problem"]
    assert run(["models", "juggle"]) == 3


def test_exported_graphs_and_bundles_give_the_networks_own_output(model: Path, tmp_path: Path) -> None:
    onnxruntime, monai = pytest.importorskip("onnxruntime"), pytest.importorskip("monai.bundle")
    assert (
        run(
            [
                "models",
                "export",
                str(model),
                "--onnx",
                str(tmp_path / "m.onnx"),
                "--monai",
                str(tmp_path / "bundle"),
            ]
        )
        == 0
    )
    tile = np.random.default_rng(0).normal(0, 1, (1, 1, 32, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        ours = load_model(model).network()(torch.from_numpy(tile)).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: tile})
    assert np.abs(theirs - ours).max() < 1e-3
    config = monai.ConfigParser()
    config.read_config(tmp_path / "bundle" / "configs" / "inference.json")
    config["bundle_root"] = str(tmp_path / "bundle")
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        bundled = config.get_parsed_content("network")(torch.from_numpy(tile)).numpy()
    assert np.abs(bundled - ours).max() < 1e-4
    assert (
        json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())["network_data_format"][
            "inputs"
        ]["image"]["num_channels"]
        == 1
    )
    assert run(["models", "export", str(model), "--monai", str(tmp_path / "bundle")]) == 3


@pytest.mark.parametrize("kind", ["umamba_bot", "planned"])
def test_a_result_folder_becomes_a_model_that_reads(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if kind == "planned":
        pytest.importorskip("dynamic_network_architectures")
        arch = {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": UNET["kernel_sizes"],
            "strides": UNET["strides"],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
        name = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
        architecture = {
            "network_class_name": name,
            "arch_kwargs": arch,
            "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
        }
        planned = {
            "network_class_name": name,
            "arch_kwargs": arch,
            "requires_import": architecture["_kw_requires_import"],
        }
        network = networks.build("planned", input_channels=1, num_classes=3, dim=3, **planned)
        weights = {key.removeprefix("network."): value for key, value in network.state_dict().items()}
        folder = result_folder(tmp_path, architecture=architecture, weights=weights)
    else:
        network = networks.build("umamba_bot", **UNET)
        folder = result_folder(tmp_path, architecture=None, weights=dict(network.state_dict()))
    assert run(["models", "import", str(folder), "-o", str(tmp_path / "m"), "--label", "hematoma=ICH"]) == 0
    model = load_model(tmp_path / "m")
    assert [target.name for target in model.manifest.targets] == ["ICH", "PHE"]
    assert model.manifest.activation == "softmax"
    prediction = Predictor(model, backend="torch")(made_scan())
    assert prediction.probabilities.shape[0] == 2
    tile = torch.randn(1, 1, 8, 16, 16)
    with torch.inference_mode():
        assert torch.equal(model.network()(tile), network.eval()(tile))


def test_what_cannot_be_imported_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = result_folder(tmp_path, architecture=None, weights={}, channel_names={"0": "CT", "1": "T1"})
    for arguments, code, word in (
        ([str(folder), "-o", str(tmp_path / "m")], 2, "2 channel(s)"),
        ([str(folder), "-o", str(tmp_path / "m"), "--fold", "3"], 2, "another fold"),
        ([str(tmp_path), "-o", str(tmp_path / "m")], 2, "no plans.json"),
        ([str(folder), "-o", str(tmp_path / "m"), "--label", "ICH"], 3, "theirs=ours"),
        ([str(folder)], 3, "new model folder"),
    ):
        assert run(["models", "import", *arguments]) == code
        assert word in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_model_that_ships_is_shown_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", "default"]) == 0
    by_alias = capsys.readouterr().out
    assert run(["models", "show", "multi"]) == 0
    assert capsys.readouterr().out == by_alias
    assert "Research use" in by_alias
    assert run(["models", "show", "no-such-model"]) == 2
    assert "default" in capsys.readouterr().err
    assert run(["models", "show", "multi", "multi"]) == 3
