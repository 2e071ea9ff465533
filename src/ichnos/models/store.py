"""The store: a Model is a folder with model.safetensors, model.json and CARD.md; nothing in it is pickled."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ichnos import networks
from ichnos.errors import IchnosError, InputRefused, UsageError
from ichnos.files import atomic_file, sync_tree
from ichnos.models.card import card_text
from ichnos.models.manifest import Manifest

if TYPE_CHECKING:  # torch takes seconds to import, and a graph that was compiled before needs none of it
    import torch

WEIGHTS, MANIFEST, CARD = "model.safetensors", "model.json", "CARD.md"
SHIPPED = Path(__file__).parent / "weights"
CLASSIFIER = "expansion"  # the folder in a model's folder that holds its classifier of expansion
REFINEMENT = "refinement"  # the folder in a model's folder that holds the model which corrects its answers
# All that ichnos writes into a model folder: what was fitted to the old weights goes with them.
_OURS = {
    WEIGHTS,
    MANIFEST,
    CARD,
    REFINEMENT,
    "expansion.json",
    "volumes.json",
    "outcome.json",
    "fazekas.json",
    "site.json",
}
DEFAULT = "multi"  # the folder in SHIPPED that is used unless another model is named


@dataclass(frozen=True)
class Model:
    """A folder whose files have been checked against its manifest."""

    folder: Path
    manifest: Manifest

    def network(self, *, device: str | torch.device = "cpu") -> torch.nn.Module:
        """Rebuild the network with its weights, in evaluation mode."""
        from safetensors import SafetensorError
        from safetensors.torch import load_model as load_tensors

        module = networks.build(self.manifest.network.name, **self.manifest.network.arguments)
        try:
            load_tensors(module, self.folder / WEIGHTS)
        except (RuntimeError, SafetensorError) as error:
            raise InputRefused(
                f"{self.folder}: the weights do not fit the network that model.json describes: {error}"
            ) from None
        return module.to(device).eval()

    def refinement(self) -> Model | None:
        """Open the model that refines this one's output; None where there is none."""
        if not (self.folder / REFINEMENT / MANIFEST).is_file():
            return None
        found = load_model(self.folder / REFINEMENT)
        if found.manifest.refines != self.manifest.weights_sha256:
            raise InputRefused(
                f"{found.folder} corrects the weights {found.manifest.refines[:12]}…, and {self.folder} holds"
                f" {self.manifest.weights_sha256[:12]}…: train it anew for these, or remove its folder"
            )
        return found

    def classifier(self) -> Model | None:
        """Open the classifier of expansion in this model's folder; None where there is none."""
        folder = self.folder / CLASSIFIER
        return load_model(folder) if (folder / MANIFEST).is_file() else None

    def all_weights(self) -> str:
        """Return the SHA-256 of the weights, and of the refinement's and classifier's where there are any."""
        parts = (self, self.refinement(), self.classifier())
        return "+".join(model.manifest.weights_sha256 for model in parts if model is not None)


def save_model(folder: Path, network: torch.nn.Module, manifest: Manifest) -> Model:
    """Write a Model folder in one step: it is complete, or it is not there.

    A model in the folder is replaced with all that was fitted to it; other files in it stay. A folder that
    holds no model of ichnos is left alone and named.
    """
    from safetensors import SafetensorError

    _refuse_foreign(folder)
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        complete = _write_files(partial, network, manifest)
        sync_tree(partial)
        _replace(folder, partial)
    except (OSError, SafetensorError) as error:
        kept = "the model that was there before is kept" if folder.exists() else "there is no model yet"
        raise IchnosError(
            f"{folder} could not be written ({error}); {kept}. Make room on the disk and run the same call"
            " again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Model(folder, complete)


def _write_files(folder: Path, network: torch.nn.Module, manifest: Manifest) -> Manifest:
    """Write weights, manifest and card; return the manifest with the hash of the weights."""
    from safetensors.torch import save_model as save_tensors

    save_tensors(network, str(folder / WEIGHTS))
    (folder / WEIGHTS).chmod(0o644)  # the library writes for the owner's eyes only
    complete = manifest.model_copy(update={"weights_sha256": sha256(folder / WEIGHTS)})
    (folder / MANIFEST).write_text(_json(complete), encoding="utf-8")
    (folder / CARD).write_text(card_text(complete), encoding="utf-8")
    return complete


def _refuse_foreign(folder: Path) -> None:
    """Refuse to write into a folder that holds files but no model that ichnos wrote."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        read_manifest(folder)
    except (InputRefused, OSError):
        raise UsageError(
            f"{folder} exists and is not a model folder; give another name, or empty it first"
        ) from None


def _replace(folder: Path, partial: Path) -> None:
    """Put a new model folder in the place of the old one, whose other files move over."""
    if not folder.exists():
        os.replace(partial, folder)
        return
    old = folder.with_name(f"{partial.name}.old")
    os.replace(folder, old)
    try:
        os.replace(partial, folder)
    except OSError:
        os.replace(old, folder)
        raise
    for path in sorted(old.iterdir()):
        if path.name not in _OURS:
            os.replace(path, folder / path.name)
    shutil.rmtree(old, ignore_errors=True)


def note_validation(model: Model, validation: dict[str, float]) -> Model:
    """Write a model's validation into model.json and the card, in place of what stood there."""
    provenance = model.manifest.provenance.model_copy(update={"validation": validation})
    noted = Model(model.folder, model.manifest.model_copy(update={"provenance": provenance}))
    with atomic_file(model.folder / MANIFEST) as temporary:
        temporary.write_text(_json(noted.manifest), encoding="utf-8")
    write_card(noted)
    return noted


def write_card(model: Model) -> Path:
    """Write a model's CARD.md anew, with the thresholds of its refinement where it has one."""
    refinement = model.refinement()
    text = card_text(model.manifest, refinement.manifest if refinement is not None else None)
    with atomic_file(model.folder / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return model.folder / CARD


def _json(manifest: Manifest) -> str:
    return manifest.model_dump_json(indent=2) + "\n"


def load_model(folder: str | Path) -> Model:
    """Open a Model folder and check its weights against the hash in model.json."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not (folder / WEIGHTS).is_file():
        raise InputRefused(f"{folder} has a {MANIFEST} but no {WEIGHTS}; the copy is incomplete")
    found = sha256(folder / WEIGHTS)
    if found != manifest.weights_sha256:
        raise InputRefused(
            f"{folder / WEIGHTS} has SHA-256 {found[:12]}…, but {MANIFEST} expects"
            f" {manifest.weights_sha256[:12]}…: the file is damaged or was exchanged; copy the model again"
        )
    return Model(folder, manifest)


def read_manifest(folder: Path) -> Manifest:
    """Read model.json, or say what is wrong with it."""
    file = folder / MANIFEST
    if not file.is_file():
        raise InputRefused(f"{folder} is no model: it has no {MANIFEST}")
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise InputRefused(f"{file} cannot be used: {where}: {first['msg']}") from None


def shipped_models() -> tuple[Path, ...]:
    """Return the folders of the models that came with ichnos, sorted by name."""
    return tuple(sorted(path.parent for path in SHIPPED.glob(f"*/{MANIFEST}")))


def default_model() -> Model:
    """Return the default model, which came with ichnos, or say how to get one."""
    folder = SHIPPED / DEFAULT
    if not (folder / MANIFEST).is_file():
        raise InputRefused(
            "no default weights came with this installation of ichnos; in a checkout `make weights` trains"
            " them, or name a model folder (--model DIR)"
        )
    return load_model(folder)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
