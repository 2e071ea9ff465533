"""The synthetic images of Yu 2025: how they are made for a fold, judged, and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ichnos.evidence.metrics.discrimination import Auc
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.metrics.synthetic.distances import FloorDistance
from ichnos.evidence.metrics.synthetic.judge import ImageSet, judge_synthetic
from ichnos.evidence.tables import Cell, Table, cell_text
from ichnos.learning.expansion import generator_store, realism
from ichnos.learning.expansion import settings as expansion_settings
from ichnos.learning.expansion import slice_generator as synthesis
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.settings import ClassifierSettings
from ichnos.learning.loop.resources import Resources
from ichnos.studies.shared.budget import StudyBudget
from ichnos.studies.shared.page import PngPicture, comparison
from ichnos.studies.yu2025.people import People

_SECONDS_PER_STEP = 0.5  # of a generator on one processor core, to choose the length of its training
_SHEET = "contact_sheet.png"
_FEATURES = "fixed random convolutions (seed 2026), not comparable with published FID"


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
        network = synthesis.train_generator(source, settings, work, resources=Resources(budget.device))
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
    """Judge each fold's images by one call: distance beside its floor, copies, membership, and use."""
    held_out = realism.image_set([s for p in people.external for s in p.slices])
    rows = [_judged(people, batch, held_out) for batch in batches]
    if not rows:
        why = "too few patients of a class to train a generator in every fold"
        rows = [{"images": "none were made", "why": why}]
    note = (
        "Distances to slices of expanded patients of the external centres; the floor is the same distance"
        f" between two halves of those patients. Features: {_FEATURES}. A copy is more similar, when aligned"
        " over shifts, turns, scales and mirroring, than 99 in 100 slices of other patients. Membership: AUC"
        " of telling training from other patients by the synthetic images, 0.5 betrays nobody. Use: AUC on"
        " the external patients of one classifier of these features."
    )
    return comparison("synthesis", "Synthetic images", rows, note=note)


def _judged(people: People, batch: SyntheticImages, held_out: ImageSet) -> dict[str, Cell]:
    extractor = realism.RandomFeatures()
    source = [s for p in people.training if p.patient in batch.images[0].sources for s in p.slices]
    verdict = judge_synthetic(
        realism.image_set(batch.images),
        realism.image_set(source),
        held_out,
        features=lambda images: extractor(list(images)),
        features_name=_FEATURES,
        rng=np.random.default_rng(0),
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
    rows = [(batch.name, batch.images[:10]) for batch in batches[:4]]
    realism.slice_sheet((*rows, ("patients who expanded", real[:10])), out / _SHEET)
    caption = "Synthetic images, unselected, above slices of training patients who expanded."
    return (PngPicture("contact_sheet", caption, (out / _SHEET).read_bytes()),)
