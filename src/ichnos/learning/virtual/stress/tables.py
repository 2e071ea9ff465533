"""The tables of a stress test: accuracy, robustness, what was missed or invented, and the aims."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ichnos.anatomy.tract import SIDES
from ichnos.learning.virtual.stress.aims import aims_table
from ichnos.learning.virtual.stress.changes import CLOTS_ML
from ichnos.learning.virtual.stress.trial import ATLAS_SHARE, STRESSED

Row = Mapping[str, Any]
Tables = dict[str, list[dict[str, Any]]]
# Site of the simulation -> how reading names it; the others keep their names.
_SITES_READ = {"putamen": "basal ganglia", "caudate": "basal ganglia", "lobar": "lobe", "pons": "brainstem"}
_PRESENT_ML = 0.5  # from this volume on, a target is there
_CLOT_AIMS = (0.5, 0.75, 0.85, 0.9)  # least median Dice of pasted clots of CLOTS_ML
_WORDS = {"yes": "reached", "no": "missed"}
_CHANGES = (  # (key of a row, the unchanged value, what was changed)
    ("offsets", 0.0, "HU -8 to +8"),
    ("thickness", 5.0, "slices of 1 to 6 mm"),
    ("tilts", 0.0, "tilt of 15 degrees"),
)


def stress_tables(rows: Sequence[Row]) -> Tables:
    """Return every table of a stress test, from the rows of its patients."""
    tables: Tables = {
        "accuracy": [_accuracy(name, rows) for name in STRESSED],
        "with and without the refinement": _refinement(rows),
        "tract by method": _tracts(rows),
        "sites": _sites(rows),
        "scanner": _by("scanner", rows),
        "thickness_mm": _by("thickness_mm", rows),
        "robustness": [*_false_blood(rows), *_clots(rows), *_deviations(rows)],
        "missed or invented": [*_missed(rows), *_large_errors(rows)],
    }
    return tables | {"aims": aims_table(tables, rows)}


def _present(name: str, rows: Iterable[Row]) -> list[Row]:
    return [row["targets"][name] for row in rows if row["targets"][name]["true_ml"] >= _PRESENT_ML]


def _accuracy(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    there = _present(name, rows)
    if not there:
        return {"target": name, "scans": 0}
    errors = [t["ml"] - t["true_ml"] for t in there]
    inside = [row["targets"][name]["inside"] for row in rows if row["targets"][name]["inside"] is not None]
    return {
        "target": name,
        "scans": len(there),
        "median Dice": _three(np.median([t["dice"] for t in there])),
        "mean Dice": _three(np.mean([t["dice"] for t in there])),
        "median absolute volume error mL": _two(np.median(np.abs(errors))),
        "mean volume error mL": _two(np.mean(errors)),
        "true volume within the interval": f"{sum(inside)} of {len(inside)}" if inside else "no interval",
    }


def _refinement(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Compare the overlap with and without the refinement in the same scans."""
    out = []
    for name in STRESSED:
        there = [row for row in rows if "first" in row and row["targets"][name]["true_ml"] >= _PRESENT_ML]
        if there:
            without = [row["first"][name] for row in there]
            refined = [row["targets"][name]["dice"] for row in there]
            out.append(
                {
                    "target": name,
                    "scans": len(there),
                    "median Dice without": _three(np.median(without)),
                    "median Dice with": _three(np.median(refined)),
                    "mean Dice without": _three(np.mean(without)),
                    "mean Dice with": _three(np.mean(refined)),
                }
            )
    return out


def _tracts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the overlap of both tracts of everyone, by method; a reading uses the last."""
    alone = [method for row in rows for method in row["tracts"]]
    read = [row["targets"][f"tract_{side}"]["dice"] for row in rows if row["tracts"] for side in SIDES]
    methods = {
        f"atlas alone, share above {ATLAS_SHARE}": [method["atlas"] for method in alone],
        "first network alone": [method["network"] for method in alone],
        "as read": read,
    }
    return [
        {
            "method": method,
            "tracts": len(overlaps),
            "median Dice": _three(np.median(overlaps)),
            "mean Dice": _three(np.mean(overlaps)),
        }
        for method, overlaps in methods.items()
        if overlaps
    ]


def _sites(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return how often the site of a haematoma that was read is right, by its true site."""
    out = []
    for site in sorted({row["site"][0] for row in rows if row["bled"]}):
        named = [row["site"][1] for row in rows if row["site"][0] == site and row["site"][1] is not None]
        wanted = _SITES_READ.get(site, site)
        wrong = sorted({name for name in named if not name.endswith(wanted)})
        right = sum(name.endswith(wanted) for name in named)
        out.append({"site": site, "read": len(named), "right": right, "otherwise": ", ".join(wrong)})
    return out


def _by(key: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return [
        {key: value, "scans": len(group), **{name: _median_dice(name, group) for name in STRESSED}}
        for value, group in sorted(groups.items())
    ]


def _median_dice(name: str, rows: Sequence[Row]) -> float | str:
    there = _present(name, rows)
    return _three(np.median([t["dice"] for t in there])) if there else "absent in all"


# ---- robustness ----------------------------------------------------------------------------------


def _robust(what: str, aim: str, values: Sequence[float], value: Any) -> dict[str, Any]:
    return {"test": what, "aim": aim, "value": _two(value), "scans": len(values)}


def _false_blood(rows: Sequence[Row]) -> list[dict[str, Any]]:
    clean = [row["blood_ml"] for row in rows if not row["bled"]]
    if not clean:
        return []
    return [_robust("false blood, 95th percentile, mL", "<= 0.5", clean, np.percentile(clean, 95))]


def _clots(rows: Sequence[Row]) -> list[dict[str, Any]]:
    pasted = [row["clots"] for row in rows if "clots" in row]
    if not pasted:
        return []
    out = []
    for ml, aim in zip(CLOTS_ML, _CLOT_AIMS, strict=True):
        as_ich = [clots[f"{ml:g}"]["ich"] for clots in pasted]
        as_blood = [clots[f"{ml:g}"]["blood"] for clots in pasted]
        clot = f"pasted clot of {ml:g} mL"
        out.append(_robust(f"{clot}, median Dice", f">= {aim}", as_ich, np.median(as_ich)))
        out.append(_robust(f"{clot}, median Dice as any blood", "", as_blood, np.median(as_blood)))
    return out


def _deviations(rows: Sequence[Row]) -> list[dict[str, Any]]:
    changed = [row["changes"] for row in rows if "changes" in row]
    out = []
    for key, reference, what in _CHANGES:
        for name in ("ich", "ventricles"):
            volumes = [{float(k): v for k, v in row[key][name].items()} for row in changed]
            values = [v for one in volumes if (v := deviation_percent(one, reference)) == v]
            if values:
                label = f"{name}, {what}: median greatest change, %"
                out.append(_robust(label, "<= 10", values, np.median(values)))
    return out


def deviation_percent(volumes_ml: Mapping[float, float], reference: float) -> float:
    """Return the greatest deviation from the volume at the reference, per cent of it; NaN where that is 0.

    >>> deviation_percent({-8.0: 9.0, 0.0: 10.0, 8.0: 10.5}, 0.0)
    10.0
    """
    base = volumes_ml[reference]
    return 100 * max(abs(v - base) for v in volumes_ml.values()) / base if base > 0 else float("nan")


# ---- what was missed -----------------------------------------------------------------------------


def _missed(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return how often what is there was not found, and what is not there was."""
    bled = [row["targets"]["ich"] for row in rows if row["bled"]]
    clean_ml = [row["blood_ml"] for row in rows if not row["bled"]]
    ivh, pale = ([row["targets"][name] for row in rows] for name in ("ivh", "leukoaraiosis"))
    hits = {
        "haematoma, none found": [t["ml"] == 0 for t in bled],
        "haematoma, Dice below 0.7": [t["dice"] < 0.7 for t in bled],
        "no haematoma, any blood found": [ml > 0 for ml in clean_ml],
        "ventricular blood, none found": [t["ml"] == 0 for t in ivh if t["true_ml"] >= _PRESENT_ML],
        "no ventricular blood, 0.5 mL or more found": _invented(ivh),
        "no leukoaraiosis, 0.5 mL or more found": _invented(pale),
    }
    for ml in CLOTS_ML:
        pasted = [row["clots"][f"{ml:g}"] for row in rows if "clots" in row]
        hits[f"pasted clot of {ml:g} mL, not found as haematoma"] = [clot["ich"] == 0 for clot in pasted]
        hits[f"pasted clot of {ml:g} mL, not found as any blood"] = [clot["blood"] == 0 for clot in pasted]
    return [{"what": what, "patients": f"{sum(hit)} of {len(hit)}"} for what, hit in hits.items() if hit]


def _invented(targets: Sequence[Row]) -> list[bool]:
    return [t["ml"] >= _PRESENT_ML for t in targets if t["true_ml"] < _PRESENT_ML]


def _large_errors(rows: Sequence[Row]) -> list[dict[str, Any]]:
    out = []
    for what, name, least_ml in (("haematomas", "ich", 60.0), ("oedema", "phe", 30.0)):
        targets = [row["targets"][name] for row in rows]
        errors = [t["ml"] - t["true_ml"] for t in targets if t["true_ml"] >= least_ml]
        if errors:
            label = f"{what} from {least_ml:g} mL: mean volume error {np.mean(errors):.1f} mL"
            out.append({"what": label, "patients": str(len(errors))})
    return out


# ---- what becomes of the tables ------------------------------------------------------------------


def stress_measures(tables: Tables) -> tuple[dict[str, float], dict[str, float]]:
    """Return what a card should say: of the model as it reads, and of its first network alone."""
    as_read = {
        f"{row['aim']}, asked {row['asked']}: {_WORDS[row['reached']]} ({row['scans']} simulated scans)": row[
            "value"
        ]
        for row in tables["aims"]
        if row["reached"] in _WORDS
    }
    false_blood = tables["robustness"][0]
    as_read[f"{false_blood['test']} ({false_blood['scans']} scans)"] = false_blood["value"]
    without = {
        f"median Dice without the refinement, {row['target']} ({row['scans']} simulated scans)": row[
            "median Dice without"
        ]
        for row in tables["with and without the refinement"]
    }
    return as_read, without


def stress_markdown(tables: Tables) -> str:
    """Lay the tables out as Markdown.

    >>> print(stress_markdown({"sites": [{"site": "pons", "read": 2}]}), end="")
    **sites**
    <BLANKLINE>
    | site | read |
    | --- | --- |
    | pons | 2 |
    """
    return "\n\n".join(_markdown(title, rows) for title, rows in tables.items() if rows) + "\n"


def _markdown(title: str, rows: Sequence[Row]) -> str:
    columns = list(rows[0])
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    lines = ["| " + " | ".join(line) + " |" for line in (columns, ["---"] * len(columns), *cells)]
    return f"**{title}**\n\n" + "\n".join(lines)


def _three(value: Any) -> float:
    return round(float(value), 3)


def _two(value: Any) -> float:
    return round(float(value), 2)
