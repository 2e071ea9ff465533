"""What runs the network on one tile: torch on any device, or OpenVINO on a CPU. Both take and give (1, channel, x, y, z) float32."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ichnos.errors import UsageError, require
from ichnos.models import Model
from ichnos.networks.export import openvino_model

Tile = npt.NDArray[np.float32]
Backend = Callable[[Tile], Tile]
BackendName = Literal["auto", "torch", "openvino"]


def backend_for(
    model: Model, *, name: BackendName = "auto", device: str = "cpu", threads: int | None = None, cache: Path | None = None
) -> Backend:
    """Return the function that runs a model's network on tiles of its patch size.

    "auto" is OpenVINO on a CPU where it is installed, torch elsewhere.
    """
    if name == "auto":
        name = "openvino" if device == "cpu" and _has_openvino() else "torch"
    if name == "openvino":
        if device != "cpu":
            raise UsageError(f"the OpenVINO back end runs on the CPU, and device {device!r} was asked for; use --backend torch")
        return _openvino(model, threads, cache)
    return _torch(model, device)


def _torch(model: Model, device: str) -> Backend:
    network = model.network(device=device)

    def run(tile: Tile) -> Tile:
        with torch.inference_mode():
            out = network(torch.from_numpy(tile).to(device))
        out = out[0] if isinstance(out, (list, tuple)) else out
        return np.asarray(out.float().cpu().numpy(), np.float32)

    return run


def _openvino(model: Model, threads: int | None, cache: Path | None) -> Backend:
    openvino = require("openvino", extra="acceleration", purpose="the OpenVINO back end")
    core = openvino.Core()
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _precision(core), "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    if cache is not None:
        settings["CACHE_DIR"] = str(cache)
    compiled = core.compile_model(_graph(model, openvino, cache), "CPU", settings)
    output = compiled.output(0)

    def run(tile: Tile) -> Tile:
        return np.array(compiled(tile)[output], np.float32)

    return run


def _graph(model: Model, openvino: Any, cache: Path | None) -> Any:
    """Convert the network, or read the graph that an earlier run has left in the cache."""
    preprocessing = model.manifest.preprocessing
    shape = [1, len(preprocessing.windows_hu), *preprocessing.patch]
    key = hashlib.sha256(f"{model.manifest.weights_sha256}{shape}{openvino.__version__}".encode()).hexdigest()[:16]
    file = None if cache is None else cache / f"{key}.xml"
    if file is not None and file.is_file() and file.with_suffix(".bin").is_file():
        return openvino.Core().read_model(file)
    graph = openvino_model(model.network(), torch.zeros(shape))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(graph, file, compress_to_fp16=False)
    return graph


def _precision(core: Any) -> str:
    """bf16 where the processor computes in it, fp32 elsewhere (its default would be a guess of the library)."""
    return "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def _has_openvino() -> bool:
    import importlib.util

    return importlib.util.find_spec("openvino") is not None
