"""Our population atlas of the corticospinal tract beside the published ones, level by level.

python benchmarks/anatomy.py [--all]

`--all` adds the levels above 60 mm and below -45 mm, where the atlases end or are cut.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from ichnos.anatomy import tract
from ichnos.anatomy.published import LEVELS_MM, SHARES, SectionComparison, compared
from ichnos.volume import volume_ml


def main(*, everything: bool = False) -> list[dict[str, Any]]:
    """Return one row per side, share and level, then the volumes and how many levels miss."""
    population = {side: tract.population(side) for side in tract.SIDES}
    rows = [row for row in compared(population) if everything or row.z_mm in LEVELS_MM]
    return [_line(row) for row in rows]


def summary() -> list[dict[str, Any]]:
    """Return volumes of the atlas, and how many of the judged sections miss in what."""
    population = {side: tract.population(side) for side in tract.SIDES}
    judged = [row for row in compared(population) if row.z_mm in LEVELS_MM]
    lines: list[dict[str, Any]] = [
        {
            "name": f"volume at share {share:g}, {side}",
            "value": volume_ml(population[side].with_array(np.asarray(population[side].array) >= share)),
            "unit": "mL",
        }
        for side in tract.SIDES
        for share in SHARES
    ]
    lines.append({"name": "sections judged (z 60 to -45 mm)", "value": len(judged), "unit": ""})
    for name in ("area", "x", "y", "length", "width", "direction"):
        missed = sum(name in row.misses for row in judged)
        lines.append({"name": f"sections outside: {name}", "value": missed, "unit": "", "wanted": "0"})
    return lines


def _line(row: SectionComparison) -> dict[str, Any]:
    sections = {**{name: row.published.get(name) for name in ("HCP", "Biobank")}, "ours": row.ours}
    shown: dict[str, Any] = {"side": row.side, "share": row.share, "z": row.z_mm}
    for title, form in _COLUMNS.items():
        shown[title] = " / ".join("-" if s is None else form(s) for s in sections.values())
    shown["outside"] = ", ".join(row.misses) or "-"
    shown["the two differ in"] = ", ".join(row.disagreement) or "-"
    return shown


_COLUMNS: dict[str, Callable[[Any], str]] = {
    "area, mm²": lambda s: f"{s.area_mm2:.0f}",
    "centre x, y, mm": lambda s: f"{s.x_mm:.1f} {s.y_mm:.1f}",
    "sd long, short, mm": lambda s: f"{s.sd_long_mm:.1f} {s.sd_short_mm:.1f}",
    "angle, °": lambda s: f"{s.angle_deg:.0f}",
}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Lay rows out as a table of a docs page."""
    lines = [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *(f"| {' | '.join(str(value) for value in row.values())} |" for row in rows)])


if __name__ == "__main__":
    from run import table

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--all", action="store_true", help="add the levels where the atlases end")
    print(markdown(main(everything=parser.parse_args().all)))
    print()
    print(table(summary()))
