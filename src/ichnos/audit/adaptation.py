"""A new model folder from a site's pairs: recalibrated, or averaged with a fine-tuned one; never in place.

Patients of the split `test` teach nothing, and who taught is written beside the weights (training.csv), so
that evidence on the new model leaves them out.
"""

from __future__ import annotations

import datetime
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ichnos
from ichnos.audit.lot import independent_scores
from ichnos.audit.pairing import split_of
from ichnos.audit.readings import joined_identity
from ichnos.audit.recalibration import recalibrate, what_is_left_out, what_pairs_allow
from ichnos.audit.score import Score
from ichnos.errors import InputRefused, UsageError
from ichnos.evidence.leakage import TrainingImage, read_training, write_training
from ichnos.models import Model, Provenance, load_model, save_model
from ichnos.models.store import CARD
from ichnos.prognosis.site import SITE_FILE, SiteRecalibration, recalibration_digest
from ichnos.prognosis.store import plain_text

if TYPE_CHECKING:
    import torch

TRAINING = "training.csv"
LEAST_PAIRS = 20  # to fine-tune, of the splits train and validation; fewer teach one scanner by heart
_COMPANIONS = ("expansion.json", "volumes.json", "outcome.json", "fazekas.json", "refinement")


@dataclass(frozen=True)
class Adapted:
    """A new model folder, and what was done."""

    folder: Path
    identity: str  # as scores name it
    taught: tuple[str, ...]  # patients whose pairs taught it
    said: str  # a sentence


def identity_of(model: Model) -> str:
    """Return what scores of a model's readings carry: its weights, its refinement's, its recalibration."""
    return joined_identity(model.all_weights(), recalibration_digest(model.folder))


def taught_by(folder: Path) -> frozenset[str]:
    """Return the patients whom a model has seen; empty where no list lies beside it."""
    file = folder / TRAINING
    return frozenset(image.patient for image in read_training(file)) if file.is_file() else frozenset()


def teaching_scores(model: Model, scores: Sequence[Score]) -> list[Score]:
    """Return the scores of a model that may teach: of patients who are not for testing, and not its own."""
    return independent_scores(_open_scores(identity_of(model), scores))


def _open_scores(identity: str, scores: Sequence[Score]) -> list[Score]:
    return [s for s in scores if s.model == identity and split_of(s.patient) != "test"]


def recalibrated_model(
    model: Model, scores: Sequence[Score], out: Path, *, site: str = "", exam_sd: Mapping[str, float] = {}
) -> Adapted:
    """Copy a model folder and add the recalibration that its own scores teach; the weights stay.

    `exam_sd`: see `recalibrate`.
    """
    identity = identity_of(model)
    own = [score for score in scores if score.model == identity]
    if not own:
        known = ", ".join(sorted({score.model[:12] for score in scores})) or "none"
        raise InputRefused(
            f"no score is of the model {model.folder.name} ({identity[:12]}); the scores are of {known}."
            " Give the model folder that had read"
        )
    if recalibration_digest(model.folder):
        raise InputRefused(
            f"{model.folder} is recalibrated already; give the model that it was made from, so that one"
            " recalibration replaces the other"
        )
    open_ = _open_scores(identity, own)
    fitted = recalibrate(open_, site=site, exam_sd=exam_sd)
    taught = tuple(sorted({score.patient for score in independent_scores(open_)}))
    _copied(model.folder, out, taught, {SITE_FILE: plain_text(fitted)})
    with (out / CARD).open("a", encoding="utf-8") as card:
        card.write(recalibration_card(fitted))
    said = " ".join(filter(None, (what_pairs_allow(fitted.pairs), what_is_left_out(open_))))
    return Adapted(out, identity_of(load_model(out)), taught, said)


def recalibration_card(fitted: SiteRecalibration) -> str:
    """Return the paragraph of a card that says what was recalibrated.

    >>> print(recalibration_card(SiteRecalibration(site="north", pairs=40)).splitlines()[1])
    ## Recalibrated by north
    """
    lines = ["", f"## Recalibrated by {fitted.site or 'a site'}", f"From {fitted.pairs} pairs of the site:"]
    for name, scaling in fitted.intervals.items():
        lines.append(
            f"- interval of {name}: {scaling.low:+.2f}, {scaling.middle:+.2f}, {scaling.high:+.2f} in units"
            f" of the shipped one, from {scaling.pairs} pairs"
            + (f"; the partner exam's own error of {scaling.exam_sd:g} taken out" if scaling.exam_sd else "")
        )
    for name, shift in fitted.chances.items():
        lines.append(
            f"- {name}: log odds {shift.intercept:+.2f} + {shift.slope:.2f} x shipped, from {shift.pairs}"
            " pairs"
        )
    return "\n".join([*lines, "The weights are as shipped. Test patients of the site taught nothing.", ""])


def _copied(source: Path, out: Path, taught: Sequence[str], texts: dict[str, str]) -> None:
    """Copy a model folder to a new one, in one step, with further files and the list of who taught it."""
    if out.exists():
        raise UsageError(f"{out} exists; give a new folder, so that no model is replaced unseen")
    partial = out.with_name(f"{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        shutil.copytree(source, partial)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        note_taught(partial, taught)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def note_taught(folder: Path, patients: Sequence[str]) -> None:
    """Add patients to the list of those whom a model has seen."""
    file = folder / TRAINING
    before = list(read_training(file)) if file.is_file() else []
    known = {image.patient for image in before}
    new = [TrainingImage(f"sub-{name}", name, split="train") for name in patients if name not in known]
    write_training([*before, *new], file)


# ---- weights


def averaged_model(model: Model, tuned: Model, out: Path, *, share: float = 0.5) -> Adapted:
    """Average a model's weights with those of one that was fine-tuned from it (Wortsman 2022, CVPR, WiSE-FT).

    `share` is the fine-tuned one's. Both must have the same network and targets. What was fitted beside the
    weights is copied; recalibrate it from new scores.
    """
    if not 0 < share < 1:
        raise UsageError(f"a share of {share:g} was asked for; give one between 0 and 1")
    mine, other = model.manifest, tuned.manifest
    names = [[target.name for target in one.targets] for one in (mine, other)]
    if names[0] != names[1] or mine.network != other.network or mine.preprocessing != other.preprocessing:
        raise InputRefused(
            f"{model.folder.name} and {tuned.folder.name} differ in network, input or targets"
            f" ({', '.join(names[0])}; {', '.join(names[1])}); fine-tune on all targets of the first"
        )
    network = averaged_network(model, tuned.network().state_dict(), share)
    provenance = averaged_provenance(mine.provenance, (mine.weights_sha256, other.weights_sha256), share)
    limits = (
        *mine.limits,
        "Thresholds and calibration were fitted to the parents' weights, not to the average.",
    )
    manifest = mine.model_copy(update={"name": out.name, "provenance": provenance, "limits": limits})
    if out.exists():
        raise UsageError(f"{out} exists; give a new folder, so that no model is replaced unseen")
    saved = save_model(out, network, manifest)
    copy_companions(model.folder, out)
    taught = sorted(taught_by(model.folder) | taught_by(tuned.folder))
    note_taught(out, taught)
    return Adapted(out, identity_of(saved), tuple(taught), f"{share:.0%} of {other.name} in {mine.name}")


def averaged_network(model: Model, weights: Mapping[str, torch.Tensor], share: float) -> torch.nn.Module:
    """Return a model's network with the mean of its weights and others, of which `share` is the others'."""
    network = model.network()
    mixed = {
        name: (1 - share) * value + share * weights[name] if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(mixed)
    return network


def averaged_provenance(first: Provenance, parents: tuple[str, ...], share: float) -> Provenance:
    """Return the provenance of an average of two parents."""
    return first.model_copy(
        update={
            "code_version": ichnos.__version__,
            "command": f"ichnos adapt --share {share:g}",
            "trained": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "parents": parents,
            "validation": {},
        }
    )


def copy_companions(source: Path, out: Path) -> None:
    """Copy what was fitted beside the weights; a refinement refines other weights and stays behind."""
    for name in _COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
