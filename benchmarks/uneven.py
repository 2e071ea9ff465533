"""A head of 14 slices of 4 mm and 14 of 7 mm, tilted, beside the same head on an even grid of 28 slices.

python benchmarks/uneven.py

Each is opened, read with the default model on one thread and saved, in a process of its own. Prints processor
seconds and peak memory of both and their ratio, which is to stay within 1.5.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

STEPS_MM = {"even": (5.5,) * 27, "uneven": (4.0,) * 13 + (5.5,) + (7.0,) * 13}


def write(folder: Path, steps: str) -> None:
    """Write the series as a GE scanner does: tilted, padded with -1500, of two image types if uneven."""
    import pydicom

    from builders.head import head_hu
    from builders.series import Quirks, build_series

    quirks = Quirks(
        shape=(512, 512),
        pixel_mm=0.45,
        steps_mm=STEPS_MM[steps],
        tilt_deg=18.5,
        vendor="ge",
        padding_hu=-1500,
    )
    files = build_series(head_hu(bleed_mm=18), folder, quirks)
    for file in files[14:] if steps == "uneven" else []:
        data = pydicom.dcmread(file)
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "ADD"]
        data.save_as(file)


def measured(folder: Path) -> dict[str, Any]:
    """Open, read and save a series; return processor seconds and peak memory of this process."""
    import ichnos
    from ichnos.api import save_reading
    from ichnos.formats import open_scan

    began = time.process_time()
    scan = open_scan(folder)
    reading = ichnos.read(scan, threads=1)
    with tempfile.TemporaryDirectory() as out:
        save_reading(reading, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"planes": scan.volume.shape[2], "s": time.process_time() - began, "peak MB": peak}


def main() -> list[dict[str, Any]]:
    """Measure both; return a row each and their ratio."""
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for steps in STEPS_MM:
            write(Path(home) / steps, steps)
            words = [sys.executable, __file__, str(Path(home) / steps)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            rows.append({"head": steps, **json.loads(done.stdout.splitlines()[-1])})
    even, uneven = rows
    return [*rows, {"head": "ratio", **{key: uneven[key] / even[key] for key in ("s", "peak MB")}}]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measured(Path(sys.argv[1]))))
    else:
        from run import table

        print(table(main()))
