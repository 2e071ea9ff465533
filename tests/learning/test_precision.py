"""The precision is chosen by measurement, kept for the next call, and every network trains in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ichnos import networks
from ichnos.learning.loop import precision
from ichnos.learning.loop.precision import PrecisionChoice, measured_precision, precision_note, with_precision
from ichnos.learning.loop.settings import LoopSettings
from ichnos.learning.loop.steps import Loss, Step
from ichnos.learning.loop.team import ALONE
from ichnos.models import NetworkSpec

LEVELS: dict[str, Any] = {
    "dim": 3,
    "features_per_stage": [8, 16],
    "kernel_sizes": [[3, 3, 3]] * 2,
    "strides": [[1, 1, 1], [2, 2, 2]],
    "n_conv_per_stage": [1, 1],
    "n_conv_per_stage_decoder": [1],
}
SEGMENTER = {"input_channels": 1, "num_classes": 1, **LEVELS}
UKAN = {"T": 10, "ch": 32, "ch_mult": [1], "embed_dims": [32, 32, 32], "num_res_blocks": 1, "in_channels": 1}
SPECS = {
    "unet": NetworkSpec(name="unet", arguments=SEGMENTER),
    "umamba_bot": NetworkSpec(name="umamba_bot", arguments=SEGMENTER),
    "umamba_enc": NetworkSpec(name="umamba_enc", arguments=SEGMENTER | {"input_size": [8, 8, 8]}),
    "diffusion_ukan": NetworkSpec(name="diffusion_ukan", arguments=UKAN),
}
STEPS = LoopSettings(steps=1000, validations=0)


def loss_of(network: torch.nn.Module, step: Step) -> Loss:
    """Squared output of a fixed image; a diffusion network also takes its time step."""
    generator = torch.Generator().manual_seed(step.number)
    flat = hasattr(network, "time_embedding")
    image = torch.randn((2, 1, 16, 16) if flat else (2, 1, 8, 8, 8), generator=generator)
    with step.autocast():
        out = network(image, torch.tensor([1, 5])) if flat else network(image)
    return Loss((out.float() - 1).square().mean())


@pytest.mark.parametrize("name", sorted(SPECS))
def test_gradients_of_every_network_agree_between_precisions(name: str) -> None:
    choice = measured_precision(STEPS, SPECS[name], loss_of, device="cpu", team=ALONE)
    assert choice.tried == "bf16"
    assert choice.cosine > 0.95, "a tiny network on noise; real ones agree to 0.999"
    assert choice.gain > 0


def test_the_scan_and_the_splines_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    from ichnos.networks import mamba

    seen: list[torch.dtype] = []
    scan = mamba.selective_scan

    def watched(u: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append(u.dtype)
        return scan(u, *rest, **options)

    monkeypatch.setattr(mamba, "selective_scan", watched)
    network = networks.build("umamba_bot", **SPECS["umamba_bot"].arguments)
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.zeros(1, 1, 8, 8, 8))
    assert seen == [torch.float32]


def test_a_choice_is_kept_for_the_next_call_and_for_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        precision, "measured_precision", lambda *a, **k: PrecisionChoice("bf16", 1.9, 0.999, "bf16")
    )
    spec = SPECS["unet"]
    first = with_precision(STEPS, spec, loss_of, tmp_path, device="cpu", team=ALONE)
    assert first.precision == "bf16"
    monkeypatch.setattr(precision, "measured_precision", lambda *a, **k: PrecisionChoice("fp32"))
    again = with_precision(STEPS, spec, loss_of, tmp_path, device="cpu", team=ALONE)
    assert again.precision == "bf16", "a training that is resumed keeps its precision"
    assert precision_note(tmp_path).startswith("bf16 (1.9 times fp32's pace")
    assert json.loads((tmp_path / "precision.json").read_text())["precision"] == "bf16"
    assert precision_note(tmp_path / "elsewhere") == ""


def test_a_slow_or_disagreeing_half_precision_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.tensor([1.0, 2.0])
    for seconds, other, expected in (
        (2.0, gradient, "fp32"),
        (0.5, -gradient, "fp32"),
        (0.5, gradient, "bf16"),
    ):
        runs = iter([(1.0, gradient), (seconds, other)])
        monkeypatch.setattr(precision, "_steps", lambda *a, runs=runs, **k: next(runs))
        choice = measured_precision(STEPS, SPECS["unet"], loss_of, device="cpu", team=ALONE)
        assert choice.precision == expected


def test_a_short_training_is_not_measured() -> None:
    short = LoopSettings(steps=5)
    assert measured_precision(short, SPECS["unet"], loss_of, device="cpu", team=ALONE).tried == ""
    given = short.model_copy(update={"precision": "bf16"})
    assert with_precision(given, SPECS["unet"], loss_of, Path(), device="cpu", team=ALONE) is given
