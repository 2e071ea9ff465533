"""Source heads in little room, so that a machine without the label maps can simulate patients of them.

Each file holds a head's tissue codes as they are, its distances to a tenth of a millimetre and its MNI
positions to a sixteenth on every second voxel: about 1.5 MB a head, where the head itself takes 30.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ichnos.errors import InputRefused
from ichnos.simulation.heads.source import SourceHead

_NEAR_MM, _DEEP_MM = -50.0, 90.0  # distances beyond are alike to every rule that uses them
_DISTANCE_STEPS, _POSITION_STEPS = 10, 16  # per millimetre
_PRESET = 2  # of the compression


def write_prepared(head: SourceHead, folder: Path) -> Path:
    """Write a head's file into `folder` and return its path."""
    distances = head.features.numpy().clip(_NEAR_MM, _DEEP_MM) * _DISTANCE_STEPS
    positions = head.mni_mm.numpy()[:, ::2, ::2, ::2] * _POSITION_STEPS
    packed = {
        "codes": head.codes.numpy(),
        "distances": _differences(distances),
        "positions": _differences(positions),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{head.name}.npz"
    arrays: dict[str, Any] = {
        "affine": head.affine,
        "feature_affine": head.feature_affine,
        "feature_shape": np.array(head.features.shape[1:]),
    }
    for name, array in packed.items():
        arrays[f"{name}_shape"] = np.array(array.shape)
        arrays[name] = np.frombuffer(lzma.compress(array.tobytes(), preset=_PRESET), np.uint8)
    np.savez(file, **arrays)
    return file


def read_prepared(file: Path) -> SourceHead:
    """Read a head that `write_prepared` wrote; its name is the file's."""
    with np.load(file, allow_pickle=False) as stored:

        def unpacked(name: str, kind: type[np.generic]) -> npt.NDArray[np.generic]:
            raw = np.frombuffer(lzma.decompress(stored[name].tobytes()), kind)
            return raw.reshape(tuple(stored[f"{name}_shape"])).copy()

        shape = tuple(int(n) for n in stored["feature_shape"])
        positions = torch.from_numpy(_summed(unpacked("positions", np.int16), _POSITION_STEPS))
        return SourceHead(
            name=file.stem,
            codes=torch.from_numpy(unpacked("codes", np.uint8)),
            affine=stored["affine"],
            features=torch.from_numpy(_summed(unpacked("distances", np.int16), _DISTANCE_STEPS)),
            feature_affine=stored["feature_affine"],
            mni_mm=_every_voxel(positions, (shape[0], shape[1], shape[2])),
        )


def read_all_prepared(folder: Path) -> tuple[SourceHead, ...]:
    """Read the prepared heads of a folder, sorted by name."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise InputRefused(
            f"{folder} holds no prepared heads (*.npz); write them with: python -m"
            " ichnos.cli.gpu_weights prepare HEADS FOLDER"
        )
    return tuple(read_prepared(file) for file in files)


def split_heads(
    heads: Sequence[SourceHead], held_out: int
) -> tuple[tuple[SourceHead, ...], tuple[SourceHead, ...]]:
    """Split heads into those trained on and the last `held_out` label maps; the MNI head is trained on."""
    maps = [head for head in heads if not head.name.startswith("mni")]
    last = maps[-held_out:] if len(maps) > held_out else []
    return tuple(head for head in heads if head not in last), tuple(last or maps)


def _differences(array: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
    return np.asarray(np.diff(array.round().astype(np.int16), axis=-1, prepend=np.int16(0)), np.int16)


def _summed(steps: npt.NDArray[np.generic], per_mm: int) -> npt.NDArray[np.float32]:
    return np.asarray(np.cumsum(steps, axis=-1, dtype=np.int16).astype(np.float32) / per_mm)


def _every_voxel(field: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Interpolate a field known on every second voxel; beyond the last known voxel it goes on linearly."""
    padded = torch.nn.functional.pad(field[None], (0, 1, 0, 1, 0, 1), mode="replicate")[0]
    for axis in (1, 2, 3):
        n = padded.shape[axis]
        last = 2 * padded.narrow(axis, n - 2, 1) - padded.narrow(axis, n - 3, 1)
        padded.narrow(axis, n - 1, 1).copy_(last)
    size = [2 * n - 1 for n in padded.shape[1:]]
    fine = functional.interpolate(padded[None], size=size, mode="trilinear", align_corners=True)[0]
    return fine[:, : shape[0], : shape[1], : shape[2]].contiguous()
