"""From a patch and its voxel size to the arguments of a network: how often each axis is halved, and how
wide each stage is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ichnos.errors import UsageError
from ichnos.models import NetworkSpec

SEGMENTERS = ("unet", "umamba_bot", "umamba_enc", "unetr")
_LEAST = 4  # voxels along an axis at the bottom
_MOST_FEATURES = 320


def planned_network(
    name: str,
    *,
    channels: int,
    targets: int,
    patch: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    width: int = 16,
    deep_supervision: bool = True,
) -> NetworkSpec:
    """Return a network for a patch (x, y, z); z of one voxel asks for a network of slices.

    >>> spec = planned_network("unet", channels=4, targets=1, patch=(64, 64, 16), spacing_mm=(1.0, 1.0, 5.0))
    >>> spec.arguments["strides"]
    [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]]
    """
    if name not in SEGMENTERS:
        raise UsageError(f"{name!r} is no network for segmentation; there are {', '.join(SEGMENTERS)}")
    ends: dict[str, Any] = {"input_channels": channels, "num_classes": targets}
    if name == "unetr":
        return NetworkSpec(name=name, arguments=ends | _transformer(patch, width))
    dim = 2 if patch[2] == 1 else 3
    size = list(patch[:dim])
    shape = _stages(size, list(spacing_mm[:dim]), width) | {"deep_supervision": deep_supervision}
    fixed = {"input_size": size} if name == "umamba_enc" else {}
    return NetworkSpec(name=name, arguments=ends | shape | fixed)


def _transformer(patch: tuple[int, int, int], width: int) -> dict[str, Any]:
    return {"input_size": list(patch), "features": max(4, width // 2), "width": 12 * width, "heads": 6}


def _stages(size: list[int], spacing: list[float], width: int) -> dict[str, Any]:
    """Return the stages of a U-shaped network: features double from one to the next, up to a most."""
    strides, kernels = _levels(size, spacing)
    stages = len(strides)
    return {
        "dim": len(size),
        "features_per_stage": [min(width * 2**stage, _MOST_FEATURES) for stage in range(stages)],
        "kernel_sizes": kernels,
        "strides": strides,
        "n_conv_per_stage": [1, 1, *[2] * (stages - 2)][:stages],
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }


def _levels(size: list[int], spacing: list[float]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the strides and kernels of each stage.

    An axis is halved while it keeps 4 voxels and is not much coarser than the others (nnU-Net's rule: at most
    twice the finest); where it is coarser, kernels do not reach along it.
    """
    strides, kernels = [[1] * len(size)], [_kernel(spacing)]
    while True:
        fine = min(spacing)
        stride = [
            2 if n // 2 >= _LEAST and n % 2 == 0 and s <= 2 * fine else 1
            for n, s in zip(size, spacing, strict=True)
        ]
        if stride == [1] * len(size):
            return strides, kernels
        size = [n // k for n, k in zip(size, stride, strict=True)]
        spacing = [s * k for s, k in zip(spacing, stride, strict=True)]
        strides.append(stride)
        kernels.append(_kernel(spacing))


def _kernel(spacing: Sequence[float]) -> list[int]:
    return [1 if s > 2 * min(spacing) else 3 for s in spacing]
