"""Who was trained on and who is evaluated: the proof that no patient, and no image made from a patient, is
on both sides.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ichnos.errors import InputRefused
from ichnos.formats.text import CSV_DELIMITERS, read_table

TEST_SPLITS = ("test", "external")
TRAINING_COLUMNS = ("image", "patient", "centre", "split", "sources", "sha256")


@dataclass(frozen=True)
class TrainingImage:
    """One image that a model has seen in training or tuning."""

    image: str  # name of the image
    patient: str = ""  # "" for a synthetic image
    centre: str = ""
    split: str = "train"  # "train" or "validation"
    # patients from whom a synthetic image, or the generator that drew it, was made
    sources: tuple[str, ...] = ()
    sha256: str = ""  # of the voxels; "" where it was not taken

    @property
    def synthetic(self) -> bool:
        """Say whether the image was made rather than acquired."""
        return bool(self.sources) or not self.patient


@dataclass(frozen=True)
class Evaluated:
    """One prediction that is to be evaluated."""

    patient: str
    centre: str = ""
    split: str = ""
    model_hash: str = ""
    sources: tuple[str, ...] = ()  # not empty: the image is synthetic, which evidence may not rest on
    sha256: str = ""


@dataclass(frozen=True)
class LeakageProof:
    """What was compared and found clean. Without a training list nothing is proven, and `proven` says so."""

    proven: bool
    training_patients: int
    synthetic_images: int
    evaluated_patients: int
    model_hashes: tuple[str, ...]
    sentence: str


def leakage_proof(evaluated: Sequence[Evaluated], training: Sequence[TrainingImage] | None) -> LeakageProof:
    """Prove that training and evaluation share no patient, directly, through a synthetic image, or as a copy
    under another name.

    Refuses with the names of the first few; `training` is None where no list of training images is known.
    """
    _check_evaluated(evaluated)
    hashes = tuple(sorted({e.model_hash for e in evaluated if e.model_hash}))
    if training is None:
        sentence = (
            "No list of training images was given, so the absence of leakage rests on the split column alone"
            " and is not proven."
        )
        return LeakageProof(False, 0, 0, len(evaluated), hashes, sentence)
    _check_sources(training)
    _check_overlap(evaluated, training)
    patients = {t.patient for t in training if t.patient} | {s for t in training for s in t.sources}
    synthetic = sum(t.synthetic for t in training)
    sentence = (
        f"None of the {len(evaluated)} evaluated patients is among the {len(patients)} patients behind the"
        f" {len(training)} training images, including {synthetic} synthetic ones, which were followed back to"
        " their sources."
    )
    return LeakageProof(True, len(patients), synthetic, len(evaluated), hashes, sentence)


def _check_evaluated(evaluated: Sequence[Evaluated]) -> None:
    """Refuse predictions that evidence cannot rest on, whatever the model was trained on."""
    _refuse(
        "appear more than once among the predictions of one model; give one row each",
        _doubles((e.patient, e.model_hash) for e in evaluated),
    )
    _refuse(
        "are synthetic images among the evaluated cases; evidence may rest on acquired exams alone",
        [e.patient for e in evaluated if e.sources],
    )
    _refuse(
        "are predictions on patients of the training or validation split; evaluate test or external patients",
        [e.patient for e in evaluated if e.split in ("train", "validation")],
    )


def _check_sources(training: Sequence[TrainingImage]) -> None:
    """A synthetic image inherits its sources' split: they must be known, and none of them a test patient."""
    _refuse(
        "are synthetic training images without sources, so their split cannot be known",
        [t.image for t in training if not (t.patient or t.sources)],
    )
    _refuse(
        "are training images of the test or external split",
        [t.image for t in training if t.split in TEST_SPLITS],
    )
    split_of = {t.patient: t.split for t in training if t.patient and not t.sources}
    mixed = [
        t.image
        for t in training
        if t.sources and len({split_of[s] for s in t.sources if s in split_of} | {t.split}) > 1
    ]
    _refuse("are synthetic images in another split than the patients they were made from", mixed)


def _check_overlap(evaluated: Sequence[Evaluated], training: Sequence[TrainingImage]) -> None:
    under_test = {e.patient for e in evaluated}
    _refuse(
        "are patients both trained on and evaluated",
        sorted({t.patient for t in training if t.patient} & under_test),
    )
    through = sorted({s for t in training for s in t.sources} & under_test)
    _refuse("are evaluated patients from whom synthetic training images were made", through)
    contents = {t.sha256 for t in training if t.sha256}
    copies = [e.patient for e in evaluated if e.sha256 and e.sha256 in contents]
    _refuse(
        "are evaluated patients whose image is, voxel by voxel, a training image under another name", copies
    )


def _refuse(what: str, who: Sequence[str]) -> None:
    if who:
        more = f" and {len(who) - 5} more" if len(who) > 5 else ""
        raise InputRefused(f"the evaluation leaks or cannot be trusted: {', '.join(who[:5])}{more} {what}")


def _doubles(keys: Iterable[tuple[str, str]]) -> list[str]:
    """Return the patients who are there more than once for one model."""
    return sorted({key[0] for key, count in Counter(keys).items() if count > 1})


def read_training(path: str | Path) -> tuple[TrainingImage, ...]:
    """Read a list of training images: CSV with image, patient, split, and for synthetic ones sources
    (patients divided by ;).
    """
    path = Path(path)
    if not path.is_file():
        raise InputRefused(
            f"{path} is not there; give the list of training images as CSV with the columns"
            f" {', '.join(TRAINING_COLUMNS)}"
        )
    columns, rows = read_table(path, delimiters=CSV_DELIMITERS)
    lacking = [c for c in ("image", "patient", "split") if c not in columns]
    if lacking:
        raise InputRefused(
            f"{path} has no column {', '.join(lacking)}; a list of training images has"
            f" {', '.join(TRAINING_COLUMNS)}"
        )
    return tuple(map(_training_image, rows))


def _training_image(row: Mapping[str, str]) -> TrainingImage:
    sources = [source.strip() for source in row.get("sources", "").split(";")]
    return TrainingImage(
        row["image"],
        row["patient"].removeprefix("sub-"),
        row.get("centre", ""),
        row["split"] or "train",
        tuple(source.removeprefix("sub-") for source in sources if source),
        row.get("sha256", ""),
    )


def write_training(images: Iterable[TrainingImage], path: str | Path) -> None:
    """Write a list of training images, as `read_training` reads it."""
    with Path(path).open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(TRAINING_COLUMNS)
        table.writerows(
            [t.image, t.patient, t.centre, t.split, ";".join(t.sources), t.sha256] for t in images
        )
