"""A classifier of haematoma expansion applied to a patient: masks and CT in, a calibrated probability out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ichnos.errors import InputRefused
from ichnos.inference.crops import haematoma_region, published_slices
from ichnos.models import Model, load_model
from ichnos.models.store import CLASSIFIER, MANIFEST
from ichnos.volume import Volume

if TYPE_CHECKING:
    from ichnos.networks.ensemble import CalibratedEnsemble


@dataclass(frozen=True, eq=False)
class ExpansionClassifier:
    """The networks of all folds with their calibration."""

    model: Model
    network: CalibratedEnsemble

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Return the measures and clinical facts that it takes."""
        return tuple(self.network.feature_names)

    def probability(
        self, hu: Volume, ich: Volume, ivh: Volume, features: Mapping[str, float] | None = None
    ) -> float:
        """Return the probability of expansion; `hu` and masks in RAS on one grid, the ICH mask not empty.

        Of `features` those that are missing or NaN count as unknown.
        """
        import torch  # only where there is a classifier: importing it takes a second

        known = features or {}
        row = [float(known.get(name, np.nan)) for name in self.feature_names]
        images = self._images(hu, ich, ivh)
        table = torch.tensor([row] * len(images), dtype=torch.float64)
        with torch.inference_mode():
            each = self.network(torch.from_numpy(images), table if self.feature_names else None)
        return self.network.calibrated(each)

    def _images(self, hu: Volume, ich: Volume, ivh: Volume) -> np.ndarray:
        size = self.model.manifest.preprocessing.patch
        if size[2] == 1:
            return np.stack(published_slices(hu, ich, size=size[0]))
        return haematoma_region(hu, ich, ivh, shape=size)[None]


def expansion_classifier(folder: Path) -> ExpansionClassifier:
    """Load a classifier from its Model folder."""
    from ichnos.networks.ensemble import CalibratedEnsemble

    model = load_model(folder)
    network = model.network()
    if not isinstance(network, CalibratedEnsemble):
        raise InputRefused(
            f"{folder} holds a {model.manifest.network.name}; a classifier of patients (calibrated_ensemble)"
            " is expected"
        )
    return ExpansionClassifier(model, network)


def classifier_beside(model: Model) -> ExpansionClassifier | None:
    """Return the classifier of expansion in a model's folder, loaded once; None where there is none."""
    description = model.folder / CLASSIFIER / MANIFEST
    if not description.is_file():
        return None
    return _loaded(description.parent, description.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _loaded(folder: Path, changed_ns: int) -> ExpansionClassifier:
    del changed_ns  # a classifier that was trained anew is loaded anew
    return expansion_classifier(folder)
