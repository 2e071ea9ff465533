"""The synthetic images of Yu 2025: how they are made for a fold, judged, and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ichnos.evidence.tables import Cell, Table
from ichnos.learning.expansion import generator_store, realism
from ichnos.learning.expansion import settings as expansion_settings
from ichnos.learning.expansion import slice_generator as synthesis
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.settings import ClassifierSettings
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.page import PngPicture, cell, comparison
from ichnos.studies.yu2025.people import People

_SECONDS_PER_STEP = 0.5  # of a generator on one processor core, to choose the length of its training
_SHEET = "contact_sheet.png"


@dataclass(frozen=True, eq=False)
class SyntheticImages:
    """The images that one fold's generator made."""

    name: str  # "synthesis 1:2, fold 1"
    images: tuple[synthesis.Picture, ...]


class SyntheticMaker:
    """Makes expanded images from a fold's training patients until the classes stand at the arm's ratio.

    What it has made is kept in `batches`, to be judged when every fold is trained.
    """

    def __init__(self, people: People, settings: ClassifierSettings, out: Path, budget: StudyBudget) -> None:
        self.slices = {p.patient: p.slices for p in people.training}
        self.size = people.training[0].slices[0].image.shape[0]
        self.settings, self.out, self.budget = settings, out, budget
        self.batches: list[SyntheticImages] = []

    def __call__(self, fold: int, train: Sequence[ImageExample]) -> list[ImageExample]:
        """Return synthetic examples for the training patients of a fold."""
        source = [s for patient in dict.fromkeys(e.patient for e in train) for s in self.slices[patient]]
        events = sum(e.outcome for e in train)
        count = round((len(train) - events) / (self.settings.others_per_expanded or 1.0) - events)
        images = self._drawn(source, max(2, count), fold)
        arm = self.settings.named()
        ledger = f"{arm.replace(' ', '-').replace(':', 'to')}-fold-{fold}.csv"
        generator_store.write_ledger(images, self.out / "classifiers" / "generators" / ledger)
        self.batches.append(SyntheticImages(f"{arm}, fold {fold + 1}", tuple(images)))
        return [ImageExample("", np.repeat(p.image[None], 3, axis=0), 1.0, sources=p.sources) for p in images]

    def _drawn(self, source: Sequence[synthesis.Picture], count: int, fold: int) -> list[synthesis.Picture]:
        """Train the fold's generator, save it, and draw from it."""
        settings, budget = self._generator(), self.budget
        work = self.out / "classifiers" / "generators" / f"fold-{fold}"
        network = synthesis.train_generator(source, settings, work, device=budget.device)
        generator_store.save_generator(
            network,
            settings,
            self.out / "models" / f"generator-fold-{fold}",
            trained_on=source,
            steps=settings.loop.steps,
            command="ichnos study yu2025",
            device=budget.device,
        )
        images = synthesis.sample_pictures(
            network,
            settings,
            count,
            trained_on=source,
            seed=budget.seed + fold,
            few_steps=5 if budget.smoke else 50,
            device=budget.device,
        )
        return list(images)

    def _generator(self) -> expansion_settings.GeneratorSettings:
        """Return the published generator, or a small one where there is no GPU."""
        budget = self.budget
        if budget.device != "cpu":
            loop = expansion_settings.GeneratorLoop(steps=10_000, seed=budget.seed)
            return expansion_settings.GeneratorSettings(kind="published", size=self.size, loop=loop)
        steps = 3 if budget.smoke else int(np.clip(60 * budget.minutes / _SECONDS_PER_STEP, 30, 3000))
        noise = 20 if budget.smoke else 400
        return expansion_settings.small_generator(
            "published", steps=steps, size=self.size, seed=budget.seed, noise_steps=noise
        )


def synthetic_table(people: People, batches: Sequence[SyntheticImages]) -> Table:
    """Judge each fold's images: distances to real ones, and whether they copy those they were made from."""
    every = [s for p in people.external for s in p.slices]  # three of each patient
    real = [s for s in every if s.outcome > 0] or every
    features = realism.RandomFeatures()
    known = features([s.image for s in real])
    rows: list[dict[str, Cell]] = []
    for batch in batches:
        images = batch.images
        source = [s for p in people.training for s in p.slices if p.patient in images[0].sources]
        own = features([p.image for p in images])

        def new(
            what: str,
            images: Sequence[synthesis.Picture] = images,
            source: Sequence[synthesis.Picture] = source,
        ) -> Cell:
            return cell(lambda: float(getattr(realism.novelty(images, source, real), what)))

        rows.append(
            {
                "images": batch.name,
                "made": len(images),
                "trained on, patients": len(images[0].sources),
                "FID": cell(lambda own=own: realism.frechet_distance(own, known)),  # type: ignore[misc]
                "KID": cell(lambda own=own: realism.kernel_distance(own, known)),  # type: ignore[misc]
                "nearest synthetic over nearest held-out": new("ratio"),
                "share of copies": new("copies_share"),
            }
        )
    if not rows:
        why = "too few patients of a class to train a generator in every fold"
        rows = [{"images": "none were made", "why": why}]
    note = "Against slices of expanded patients of the external centres."
    return comparison("synthesis", "Synthetic images", rows, note=note)


def synthetic_sheet(people: People, batches: Sequence[SyntheticImages], out: Path) -> tuple[PngPicture, ...]:
    """Show synthetic images, unselected, above real ones; nothing where none were made."""
    if not batches:
        return ()
    real = [s for p in people.training for s in p.slices if s.outcome > 0]
    out.mkdir(parents=True, exist_ok=True)
    rows = [(batch.name, batch.images[:10]) for batch in batches[:4]]
    realism.slice_sheet((*rows, ("patients who expanded", real[:10])), out / _SHEET)
    caption = "Synthetic images, unselected, above slices of training patients who expanded."
    return (PngPicture("contact_sheet", caption, (out / _SHEET).read_bytes()),)
