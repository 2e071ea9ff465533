"""Fine-tune a model on a site's pairs: what the partner exams show is learnt, all else is held.

A pair teaches few targets (a FLAIR: leukoaraiosis). The other channels are held to what the parent says of
the same patch (learning without forgetting: Li & Hoiem 2017, IEEE TPAMI 40:2935), and the weights are
averaged with the parent's (Wortsman 2022, CVPR, WiSE-FT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from ichnos.audit.adaptation import (
    LEAST_PAIRS,
    Adapted,
    averaged_network,
    averaged_provenance,
    copy_companions,
    identity_of,
    note_taught,
    taught_by,
)
from ichnos.audit.exams import exams_in
from ichnos.audit.pairing import pair_exams
from ichnos.audit.readings import people_read, readings_by_scan, write_read_blood
from ichnos.cohort import Cohort
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.loop.settings import LoopSettings
from ichnos.learning.loop.steps import Loss, Step
from ichnos.learning.loop.training import train
from ichnos.learning.segmentation.batches import batch_source, close
from ichnos.learning.segmentation.cases import TrainingCase, cases_fingerprint
from ichnos.learning.segmentation.fine_tuning import keep_refinement, starting_from
from ichnos.learning.segmentation.losses import COORDINATE_WEIGHT, multi_target_loss
from ichnos.learning.segmentation.objective import BatchAt
from ichnos.learning.segmentation.preparation import usable_cases
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.training import validator_of
from ichnos.learning.segmentation.validation import Validator, history
from ichnos.models import Manifest, Model, TargetSpec, load_model, save_model
from ichnos.models.store import write_card
from ichnos.transfer.makers import PARTNER, TransferOptions
from ichnos.transfer.run import transfer_cohort

_READ_BLOOD = "readblood"  # pipeline of the haematomas that were read; nothing is trained on them


@dataclass(frozen=True)
class TuningSettings:
    """How a model is fine-tuned on pairs."""

    targets: str = "leukoaraiosis"  # comma list of what the pairs show
    steps: int = 100  # more has not been measured (docs/partner-exams.md)
    share: float = 0.5  # weight of the fine-tuned network in the average
    learning_rate: float = 5e-4
    seed: int = 0

    def of_training(self, model: Model) -> TrainSettings:
        """Return the settings of the training that starts from a model."""
        loop = LoopSettings(
            steps=self.steps,
            learning_rate=self.learning_rate,
            batch=1,
            precision="fp32",
            validations=1,
            seed=self.seed,
        )
        chosen = starting_from(TrainSettings.model_validate({"targets": self.targets}), str(model.folder))
        return chosen.model_copy(update={"loop": loop})


@dataclass(frozen=True, eq=False)
class HeldLoss:
    """Call it with a network and a step: the loss of what pairs teach, and of departing from the parent."""

    parent: torch.nn.Module
    targets: tuple[TargetSpec, ...]  # of the parent, in its order
    taught: tuple[str, ...]  # of the pairs
    batch_at: BatchAt

    def __call__(self, network: torch.nn.Module, step: Step) -> Loss:
        """Return the loss of the step's batch."""
        batch = self.batch_at(step.number)
        with torch.no_grad():
            before = self.parent(batch.image).float()
        with step.autocast():
            logits = network(batch.image)
        logits, names = logits.float(), [target.name for target in self.targets]
        learnt = [names.index(name) for name in self.taught]
        loss = multi_target_loss(logits[:, learnt], batch.truth, batch.known)
        departure = held_loss(logits, before, self._held(names))
        return Loss(loss + departure, {"learnt": float(loss.detach()), "held": float(departure.detach())})

    def _held(self, names: list[str]) -> dict[int, bool]:
        """Return the channels that pairs do not teach, and whether each is a coordinate."""
        return {
            k: target.kind == "coordinate"
            for k, target in enumerate(self.targets)
            if target.name not in self.taught
        }


def held_loss(logits: torch.Tensor, before: torch.Tensor, held: dict[int, bool]) -> torch.Tensor:
    """Return how far channels have departed from what a parent said (batch, channel, x, y, z).

    Masks, summed, so that each weighs as much as one that is taught: one minus the Dice with squares, and
    cross-entropy above the parent's own; both are 0 where nothing has changed and nowhere else. Coordinates:
    the mean absolute difference.

    >>> said = torch.linspace(-4, 4, 8).reshape(1, 1, 2, 2, 2)
    >>> float(held_loss(said, said, {0: False})), float(held_loss(said + 1, said, {0: True}))
    (0.0, 3.0)
    """
    total = torch.zeros((), device=logits.device)
    masks, coordinates = ([k for k, kind in held.items() if kind is wanted] for wanted in (False, True))
    if masks:
        now, then = torch.sigmoid(logits[:, masks]), torch.sigmoid(before[:, masks])
        axes = (0, 2, 3, 4)
        squares = (now.square() + then.square()).sum(axes)
        apart = (now - then).square().sum(axes) / (squares + 1)
        above = F.binary_cross_entropy_with_logits(logits[:, masks], then) - F.binary_cross_entropy(
            then, then
        )
        total = total + apart.sum() + len(masks) * above
    if coordinates:
        moved = (logits[:, coordinates] - before[:, coordinates]).abs()
        total = total + COORDINATE_WEIGHT * moved.mean()
    return total


class Channels(torch.nn.Module):
    """A network of which some output channels are seen."""

    def __init__(self, network: torch.nn.Module, channels: list[int]) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the chosen channels (batch, channel, x, y, z)."""
        out: torch.Tensor = self.network(image)[:, self.channels]
        return out


@dataclass(frozen=True, eq=False)
class _Site:
    """The pairs of a site, ready to teach."""

    model: Model
    settings: TuningSettings
    training: TrainSettings
    cases: tuple[TrainingCase, ...]
    work: Path
    resources: Resources
    channels: list[int] = field(default_factory=list)  # of the parent, that the pairs teach

    def network(self) -> torch.nn.Module:
        """Train; a call that was stopped is resumed."""
        manifest, parent = self.model.manifest, self.model.network(device=self.resources.device)
        batches: BatchAt = batch_source(self.training, self.cases, self.resources)
        loss = HeldLoss(parent, manifest.targets, self.training.names, batches)
        try:
            return train(
                manifest.network,
                self.training.loop.model_copy(update={"validations": 0}),
                loss,
                self.work,
                data=cases_fingerprint(self.cases) + manifest.weights_sha256,
                initial={k: v.clone() for k, v in parent.state_dict().items()},
                resources=self.resources,
            )
        finally:
            close(batches)

    def manifest(self, network: torch.nn.Module, *, name: str, dice: Mapping[str, float]) -> Manifest:
        """Return the manifest of the averaged network, with its Dice on the validation pairs."""
        before, pairs = self.model.manifest, len(self.cases)
        changed = {
            "command": self.resources.command or "ichnos adapt --pairs",
            "steps": before.provenance.steps + self.settings.steps,
            "seeds": (*before.provenance.seeds, self.settings.seed),
            "data": {**before.provenance.data, "pairs of the site": cases_fingerprint(self.cases)},
            "validation": {f"dice_{target}": value for target, value in dice.items()},
        }
        parents = (*before.provenance.parents, before.weights_sha256)
        provenance = averaged_provenance(before.provenance, parents, self.settings.share)
        limit = f"Fine-tuned on {pairs} pairs of a site for {self.settings.targets}; other targets were held."
        return before.model_copy(
            update={
                "name": name,
                "targets": self.points(network),
                "provenance": provenance.model_copy(update=changed),
                "limits": (*before.limits, limit),
            }
        )

    def points(self, network: torch.nn.Module) -> tuple[TargetSpec, ...]:
        """Return the targets; those that were taught have operating points of the validation pairs."""
        targets = self.model.manifest.targets
        taught = tuple(targets[k] for k in self.channels)
        new = {point.name: point for point in self.validate.points(self.seen(network), taught)}
        return tuple(new.get(target.name, target) for target in targets)

    @property
    def validate(self) -> Validator:
        """Return the validation on the pairs that are set aside for it."""
        return validator_of(self.training, self.cases, self.work, self.resources)

    def seen(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return a network of which the taught targets are seen."""
        return Channels(network.to(self.resources.device), self.channels).eval()

    def dice(self, network: torch.nn.Module, *, step: int) -> dict[str, float]:
        """Return the mean Dice of each taught target on the validation pairs that show it."""
        replace(self.validate, pictures=0)(self.seen(network), step)
        return history(self.work)[-1].dice


def tuned_on_pairs(
    model: Model,
    cohort: Cohort,
    out: Path,
    settings: TuningSettings = TuningSettings(),
    *,
    work: Path,
    resources: Resources = ON_CPU,
) -> Adapted:
    """Fine-tune a model on the splits train and validation of a cohort of pairs; write a new model folder.

    All targets stay. `work` keeps prepared patients and the checkpoint; the same call resumes.
    """
    if out.exists():
        raise UsageError(f"{out} exists; give a new folder, so that no model is replaced unseen")
    site = _site(model, cohort, settings, work, resources)
    network = averaged_network(model, site.network().cpu().state_dict(), settings.share)
    before = site.dice(model.network(), step=0)
    after = site.dice(network, step=settings.steps)
    saved = save_model(out, network, site.manifest(network, name=out.name, dice=after))
    copy_companions(model.folder, out)
    taught = sorted(taught_by(model.folder) | {case.id for case in site.cases})
    note_taught(out, taught)
    if warning := keep_refinement(str(model.folder), saved):
        resources.warn(warning)
        write_card(saved)
    said = (
        f"fine-tuned on {len(site.cases)} pairs for {settings.targets}; its share is {settings.share:.0%};"
        f" {_compared(before, after, site.cases)}"
    )
    return Adapted(out, identity_of(load_model(out)), tuple(taught), said)


def _compared(before: Mapping[str, float], after: Mapping[str, float], cases: Sequence[TrainingCase]) -> str:
    """Say what the validation pairs say of both networks."""
    aside = sum(case.split == "validation" for case in cases)
    if not after:
        return f"none of {aside} validation pairs has any of it, so nothing was compared"
    change = ", ".join(f"{name} {before[name]:.3f} before, {after[name]:.3f} after" for name in after)
    return f"mean Dice on {aside} validation pairs: {change}"


def training_from(model: Model, settings: TuningSettings) -> TrainSettings:
    """Return the settings of a training that starts from a model; refuse one that cannot be fine-tuned."""
    model.manifest.check_reads_scans("ichnos adapt")
    training = settings.of_training(model)
    names = [target.name for target in model.manifest.targets]
    if missing := [name for name in training.names if name not in names]:
        raise InputRefused(
            f"{model.folder.name} has no {', '.join(missing)}; it has {', '.join(names)}. Name what it reads"
        )
    return training


def _site(model: Model, cohort: Cohort, settings: TuningSettings, work: Path, resources: Resources) -> _Site:
    training = training_from(model, settings)
    cases = usable_cases(cohort, training, work, resources)
    if len(cases) < LEAST_PAIRS:
        raise InputRefused(
            f"{len(cases)} pairs of the splits train and validation show {settings.targets}; fine-tuning"
            f" needs {LEAST_PAIRS} or more. Recalibrate instead, or wait for more"
        )
    names = [target.name for target in model.manifest.targets]
    channels = [names.index(name) for name in training.names]
    return _Site(model, settings, training, cases, work, resources, channels)


def learnable_cohort(images: Path, readings: Path, root: Path, target: str, *, salt: str = "") -> Cohort:
    """Pair the exams of a folder and transfer a target, as `pair` and `audit` do; the same call resumes.

    Blood that was read is left out of what a FLAIR or a diffusion exam shows, as when the pairs were judged.
    """
    pair_exams(exams_in(images), root, salt=salt)
    wanted = [name for name in PARTNER if name == target]
    if wanted:
        by_model = people_read(bids.read_cohort(root).patients, readings_by_scan(readings))
        for person in (person for people in by_model.values() for person in people):
            write_read_blood(person, root, _READ_BLOOD)
        options = TransferOptions(str(root), ("manual", _READ_BLOOD))
        transfer_cohort(root, wanted, settings=options, progress=False)
    return bids.read_cohort(root)
