"""How good the labels from partner exams are: the tract by displacement, and white-matter disease.

    python benchmarks/labels.py [--patients 4] [--heads FOLDER] [--only tract|flair]

On simulated patients, whose truth is known. Prints what is known so far after each patient: Dice of the tract
by how far mass effect moved it, volume of its label, and Dice and volume bias of our FLAIR segmenter. With
--heads every other patient has a head of people's label maps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _flair_volume
import _tract_labels
from run import table

Rows = list[dict[str, Any]]
_PARTS: dict[str, Callable[[int, Path | None], Iterator[Rows]]] = {
    "tract": _tract_labels.measured,
    "flair": _flair_volume.measured,
}


def main(patients: int = 4, heads: Path | None = None) -> Rows:
    """Measure both labels and return their rows."""
    return [row for part in _PARTS.values() for row in list(part(patients, heads))[-1]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--heads", type=Path, help="folder of label maps of heads (default: MNI head)")
    parser.add_argument("--only", choices=list(_PARTS), help="one of the two (default: both)")
    given = parser.parse_args()
    for name in [given.only] if given.only else _PARTS:
        for done, rows in enumerate(_PARTS[name](given.patients, given.heads), 1):
            print(f"\n{name}, {done} of {given.patients} patients\n{table(rows)}", flush=True)
