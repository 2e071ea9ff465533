"""What is known of every CT that was sent to be read, pair or no pair: the streams of input drift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from ichnos.audit.monitoring.change import Stream
from ichnos.errors import InputRefused
from ichnos.reading.record import Record
from ichnos.reading.save import RECORD

# Name of the quality check -> words, unit. Refusals are watched too.
WATCHED_INPUTS: Mapping[str, tuple[str, str]] = {
    "air_hu": ("HU zero (air)", "HU"),
    "brain_hu": ("HU of the brain", "HU"),
    "noise_hu": ("noise", "HU"),
    "slice_step": ("slice distance", "mm"),
    "inside_ml": ("volume inside the skull", "mL"),
}
REFUSED = "share refused"
_SHARE_OF_ALPHA = 0.5  # what inputs may take of the alpha of all streams; scores take the rest


@dataclass(frozen=True)
class ReadInput:
    """One CT that was sent to be read."""

    refused: bool
    values: Mapping[str, float] = field(default_factory=dict)  # by name of WATCHED_INPUTS
    scanner: str = ""
    month: str = ""


def input_of(record: Record, *, scanner: str = "", month: str = "") -> ReadInput:
    """Return what a record says of its CT."""
    return ReadInput(record.status == "refused", watched_values(record), scanner, month)


def watched_values(record: Record) -> dict[str, float]:
    """Return what a record says of the watched inputs."""
    return {
        reason.name: float(reason.value)
        for reason in record.quality
        if reason.name in WATCHED_INPUTS and reason.value is not None and math.isfinite(reason.value)
    }


def inputs_in(folder: Path) -> list[ReadInput]:
    """Return the CTs of a folder of readings in the order in which the readings were written."""
    files = sorted(folder.glob(f"**/{RECORD}"), key=lambda file: (file.stat().st_mtime_ns, str(file)))
    found = []
    for file in files:
        try:
            found.append(input_of(Record.model_validate_json(file.read_bytes())))
        except ValidationError as error:
            raise InputRefused(f"{file} is not the record of a reading ({type(error).__name__})") from None
    return found


def input_streams(inputs: Sequence[ReadInput]) -> list[Stream]:
    """Return one stream per watched input; a change is expected where a new scanner appears."""
    if not inputs:
        return []
    weight = _SHARE_OF_ALPHA / (len(WATCHED_INPUTS) + 1)
    streams = []
    for name, (words, unit) in WATCHED_INPUTS.items():
        having = [one for one in inputs if name in one.values]
        values = tuple(one.values[name] for one in having)
        expected = first_seen([one.scanner for one in having])
        streams.append(Stream(f"{words} of the CTs", values, unit, weight, expected))
    refused = tuple(float(one.refused) for one in inputs)
    expected = first_seen([one.scanner for one in inputs])
    return [*streams, Stream(REFUSED, refused, "", weight, expected)]


def first_seen(names: Sequence[str]) -> tuple[bool, ...]:
    """Say where a name appears for the first time, the very first place aside.

    >>> first_seen(["a", "a", "b", "a", "b"])
    (False, False, True, False, False)
    """
    seen: set[str] = set()
    marks = []
    for name in names:
        marks.append(bool(seen) and name not in seen and name != "")
        seen.add(name)
    return tuple(marks)
