"""The example in the documentation runs: on a published state dict, and on a file that is none."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from ichnos.networks import build
from ichnos.networks.checkpoints import load_safetensors

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "load_original_checkpoint.py"


@pytest.fixture
def example() -> Any:
    return runpy.run_path(str(EXAMPLE))["main"]


def test_published_weights_run_and_are_saved(
    example: Any, tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = shared / "parity" / "umamba_enc_2d_odd.pt"
    config = torch.load(stored, weights_only=True)["config"]
    told = json.dumps({"strides": config["strides"], "input_size": config["shape"][2:]})
    assert example([str(stored), "--arguments", told, "-o", str(tmp_path / "w.safetensors")]) == 0
    assert "umamba_enc: (1, 1, 48, 48) -> (1, 2, 48, 48)" in capsys.readouterr().out
    assert load_safetensors(tmp_path / "w.safetensors").name == "umamba_enc"


def test_made_weights_run(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = build(
        "umamba_bot", input_channels=1, num_classes=2, dim=2, features_per_stage=[4, 8], strides=[1, 2]
    )
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    assert example([str(tmp_path / "weights.pth"), "--arguments", '{"strides": [1, 2]}']) == 0
    assert "umamba_bot: (1, 1, 64, 64) -> (1, 2, 64, 64)" in capsys.readouterr().out


def test_a_file_that_is_no_checkpoint_is_explained(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pth").write_text("hello")
    assert example([str(tmp_path / "x.pth")]) == 2
    assert "x.pth" in capsys.readouterr().err
