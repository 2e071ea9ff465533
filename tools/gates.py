"""Try a model on simulated scans of heads that it never saw, gates first, accuracy second: `make gates`.

A run that was stopped goes on where it was; OUT/gates.json and OUT/gates.md hold the tables.

python tools/gates.py --heads FOLDER_OF_LABEL_MAPS --patients 200 --workers 2 -o build/gates [--note]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache as kept_once
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos.anatomy.tract import SIDES, population
from ichnos.inference import Prediction, Predictor
from ichnos.inference.coordinates import AtlasCoordinates
from ichnos.learning.virtual.batches import scanned
from ichnos.learning.virtual.default_model import HELD_OUT
from ichnos.learning.virtual.stress import (
    CLOTS_ML,
    SHIFTS_HU,
    Reader,
    blood_ml,
    deviation_percent,
    dice,
    reader_of,
    shifted,
    with_clot,
)
from ichnos.models import Model, default_model, load_model, note_validation
from ichnos.prognosis.volume import load_volume_calibration
from ichnos.reading.masks import Masks, consistent_masks
from ichnos.reading.measures.site import site_measure
from ichnos.runs import Numbered, apply
from ichnos.scan import Scan
from ichnos.simulation.exams.scanners import CENTRES, CtProtocol, draw_protocol
from ichnos.simulation.heads.from_labels import labelled_head
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient
from ichnos.volume import Volume, volume_ml

SHOWN = {
    "ich": "ICH",
    "ivh": "IVH",
    "phe": "PHE",
    "leukoaraiosis": "leukoaraiosis",
}  # whose volumes are told, by the names that masks bear
TARGETS = ("ich", "ivh", "phe", "leukoaraiosis", "tract_left", "tract_right", "brain", "ventricles")
THICKNESS_MM = (1.0, 2.5, 5.0, 6.0)
TILTS_DEG = (-15.0, 15.0)
SITES_READ = {
    "putamen": "basal ganglia",
    "caudate": "basal ganglia",
    "lobar": "lobe",
    "pons": "brainstem",
}  # others by their own names
ATLAS_SHARE = 0.4  # of a population's tracts, where the atlas alone decides
Predict = Callable[[Scan], Prediction]
SEED = 770_000  # far from every seed of a training


@dataclass(frozen=True)
class Trial:
    """Who is tried and how much is done with each."""

    heads: tuple[Path, ...]  # held out; empty: the MNI head, which the model has seen
    cache: Path | None
    gates: int  # so many patients, if they bled, are shifted, thickened and tilted too

    def patient(self, number: int) -> VirtualPatient:
        """Make the patient of a number; every third never bled."""
        spec = PatientSpec(haematoma_probability=0.0 if number % 3 == 0 else 1.0, followup=False)
        return simulate_patient(SEED + number, self._head(number), spec)

    def _head(self, number: int) -> SourceHead:
        return (
            labelled_head(self.heads[number % len(self.heads)], self.cache)
            if self.heads
            else mni_head(self.cache)
        )


@kept_once
def reader(model: Path, threads: int) -> Predictor:
    """Return the model's predictor, made once in each process."""
    return Predictor(load_model(model), threads=threads)


def tried(case: Numbered, folder: Path, *, trial: Trial, model: Path, threads: int) -> dict[str, Any]:
    """Read one patient, compare with the truth, and pass the gates where it is that patient's turn."""
    del folder
    torch.set_num_threads(threads)
    number, predict = case.number, reader(model, threads)
    patient = trial.patient(number)
    rng = np.random.default_rng([SEED, number])
    protocol = draw_protocol(CENTRES[sorted(CENTRES)[number % len(CENTRES)]], rng=rng)
    scan, truth = scanned(patient, protocol, number, TARGETS)
    started = time.perf_counter()
    prediction = predict(scan)
    place = prediction.atlas_coordinates()
    masks = consistent_masks(prediction, place)
    row: dict[str, Any] = {
        "number": number,
        "head": patient.latent.source,
        "scanner": protocol.scanner.vendor,
        "thickness_mm": protocol.thickness_mm,
        "bled": patient.latent.has_haematoma,
        "seconds": time.perf_counter() - started,
        "blood_ml": blood_ml(masks),
        "targets": {name: compared(name, masks, truth[name], prediction) for name in TARGETS},
        "tracts": tract_ways(prediction, place, truth),
        "site": (
            patient.latent.site,
            site_measure(place, masks.ich).value if masks.ich.array.any() else None,
        ),
    }
    if prediction.refined is not None:
        first = consistent_masks(replace(prediction, refined=None), place)
        row["first"] = {name: dice(getattr(first, name), truth[name]) for name in TARGETS} | {
            "blood_ml": blood_ml(first)
        }
    read = reader_of(predict)
    if not patient.latent.has_haematoma:
        row["clots"] = clots(scan, truth, read, rng)
    elif number < trial.gates:
        row["gates"] = gates(patient, protocol, scan, read)
    return row


def compared(name: str, masks: Masks, truth: Volume, prediction: Prediction) -> dict[str, Any]:
    """Return how one mask, and the interval of its volume where a law gives one, compare with the truth."""
    found, true_ml = getattr(masks, name), volume_ml(truth)
    law = load_volume_calibration(prediction.model.folder)
    interval = law.interval_ml(SHOWN[name], volume_ml(found)) if law is not None and name in SHOWN else None
    held = None if interval is None else bool(interval[0] <= true_ml <= interval[1])
    return {
        "dice": dice(found, truth),
        "ml": volume_ml(found),
        "true_ml": true_ml,
        "interval_ml": interval,
        "held": held,
    }


def tract_ways(
    prediction: Prediction, place: AtlasCoordinates | None, truth: dict[str, Any]
) -> list[dict[str, float]]:
    """Return the overlap of each tract by each way to it: looked up in the atlas alone, drawn by the first
    network alone.
    """
    if place is None:
        return []
    return [
        {
            "atlas": dice(
                place.look_up(population(side)).map_array(lambda a: a > ATLAS_SHARE), truth[f"tract_{side}"]
            ),
            "drawn": dice(
                replace(prediction, refined=None).mask(f"tract_{side}").reoriented("RAS"),
                truth[f"tract_{side}"],
            ),
        }
        for side in SIDES
    ]


def clots(
    scan: Scan, truth: dict[str, Any], read: Reader, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Paste clots into a head without blood, one at a time; return the overlap of the haematoma, and of
    blood of both kinds.
    """
    tissue = truth["brain"].with_array(
        np.asarray(truth["brain"].array) > np.asarray(truth["ventricles"].array)
    )
    out = {}
    for ml in CLOTS_ML:
        pasted, mask = with_clot(scan, tissue, ml=ml, rng=rng)
        masks = read(pasted)
        blood = masks.ich.map_array(lambda a, ivh=masks.ivh.array: a | ivh)
        out[f"{ml:g}"] = {"ich": dice(masks.ich, mask), "blood": dice(blood, mask)}
    return out


def gates(patient: VirtualPatient, protocol: CtProtocol, scan: Scan, read: Reader) -> dict[str, Any]:
    """Shift, thicken and tilt the scan of a patient who bled."""
    offsets = _volumes({hu: (lambda hu=hu: shifted(scan, hu=hu)) for hu in SHIFTS_HU}, read)
    still = replace(protocol, motion_mm=0.0, metal=False)

    def rescanned(**changes: float) -> Callable[[], Scan]:
        return lambda: scanned(patient, replace(still, **changes), 1, TARGETS)[0]

    thick = _volumes(
        {t: rescanned(thickness_mm=t, step_mm=t, noise_hu=3.5 * (5 / t) ** 0.5) for t in THICKNESS_MM}, read
    )
    tilts = _volumes({t: rescanned(tilt_deg=t) for t in (0.0, *TILTS_DEG)}, read)
    return {"offsets": offsets, "thickness": thick, "tilts": tilts}


def _volumes(scans: dict[float, Callable[[], Scan]], read: Reader) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {"ich": {}, "ventricles": {}}
    for key, scan in scans.items():
        masks = read(scan())
        for name, found in out.items():
            found[f"{key:g}"] = volume_ml(getattr(masks, name))
    return out


def summary(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the tables: accuracy per target, per scanner, per thickness; and the gates."""
    accuracy = [_accuracy(name, rows) for name in TARGETS]
    by = {
        key: [
            {key: value, "scans": len(group), **{n: _median_dice(n, group) for n in TARGETS}}
            for value, group in sorted(_grouped(rows, key).items())
        ]
        for key in ("scanner", "thickness_mm")
    }
    ways = {
        "worth of the refinement": _refinement_rows(rows),
        "ways to the tract": _tract_rows(rows),
        "sites": _site_rows(rows),
    }
    return {
        "accuracy": accuracy,
        **ways,
        **by,
        "gates": _gate_rows(rows),
        "what is missed": _missed_rows(rows),
    }


def _refinement_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the overlap with and without the refinement, in the same scans; without it the rules of
    density draw the borders.
    """
    out = []
    for name in TARGETS:
        there = [row for row in rows if "first" in row and row["targets"][name]["true_ml"] >= 0.5]
        if there:
            before, after = (
                [row["first"][name] for row in there],
                [row["targets"][name]["dice"] for row in there],
            )
            told = {
                f"{what.__name__} Dice {how}": _shown(what(d))
                for what in (np.median, np.mean)
                for how, d in (("without", before), ("with", after))
            }
            out.append({"target": name, "scans": len(there), **told})
    return out


def _tract_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the overlap of both tracts of everyone, by the way they were found; what ships is the last."""
    alone = [way for row in rows for way in row["tracts"]]
    shipped = [row["targets"][f"tract_{side}"]["dice"] for row in rows if row["tracts"] for side in SIDES]
    ways = {
        f"atlas alone, share above {ATLAS_SHARE}": [way["atlas"] for way in alone],
        "first network's drawing alone": [way["drawn"] for way in alone],
        "what is read": shipped,
    }
    return [
        {
            "way": way,
            "tracts": len(found),
            "median Dice": _shown(np.median(found)),
            "mean Dice": _shown(np.mean(found)),
        }
        for way, found in ways.items()
        if found
    ]


def _site_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how often the site of a haematoma that was found was named rightly, by where it began."""
    out = []
    for site in sorted({row["site"][0] for row in rows if row["bled"]}):
        read = [row["site"][1] for row in rows if row["site"][0] == site and row["site"][1] is not None]
        wanted = SITES_READ.get(site, site)
        others = sorted({name for name in read if not name.endswith(wanted)})
        right = sum(name.endswith(wanted) for name in read)
        out.append(
            {"began in": site, "found": len(read), "named rightly": right, "else named": ", ".join(others)}
        )
    return out


def _shown(value: Any) -> float:
    return round(float(value), 3)


def _accuracy(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    there = [row["targets"][name] for row in rows if row["targets"][name]["true_ml"] >= 0.5]
    errors = [t["ml"] - t["true_ml"] for t in there]
    overlaps = [t["dice"] for t in there]
    if not there:
        return {"target": name, "scans": 0}
    told = [row["targets"][name]["held"] for row in rows if row["targets"][name]["held"] is not None]
    return {
        "target": name,
        "scans": len(there),
        "median Dice": _shown(np.median(overlaps)),
        "mean Dice": _shown(np.mean(overlaps)),
        "median absolute volume error mL": round(float(np.median(np.abs(errors))), 2),
        "mean volume error mL": round(float(np.mean(errors)), 2),
        "true volume within the interval": f"{sum(told)} of {len(told)}" if told else "no interval",
    }


def _median_dice(name: str, rows: list[dict[str, Any]]) -> float | str:
    found = [row["targets"][name]["dice"] for row in rows if row["targets"][name]["true_ml"] >= 0.5]
    return _shown(np.median(found)) if found else "none had it"


def _grouped(rows: list[dict[str, Any]], key: str) -> dict[Any, list[dict[str, Any]]]:
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return groups


def _gate_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clean = [row["blood_ml"] for row in rows if not row["bled"]]
    out = []
    if clean:
        out.append(
            {
                "gate": "false blood, 95th percentile, mL",
                "aim": "<= 0.5",
                "value": _rounded(np.percentile(clean, 95)),
                "scans": len(clean),
            }
        )
    pasted = [row["clots"] for row in rows if "clots" in row]
    for ml, aim in zip(CLOTS_ML, (0.5, 0.75, 0.85, 0.9), strict=True):
        for kind, told, wanted in (
            ("ich", "median Dice", f">= {aim}"),
            ("blood", "median Dice as blood of either kind", ""),
        ):
            found = [c[f"{ml:g}"][kind] for c in pasted]
            if found:
                out.append(
                    {
                        "gate": f"pasted clot of {ml:g} mL, {told}",
                        "aim": wanted,
                        "value": _rounded(np.median(found)),
                        "scans": len(found),
                    }
                )
    changed = [row["gates"] for row in rows if "gates" in row]
    for key, reference, what in (
        ("offsets", 0.0, "HU -8 to +8"),
        ("thickness", 5.0, "slices of 1 to 6 mm"),
        ("tilts", 0.0, "tilt of 15 degrees"),
    ):
        for name in ("ich", "ventricles"):
            found = [
                deviation_percent({float(k): v for k, v in g[key][name].items()}, reference) for g in changed
            ]
            found = [value for value in found if value == value]
            if found:
                out.append(
                    {
                        "gate": f"{name}, {what}: median greatest change, %",
                        "aim": "<= 10",
                        "value": _rounded(np.median(found)),
                        "scans": len(found),
                    }
                )
    return out


def _missed_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how often what is there was not found, and what is not there was; a target is there from 0.5
    mL.
    """
    ich, ivh, phe, pale = ([row["targets"][name] for row in rows] for name in SHOWN)
    bled = [row["targets"]["ich"] for row in rows if row["bled"]]
    clean = [row["blood_ml"] for row in rows if not row["bled"]]
    counted: dict[str, list[bool]] = {
        "bled, no haematoma found": [t["ml"] == 0 for t in bled],
        "bled, Dice of the haematoma below 0.7": [t["dice"] < 0.7 for t in bled],
        "never bled, any blood found": [ml > 0 for ml in clean],
        "ventricular blood, none found": [t["ml"] == 0 for t in ivh if t["true_ml"] >= 0.5],
        "no ventricular blood, 0.5 mL or more found": [t["ml"] >= 0.5 for t in ivh if t["true_ml"] < 0.5],
        "no leukoaraiosis, 0.5 mL or more found": [t["ml"] >= 0.5 for t in pale if t["true_ml"] < 0.5],
    }
    for ml in CLOTS_ML:
        pasted = [row["clots"][f"{ml:g}"] for row in rows if "clots" in row]
        counted[f"pasted clot of {ml:g} mL, not told as a haematoma"] = [clot["ich"] == 0 for clot in pasted]
        counted[f"pasted clot of {ml:g} mL, not told as any blood"] = [clot["blood"] == 0 for clot in pasted]
    out = [{"what": what, "patients": f"{sum(hit)} of {len(hit)}"} for what, hit in counted.items() if hit]
    for what, found, least in (("haematomas", ich, 60.0), ("oedema", phe, 30.0)):
        errors = [t["ml"] - t["true_ml"] for t in found if t["true_ml"] >= least]
        if errors:
            out.append(
                {
                    "what": f"{what} from {least:g} mL: mean volume error {np.mean(errors):.1f} mL",
                    "patients": str(len(errors)),
                }
            )
    return out


def note(model: Model, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Write what was found into the cards: that of the refinement tells what is read, the first network's
    what is read without it.
    """
    found = {
        f"median Dice, {row['target']} ({row['scans']} simulated scans)": row["median Dice"]
        for row in tables["accuracy"]
        if row["scans"]
    }
    false_blood = tables["gates"][0]
    found[f"{false_blood['gate']} ({false_blood['scans']} scans)"] = false_blood["value"]
    refinement = model.refinement()
    if refinement is None:
        note_validation(model, found)
        return
    without = {
        f"median Dice without the refinement, {row['target']} ({row['scans']} simulated scans)": row[
            "median Dice without"
        ]
        for row in tables["worth of the refinement"]
    }
    note_validation(refinement, found)
    note_validation(model, without)


def _rounded(value: Any) -> float:
    return round(float(value), 2)


def markdown(tables: dict[str, list[dict[str, Any]]]) -> str:
    """Lay the tables out for docs/models.md."""
    parts = []
    for title, rows in tables.items():
        if rows:
            columns = list(rows[0])
            lines = [
                columns,
                ["---"] * len(columns),
                *[[str(row.get(c, "")) for c in columns] for row in rows],
            ]
            parts.append(f"**{title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Read the patients that are not in the ledger yet, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--heads", type=Path, help="folder of label maps, of which the last four were never trained on"
    )
    parser.add_argument("--model", type=Path, help="a model folder; the default model without it")
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument(
        "--gates",
        type=int,
        default=18,
        help="patients who, if they bled, are shifted, thickened and tilted too",
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each worker")
    parser.add_argument("-o", "--out", type=Path, default=Path("build/gates"))
    parser.add_argument("--cache", type=Path, default=Path("build/heads"))
    parser.add_argument("--note", action="store_true", help="write what was found into the model's cards")
    given = parser.parse_args()
    heads = tuple(sorted(given.heads.glob("*.nii*")))[-HELD_OUT:] if given.heads else ()
    model = load_model(given.model) if given.model else default_model()
    trial = Trial(heads, given.cache, given.gates)
    task = partial(tried, trial=trial, model=model.folder, threads=max(1, given.threads // given.workers))
    settings = {"model": model.all_weights(), "heads": [head.name for head in heads], "gates": given.gates}
    cases = [Numbered(number) for number in range(given.patients)]
    done = apply(
        task,
        cases,
        out=given.out,
        settings=settings,
        name="gates",
        workers=given.workers,
        progress=sys.stderr.isatty(),
    )
    for failure in done.failures:
        print(f"patient {failure.id} failed: {failure.why}", file=sys.stderr)
    rows = list(done.rows)
    tables = summary(rows)
    (given.out / "gates.json").write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")
    (given.out / "gates.md").write_text(markdown(tables), encoding="utf-8")
    print(markdown(tables))
    if given.note:
        note(model, tables)
    return 1 if done.failures else 0


if __name__ == "__main__":
    sys.exit(main())
