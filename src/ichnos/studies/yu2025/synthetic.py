"""The synthetic images of Yu 2025: how they are made for a fold, judged, and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ichnos.evidence.metrics.discrimination import Auc
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.metrics.synthetic.distances import FloorDistance
from ichnos.evidence.metrics.synthetic.judge import ImageSet, judge_synthetic
from ichnos.evidence.tables import Cell, cell_text
from ichnos.learning.expansion import generator_store, realism
from ichnos.learning.expansion import slice_generator as synthesis
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.settings import (
    CURVE,
    ClassifierSettings,
    GeneratorKind,
    GeneratorSettings,
    small_generator,
)
from ichnos.learning.loop.checkpoints import reached
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.settings import changed
from ichnos.learning.loop.steps import Progress
from ichnos.learning.recipes import generator_recipe
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.curves import TrainingCurve, curve_of_lines
from ichnos.studies.shared.page import PngPicture
from ichnos.studies.yu2025.people import People

_SHEET = "contact_sheet.png"
_GENERATORS = Path("classifiers", "generators")  # where their trainings lie in a study's folder
MOST_ALIGNED = 400  # images of a kind in the search for copies: all of them would take half an hour a seed
FEATURES_NAME = "fixed random convolutions (seed 2026), not comparable with published FID"


@dataclass(frozen=True, eq=False)
class SyntheticImages:
    """The images that one fold's generator made."""

    name: str  # "synthesis 1:2, fold 1"
    images: tuple[synthesis.Picture, ...]
    fold: tuple[str, ...]  # its training patients; the generator may have learnt from some of them alone


class SyntheticMaker:
    """Makes expanded images from a fold's training patients until the classes stand at the arm's ratio.

    What it has made is kept in `batches`, to be judged when every fold is trained. The arms of one kind and
    seed share the generators of their folds, and their images: the smaller set is the first of the larger.
    """

    def __init__(
        self,
        people: People,
        settings: ClassifierSettings,
        kind: GeneratorKind,
        out: Path,
        budget: StudyBudget,
        *,
        seed: int,
    ) -> None:
        self.slices = {p.patient: p.slices for p in people.training}
        self.size = people.training[0].slices[0].image.shape[0]
        self.settings, self.kind, self.budget, self.seed = settings, kind, budget, seed
        self.folder, self.models = out / _GENERATORS, out / "models"
        self.batches: list[SyntheticImages] = []

    def __call__(self, fold: int, train: Sequence[ImageExample]) -> list[ImageExample]:
        """Return synthetic examples for the training patients of a fold."""
        patients = tuple(dict.fromkeys(e.patient for e in train))
        source = [s for patient in patients for s in self.slices[patient]]
        events = sum(e.outcome for e in train)
        count = round((len(train) - events) / (self.settings.others_per_expanded or 1.0) - events)
        images = self._drawn(source, max(2, count), fold)
        arm = f"{self.kind} {self.settings.named()}"
        ledger = f"{arm.replace(' ', '-').replace(':', 'to')}-seed-{self.seed}-fold-{fold}.csv"
        generator_store.write_ledger(images, self.folder / ledger)
        self.batches.append(SyntheticImages(f"{arm}, fold {fold + 1}", tuple(images), patients))
        return [ImageExample("", np.repeat(p.image[None], 3, axis=0), 1.0, sources=p.sources) for p in images]

    def _drawn(self, source: Sequence[synthesis.Picture], count: int, fold: int) -> list[synthesis.Picture]:
        """Train the fold's generator, save it, and draw from it."""
        settings, budget = generator_settings(self.kind, self.size, budget=self.budget), self.budget
        settings = changed(settings, {"seed": self.seed})
        name = _training_name(self.kind, self.seed, fold)
        losses = LossCurve(self.folder / name / CURVE, settings.loop.for_examples(len(source)).steps)
        resources = Resources(budget.device, report=losses)
        network = synthesis.train_generator(source, settings, self.folder / name, resources=resources)
        generator_store.save_generator(
            network,
            settings,
            self.models / f"generator-{name}",
            trained_on=source,
            steps=reached(self.folder / name),
            command="ichnos study yu2025",
            device=budget.device,
        )
        kept, seed = self.folder / name / "images.npz", self.seed + fold
        key = f"{synthesis.training_fingerprint(source, settings)} {settings.sampling_steps} {seed}"
        drawn = generator_store.read_pictures(kept, key)
        if len(drawn) < count:
            sampled = synthesis.sample_pictures(
                network, settings, count, trained_on=source, seed=seed, device=budget.device
            )
            drawn = list(sampled)
            generator_store.write_pictures(drawn, kept, key)
        return drawn[:count]


def generator_settings(kind: GeneratorKind, size: int, *, budget: StudyBudget) -> GeneratorSettings:
    """Return the settings of a generator under the study's recipe, for slices of so many pixels."""
    if budget.smoke:
        return small_generator(kind, steps=3, size=size, noise_steps=20, sampling_steps=5)
    settings = changed(generator_recipe(budget.recipe.base, kind=kind), {"size": size})
    return budget.recipe.applied(f"generator-{kind}", settings)


def _training_name(kind: str, seed: int, fold: int) -> str:
    return f"{kind}-seed-{seed}-fold-{fold}"


def generator_curves(out: Path, budget: StudyBudget, *, folds: int) -> Iterator[TrainingCurve]:
    """Yield what is known of the generators' trainings, which have no validation: their loss."""
    kinds = {"published": "synthesis", "conditional": "conditional"}  # and the parts that train them
    for kind in (kind for kind, part in kinds.items() if budget.does(part)):
        for seed in range(budget.seed, budget.seed + budget.seeds):
            for fold in range(folds):
                file = out / _GENERATORS / _training_name(kind, seed, fold) / CURVE
                name, measure = f"generator, seed {seed}, fold {fold + 1}", f"loss of the {kind} generator"
                curve = curve_of_lines(file, name, "loss", measure, rises=False)
                if curve is not None:
                    yield curve


class LossCurve:
    """Follows a training that has no validation: the mean loss of every fiftieth of its steps."""

    def __init__(self, file: Path, steps: int) -> None:
        self.file, self.every, self.losses = file, max(1, steps // 50), list[float]()

    def __call__(self, progress: Progress) -> None:
        """Take the loss of a step, and write a line where one is due."""
        self.losses.append(progress.loss)
        if progress.step % self.every == 0:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": progress.step, "loss": float(np.mean(self.losses))}) + "\n")
            self.losses.clear()


def judged_batches(people: People, batches: Sequence[SyntheticImages]) -> list[dict[str, Cell]]:
    """Judge each fold's images by one call: distance beside its floor, copies, membership, and use."""
    held_out = realism.image_set([s for p in people.external for s in p.slices])
    return [_judged(people, batch, held_out) for batch in batches]


def _judged(people: People, batch: SyntheticImages, held_out: ImageSet) -> dict[str, Cell]:
    extractor = realism.RandomFeatures()
    source, fold = (
        realism.image_set([s for p in people.training if p.patient in patients for s in p.slices])
        for patients in (batch.images[0].sources, batch.fold)
    )
    verdict = judge_synthetic(
        realism.image_set(batch.images),
        source,
        held_out,
        classified=fold,
        features=lambda images: extractor(list(images)),
        features_name=FEATURES_NAME,
        rng=np.random.default_rng(0),
        most_aligned=MOST_ALIGNED,
    )
    copies = verdict.copies
    return {
        "images": batch.name,
        "made": len(batch.images),
        "trained on, patients": len(batch.images[0].sources),
        "Fréchet distance": _distance(verdict.frechet),
        "kernel distance": _distance(verdict.kernel),
        "share of copies": copies if isinstance(copies, str) else copies.copies,
        "membership AUC": _area(verdict.membership),
        "use: trained on synthetic, AUC": _area(verdict.trained_on_synthetic),
        "use: trained on real, AUC": _area(verdict.trained_on_real),
    }


def _distance(found: FloorDistance | str) -> str:
    if isinstance(found, str):
        return found
    return f"{cell_text(found.distance)}, floor {cell_text(found.floor)}"


def _area(area: Auc | str) -> Cell:
    return area if isinstance(area, str) else Estimate(area.value, area.low, area.high, area.n)


def synthetic_sheet(people: People, batches: Sequence[SyntheticImages], out: Path) -> tuple[PngPicture, ...]:
    """Show synthetic images, unselected, above real ones; nothing where none were made."""
    if not batches:
        return ()
    real = [s for p in people.training for s in p.slices if s.outcome > 0]
    out.mkdir(parents=True, exist_ok=True)
    rows = [(batch.name, batch.images[:10]) for batch in batches[::2][:4]]
    realism.slice_sheet((*rows, ("patients who expanded", real[:10])), out / _SHEET)
    caption = "Synthetic images, unselected, above slices of training patients who expanded."
    return (PngPicture("contact_sheet", caption, (out / _SHEET).read_bytes()),)
