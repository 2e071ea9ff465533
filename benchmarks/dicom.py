"""Opening a head CT against SimpleITK's reader, scanning a folder against pydicom, and the memory that
opening takes.

python benchmarks/dicom.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROUNDS = 9
SLICES, SIZE = 40, 512
FILES = 5000


def best_of_pairs(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Return the shortest time of each, in seconds, taken in turns so that both see the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, taken in zip((ours, theirs), times, strict=True):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
    return min(times[0]), min(times[1])


def write_head(
    folder: Path, *, slices: int, size: int, steps_mm: float = 4.0, seed: str = "benchmark"
) -> None:
    """Write a noisy round head as a DICOM series."""
    from ichnos.formats.dicom import Plane, SeriesHeader, stack_affines, write_series

    rng = np.random.default_rng(0)
    affines = stack_affines(
        centre_mm=(0, 0, 0), shape=(size, size), pixel_mm=230 / size, steps_mm=[steps_mm] * (slices - 1)
    )
    y, x = np.mgrid[:size, :size] / size - 0.5
    head = np.where(np.hypot(x, y) < 0.4, 35.0, -1000.0)
    write_series(
        [Plane(head + rng.normal(0, 5, head.shape), a) for a in affines],
        folder,
        header=SeriesHeader(seed=seed),
    )


def write_packed(folder: Path, out: Path) -> None:
    """Copy a series as JPEG 2000."""
    import pydicom

    out.mkdir()
    for file in sorted(folder.iterdir()):
        data = pydicom.dcmread(file)
        data.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
        data.save_as(out / file.name)


def load_rows(folder: Path) -> list[dict[str, object]]:
    """Time `open_scan` against SimpleITK's ImageSeriesReader on the same files, folder listing included in
    both.
    """
    import SimpleITK as sitk

    from ichnos.formats import open_scan

    def with_itk() -> object:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        return reader.Execute()

    def with_itk_reader_only() -> object:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(names)
        return reader.Execute()

    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    ours, itk = best_of_pairs(lambda: open_scan(folder), with_itk, ROUNDS)
    again, itk_only = best_of_pairs(lambda: open_scan(folder), with_itk_reader_only, ROUNDS)
    what = f"open {SLICES}x{SIZE}x{SIZE}"
    return [
        {
            "name": f"{what}, against SimpleITK listing and reading",
            "value": ours,
            "unit": "s",
            "other": itk,
            "ratio": ours / itk,
            "bound": 1.5,
        },
        {
            "name": f"{what}, against SimpleITK reading alone",
            "value": again,
            "unit": "s",
            "other": itk_only,
            "ratio": again / itk_only,
            "bound": 1.5,
        },
    ]


def scan_row(folder: Path) -> dict[str, object]:
    """Time `inspect` of a folder of many files against reading each header once with pydicom."""
    import pydicom

    from ichnos.formats import inspect_path

    files = sorted(folder.rglob("*.dcm"))

    def read_each() -> None:
        for file in files:
            pydicom.dcmread(file, stop_before_pixels=True)

    ours, theirs = best_of_pairs(lambda: inspect_path(folder), read_each, 3)
    return {
        "name": f"inspect {len(files)} files, against pydicom",
        "value": ours,
        "unit": "s",
        "other": theirs,
        "ratio": ours / theirs,
        "bound": 1.2,
    }


_MEMORY = """
import sys, tracemalloc
from ichnos.formats import open_scan
open_scan(sys.argv[2])  # what is imported on first use is not counted
tracemalloc.start()
scan = open_scan(sys.argv[1])
print(tracemalloc.get_traced_memory()[1] / (scan.hu.size * 4))
"""


def memory_row(folder: Path, small: Path, what: str) -> dict[str, object]:
    """Measure the most memory allocated at once while a scan is opened, as a multiple of the scan in
    float32.
    """
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(folder), str(small)], capture_output=True, text=True, check=True
    )
    value = float(done.stdout)
    return {
        "name": f"peak memory of opening {what}",
        "value": value,
        "unit": "float32 volumes",
        "ratio": value,
        "bound": 3.0,
    }


def main() -> list[dict[str, object]]:
    """Return one row per measurement."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_head(root / "head", slices=SLICES, size=SIZE)
        write_head(root / "small", slices=8, size=64)
        for k in range(FILES // 250):
            write_head(root / "many" / f"series{k:02d}", slices=250, size=32, steps_mm=0.6, seed=f"many {k}")
        write_packed(root / "head", root / "packed")
        plain, packed = (memory_row(root / kind, root / "small", kind) for kind in ("head", "packed"))
        return [*load_rows(root / "head"), scan_row(root / "many"), plain, packed]


if __name__ == "__main__":
    for row in main():
        print(
            "  ".join(
                f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}"
                for key, value in row.items()
            )
        )
