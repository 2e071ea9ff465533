"""Pictures of a reading: slices at a brain window, outlines of what was found, radiological view (the
patient's right at left).
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ichnos.targets import TARGETS, label_values, outlined_targets
from ichnos.volume import Volume

_WINDOW_HU = (0.0, 80.0)
_WIDTH = 1560  # pixels of the whole picture
_FINER = 2  # outlines are drawn this much finer and then brought down, so that they are smooth

_Plane = npt.NDArray[np.float32]


def outlined_in(masks: Mapping[str, Volume]) -> list[str]:
    """Return the names of the masks that are drawn: those of outlined targets that are not empty."""
    names = [target.name for target in outlined_targets()]
    return [name for name in names if name in masks and masks[name].array.any()]


def montage_png(hu: Volume, masks: Mapping[str, Volume], *, most: int = 18) -> bytes:
    """Draw axial slices through all blood (through the whole brain when there is none), as PNG bytes. All
    volumes RAS on one grid.
    """
    drawn = {name: masks[name] for name in outlined_in(masks)}
    slices = _slices(hu, masks, most)
    columns = min(6, math.ceil(math.sqrt(1.6 * len(slices))))
    x, y = _extent(hu, masks)
    side = _WIDTH // columns
    high = round(side * (y.stop - y.start) * hu.spacing_mm[1] / ((x.stop - x.start) * hu.spacing_mm[0]))
    canvas = Image.new("RGB", (columns * side, math.ceil(len(slices) / columns) * high))
    for place, z in enumerate(slices):
        tile = _tile(
            np.asarray(hu.array[x, y, z]),
            {name: np.asarray(mask.array[x, y, z]) for name, mask in drawn.items()},
            side,
            high,
        )
        _label(tile, float(hu.world((0, 0, z))[2]), first=place == 0)
        canvas.paste(tile, (place % columns * side, place // columns * high))
    buffer = io.BytesIO()
    canvas.save(buffer, format="png", optimize=False, compress_level=6)
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """Return a PNG as a data URI, for a page that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _tile(
    plane: npt.NDArray[np.generic], masks: Mapping[str, npt.NDArray[np.generic]], wide: int, high: int
) -> Image.Image:
    """Draw one slice with its outlines."""
    low, top = _WINDOW_HU
    grey = np.clip((_view(plane).astype(np.float32) - low) * (255 / (top - low)), 0, 255)
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


def _label(tile: Image.Image, height_mm: float, *, first: bool) -> None:
    """Write a slice's height, and on the first one where right and left are."""
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(13)
    draw.text((6, tile.height - 20), f"z {height_mm:.0f} mm", fill="white", font=font)
    if first:
        for text, at in (("R", 6), ("L", tile.width - 20)):
            draw.text((at, 8), text, fill="white", font=ImageFont.load_default(22))


def _view(plane: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Turn (x, y) with +x to the patient's right into a picture seen from the feet: right at left, front
    on top.
    """
    return np.ascontiguousarray(plane[::-1, ::-1].T)


def _eroded(inside: npt.NDArray[np.bool_], steps: int) -> npt.NDArray[np.bool_]:
    out = np.pad(inside, steps)
    for _ in range(steps):
        out = out & np.roll(out, 1, 0) & np.roll(out, -1, 0) & np.roll(out, 1, 1) & np.roll(out, -1, 1)
    return out[steps:-steps, steps:-steps]


def _slices(hu: Volume, masks: Mapping[str, Volume], most: int) -> list[int]:
    """Return the slices to show: all that hold blood and one beyond at each end, or else an even choice
    through the brain.
    """
    marked = np.zeros(hu.shape[2], bool)
    for name in label_values("haematoma"):
        if name in masks:
            marked |= np.asarray(masks[name].array).any(axis=(0, 1))
    if marked.any():
        where = np.flatnonzero(marked)
        first, last = max(0, int(where[0]) - 1), min(hu.shape[2] - 1, int(where[-1]) + 1)
        count = min(most, last - first + 1)
    else:
        where = (
            np.flatnonzero(np.asarray(masks["brain"].array).any(axis=(0, 1)))
            if "brain" in masks
            else np.arange(hu.shape[2])
        )
        first, last = (int(where[0]), int(where[-1])) if len(where) else (0, hu.shape[2] - 1)
        count = min(12, last - first + 1)
    return sorted({int(z) for z in np.linspace(first, last, count).round()})


def _extent(hu: Volume, masks: Mapping[str, Volume]) -> tuple[slice, slice]:
    """Return the part of each slice to show: the brain with its skull, or all tissue where no brain is
    known.
    """
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
