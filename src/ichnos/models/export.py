"""A Model for other programs: its network as ONNX, or the whole of it as a MONAI bundle."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from ichnos.errors import UsageError
from ichnos.files import atomic_file
from ichnos.models.card import card_text
from ichnos.models.manifest import Manifest, Preprocessing
from ichnos.models.store import Model
from ichnos.networks.export import export_onnx


def input_shape(manifest: Manifest) -> tuple[int, ...]:
    """Return the shape of one tile as the network takes it: (1, window, …) in the network's own order of
    axes.
    """
    how = manifest.preprocessing
    flat = manifest.network.arguments.get("dim", 3) == 2
    sides = [how.patch["xyz".index(axis)] for axis in how.axes if not (flat and axis == "z")]
    return (1, manifest.input_channels, *sides)


def export_graph(model: Model, file: Path) -> Path:
    """Write the network as ONNX: one tile of windows in, logits out. What prepares a tile stands in
    model.json.
    """
    if file.suffix.lower() != ".onnx":
        raise UsageError(f"{file} does not end in .onnx; give the file such a name")
    model.manifest.check_reads_scans("the export of a tile's network")
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as temporary:
        export_onnx(model.network(), torch.zeros(input_shape(model.manifest)), temporary)
    return file


def export_bundle(model: Model, folder: Path) -> Path:
    """Write a MONAI bundle: TorchScript weights, metadata, and a configuration that runs sliding-window
    inference on a NIfTI file.
    """
    manifest = model.manifest
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; give a new folder for the bundle")
    manifest.check_reads_scans("a bundle for reading scans")
    if manifest.network.arguments.get("dim", 3) == 2:
        raise UsageError(
            f"{manifest.name} sees single slices, for which no bundle is written here; export it to ONNX"
        )
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    _traced(model).save(str(folder / "models" / "model.ts"))
    _write(folder / "configs" / "metadata.json", _metadata(manifest))
    _write(folder / "configs" / "inference.json", _inference(manifest))
    (folder / "docs" / "README.md").write_text(card_text(manifest), encoding="utf-8")
    description = manifest.model_dump_json(indent=2) + "\n"
    (folder / "docs" / "model.json").write_text(description, encoding="utf-8")
    return folder


def _traced(model: Model) -> Any:
    with torch.inference_mode(), warnings.catch_warnings():
        # torch prefers other ways out, and warns of size checks; MONAI reads this one
        warnings.simplefilter("ignore")
        example = torch.zeros(input_shape(model.manifest))
        return torch.jit.trace(model.network(), example, check_trace=False)


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _metadata(manifest: Manifest) -> dict[str, Any]:
    how = manifest.preprocessing
    windows = {str(k): f"{low:g} to {high:g} HU" for k, (low, high) in enumerate(how.windows_hu)}
    targets = {str(k): target.name for k, target in enumerate(manifest.targets)}
    size = list(input_shape(manifest)[2:])
    channels = len(targets) + (manifest.activation == "softmax")
    seen = [-1, 1] if not how.z_score else []
    return {
        "version": manifest.version,
        "name": manifest.name,
        "task": f"reads {', '.join(targets.values())} from a plain head CT",
        "description": manifest.intended_use,
        "intended_use": manifest.intended_use,
        "required_packages_version": {},
        "network_data_format": {
            "inputs": {"image": _tile("hounsfield", len(windows), size, seen, windows)},
            "outputs": {"pred": _tile("segmentation", channels, size, [], targets)},
        },
    }


def _tile(
    content: str, channels: int, size: list[int], limits: list[int], meaning: dict[str, str]
) -> dict[str, Any]:
    """Describe a tile that goes into the network or comes out of it, in MONAI's words."""
    return {
        "type": "image",
        "format": content,
        "num_channels": channels,
        "spatial_shape": size,
        "dtype": "float32",
        "value_range": limits,
        "is_patch_data": True,
        "channel_def": meaning,
    }


def _inference(manifest: Manifest) -> dict[str, Any]:
    """Return MONAI's own words for what our preprocessing does: axes, voxel size, one window per channel."""
    how = manifest.preprocessing
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "image_path": "scan.nii.gz",
        "windows": _windows(how),
        "load": _loading(how),
        "network": "$torch.jit.load(@bundle_root + '/models/model.ts').eval()",
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(input_shape(manifest)[2:]),
            "overlap": 0.5,
            "mode": "gaussian",
            "padding_mode": "constant",
            "cval": how.padding,
        },
        "image": "$@load(@image_path)",
        "channels": "$torch.cat([torch.as_tensor(window(@image)) for window in @windows])[None]",
        "run": ["$@inferer(@channels, @network)"],
    }


def _windows(how: Preprocessing) -> list[dict[str, Any]]:
    """Return how each window's edges become those of a channel: -1 and 1, or standardised HU."""
    edges = [(-1.0, 1.0)] * len(how.windows_hu)
    for k, (mean, sd) in enumerate(how.z_score):
        low, high = how.windows_hu[k]
        edges[k] = ((low - mean) / sd, (high - mean) / sd)
    return [
        {
            "_target_": "ScaleIntensityRange",
            "a_min": low,
            "a_max": high,
            "b_min": bottom,
            "b_max": top,
            "clip": True,
        }
        for (low, high), (bottom, top) in zip(how.windows_hu, edges, strict=True)
    ]


def _loading(how: Preprocessing) -> dict[str, Any]:
    """Return how a file becomes an image along the network's axes, with its voxel size."""
    step = dict(zip("xyz", how.spacing_mm, strict=True))
    axes = "".join({"x": "R", "y": "A", "z": "S"}[axis] for axis in how.axes)
    return {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImage", "image_only": True, "ensure_channel_first": True},
            {"_target_": "Orientation", "axcodes": axes},
            {"_target_": "Spacing", "pixdim": [step[axis] for axis in how.axes], "mode": "bilinear"},
        ],
    }
