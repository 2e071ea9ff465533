"""The volumes that the report's viewer shows, small enough to travel inside one HTML file."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from importlib import resources
from typing import Any

import nibabel
import numpy as np

from ichnos.errors import MissingExtra
from ichnos.volume import Volume

_MAX_IN_PLANE_MM = 1.0


def niivue_script() -> str:
    """Return the NiiVue viewer's code, which nilearn carries; the report needs no network."""
    file = resources.files("nilearn") / "_assets" / "js" / "niivue.umd.js"
    if not file.is_file():
        raise MissingExtra('the report\'s viewer needs the NiiVue file that nilearn carries: pip install "ichnos[report]"')
    return file.read_text(encoding="utf-8").replace("</script", "<\\/script")


def ct_nifti(hu: Volume) -> str:
    """Return the CT at about 1 mm in plane, -100 to 155 HU in one byte, as base64 of a .nii.gz."""
    small = _reduced(hu)
    return _encoded(np.clip(small.array + 100, 0, 255).astype(np.uint8), small.affine, inter=-100.0)


def labels_nifti(masks: Mapping[str, Volume]) -> dict[str, str]:
    """Return each mask on the viewer's grid, as base64 of a .nii.gz; empty masks are left out."""
    out = {}
    for name, mask in masks.items():
        if mask.array.any():
            small = _reduced(mask.astype(np.float32))
            out[name] = _encoded((small.array >= 0.5).astype(np.uint8), small.affine)
    return out


def _reduced(volume: Volume) -> Volume:
    ras = volume.reoriented("RAS")
    x, y, z = ras.spacing_mm
    return ras.resampled((max(x, _MAX_IN_PLANE_MM), max(y, _MAX_IN_PLANE_MM), max(z, 1.5)))


def _encoded(array: np.ndarray, affine: np.ndarray, *, inter: float = 0.0) -> str:
    image: Any = nibabel.Nifti1Image(array, affine)
    image.header.set_slope_inter(1.0, inter)
    return base64.b64encode(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)).decode("ascii")
