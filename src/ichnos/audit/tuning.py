"""Fine-tune a model on a site's pairs: what the partner exams show is learnt, all else is held.

A pair teaches few targets (a FLAIR: leukoaraiosis). The other channels are held to what the parent says of
the same patch (learning without forgetting: Li & Hoiem 2017, IEEE TPAMI 40:2935), and the weights are
averaged with the parent's (Wortsman 2022, CVPR, WiSE-FT).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from ichnos.audit.adaptation import (
    Adapted,
    averaged_network,
    averaged_provenance,
    copy_companions,
    identity_of,
    note_taught,
    taught_by,
)
from ichnos.cohort import Cohort
from ichnos.errors import InputRefused, UsageError
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
from ichnos.models import Manifest, Model, TargetSpec, load_model, save_model
from ichnos.models.store import write_card

LEAST_PAIRS = 20  # of the splits train and validation; fewer teach one scanner's patients by heart


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

    def manifest(self, network: torch.nn.Module, *, name: str) -> Manifest:
        """Return the manifest of the averaged network."""
        before, pairs = self.model.manifest, len(self.cases)
        changed = {
            "command": self.resources.command or "ichnos adapt --pairs",
            "steps": before.provenance.steps + self.settings.steps,
            "seeds": (*before.provenance.seeds, self.settings.seed),
            "data": {**before.provenance.data, "pairs of the site": cases_fingerprint(self.cases)},
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
        validate = validator_of(self.training, self.cases, self.work, self.resources)
        targets = self.model.manifest.targets
        taught = tuple(targets[k] for k in self.channels)
        seen = Channels(network.to(self.resources.device), self.channels).eval()
        new = {point.name: point for point in validate.points(seen, taught)}
        return tuple(new.get(target.name, target) for target in targets)


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
    saved = save_model(out, network, site.manifest(network, name=out.name))
    copy_companions(model.folder, out)
    taught = sorted(taught_by(model.folder) | {case.id for case in site.cases})
    note_taught(out, taught)
    if warning := keep_refinement(str(model.folder), saved):
        resources.warn(warning)
        write_card(saved)
    said = f"fine-tuned on {len(site.cases)} pairs for {settings.targets}; its share is {settings.share:.0%}"
    return Adapted(out, identity_of(load_model(out)), tuple(taught), said)


def _site(model: Model, cohort: Cohort, settings: TuningSettings, work: Path, resources: Resources) -> _Site:
    model.manifest.check_reads_scans("ichnos adapt")
    training = settings.of_training(model)
    names = [target.name for target in model.manifest.targets]
    if missing := [name for name in training.names if name not in names]:
        raise InputRefused(
            f"{model.folder.name} has no {', '.join(missing)}; it has {', '.join(names)}. Name what it reads"
        )
    cases = usable_cases(cohort, training, work, resources)
    if len(cases) < LEAST_PAIRS:
        raise InputRefused(
            f"{len(cases)} pairs of the splits train and validation show {settings.targets}; fine-tuning"
            f" needs {LEAST_PAIRS} or more. Recalibrate instead (--audit)"
        )
    channels = [names.index(name) for name in training.names]
    return _Site(model, settings, training, cases, work, resources, channels)
