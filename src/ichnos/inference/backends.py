"""What runs a network on one tile (1, channel, x, y, z) of float32: torch anywhere, or OpenVINO on a CPU."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ichnos.errors import UsageError, require
from ichnos.models import Manifest, Model

Tile = npt.NDArray[np.float32]
TileRunner = Callable[[Tile], Tile]
_MOST_STREAMS = 8  # a head has about as many tiles; each stream holds its own activations
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


def outputs_of(run: TileRunner, tiles: Iterable[Tile]) -> Iterator[Tile]:
    """Yield a network's output of each tile, in their order; side by side where its back end can."""
    if not isinstance(run, _Streams):
        yield from map(run, tiles)
        return
    waiting = iter(tiles)
    while together := list(itertools.islice(waiting, run.side_by_side)):
        yield from run.many(together)


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
    # Each tile is computed by one thread, tiles side by side: what a tile gives cannot depend on how many
    # threads there are, as it does where several share one (in bf16 by up to a percent of probability).
    streams = min(threads or os.cpu_count() or 1, _MOST_STREAMS)
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _precision(core),
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams,
    }
    if cache is not None:
        settings["CACHE_DIR"] = str(cache)
    compiled = core.compile_model(_graph(model, openvino, cache), "CPU", settings)
    return _Streams(compiled, streams)


class _Streams:
    """A compiled network that computes several tiles at a time, each on a thread of its own."""

    def __init__(self, compiled: Any, streams: int) -> None:
        self._requests = [compiled.create_infer_request() for _ in range(streams)]
        self._output = compiled.output(0)
        self.side_by_side = streams

    def __call__(self, tile: Tile) -> Tile:
        return self.many([tile])[0]

    def many(self, tiles: Sequence[Tile]) -> list[Tile]:
        """Return the outputs of up to `side_by_side` tiles, in their order."""
        started = list(zip(self._requests, tiles, strict=False))
        for request, tile in started:
            request.start_async([tile], share_inputs=False)
        for request, _ in started:
            request.wait()
        return [np.array(request.get_tensor(self._output).data, np.float32) for request, _ in started]


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
