"""What a model says of each patient, read from a folder: a table of predictions, or what `ichnos read` wrote.

A folder of predictions:

    predictions.csv   one row per patient: patient, and any of centre, split, model_hash, sha256, sources,
                      <name>_probability, other numbers and grades, and mask_<target> with a path relative to
                      the folder
    training.csv      the images that the model was trained on (see `leakage`); without it leakage cannot be
                      disproved
    claims.json       numbers that the model's card claims, checked against each other and against these

A mask without a column is looked for as sub-<patient>/**/*label-<target>_{dseg,mask}.nii.gz, as derivatives
are named. `readings` reads the folder of `ichnos read`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ichnos.cohort import Fact
from ichnos.errors import InputRefused
from ichnos.evidence.leakage import TrainingImage, read_training
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.formats import nifti
from ichnos.formats.text import CSV_DELIMITERS, read_json, read_table
from ichnos.volume import Volume

PREDICTIONS_TABLE = "predictions.csv"


@dataclass(frozen=True)
class Layer:
    """One label of a stored map: the file, and the value that stands for the label."""

    path: Path
    code: int | None = None  # None: every voxel that is not zero

    def of(self, labels: Volume) -> Volume:
        """Return this label of a loaded map as a mask.

        >>> import numpy as np
        >>> labels = Volume(np.array([[[0, 1, 2]]], np.uint8), np.eye(4))
        >>> Layer(Path("map.nii.gz"), 2).of(labels).array.tolist()
        [[[False, False, True]]]
        """
        if labels.array.ndim != 3:
            raise InputRefused(
                f"a label map with {labels.array.ndim} axes was given where (x, y, z) is expected; give one"
                " map per target"
            )
        return labels.map_array(lambda a: a != 0 if self.code is None else a == self.code)

    def load(self) -> Volume:
        """Read the map and return the label as a mask."""
        return self.of(nifti.load(self.path))


def layer_name(target: str, label: str) -> str:
    """Return how a label of a target is called in tables.

    >>> layer_name("haematoma", "ICH"), layer_name("leukoaraiosis", "")
    ('haematoma ICH', 'leukoaraiosis')
    """
    return f"{target} {label}".strip()


@dataclass(frozen=True)
class Predictions:
    """What a model says of each patient, wherever it was stored."""

    name: str
    rows: Mapping[str, Mapping[str, Fact]]  # patient -> column -> value
    layers: Mapping[str, Mapping[str, Layer]]  # patient -> "haematoma ICH" -> predicted mask
    training: tuple[TrainingImage, ...] | None = None  # None: no list of training images is known
    claims: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)  # patient -> why the scan was not read
    reasons: Mapping[str, str] = field(default_factory=dict)  # column -> why most patients have no value
    origins: tuple[str, ...] = ()  # limits of the model that say that it was trained on simulated patients
    notes: tuple[str, ...] = ()  # what the folder holds that cannot be compared, and why


def read_predictions(folder: Path, patients: Mapping[str, object], plan: EvidencePlan) -> Predictions:
    """Read predictions.csv, the masks of the known patients, and the lists beside it."""
    rows = read_prediction_rows(folder)
    training = folder / "training.csv"
    return Predictions(
        name=folder.resolve().name,
        rows=rows,
        layers={patient: _layers(patient, row, folder, plan) for patient, row in rows.items()},
        training=read_training(training) if training.is_file() else None,
        claims=_claims(folder),
    )


def read_prediction_rows(folder: Path) -> dict[str, dict[str, Fact]]:
    """Return the rows of predictions.csv by patient; a patient with two rows is refused."""
    path = folder / PREDICTIONS_TABLE
    columns, records = read_table(path, delimiters=CSV_DELIMITERS)
    if "patient" not in columns:
        raise InputRefused(f"{path} has no column patient; its columns are {', '.join(columns or ['none'])}")
    rows: dict[str, dict[str, Fact]] = {}
    for record in records:
        patient = record["patient"].removeprefix("sub-")
        if patient in rows:
            raise InputRefused(f"{path} holds patient {patient} more than once; give one prediction for each")
        rows[patient] = dict(record)
    return rows


def _layers(patient: str, row: Mapping[str, Fact], folder: Path, plan: EvidencePlan) -> dict[str, Layer]:
    files = {target: _map_file(patient, row, folder, target) for target in plan.targets}
    return {
        layer_name(target, label): Layer(path, code)
        for target, path in files.items()
        if path is not None
        for label, code in plan.labels_of(target).items()
    }


def _map_file(patient: str, row: Mapping[str, Fact], folder: Path, target: str) -> Path | None:
    named = row.get(f"mask_{target}")
    if named:
        path = folder / str(named)
        if not path.is_file():
            raise InputRefused(
                f"the predicted {target} of patient {patient} is not at {path}; correct mask_{target} in"
                f" {PREDICTIONS_TABLE}"
            )
        return path
    home = folder / f"sub-{patient}"
    for kind in ("dseg", "mask"):
        hits = sorted(home.rglob(f"*label-{target}_{kind}.nii.gz")) if home.is_dir() else []
        if hits:
            return hits[0]
    return None


def _claims(folder: Path) -> dict[str, float]:
    path = folder / "claims.json"
    if not path.is_file():
        return {}
    claims = read_json(path)
    try:
        return {name: float(value) for name, value in claims.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputRefused(
            f'{path} is expected to map names to numbers, as {{"dice": 0.81}}; correct or remove it'
        ) from None
