"""Checkpoints of the originals load without running their code, rebuild the network they came from, and
say so when they do not fit.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ichnos.errors import InputRefused, UsageError
from ichnos.networks import build
from ichnos.networks.checkpoints import load_checkpoint, load_safetensors, save_safetensors

TOPOLOGY: dict[str, Any] = {
    "dim": 3,
    "features_per_stage": [4, 8, 16],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
}


def with_aliases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Repeat keys as the originals do."""
    repeated = dict(state)
    for key, value in state.items():
        for part, index in ((".conv.", 0), (".norm.", 1)):
            if f"conv1{part}" in key or f"conv2{part}" in key:
                repeated[key.replace(part, f".all_modules.{index}.")] = value
    return repeated | {
        f"decoder.{key}": value for key, value in repeated.items() if key.startswith("encoder.")
    }


def nnunet_checkpoint(network: nn.Module, path: Path, *, modern: bool) -> Path:
    """Write what nnU-Net's trainer writes: weights, logs with numpy numbers, and the plans."""
    strides = TOPOLOGY["strides"]
    configuration: dict[str, Any] = {"patch_size": [8, 16, 16]}
    configuration |= (
        {"architecture": {"arch_kwargs": {"strides": strides}}}
        if modern
        else {"pool_op_kernel_sizes": strides}
    )
    plans = {
        "configurations": {"3d_fullres": configuration, "3d_cascade_fullres": {"inherits_from": "3d_fullres"}}
    }
    content = {
        "network_weights": with_aliases(network.state_dict()),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "epoch_end_timestamps": [1.0]},
        "_best_ema": np.float64(0.7),
        "current_epoch": 3,
        "init_args": {"plans": plans, "configuration": "3d_cascade_fullres", "fold": 0},
        "trainer_name": "nnUNetTrainerUMambaEnc",
    }
    torch.save(content, path)
    return path


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("name", ["umamba_enc", "umamba_bot", "unet"])
def test_nnunet_checkpoint_rebuilds_its_network(tmp_path: Path, name: str, modern: bool) -> None:
    torch.manual_seed(0)
    size = {"input_size": [8, 16, 16]} if name == "umamba_enc" else {}
    original = build(name, input_channels=2, num_classes=3, **TOPOLOGY, **size).eval()
    loaded = load_checkpoint(nnunet_checkpoint(original, tmp_path / "checkpoint_final.pth", modern=modern))
    image = torch.randn(1, 2, 8, 16, 16)
    with torch.no_grad():
        assert loaded.name == name
        assert torch.equal(loaded.network(image), original(image))
    again = load_safetensors(save_safetensors(loaded, tmp_path / "weights.safetensors"))
    with torch.no_grad():
        assert torch.equal(again.network(image), original(image))
    assert again.arguments == loaded.arguments


@pytest.mark.parametrize("name", ["umamba_bot_3d", "umamba_enc_2d_odd"])
def test_published_state_dicts_load(shared: Path, name: str) -> None:
    path = shared / "parity" / f"{name}.pt"
    stored = torch.load(path, weights_only=True)
    config = stored["config"]
    told = {"strides": config["strides"], "input_size": config["shape"][2:]}
    told = told if "Enc" in config["net"] else {"strides": told["strides"]}
    loaded = load_checkpoint(path, arguments={**told, "deep_supervision": True})
    with torch.no_grad():
        outputs = loaded.network.double()(stored["input"].double())
    assert (
        max(float((o - e).abs().max()) for o, e in zip(outputs, stored["outputs_fp64"], strict=True)) < 1e-8
    )


def test_published_diffusion_ukan_loads_without_being_told(shared: Path) -> None:
    path = shared / "parity" / "ukan_hybrid_small.pt"
    stored = torch.load(path, weights_only=True)
    loaded = load_checkpoint(path)
    assert {
        k: loaded.arguments[k] for k in ("T", "ch", "ch_mult", "num_res_blocks", "embed_dims", "tdim")
    } == {k: v for k, v in stored["config"].items() if k not in ("attn", "dropout")}
    with torch.no_grad():
        assert (
            loaded.network.double()(stored["input"].double(), stored["t"]) - stored["output_fp64"]
        ).abs().max() < 1e-8


def test_prefixes_of_parallel_training_are_taken_off(tmp_path: Path) -> None:
    arguments = {
        "T": 5,
        "ch": 32,
        "ch_mult": [1],
        "num_res_blocks": 1,
        "embed_dims": [32, 32, 32],
        "in_channels": 1,
        "condition_features": 2,
    }
    network = build("diffusion_ukan", **arguments)
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, tmp_path / "ckpt.pt")
    loaded = load_checkpoint(tmp_path / "ckpt.pt")
    assert loaded.arguments["condition_features"] == 2
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in loaded.network.state_dict().items())


def test_weights_without_plans_ask_for_strides(tmp_path: Path) -> None:
    torch.save(
        build("umamba_bot", input_channels=1, num_classes=2, **TOPOLOGY).state_dict(),
        tmp_path / "weights.pth",
    )
    with pytest.raises(UsageError, match="no plans, which would give"):
        load_checkpoint(tmp_path / "weights.pth")
    assert (
        load_checkpoint(tmp_path / "weights.pth", arguments={"strides": TOPOLOGY["strides"]}).name
        == "umamba_bot"
    )


def test_other_shapes_are_named(tmp_path: Path) -> None:
    torch.save(
        build("umamba_bot", input_channels=1, num_classes=2, **TOPOLOGY).state_dict(),
        tmp_path / "weights.pth",
    )
    wrong = {"strides": TOPOLOGY["strides"], "num_classes": 5}
    with pytest.raises(
        InputRefused,
        match=(
            r"0 names missing, 0 unknown, 4 of another shape \(decoder.seg_layers.0.weight is \(2, 8, 1,"
            r" 1, 1\)"
        ),
    ):
        load_checkpoint(tmp_path / "weights.pth", arguments=wrong)


class Malicious:
    def __reduce__(self) -> Any:
        return (print, ("code ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"network_weights": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(InputRefused, match="a pickle can run code"):
        load_checkpoint(tmp_path / "bad.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a checkpoint", "bad.pth"), (pickle.dumps({"a": 1}), "bad.pth"), (None, "is not a file")],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(InputRefused, match=message):
        load_checkpoint(tmp_path / "bad.pth")


def test_unknown_networks_are_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(InputRefused, match="not known here"):
        load_checkpoint(tmp_path / "other.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(InputRefused, match="holds no weights"):
        load_checkpoint(tmp_path / "empty.pth")
