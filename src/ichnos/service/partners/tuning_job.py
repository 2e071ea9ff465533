"""What the fine-tuner and its process tell each other: a job, and what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ichnos.files import atomic_file
from ichnos.service.settings import FineTuningSettings

_OUTCOME = "outcome.json"


@dataclass(frozen=True)
class TuningJob:
    """What a fine-tuning needs: plain values, for another process."""

    work: Path  # its folder, kept until it is done
    name: str  # of the new model's folder, made in `work`
    model: str  # folder of the model that is fine-tuned; "": the one that ships
    target: str
    files: tuple[Path, ...]  # images of the pairs
    readings: tuple[Path, ...]  # folders of what had been read of their CTs
    salt: str  # of the node's ids
    how: FineTuningSettings

    @property
    def made(self) -> Path:
        """Return the folder of the new model."""
        return self.work / self.name


@dataclass(frozen=True)
class TuningOutcome:
    """What came of a fine-tuning."""

    refusal: str = ""  # why there is no model; "" where there is one
    said: str = ""
    patients: int = 0  # who taught the model


def outcome_in(work: Path) -> TuningOutcome | None:
    """Return what came of a fine-tuning; None while it is not known."""
    file = work / _OUTCOME
    return TuningOutcome(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def keep_outcome(work: Path, outcome: TuningOutcome) -> None:
    """Keep what came of a fine-tuning, in one step.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     keep_outcome(Path(name), TuningOutcome(refusal="too few pairs"))
    ...     outcome_in(Path(name)).refusal
    'too few pairs'
    """
    with atomic_file(work / _OUTCOME) as temporary:
        temporary.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
