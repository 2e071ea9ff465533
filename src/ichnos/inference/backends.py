"""What runs a network on one tile (1, channel, x, y, z) of float32: torch anywhere, or OpenVINO on a CPU."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ichnos.errors import UsageError, require
from ichnos.models import Manifest, Model

Tile = npt.NDArray[np.float32]
TileRunner = Callable[[Tile], Tile]
BackendName = Literal["auto", "torch", "openvino"]


def backend_for(
    model: Model,
    *,
    name: BackendName = "auto",
    device: str = "cpu",
    threads: int | None = None,
    cache: Path | None = None,
) -> TileRunner:
    """Return the function that runs a model's network on tiles of its patch size.

    "auto" is OpenVINO on a CPU where it is installed, torch elsewhere.
    """
    run = (
        _openvino(model, threads, cache)
        if backend_name(name, device) == "openvino"
        else _torch(model, device)
    )
    return _in_its_axes(model.manifest, run)


def backend_name(name: BackendName, device: str) -> Literal["torch", "openvino"]:
    """Return which back end a choice means on a device.

    >>> backend_name("auto", "cuda"), backend_name("torch", "cpu")
    ('torch', 'torch')
    """
    if name == "openvino" and device != "cpu":
        raise UsageError(
            f"the OpenVINO back end runs on the CPU, and device {device!r} was asked for; use --backend torch"
        )
    if name not in ("auto", "torch", "openvino"):
        raise UsageError(f"there is no back end {name!r}; give auto, torch or openvino")
    if name == "auto":
        return "openvino" if device == "cpu" and _has_openvino() else "torch"
    return name


def _in_its_axes(manifest: Manifest, run: TileRunner) -> TileRunner:
    """Give a network its tiles in the axis order of its training, without z if it sees single slices."""
    order = [2 + "xyz".index(axis) for axis in manifest.preprocessing.axes]
    flat = _sees_slices(manifest)
    if order == [2, 3, 4] and not flat:
        return run
    z = 2 + manifest.preprocessing.axes.index("z")
    back = np.argsort([0, 1, *order])

    def turned(tile: Tile) -> Tile:
        given = tile.transpose(0, 1, *order)
        out = run(np.ascontiguousarray(given.squeeze(z) if flat else given))
        return (np.expand_dims(out, z) if flat else out).transpose(back)

    return turned


def _sees_slices(manifest: Manifest) -> bool:
    return bool(manifest.network.arguments.get("dim", 3) == 2)


def _torch(model: Model, device: str) -> TileRunner:
    import torch

    network = model.network(device=device)

    def run(tile: Tile) -> Tile:
        with torch.inference_mode():
            out = network(torch.from_numpy(tile).to(device))
        out = out[0] if isinstance(out, (list, tuple)) else out
        return np.asarray(out.float().cpu().numpy(), np.float32)

    return run


def _openvino(model: Model, threads: int | None, cache: Path | None) -> TileRunner:
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
    shape = [1, model.manifest.input_channels, *_network_patch(model.manifest)]
    key = hashlib.sha256(
        f"{model.manifest.weights_sha256}{shape}{openvino.__version__}".encode()
    ).hexdigest()[:16]
    file = None if cache is None else cache / f"{key}.xml"
    if file is not None and file.is_file():
        try:
            return openvino.Core().read_model(file)
        except RuntimeError:
            pass  # damaged: it is made anew
    import torch  # only where the graph is not in the cache: importing it takes seconds

    from ichnos.networks.export import openvino_model

    graph = openvino_model(model.network(), torch.zeros(shape))
    if file is not None:
        _keep(graph, file, openvino)
    return graph


def _keep(graph: Any, file: Path, openvino: Any) -> None:
    """Write a graph into the cache; the .xml comes last, so that no process reads half of it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            openvino.save_model(graph, Path(folder) / file.name, compress_to_fp16=False)
            for suffix in (".bin", ".xml"):
                os.replace((Path(folder) / file.name).with_suffix(suffix), file.with_suffix(suffix))
    except (OSError, RuntimeError):
        return  # a cache that cannot be written costs time and nothing else


def _network_patch(manifest: Manifest) -> list[int]:
    """Return the size of a tile as the network takes it."""
    how, axes = manifest.preprocessing, manifest.preprocessing.axes
    return [how.patch["xyz".index(axis)] for axis in axes if not (axis == "z" and _sees_slices(manifest))]


def _precision(core: Any) -> str:
    """Return bf16 where the processor computes in it, else fp32; the library's default would be a guess."""
    return "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def _has_openvino() -> bool:
    import importlib.util

    return importlib.util.find_spec("openvino") is not None
