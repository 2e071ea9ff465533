"""Evidence: surface metrics against surface-distance, DeLong against its pairwise twin, and the full pack of
500 cases.

python benchmarks/evidence.py [surfaces delong pack]
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from run import table

SPACING_MM = (0.5, 0.5, 5.0)
SHAPE = (512, 512, 32)


def main(parts: tuple[str, ...] = ("surfaces", "delong", "pack")) -> list[dict[str, Any]]:
    """Run the named parts; every ratio is of two things in this run."""
    makers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "surfaces": surfaces,
        "delong": delong,
        "pack": pack,
    }
    return [row for part in parts for row in makers[part]()]


def _best_s(call: Callable[[], Any], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def _masks() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Make pairs of masks as they come from NIfTI files (x fastest): a bleed, scattered white-matter
    lesions, a brain.
    """
    from scipy.ndimage import gaussian_filter

    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]

    def ball(cx: int, cy: int, radius_mm: float) -> np.ndarray:
        square = (
            ((x - cx) * SPACING_MM[0]) ** 2
            + ((y - cy) * SPACING_MM[1]) ** 2
            + ((z - 16) * SPACING_MM[2]) ** 2
        )
        return np.asfortranarray(square <= radius_mm**2)

    field = gaussian_filter(np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32), (5, 5, 1))
    level = field.std()
    scattered = (
        np.asfortranarray(field > 2.5 * level),
        np.asfortranarray(np.roll(field, 2, axis=0) > 2.4 * level),
    )
    return {
        "bleed of 65 mL": (ball(300, 250, 25), ball(304, 246, 26)),
        "scattered lesions": scattered,
        "brain": (ball(256, 256, 75), ball(258, 255, 74)),
    }


def surfaces() -> list[dict[str, Any]]:
    """Time HD95 and NSD of masks of 512 x 512 x 32 voxels, one thread each."""
    import surface_distance as reference

    from ichnos.evidence.metrics.surfaces import distances_between

    rows = []
    for name, (truth, guess) in _masks().items():

        def ours(a: np.ndarray = truth, b: np.ndarray = guess) -> tuple[float, float]:
            found = distances_between(a, b, SPACING_MM)
            return found.hausdorff_mm(95), found.normalised_surface_distance(2.0)

        def theirs(a: np.ndarray = truth, b: np.ndarray = guess) -> tuple[float, float]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = reference.compute_surface_distances(a, b, SPACING_MM)
            return reference.compute_robust_hausdorff(found, 95), reference.compute_surface_dice_at_tolerance(
                found, 2.0
            )

        ours()
        fast, slow = _best_s(ours), _best_s(theirs, 3)
        (hd95, nsd), (hd95_reference, nsd_reference) = ours(), theirs()
        same = f"HD95 {hd95:.2f}/{hd95_reference:.2f} mm, NSD {nsd:.4f}/{nsd_reference:.4f}"
        rows.append(
            {
                "name": f"surfaces: {name}",
                "value": fast,
                "unit": "s",
                "against": slow,
                "ratio": slow / fast,
                "note": same,
            }
        )
    return rows


def delong() -> list[dict[str, Any]]:
    """Time the area with its error on many cases, and against the pairwise twin on 5,000 of each class."""
    from ichnos.evidence.metrics.discrimination import _slow_auc, auc

    rng = np.random.default_rng(0)

    def cases(n: int, events: int) -> tuple[np.ndarray, np.ndarray]:
        outcome = np.arange(n) < events
        return outcome, rng.normal(size=n) + outcome

    large, middle = cases(100_000, 20_000), cases(5_000, 2_500)
    fast, slow = _best_s(lambda: auc(*middle), 20), _best_s(lambda: _slow_auc(*middle), 3)
    return [
        {"name": "DeLong, 100,000 cases", "value": _best_s(lambda: auc(*large)), "unit": "s"},
        {
            "name": "DeLong, 5,000 cases",
            "value": fast,
            "unit": "s",
            "against": slow,
            "ratio": slow / fast,
            "note": "pairwise twin",
        },
    ]


def pack() -> list[dict[str, Any]]:
    """Time the full pack with two workers on 500 cases of 512 x 512 x 32, and its memory at 60 and 500
    cases.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for patients in (60, 500):
            root = Path(folder) / str(patients)
            _cohort(root, patients)
            command = [sys.executable, "-c", _MEASURED, str(root)]
            seconds, main_mib, worker_mib = subprocess.run(
                command, check=True, capture_output=True, text=True
            ).stdout.split()[-3:]
            memory = f"{float(main_mib):.0f} MiB, each worker {float(worker_mib):.0f} MiB at most"
            rows.append(
                {
                    "name": f"evidence pack, {patients} cases, 2 workers",
                    "value": float(seconds),
                    "unit": "s",
                    "note": memory,
                }
            )
    return rows


_MEASURED = """
import resource, sys, time
from pathlib import Path
from ichnos.evidence.pack.pack import write_evidence
from ichnos.formats import bids
if __name__ == "__main__":
    root = Path(sys.argv[1])
    began = time.perf_counter()
    cohort = bids.read_cohort(root / "cohort")
    write_evidence(root / "predictions", [cohort], root / "out", workers=2, progress=False)
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    own, children = (resource.getrusage(who).ru_maxrss / 1024 for who in both)
    print(time.perf_counter() - began, own, children)
"""


def _cohort(root: Path, patients: int) -> None:
    """Write a cohort of full-size masks. Twelve different pairs serve all patients as links: reading and
    measuring is per patient.
    """
    from ichnos.cohort import Patient
    from ichnos.formats import bids, nifti
    from ichnos.volume import Volume

    rng = np.random.default_rng(0)
    pool = _pool(root, rng, nifti.save, Volume)
    people, lines = [], []
    for i in range(patients):
        name, truth, guess, ct = f"P{i:04d}", *pool[i % len(pool)]
        volume = float(rng.gamma(2, 10))
        grows = rng.random() < 0.2
        facts = {
            "age_years": 60.0,
            "onset_to_ct_h": float(rng.gamma(2, 1.5)),
            "ich_ml": volume,
            "ich_followup_ml": volume * (1.6 if grows else 1.0),
        }
        people.append(Patient(name, f"C{i % 4}", "test", facts=facts))
        for place, made in (
            (
                bids.derivative_path(root / "cohort", name, pipeline="truth", label="haematoma", kind="dseg"),
                truth,
            ),
            (bids.exam_path(root / "cohort", name, "ct"), ct),
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(made)
        lines.append(
            [name, f"{np.clip(rng.normal(0.2 + 0.2 * grows, 0.1), 0.01, 0.99):.4f}", f"../pool/{guess.name}"]
        )
    bids.write_cohort(people, root / "cohort", name="benchmark")
    (root / "predictions").mkdir()
    with (root / "predictions" / "predictions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["patient", "expansion_probability", "mask_haematoma"], *lines])


def _pool(
    root: Path, rng: np.random.Generator, save: Callable[..., None], volume: Callable[..., Any]
) -> list[tuple[Path, Path, Path]]:
    (root / "pool").mkdir(parents=True)
    affine = np.diag([*SPACING_MM, 1.0])
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    made = []
    for i in range(12):
        at, radius_mm = rng.uniform((180, 180, 10), (330, 330, 22)), rng.uniform(10, 30)
        square = (
            ((x - at[0]) * SPACING_MM[0]) ** 2
            + ((y - at[1]) * SPACING_MM[1]) ** 2
            + ((z - at[2]) * SPACING_MM[2]) ** 2
        )
        truth = np.select([square <= radius_mm**2, square <= (radius_mm + 5) ** 2], [1, 3]).astype(np.uint8)
        ct = np.select([truth == 1, truth == 3], [60, 20], 32) + rng.normal(0, 4, SHAPE)
        pool = root / "pool"
        paths = pool / f"{i}_truth.nii.gz", pool / f"{i}_guess.nii.gz", pool / f"{i}_ct.nii.gz"
        for path, array in zip(
            paths, (truth, np.roll(truth, int(rng.integers(1, 6)), axis=0), ct.astype(np.int16)), strict=True
        ):
            save(volume(array, affine), path)
        made.append(paths)
    return made


if __name__ == "__main__":
    print(table(main(tuple(sys.argv[1:]) or ("surfaces", "delong", "pack"))))
