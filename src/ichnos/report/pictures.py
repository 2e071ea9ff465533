"""Pictures of a reading: slices at a brain window with outlines, in radiological view (right at left)."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ichnos.targets import TARGETS, label_values, outlined_targets
from ichnos.volume import Volume

_WINDOW_HU = (0.0, 80.0)
_WIDTH = 440  # pixels of one slice
_FINER = 2  # outlines are drawn this much finer and then brought down, so that they are smooth
_NOT_FINITE_HU = -1000.0  # shown in place of what is no number

_Plane = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SlicePicture:
    """One axial slice as the report shows it."""

    png: bytes
    height_mm: float  # RAS z
    shows_blood: bool

    @property
    def uri(self) -> str:
        """Return the picture as a data URI, for a page that needs no other file."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def outlined_in(masks: Mapping[str, Volume]) -> list[str]:
    """Return the names of the masks that are drawn: those of outlined targets that are not empty."""
    names = [target.name for target in outlined_targets()]
    return [name for name in names if name in masks and masks[name].array.any()]


def slice_pictures(hu: Volume, masks: Mapping[str, Volume], *, most: int = 18) -> tuple[SlicePicture, ...]:
    """Draw axial slices through all blood, or through the whole head; all volumes RAS on one grid."""
    drawn = {name: masks[name] for name in outlined_in(masks)}
    x, y = _extent(hu, masks)
    high = round(_WIDTH * (y.stop - y.start) * hu.spacing_mm[1] / ((x.stop - x.start) * hu.spacing_mm[0]))
    bloody = _with_blood(hu, masks)

    def picture(z: int) -> SlicePicture:
        outlines = {name: np.asarray(mask.array[x, y, z]) for name, mask in drawn.items()}
        tile = _tile(np.asarray(hu.array[x, y, z]), outlines, _WIDTH, high)
        height_mm = float(hu.world((0, 0, z))[2])
        _label(tile, height_mm)
        buffer = io.BytesIO()
        tile.save(buffer, format="png", optimize=False, compress_level=6)
        return SlicePicture(buffer.getvalue(), height_mm, bool(bloody[z]))

    with ThreadPoolExecutor(2) as beside_each_other:
        return tuple(beside_each_other.map(picture, _slices(hu, masks, most)))


def _tile(
    plane: npt.NDArray[np.generic], masks: Mapping[str, npt.NDArray[np.generic]], wide: int, high: int
) -> Image.Image:
    """Draw one slice with its outlines."""
    low, top = _WINDOW_HU
    finite = np.nan_to_num(_view(plane).astype(np.float32), nan=_NOT_FINITE_HU)
    grey = np.clip((finite - low) * (255 / (top - low)), 0, 255)
    picture = Image.fromarray(grey).resize((wide, high), Image.Resampling.BICUBIC).convert("RGB")
    size = (wide * _FINER, high * _FINER)
    for name, mask in masks.items():
        if not mask.any():
            continue
        soft = np.asarray(
            Image.fromarray(_view(mask).astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        )
        inside = soft > 0.5
        line = Image.fromarray(np.where(inside & ~_eroded(inside, 2 * _FINER - 1), 255, 0).astype(np.uint8))
        picture.paste(TARGETS[name].colour, mask=line.resize((wide, high), Image.Resampling.BOX))
    return picture


def _label(tile: Image.Image, height_mm: float) -> None:
    """Write a slice's height, and where the patient's right and left are."""
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(13)
    draw.text((6, tile.height - 20), f"z {height_mm:.0f} mm", fill="white", font=font)
    for text, at in (("R", 6), ("L", tile.width - 18)):
        draw.text((at, 6), text, fill="white", font=ImageFont.load_default(20))


def _view(plane: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Turn (x, y) of RAS into a picture seen from the feet: right at left, front on top."""
    return np.ascontiguousarray(plane[::-1, ::-1].T)


def _eroded(inside: npt.NDArray[np.bool_], steps: int) -> npt.NDArray[np.bool_]:
    out = np.pad(inside, steps)
    for _ in range(steps):
        out = out & np.roll(out, 1, 0) & np.roll(out, -1, 0) & np.roll(out, 1, 1) & np.roll(out, -1, 1)
    return out[steps:-steps, steps:-steps]


def _with_blood(hu: Volume, masks: Mapping[str, Volume]) -> npt.NDArray[np.bool_]:
    """Return which slices hold blood or oedema."""
    marked = np.zeros(hu.shape[2], bool)
    for name in label_values("haematoma"):
        if name in masks:
            marked |= np.asarray(masks[name].array).any(axis=(0, 1))
    return marked


def _slices(hu: Volume, masks: Mapping[str, Volume], most: int) -> list[int]:
    """Return the slices to show: through all blood and one beyond, or an even choice through the brain."""
    marked = _with_blood(hu, masks)
    if marked.any():
        where = np.flatnonzero(marked)
        first, last = max(0, int(where[0]) - 1), min(hu.shape[2] - 1, int(where[-1]) + 1)
        return _even(first, last, min(most, last - first + 1))
    brain = masks.get("brain")
    where = np.flatnonzero(np.asarray(brain.array).any(axis=(0, 1))) if brain is not None else np.array([])
    first, last = (int(where[0]), int(where[-1])) if len(where) else (0, hu.shape[2] - 1)
    return _even(first, last, min(12, last - first + 1))


def _even(first: int, last: int, count: int) -> list[int]:
    return sorted({int(z) for z in np.linspace(first, last, count).round()})


def _extent(hu: Volume, masks: Mapping[str, Volume]) -> tuple[slice, slice]:
    """Return the part of each slice to show: the brain with its skull, or all tissue without a brain."""
    brain = masks.get("brain")
    known = brain is not None and bool(brain.array.any())
    body = (
        np.asarray(brain.array[::4, ::4])
        if known and brain is not None
        else np.asarray(hu.array[::4, ::4]) > -300
    )
    ranges = []
    for axis in (0, 1):
        filled = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (filled[0], filled[-1] + 1) if len(filled) else (0, body.shape[axis])
        margin = round(14 / hu.spacing_mm[axis]) if known else 0
        ranges.append(slice(max(0, int(first) * 4 - margin), min(int(last) * 4 + margin, hu.shape[axis])))
    return ranges[0], ranges[1]
