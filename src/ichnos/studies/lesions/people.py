"""The people of a lesion data set: their table and their masks in MNI space, checked before any work."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from ichnos.errors import InputRefused
from ichnos.formats.text import read_table

TABLE, MASKS = "participants.tsv", "lesions"
_COLUMNS = ("participant_id", "sex", "age", "nihss")
_RANKIN = "gs_rankin_6isdeath"  # Rankin scale at discharge, 6 is death
_MISSING = ("", "n/a", "na", "nan")


@dataclass(frozen=True)
class LesionCase:
    """One person with a lesion mask; NaN where the table has no value."""

    id: str
    mask: Path
    age_years: float  # an age given as "89+" counts as 89
    male: float  # 1 male, 0 female
    nihss: float  # 0..42
    rankin: float  # at discharge, 0..6


def lesion_cases(folder: Path) -> list[LesionCase]:
    """Read FOLDER/participants.tsv and find each person's mask in FOLDER/lesions (…sub-ID_…nii.gz).

    People without a mask or an NIHSS are left out.
    """
    table, masks = folder / TABLE, folder / MASKS
    for path, what in ((table, "the table of participants"), (masks, "the folder of lesion masks")):
        if not path.exists():
            raise InputRefused(
                f"{path} does not exist: {what} is expected there; docs/anatomy.md shows the layout"
            )
    files = {_participant(path.name): path for path in sorted(masks.glob("*.nii.gz"))}
    cases = [_case(row, files, table, number) for number, row in enumerate(_rows(table), start=2)]
    found = [case for case in cases if case is not None]
    if not found:
        raise InputRefused(
            f"no person of {table} has both an NIHSS and a mask in {masks}; files are named …sub-ID_….nii.gz"
        )
    return found


def _rows(table: Path) -> list[dict[str, str]]:
    columns, rows = read_table(table)
    if missing := [name for name in _COLUMNS if name not in columns]:
        raise InputRefused(
            f"{table} lacks the column(s) {', '.join(missing)}; {', '.join(_COLUMNS)} are needed, divided"
            f" by tabs, and {_RANKIN} where the Rankin scale is known"
        )
    return rows


def _participant(name: str) -> str:
    """Return the participant of a file name.

    >>> _participant("bwsrsub-1000_lesion.nii.gz")
    'sub-1000'
    """
    match = re.search(r"sub-[A-Za-z0-9]+", name)
    return match.group() if match else name


def _case(row: dict[str, str], files: dict[str, Path], table: Path, number: int) -> LesionCase | None:
    values = {}
    for name in ("age", "nihss", _RANKIN):
        text = (row.get(name) or "").strip()
        try:
            values[name] = math.nan if text.lower() in _MISSING else float(text.rstrip("+"))
        except ValueError:
            raise InputRefused(f"{table}, line {number}: {name} is {text!r}; a number is expected") from None
    mask = files.get(row["participant_id"])
    if mask is None or math.isnan(values["nihss"]):
        return None
    sex = (row.get("sex") or "").strip().upper()[:1]
    male = {"M": 1.0, "F": 0.0}.get(sex, math.nan)
    return LesionCase(row["participant_id"], mask, values["age"], male, values["nihss"], values[_RANKIN])
