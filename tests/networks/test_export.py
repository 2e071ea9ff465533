"""Every network leaves torch and answers the same in ONNX Runtime and OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ichnos.errors import UsageError
from ichnos.networks import build, names
from ichnos.networks.export import compile_openvino, export_onnx
from ichnos.networks.scan_export import exportable_scan
from ichnos.networks.selective_scan import sequential_scan

TOPOLOGY: dict[str, Any] = {
    "input_channels": 1,
    "num_classes": 2,
    "features_per_stage": [8, 16],
    "strides": [1, 2],
    "n_conv_per_stage": 1,
}
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "unet": (TOPOLOGY | {"dim": 2}, (1, 1, 16, 16)),
    "umamba_bot": (TOPOLOGY, (1, 1, 8, 8, 8)),
    "umamba_enc": (TOPOLOGY | {"dim": 2, "input_size": [64, 64]}, (1, 1, 64, 64)),
    "diffusion_ukan": (
        {"T": 50, "ch": 32, "ch_mult": [1], "num_res_blocks": 1, "embed_dims": [32, 64, 96]},
        (1, 3, 16, 16),
    ),
    "calibrated_ensemble": (
        {
            "member": {
                "name": "vit",
                "arguments": {"image_size": [8, 8], "patch_size": 8, "width": 8, "depth": 1, "heads": 2},
            },
            "members": 2,
        },
        (1, 3, 8, 8),
    ),
    "mean_ensemble": (
        {
            "member": {
                "name": "unet",
                "arguments": {
                    "input_channels": 1,
                    "num_classes": 2,
                    "dim": 2,
                    "features_per_stage": [4, 8],
                    "strides": [1, 2],
                },
            },
            "members": 2,
        },
        (1, 1, 16, 16),
    ),
    "planned": (
        {
            "input_channels": 1,
            "num_classes": 2,
            "dim": 3,
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [8, 16],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [3, 3],
                "strides": [1, 2],
                "n_conv_per_stage": 1,
                "n_conv_per_stage_decoder": 1,
            },
            "requires_import": ["conv_op"],
        },
        (1, 1, 8, 8, 8),
    ),
    "unetr": (
        {
            "input_channels": 1,
            "num_classes": 2,
            "input_size": [16, 16, 16],
            "features": 8,
            "width": 24,
            "heads": 2,
        },
        (1, 1, 16, 16, 16),
    ),
    "refiner": (
        {
            "input_channels": 5,
            "num_classes": 2,
            "first_logits": 1,
            "logit_unit": 4.0,
            "features_per_stage": [4, 8],
            "kernel_sizes": [[3, 3, 1], 3],
            "strides": [1, [2, 2, 1]],
        },
        (1, 5, 16, 16, 8),
    ),
    "vit": ({"image_size": [32, 32], "patch_size": 8, "width": 48, "depth": 2, "heads": 4}, (2, 3, 32, 32)),
}


def in_onnx_runtime(path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray[Any, Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == [f"input_{i}" for i in range(len(inputs))]
    return np.asarray(session.run(None, {f"input_{i}": v.numpy() for i, v in enumerate(inputs)})[0])


def test_every_network_is_covered() -> None:
    assert names() == sorted(
        [*CASES, "affine_warp"]
    )  # the warp gives a transform, and is used in its own study only


@pytest.mark.parametrize("name", sorted(CASES))
def test_engines_agree_with_torch(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    arguments, shape = CASES[name]
    network = build(name, **arguments).train()
    if name == "diffusion_ukan":
        with torch.no_grad():
            network.tail[2].weight.normal_(std=0.1)
    inputs = (torch.randn(shape), torch.tensor([7])) if name == "diffusion_ukan" else (torch.randn(shape),)
    path = export_onnx(network, inputs, tmp_path / "network.onnx")
    assert network.training
    with torch.no_grad():
        expected = network.eval()(*inputs).numpy()
    spread = float(np.ptp(expected))
    assert spread > 0.01
    assert np.abs(in_onnx_runtime(path, inputs) - expected).max() < 1e-3 * spread
    pytest.importorskip("openvino")
    exact, coarse = (
        compile_openvino(path, precision=p, threads=1)([v.numpy() for v in inputs])[0]
        for p in ("f32", "bf16")
    )
    assert np.abs(exact - expected).max() < 1e-3 * spread
    assert np.isfinite(coarse).all()
    direct = compile_openvino(network, inputs, threads=1)([v.numpy() for v in inputs])[0]
    assert np.abs(direct - expected).max() < 1e-3 * spread
    assert np.corrcoef(coarse.ravel(), expected.ravel())[0, 1] > 0.97  # bfloat16 has 8 bits


@pytest.mark.filterwarnings("ignore")  # torch warns of tracing, and of its own norm layers under it
def test_tracing_a_mamba_network_says_what_to_do_instead() -> None:
    network = build("umamba_bot", **TOPOLOGY)
    with pytest.raises(UsageError, match=r"ichnos\.networks\.export"):
        torch.jit.trace(network, torch.zeros(1, 1, 8, 8, 8))


class _Scan(nn.Module):
    def forward(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        return exportable_scan(u, delta, A, B, C, delta_softplus=True)


@pytest.mark.parametrize(("length", "groups"), [(1, 1), (40, 2), (1100, 1)])
def test_exported_scan_is_the_sequential_one(tmp_path: Path, length: int, groups: int) -> None:
    """1100 steps make 35 chunks: one more level of chunking in the graph."""
    g = torch.Generator().manual_seed(0)
    inputs = tuple(
        torch.randn(*shape, generator=g)
        for shape in ((2, 4, length), (2, 4, length), (4, 3), (2, groups, 3, length), (2, groups, 3, length))
    )
    inputs = (*inputs[:2], -inputs[2].exp(), *inputs[3:])
    path = export_onnx(_Scan(), inputs, tmp_path / "scan.onnx")
    expected = sequential_scan(*inputs, delta_softplus=True).output.numpy()
    assert np.abs(in_onnx_runtime(path, inputs) - expected).max() < 1e-4 * np.abs(expected).max()
