"""A run of a study as it is stored: everything its page is made from, so that the page is rebuilt without
the cohort, the networks and the hours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ichnos import __version__
from ichnos.errors import InputRefused
from ichnos.files import atomic_file
from ichnos.studies.shared.curves import TrainingCurve, curve_rows, curves_of
from ichnos.studies.shared.page import PngPicture

_FILE = "record.json"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class StudyRecord:
    """The rows, facts, curves and pictures of one run."""

    study: str
    rows: Mapping[str, Sequence[Mapping[str, Any]]]  # table of plain values -> its rows
    facts: Mapping[str, Any]  # plain values that are not of single patients
    provenance: Mapping[str, str | float | int]
    curves: tuple[TrainingCurve, ...] = ()
    pictures: tuple[PngPicture, ...] = field(default=())

    @property
    def smoke(self) -> bool:
        """Say whether the run was a smoke run."""
        return bool(self.provenance.get("smoke"))

    @property
    def simulated(self) -> bool:
        """Say whether the patients were simulated."""
        return bool(self.facts.get("simulated"))


def save_record(record: StudyRecord, folder: Path) -> None:
    """Write a run to `folder`: one JSON file, and its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in record.pictures:
        with atomic_file(folder / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
    content = {
        "format": _FORMAT,
        "ichnos": __version__,
        "study": record.study,
        "rows": {name: [_plain(row) for row in rows] for name, rows in record.rows.items()},
        "facts": _plain(record.facts),
        "provenance": dict(record.provenance),
        "curves": curve_rows(record.curves),
        "pictures": [{"name": p.name, "caption": p.caption} for p in record.pictures],
    }
    with atomic_file(folder / _FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=0, allow_nan=False) + "\n", encoding="utf-8")


def load_record(folder: Path) -> StudyRecord:
    """Read a stored run: the folder of `save_record`, or the OUT of a study that holds it."""
    file = next((f for f in (folder / "run" / _FILE, folder / _FILE) if f.is_file()), None)
    if file is None:
        raise InputRefused(
            f"{folder} holds no stored run of a study; give the OUT of `ichnos study NAME -o OUT`"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise InputRefused(f"{file} was written by ichnos {content['ichnos']}; run the study again")
        return StudyRecord(
            content["study"],
            content["rows"],
            content["facts"],
            content["provenance"],
            tuple(curves_of(content["curves"])),
            tuple(
                PngPicture(p["name"], p["caption"], (file.parent / f"{p['name']}.png").read_bytes())
                for p in content["pictures"]
            ),
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputRefused(f"{file} is damaged ({reason}); run the study again to write it anew") from None


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it; NaN, which JSON has not, becomes null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
