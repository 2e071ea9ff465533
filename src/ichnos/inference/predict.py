"""A model over a scan: the network in one sliding pass, then the refinement where the model has one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ichnos.arrays import Floats32
from ichnos.formats.dicom.geometry import shared_slabs
from ichnos.inference.backends import BackendName, TileRunner, backend_for, backend_name
from ichnos.inference.channels import input_channels
from ichnos.inference.grid import reading_grid
from ichnos.inference.head import head_box
from ichnos.inference.prediction import Prediction
from ichnos.inference.refine import refine
from ichnos.inference.sliding import slide
from ichnos.models import COORDINATE_MM, Manifest, Model
from ichnos.scan import Scan


class Predictor:
    """A model loaded once, for many scans.

    `backend` is a name, or any function of a tile (1, window, x, y, z) that returns logits. An own function
    stands for the whole model: no refinement follows it.
    """

    def __init__(
        self,
        model: Model,
        *,
        backend: BackendName | TileRunner = "auto",
        device: str = "cpu",
        threads: int | None = None,
        cache: Path | None = None,
        refine: bool = True,
    ) -> None:
        model.manifest.check_reads_scans("reading a scan")
        self.model = model
        self.backend = "own function" if callable(backend) else backend_name(backend, device)
        self.refinement = model.refinement() if refine and not callable(backend) else None

        def runner(part: Model) -> TileRunner:
            if callable(backend):
                return backend
            return backend_for(part, name=backend, device=device, threads=threads, cache=cache)

        self._run = runner(model)
        self._refine = runner(self.refinement) if self.refinement is not None else None

    def __call__(self, scan: Scan, *, overlap: float = 0.5) -> Prediction:
        """Predict every target of the model."""
        how = self.model.manifest.preprocessing
        ras = scan.volume.reoriented("RAS")
        # What pads standardised channels is their mean and not air, so that the scan itself fills a tile that
        # the head does not.
        least = np.multiply(how.patch, how.spacing_mm).tolist() if how.z_score else (0.0, 0.0, 0.0)
        grid = reading_grid(ras, head_box(ras, least_mm=least), how.spacing_mm).levelled(shared_slabs(scan))
        image = input_channels(grid.pull(ras.array), how)
        softmax = self.model.manifest.activation == "softmax"
        count = len(self.model.manifest.targets) + softmax
        logits = slide(
            image, self._run, patch=how.patch, channels=count, overlap=overlap, padding=how.padding
        )
        if softmax:
            return Prediction(_softmax(logits), grid, scan, self.model)
        first = Prediction(_in_units(logits, self.model.manifest), grid, scan, self.model)
        if self.refinement is None or self._refine is None:
            return first
        return refine(first, self.refinement, self._refine)


def _in_units(logits: Floats32, manifest: Manifest) -> Floats32:
    """Turn logits, in place, into probabilities of masks and millimetres of coordinates."""
    for channel, target in enumerate(manifest.targets):
        coordinate = target.kind == "coordinate"
        logits[channel] = (
            logits[channel] * np.float32(COORDINATE_MM) if coordinate else _sigmoid(logits[channel])
        )
    return logits


def _softmax(logits: Floats32) -> Floats32:
    """Return the targets' probabilities, the background's left out."""
    from scipy.special import softmax

    return np.asarray(softmax(logits, axis=0)[1:], np.float32)


def _sigmoid(logits: Floats32) -> Floats32:
    from scipy.special import expit

    return np.asarray(expit(logits), np.float32)
