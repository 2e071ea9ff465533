"""Pictures of a reading: slices at a brain window, outlines of what was found, radiological view (the patient's right at left)."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ichnos.volume import Volume

COLOURS: dict[str, str] = {
    "ICH": "#ff3b30",
    "IVH": "#ff9500",
    "PHE": "#ffd60a",
    "leukoaraiosis": "#64d2ff",
    "tract_left": "#30d158",
    "tract_right": "#bf5af2",
}
_WINDOW_HU = (0.0, 80.0)


def montage_png(hu: Volume, masks: Mapping[str, Volume], *, columns: int = 6, rows: int = 3) -> bytes:
    """Draw axial slices spread over what was found (over the whole head when nothing was), as PNG bytes. All volumes RAS on one grid."""
    shown = {name: masks[name] for name in COLOURS if name in masks and masks[name].array.any()}
    slices = _slices(hu, shown, columns * rows)
    x_range, y_range = _extent(hu)
    step_x, step_y, _ = hu.spacing_mm
    aspect = step_y * (y_range.stop - y_range.start) / (step_x * (x_range.stop - x_range.start))
    width = 1.9
    figure = Figure(figsize=(columns * width, rows * width * aspect), dpi=110, facecolor="black")
    FigureCanvasAgg(figure)
    for place, z in enumerate(slices):
        axes = figure.add_axes((place % columns / columns, 1 - (place // columns + 1) / rows, 1 / columns, 1 / rows))
        axes.imshow(_view(hu.array[x_range, y_range, z]), cmap="gray", vmin=_WINDOW_HU[0], vmax=_WINDOW_HU[1], aspect=step_y / step_x)
        for name, mask in shown.items():
            plane = _view(mask.array[x_range, y_range, z])
            if plane.any():
                axes.contour(plane, levels=[0.5], colors=COLOURS[name], linewidths=0.9)
        height_mm = float(hu.world((0, 0, z))[2])
        axes.text(0.02, 0.03, f"{height_mm:.0f} mm", color="white", fontsize=6, transform=axes.transAxes)
        axes.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="black", metadata={"Software": None})
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """Return a PNG as a data URI, for a page that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _view(plane: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Turn (x, y) with +x to the patient's right into a picture seen from the feet: right at left, front on top."""
    return plane[::-1, ::-1].T


def _slices(hu: Volume, masks: Mapping[str, Volume], count: int) -> list[int]:
    blood = [m for name, m in masks.items() if name in ("ICH", "IVH", "PHE")]
    marked = np.zeros(hu.shape[2], bool)
    for mask in blood or list(masks.values()):
        marked |= np.asarray(mask.array).any(axis=(0, 1))
    where = np.flatnonzero(marked) if marked.any() else np.arange(hu.shape[2])
    return sorted({int(z) for z in np.linspace(where[0], where[-1], min(count, len(where))).round()})


def _extent(hu: Volume) -> tuple[slice, slice]:
    body = np.asarray(hu.array[::4, ::4]) > -300
    ranges = []
    for axis in (0, 1):
        filled = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (filled[0], filled[-1] + 1) if len(filled) else (0, body.shape[axis])
        ranges.append(slice(int(first) * 4, min(int(last) * 4, hu.shape[axis])))
    return ranges[0], ranges[1]
