"""What a training on virtual patients began from, kept beside its checkpoint: a later call goes on from the
checkpoint, and must not count the model that an earlier call wrote as one more parent.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ichnos.errors import UsageError
from ichnos.files import atomic_file
from ichnos.learning.loop.checkpoints import reached
from ichnos.models import Model

_FILE = "began_from.json"


@dataclass(frozen=True)
class Origin:
    """The weights that a training began from; random ones have no steps and no parents."""

    steps: int = 0  # of all trainings before
    parents: tuple[str, ...] = ()  # SHA-256 of the weights, the oldest first


def origin(work: Path, earlier: Model | None) -> Origin:
    """Return what the training in `work` began from: `earlier`, where it begins now.

    A training that is to begin from random weights is refused where one from other weights is under way.
    """
    file = work / _FILE
    if reached(work) and file.is_file():
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["parents"] and earlier is None:
            raise UsageError(
                f"{work} holds a training that began from earlier weights; give another --work to begin from"
                " random ones, or leave out --restart to go on"
            )
        return Origin(int(held["steps"]), tuple(held["parents"]))
    began = Origin()
    if earlier is not None:
        provenance = earlier.manifest.provenance
        began = Origin(provenance.steps, (*provenance.parents, earlier.manifest.weights_sha256))
    work.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps(asdict(began), indent=1), encoding="utf-8")
    return began
