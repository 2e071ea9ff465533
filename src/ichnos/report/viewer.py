"""The volumes that the report's viewer shows, small enough to travel inside one HTML file."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ichnos.errors import MissingExtra
from ichnos.inference.head import head_box
from ichnos.volume import Box, Volume

_STEP_MM = (1.0, 1.0, 1.5)  # nothing finer travels
_MOST_VOXELS = 6_000_000  # about 5 MB of page; a scan of more is thinned further


def niivue_script() -> str:
    """Return the NiiVue viewer's code, which nilearn carries; the report needs no network."""
    found = find_spec("nilearn")
    folder = (
        Path(found.submodule_search_locations[0])
        if found is not None and found.submodule_search_locations
        else None
    )
    file = folder / "_assets" / "js" / "niivue.umd.js" if folder is not None else None
    if file is None or not file.is_file():
        raise MissingExtra(
            'the report\'s viewer needs the NiiVue file that nilearn carries: pip install "ichnos[report]"'
        )
    return file.read_text(encoding="utf-8").replace("</script", "<\\/script")


def viewer_grid(hu: Volume) -> Volume:
    """Return the grid that the viewer shows: the head of a RAS scan, at 1 mm or the scan's own voxel size."""
    box = head_box(hu)
    head = hu.cropped(Box(box.start, box.stop))
    step = np.maximum(head.spacing_mm, _STEP_MM)
    count = float(np.prod(np.array(head.shape) * np.array(head.spacing_mm) / step))
    step *= max(1.0, count / _MOST_VOXELS) ** (1 / 3)
    return head.grid_with_spacing([float(s) for s in step])


def ct_nifti(hu: Volume, grid: Volume) -> str:
    """Return the CT on the viewer's grid, -100 to 155 HU in one byte, as base64 of a .nii.gz."""
    small = hu.on_grid(grid, fill=-1000.0)
    finite = np.nan_to_num(np.asarray(small.array, np.float32), nan=-1000.0)
    return _encoded(np.clip(np.round(finite) + 100, 0, 255).astype(np.uint8), grid.affine, inter=-100.0)


def labels_nifti(masks: Mapping[str, Volume], grid: Volume) -> dict[str, str]:
    """Return each mask on the viewer's grid, as base64 of a .nii.gz; empty masks are left out."""
    out = {}
    for name, mask in masks.items():
        if mask.array.any():
            soft = mask.astype(np.uint8).on_grid(grid)
            out[name] = _encoded((soft.array >= 0.5).astype(np.uint8), grid.affine)
    return out


def _encoded(array: np.ndarray, affine: np.ndarray, *, inter: float = 0.0) -> str:
    image: Any = nibabel.Nifti1Image(array, affine)
    image.header.set_slope_inter(1.0, inter)
    return base64.b64encode(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)).decode("ascii")
