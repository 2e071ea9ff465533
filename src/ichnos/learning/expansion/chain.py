"""The whole chain of Yu 2025: masks → slices or region → classifier → calibrated probability of expansion.

The result is a Model that reads scans: the reader's networks, with the classifier in its folder. Training
sees the masks that reading will give, of a reader that has not been trained on these patients; trained on
manual outlines, the classifier would later meet other masks.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.clinical.expansion import DEFINITIONS
from ichnos.cohort import SIMULATED_ONLY, Cohort, Patient
from ichnos.errors import InputRefused, UsageError
from ichnos.evidence.leakage import TrainingImage, write_training
from ichnos.evidence.metrics.discrimination import auc
from ichnos.formats import bids, nifti
from ichnos.inference import Predictor
from ichnos.inference.crops import haematoma_region, published_slices
from ichnos.learning.expansion.classifier import examples_fingerprint
from ichnos.learning.expansion.ensemble import Classifier, save_classifier, train_ensemble
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.labels import labelled_patient
from ichnos.learning.expansion.measured_start import measured_start
from ichnos.learning.expansion.settings import ClassifierSettings, ExpansionSettings, MaskSource
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.loop.settings import changed
from ichnos.learning.recipes import SMALL, classifier_recipe, measured_start_recipe
from ichnos.learning.segmentation.cases import check_splits
from ichnos.learning.segmentation.fine_tuning import model_called
from ichnos.models import Model, load_model
from ichnos.models.store import CLASSIFIER
from ichnos.prognosis.growth import CLINICAL, IMAGE
from ichnos.reading.masks import consistent_masks
from ichnos.reading.measures.growth import growth_inputs
from ichnos.runs import apply
from ichnos.scan import Scan
from ichnos.volume import Volume

_OUTLINES: dict[MaskSource, str] = {
    "outlines": "Trained on the cohort's outlines; with a network's outlines errors add up.",
    "reader": "Trained on the outlines of the model that reads.",
}
_STARTED = (
    "Started from weights that tell the measures of the training patients' haematomas, not from photographs."
)
_LEAST_HEAD_MM = 160.0  # of the two longer sides of a CT of a whole head
FEATURES = (*IMAGE, *CLINICAL)  # measures and clinical facts that our design takes as tokens


def chosen_classifier(settings: ExpansionSettings) -> ClassifierSettings:
    """Return the settings of the chain's classifier.

    >>> chosen_classifier(ExpansionSettings(design="published", recipe="published")).loop.epochs
    100
    """
    if settings.classifier is not None:
        return settings.classifier
    features = len(FEATURES) if settings.design == "ours" else 0
    chosen = classifier_recipe(settings.recipe, kind=settings.design, features=features)
    if settings.vit_weights and settings.design == "published":
        return changed(chosen, {"vit_weights": settings.vit_weights})
    return chosen


def train_expansion(
    cohort: Cohort, out: Path, settings: ExpansionSettings, *, work: Path, resources: Resources = ON_CPU
) -> Model:
    """Train a classifier of expansion on the split `train`; write a reading Model that holds it to `out`.

    Every fold's network is tried on the patients it was not trained on, and the probability is calibrated on
    these scores. `work` keeps each patient's slices and region, and the networks; the same call resumes.
    """
    _check_definition(settings.definition)
    check_splits(cohort)
    reader, classifier = model_called(settings.reader), chosen_classifier(settings)
    examples = examples_of(cohort, settings, classifier, reader, work, resources)
    started = takes_a_start(settings)
    if started:
        classifier = _started(classifier, examples, work / "start", resources)
    if settings.design == "published":
        examples = [replace(e, features=()) for e in examples]  # it sees slices alone
    trained = train_ensemble(
        examples, classifier, work / "networks", folds=settings.folds, resources=resources
    )
    write_training(_images(examples), work / "training.csv")
    _copy_reader(reader, out)
    save_classifier(
        trained,
        classifier,
        out / CLASSIFIER,
        feature_names=FEATURES if settings.design == "ours" else (),
        data=_data_of(examples, classifier, settings),
        validation={"AUC out of fold": out_of_fold_auc(trained, examples)},
        limits=(
            *((SIMULATED_ONLY,) if bids.is_simulated(cohort) else ()),
            _OUTLINES[settings.masks],
            *((_STARTED,) if started else ()),
        ),
        resources=resources,
    )
    return load_model(out)


def takes_a_start(settings: ExpansionSettings) -> bool:
    """Say whether the classifier first learns to tell measures: the published design under `small`, which has
    no pretrained weights.

    >>> takes_a_start(ExpansionSettings(design="published")), takes_a_start(ExpansionSettings())
    (True, False)
    """
    small = settings.design == "published" and settings.recipe == SMALL
    return small and settings.classifier is None and not settings.vit_weights


def _started(
    classifier: ClassifierSettings, examples: Sequence[ImageExample], work: Path, resources: Resources
) -> ClassifierSettings:
    """Return the settings with weights to start from; no outcome is used to make them."""
    measured = [replace(e, features=e.features[: len(IMAGE)]) for e in examples]
    file = measured_start(measured, classifier.network, measured_start_recipe(), work, resources=resources)
    return classifier.model_copy(update={"vit_weights": str(file)})


def _images(examples: Sequence[ImageExample]) -> list[TrainingImage]:
    """Return the scans that were trained on, as `ichnos evaluate --training` takes them."""
    seen = {e.patient: e for e in examples}
    return [TrainingImage(f"sub-{e.patient}", e.patient, e.centre, e.split) for e in seen.values()]


def _check_definition(name: str) -> None:
    if name not in DEFINITIONS:
        known = ", ".join(DEFINITIONS)
        raise UsageError(f"there is no definition {name!r} of expansion; there are {known}")


def _data_of(
    examples: Sequence[ImageExample], classifier: ClassifierSettings, settings: ExpansionSettings
) -> dict[str, str]:
    return {
        "images and outcomes": examples_fingerprint(examples, classifier),
        "definition of expansion": settings.definition,
    }


def out_of_fold_auc(trained: Classifier, examples: Sequence[ImageExample]) -> float:
    """Return the AUC of the scores of each patient by the networks that never saw the patient."""
    truth, held = {e.patient: e.outcome for e in examples}, trained.out_of_fold
    return auc([truth[patient] for patient in held], list(held.values())).value


def _copy_reader(reader: Model, out: Path) -> None:
    """Copy the reader's folder, its refinement and prognostic models included."""
    if out.exists() and not (out / "model.json").is_file() and any(out.iterdir()):
        raise UsageError(f"{out} exists and is not a model folder; give another name, or empty it first")
    shutil.copytree(reader.folder, out, dirs_exist_ok=True)


def examples_of(
    cohort: Cohort,
    settings: ExpansionSettings,
    classifier: ClassifierSettings,
    reader: Model,
    work: Path,
    resources: Resources,
) -> list[ImageExample]:
    """Return the images of all training patients; each patient is read once, and kept in `work`."""
    how, folder = Extraction.of(cohort, settings, classifier, reader, resources.device), work / "images"
    patients = list(cohort.of_split("train"))  # those of `validation` choose the threshold in an evaluation
    done = apply(
        partial(extract, how=how),
        patients,
        out=folder,
        settings=asdict(how),
        name="extract",
        workers=max(1, resources.workers),
        progress=False,
    )
    for failure in done.failures:
        resources.warn(f"sub-{failure.id} is left out: {failure.why}")
    rows = {str(row["id"]): row for row in done.rows if row.get("expanded") is not None}
    read = [(patient, rows[patient.id]) for patient in patients if patient.id in rows]
    return [e for patient, row in read for e in _loaded(patient, row, folder)]


def _loaded(patient: Patient, row: dict[str, Any], folder: Path) -> list[ImageExample]:
    features = tuple(float(v) if v is not None else float("nan") for v in row["features"])
    with np.load(folder / f"{patient.id}.npz") as kept:
        images = kept["images"].astype(np.float32)
    outcome = float(row["expanded"])
    example = ImageExample(patient.id, images[0], outcome, patient.split, patient.centre, features=features)
    return [replace(example, image=image) for image in images]


@dataclass(frozen=True)
class Extraction:
    """What decides the images of a patient."""

    root: str
    masks: MaskSource
    reader: str
    reader_sha256: str
    definition: str
    size: int  # of the published slices; 0: a region
    shape: tuple[int, ...]  # of the region; (): slices
    device: str

    @classmethod
    def of(
        cls,
        cohort: Cohort,
        settings: ExpansionSettings,
        classifier: ClassifierSettings,
        reader: Model,
        device: str,
    ) -> Extraction:
        """Return how the images of a cohort are made for a classifier."""
        if cohort.root is None:
            raise InputRefused(
                "the cohort has no folder, so its targets cannot be found; give a cohort on disk"
            )
        image_size = classifier.network.arguments["image_size"]
        return cls(
            root=str(cohort.root.resolve()),
            masks=settings.masks,
            reader=str(reader.folder),
            reader_sha256=reader.all_weights(),
            definition=settings.definition,
            size=image_size[0] if len(image_size) == 2 else 0,
            shape=tuple(image_size) if len(image_size) == 3 else (),
            device=device,
        )


def extract(patient: Patient, folder: Path, *, how: Extraction) -> dict[str, Any]:
    """Read one patient: the label, the images that a classifier sees, and the measures beside them."""
    cohort = Cohort((patient,), root=Path(how.root))
    case = labelled_patient(cohort, patient, DEFINITIONS[how.definition])
    if case is None:
        return {"id": patient.id, "expanded": None}
    ich, ivh = (case.ich, case.ivh) if how.masks == "outlines" else _masks_by_reader(patient, how)
    if not ich.array.any():
        return {"id": patient.id, "expanded": None, "why": "the reader finds no haematoma"}
    inputs = growth_inputs(ich, ivh, case.hu, facts=patient.facts)
    if how.size:
        images = np.stack(published_slices(case.hu, ich, size=how.size))
    else:
        images = haematoma_region(case.hu, ich, ivh, shape=(how.shape[0], how.shape[1], how.shape[2]))[None]
    np.savez_compressed(folder / f"{patient.id}.npz", images=images.astype(np.float16))
    features = [inputs.feature(name) for name in FEATURES]
    return {
        "id": patient.id,
        "expanded": case.expanded,
        "features": [value if np.isfinite(value) else None for value in features],
    }


def _masks_by_reader(patient: Patient, how: Extraction) -> tuple[Volume, Volume]:
    """Return ICH and IVH as `ichnos read` outlines them."""
    opened = nifti.open_nifti(patient.exam("ct"))
    check_whole_head(opened.volume, patient.id)
    scan = Scan(opened.volume.reoriented("RAS"), opened.acquisition)
    prediction = _predictor(how.reader, how.device)(scan)
    masks = consistent_masks(prediction, prediction.atlas_coordinates())
    return masks.ich, masks.ivh


def check_whole_head(ct: Volume, patient: str) -> None:
    """Refuse a piece of a head: a reader that was trained on whole ones would misread it."""
    sides = [n * step for n, step in zip(ct.shape, ct.spacing_mm, strict=True)]
    if min(sorted(sides)[1:]) < _LEAST_HEAD_MM:
        shown = " x ".join(f"{side:.0f}" for side in sides)
        raise InputRefused(
            f"the CT of sub-{patient} shows {shown} mm, a piece of a head as compact cohorts hold it; a"
            " reader needs whole heads. Train on the cohort's outlines (--set expansion.masks=outlines),"
            " or simulate without --compact"
        )


@lru_cache(maxsize=1)
def _predictor(folder: str, device: str) -> Predictor:
    return Predictor(load_model(folder), device=device, threads=1)
