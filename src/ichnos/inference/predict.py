"""A Model's answer to a Scan: a probability per target on the network's grid, and masks on the scan's own grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ichnos.inference.backends import Backend, BackendName, backend_for, backend_name
from ichnos.inference.grid import SLAB, ReadingGrid, reading_grid
from ichnos.inference.head import head_box
from ichnos.inference.sliding import slide
from ichnos.models import COORDINATE_MM, Model, Preprocessing
from ichnos.scan import Scan
from ichnos.volume import Volume


@dataclass(frozen=True, eq=False)
class Prediction:
    """Probabilities on the network's grid; the scan's own grid is reached slab by slab."""

    probabilities: npt.NDArray[np.float32]  # (target, x, y, z) on the network's grid; coordinates in MNI152 mm
    grid: ReadingGrid
    scan: Scan
    model: Model

    def mask(self, target: str, *, threshold: float | None = None) -> Volume:
        """Return a target's mask on the scan's own grid and orientation."""
        spec = self.model.manifest.targets[self.model.manifest.channel(target)]
        cut = spec.threshold if threshold is None else threshold
        ras = self._ras()
        out = np.zeros(ras.shape, bool)
        for place, values in self.grid.above(self.probabilities[self.model.manifest.channel(target)], cut):
            out[place] = values > cut
        return ras.with_array(out).reoriented(self.scan.volume.orientation)

    def volumes_ml(self, target: str, thresholds: Sequence[float]) -> tuple[float, ...]:
        """Return the volume of a target's mask at each of several thresholds, in mL."""
        counts = np.zeros(len(thresholds))
        for _, values in self.grid.above(self.probabilities[self.model.manifest.channel(target)], min(thresholds)):
            counts += [np.count_nonzero(values > cut) for cut in thresholds]
        return tuple(float(count) * self.scan.volume.voxel_ml for count in counts)

    def probability(self, target: str) -> Volume:
        """Return a target's probability on the scan's own grid and orientation."""
        ras = self._ras()
        out = np.zeros(ras.shape, np.float32)
        for at, slab in self._slabs(target):
            out[(*self.grid.box.slices[:2], at)] = slab
        return ras.with_array(out).reoriented(self.scan.volume.orientation)

    def position_mm(self) -> npt.NDArray[np.float32] | None:
        """Return where each voxel of the network's grid lies in MNI152 space (3, x, y, z), or None if the model does not say."""
        names = [target.name for target in self.model.manifest.targets]
        axes = ("mni_x", "mni_y", "mni_z")
        if not set(axes) <= set(names):
            return None
        return self.probabilities[[names.index(axis) for axis in axes]]

    def _slabs(self, target: str) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        channel = self.probabilities[self.model.manifest.channel(target)]
        first, last = self.grid.box.start[2], self.grid.box.stop[2]
        for z in range(first, last, SLAB):
            end = min(z + SLAB, last)
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
        model.manifest.check_reads_scans("reading a scan")
        self.model = model
        self.backend = "own function" if callable(backend) else backend_name(backend, device)
        self._run: Backend = backend if callable(backend) else backend_for(model, name=backend, device=device, threads=threads, cache=cache)

    def __call__(self, scan: Scan, *, overlap: float = 0.5) -> Prediction:
        """Predict every target of the model in one pass."""
        how = self.model.manifest.preprocessing
        ras = scan.volume.reoriented("RAS")
        grid = reading_grid(ras, head_box(ras), how.spacing_mm)
        image = input_channels(grid.pull(ras.array), how)
        softmax = self.model.manifest.activation == "softmax"
        count = len(self.model.manifest.targets) + softmax
        logits = slide(image, self._run, patch=how.patch, channels=count, overlap=overlap, padding=how.padding)
        if softmax:
            return Prediction(_softmax(logits), grid, scan, self.model)
        kinds = [target.kind for target in self.model.manifest.targets]
        for channel, kind in enumerate(kinds):
            logits[channel] = logits[channel] * np.float32(COORDINATE_MM) if kind == "coordinate" else _sigmoid(logits[channel])
        return Prediction(logits, grid, scan, self.model)


def input_channels(hu: npt.NDArray[np.float32], how: Preprocessing) -> npt.NDArray[np.float32]:
    """Turn HU (x, y, z) into the channels that a network sees: clipped to each window, then mapped to -1..1 or standardised."""
    if not how.z_score:
        return windows(hu, how.windows_hu)
    both = zip(how.windows_hu, how.z_score, strict=True)
    return np.stack([(np.clip(hu, low, high) - mean) / sd for (low, high), (mean, sd) in both]).astype(np.float32)


def windows(hu: npt.NDArray[np.float32], windows_hu: tuple[tuple[float, float], ...]) -> npt.NDArray[np.float32]:
    """Turn HU (x, y, z) into input channels: each window's edges become -1 and +1, beyond is clipped.

    >>> windows(np.array([[[0.0, 40.0, 200.0]]], np.float32), ((0, 80),)).ravel().tolist()
    [-1.0, 0.0, 1.0]
    """
    return np.stack([np.clip((hu - low) * np.float32(2 / (high - low)) - 1, -1, 1) for low, high in windows_hu]).astype(np.float32)


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the targets' probabilities, the background's left out."""
    from scipy.special import softmax

    return np.asarray(softmax(logits, axis=0)[1:], np.float32)


def _sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    from scipy.special import expit

    return np.asarray(expit(logits), np.float32)
