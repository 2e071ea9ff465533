"""A Model's answer to a Scan: a probability per target on the network's grid, and masks on the scan's own grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ichnos.inference.backends import Backend, BackendName, backend_for
from ichnos.inference.grid import ReadingGrid, reading_grid
from ichnos.inference.head import head_box
from ichnos.inference.sliding import slide
from ichnos.models import Model
from ichnos.scan import Scan
from ichnos.volume import Volume

_SLAB = 8  # slices of the scan that are brought back at a time


@dataclass(frozen=True, eq=False)
class Prediction:
    """Probabilities on the network's grid; the scan's own grid is reached slab by slab."""

    probabilities: npt.NDArray[np.float32]  # (target, x, y, z) on the network's grid
    grid: ReadingGrid
    scan: Scan
    model: Model

    def mask(self, target: str, *, threshold: float | None = None) -> Volume:
        """Return a target's mask on the scan's own grid and orientation."""
        spec = self.model.manifest.targets[self.model.manifest.channel(target)]
        cut = spec.threshold if threshold is None else threshold
        ras = self._ras()
        out = np.zeros(ras.shape, bool)
        for at, slab in self._slabs(target):
            out[(*self.grid.box.slices[:2], at)] = slab > cut
        return ras.with_array(out).reoriented(self.scan.volume.orientation)

    def probability(self, target: str) -> Volume:
        """Return a target's probability on the scan's own grid and orientation."""
        ras = self._ras()
        out = np.zeros(ras.shape, np.float32)
        for at, slab in self._slabs(target):
            out[(*self.grid.box.slices[:2], at)] = slab
        return ras.with_array(out).reoriented(self.scan.volume.orientation)

    def _slabs(self, target: str) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        channel = self.probabilities[self.model.manifest.channel(target)]
        first, last = self.grid.box.start[2], self.grid.box.stop[2]
        for z in range(first, last, _SLAB):
            end = min(z + _SLAB, last)
            yield slice(z, end), self.grid.push(channel, slice(z - first, end - first))

    def _ras(self) -> Volume:
        return self.scan.volume.reoriented("RAS")


class Predictor:
    """A model loaded once, for many scans. `backend` is a name, or any function of a tile (1, window, x, y, z) that returns logits."""

    def __init__(
        self,
        model: Model,
        *,
        backend: BackendName | Backend = "auto",
        device: str = "cpu",
        threads: int | None = None,
        cache: Path | None = None,
    ) -> None:
        self.model = model
        self._run: Backend = backend if callable(backend) else backend_for(model, name=backend, device=device, threads=threads, cache=cache)

    def __call__(self, scan: Scan, *, overlap: float = 0.5) -> Prediction:
        """Predict every target of the model in one pass."""
        how = self.model.manifest.preprocessing
        ras = scan.volume.reoriented("RAS")
        grid = reading_grid(ras, head_box(ras), how.spacing_mm)
        image = windows(grid.pull(ras.array), how.windows_hu)
        logits = slide(image, self._run, patch=how.patch, channels=len(self.model.manifest.targets), overlap=overlap)
        return Prediction(_sigmoid(logits), grid, scan, self.model)


def windows(hu: npt.NDArray[np.float32], windows_hu: tuple[tuple[float, float], ...]) -> npt.NDArray[np.float32]:
    """Turn HU (x, y, z) into input channels: each window's edges become -1 and +1, beyond is clipped.

    >>> windows(np.array([[[0.0, 40.0, 200.0]]], np.float32), ((0, 80),)).ravel().tolist()
    [-1.0, 0.0, 1.0]
    """
    return np.stack([np.clip((hu - low) * np.float32(2 / (high - low)) - 1, -1, 1) for low, high in windows_hu]).astype(np.float32)


def _sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    from scipy.special import expit

    return np.asarray(expit(logits), np.float32)
