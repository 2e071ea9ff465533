"""Networks out of torch: ONNX files and OpenVINO models for a fixed input shape."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ichnos.errors import require
from ichnos.networks.mamba import Mamba
from ichnos.networks.scan_export import OnnxRecurrence


def export_onnx(network: nn.Module, inputs: Tensor | tuple[Tensor, ...], path: Path) -> Path:
    """Write `network` as an ONNX graph for inputs of exactly these shapes; weights over 2 GB would go to
    files beside it.

    Inputs are named input_0, input_1, ...; outputs output_0, ... (with deep supervision one per resolution,
    finest first).
    """
    require("onnx", extra="acceleration", purpose="export to ONNX")
    opset = require("onnxscript", extra="acceleration", purpose="export to ONNX").opset18
    example = inputs if isinstance(inputs, tuple) else (inputs,)
    with _quiet_exporter(), torch.no_grad():
        program: Any = torch.onnx.export(
            _with_biases(network).eval(),
            example,
            dynamo=True,
            verbose=False,
            input_names=[f"input_{i}" for i in range(len(example))],
            opset_version=18,
            custom_translation_table={torch.ops.ichnos.recurrence.default: OnnxRecurrence(opset)},
            optimize=False,
        )
        program.save(str(path), external_data=False)
    return path


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide what the exporter says of its own deprecations and of its steps."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _with_biases(network: nn.Module) -> nn.Module:
    """Return a copy whose convolutions all have a bias: for one without, the exporter writes a scalar that
    engines refuse.
    """
    copied = copy.deepcopy(network)
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for module in copied.modules():
        if isinstance(module, kinds) and module.bias is None:
            module.bias = nn.Parameter(module.weight.new_zeros(module.out_channels))
    return copied


def openvino_model(network: nn.Module, inputs: Tensor | tuple[Tensor, ...]) -> Any:
    """Convert `network` to an OpenVINO model for inputs of exactly these shapes: directly, or through ONNX
    where it holds a Mamba layer.
    """
    openvino = require("openvino", extra="acceleration", purpose="inference with OpenVINO")
    example = inputs if isinstance(inputs, tuple) else (inputs,)
    if not any(isinstance(module, Mamba) for module in network.modules()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter traces, which torch has deprecated
            return openvino.convert_model(
                network.eval(), example_input=example, input=[list(x.shape) for x in example]
            )
    with tempfile.TemporaryDirectory() as folder:
        return openvino.Core().read_model(str(export_onnx(network, example, Path(folder) / "network.onnx")))


def compile_openvino(
    source: nn.Module | Path,
    inputs: Tensor | tuple[Tensor, ...] = (),
    *,
    precision: str = "f32",
    threads: int = 0,
) -> Any:
    """Compile a network for given inputs, or an ONNX file, for this machine's CPU.

    `precision` is "f32" or "bf16"; `threads` 0 takes what OpenVINO thinks best.
    """
    core = require("openvino", extra="acceleration", purpose="inference with OpenVINO").Core()
    graph = openvino_model(source, inputs) if isinstance(source, nn.Module) else core.read_model(str(source))
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    return core.compile_model(graph, "CPU", options)
