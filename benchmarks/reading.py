"""`ichnos read` on a 512 x 512 x 32 scan, from process start to files written, beside nnU-Net v2's predictor
on the same scan.

python benchmarks/reading.py [--model DIR] [--tiles N | --whole] [--scans N] [--threads N]
python benchmarks/reading.py --back-ends    # how far torch and OpenVINO differ on this scan, mask by mask

nnU-Net's plans come from its own planner for this scan's shape and spacing; its weights are random, which
changes no time. Its networks are timed on N tiles (1 unless told) and the time multiplied by the number of
tiles that its predictor would cut (x 8 or x 4 with mirroring); `--whole` runs all of them. Reading,
resampling and writing are not counted for nnU-Net: it is the network's time alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from run import table

SHAPE, SPACING_MM = (512, 512, 32), (0.45, 0.45, 5.0)
BLOOD_HU, CLASSES = 65.0, 4  # background, ICH, IVH, PHE: nnU-Net does less than we do


def write_scan(file: Path) -> None:
    """Write a made head with a clot as NIfTI."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from builders.head import head_hu
    from ichnos.formats import nifti
    from ichnos.volume import Volume

    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = -(np.array(SHAPE) - 1) / 2 * SPACING_MM
    hu = np.empty(SHAPE, np.int16)
    field = head_hu(bleed_mm=18)
    for z in range(SHAPE[2]):
        index = np.indices((*SHAPE[:2], 1)).transpose(1, 2, 3, 0) + np.array([0, 0, z])
        hu[..., z : z + 1] = field(index @ affine[:3, :3].T + affine[:3, 3])
    nifti.save(Volume(hu, affine), file)


def default_or_random(folder: Path) -> Path:
    """Return the default model, or one of its architecture with random weights, which takes the same time."""
    import torch

    from ichnos import networks
    from ichnos.learning.virtual.default_model import default_settings
    from ichnos.models import Manifest, Provenance, save_model
    from ichnos.models.store import DEFAULT, MANIFEST, SHIPPED

    if (SHIPPED / DEFAULT / MANIFEST).is_file():
        return SHIPPED / DEFAULT
    torch.manual_seed(0)
    how = default_settings(steps=1)
    network = networks.build(how.network.name, **how.network.arguments)
    bias = [p for p in network.parameters() if p.shape == (len(how.targets),)][-1]
    with torch.no_grad():
        bias.add_(torch.tensor([6.0 if target.name == "brain" else -2.0 for target in how.targets]))
    provenance = Provenance(
        code_version="0", command="none", seeds=(), steps=0, data={}, hardware="none", trained="2026-01-01"
    )
    manifest = Manifest(
        name="random",
        version="0",
        limits=(),
        network=how.network,
        preprocessing=how.preprocessing,
        targets=how.targets,
        provenance=provenance,
    )
    return save_model(folder, network, manifest).folder


def whole_command(scan: Path, model: Path, out: Path, threads: int) -> tuple[float, float]:
    """Return seconds from process start to files written, and the peak of resident memory in GiB."""
    code = "from ichnos.cli import main; main()"
    words = ["read", str(scan), "-o", str(out), "--model", str(model), "--threads", str(threads), "--json"]
    started = time.perf_counter()
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", code, *words],
        os.environ | {"OMP_NUM_THREADS": str(threads)},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, used = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"ichnos read left with status {status}")
    return time.perf_counter() - started, used.ru_maxrss / 2**20


def further_scans(scan: Path, model: Path, out: Path, threads: int, count: int) -> tuple[float, float]:
    """Read one scan several times in this process; return seconds of the last, and MiB that memory grew
    from the second to the last.
    """
    import psutil

    from ichnos.api import Engine, read_with, save_reading
    from ichnos.formats import open_scan

    predictor = Engine(model=str(model), threads=threads).predictor()
    resident = []
    for k in range(count):
        started = time.perf_counter()
        save_reading(read_with(predictor, open_scan(scan), name=f"scan{k}"), out / f"scan{k}")
        resident.append(psutil.Process().memory_info().rss / 2**20)
    return time.perf_counter() - started, resident[-1] - resident[1]


def back_ends(model: Path | None, threads: int) -> list[dict[str, object]]:
    """Read one scan with torch and with OpenVINO; return per mask how many voxels differ."""
    from ichnos.api import Engine, read_with
    from ichnos.formats import open_scan

    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        write_scan(Path(place) / "scan.nii.gz")
        scan = open_scan(Path(place) / "scan.nii.gz")
        chosen = model or default_or_random(Path(place) / "model")
        for name in ("torch", "openvino"):
            engine = Engine(model=str(chosen), backend=name, threads=threads)
            masks = read_with(engine.predictor(), scan, name="scan").masks
            found.append({} if masks is None else masks.named())
    first, second = found
    return [
        {
            "mask": name,
            "torch": np.count_nonzero(first[name].array),
            "OpenVINO": np.count_nonzero(second[name].array),
            "voxels that differ": np.count_nonzero((first[name].array > 0) != (second[name].array > 0)),
        }
        for name in first
    ]


# ---- nnU-Net
# ------------------------------------------------------------------------------------------


def nnunet_plans(folder: Path) -> dict[str, Any]:
    """Let nnU-Net's default planner plan for twenty scans of this shape and spacing."""
    number, name = 1, "Dataset001_Heads"
    places = {key: folder / key for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    os.environ.update({key: str(path) for key, path in places.items()})
    from ichnos.networks.nnunet import prepare

    prepare()
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    raw, ready = (places[key] / name for key in ("nnUNet_raw", "nnUNet_preprocessed"))
    for place in (raw / "imagesTr", raw / "labelsTr", ready):
        place.mkdir(parents=True)
    for k in range(20):
        write_scan_header(raw / "imagesTr" / f"h{k:02d}_0000.nii.gz")
        write_scan_header(raw / "labelsTr" / f"h{k:02d}.nii.gz")
    labels = {"background": 0, "ICH": 1, "IVH": 2, "PHE": 3}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 20, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(dataset))
    hu = {
        "max": 100.0,
        "mean": 50.0,
        "median": 50.0,
        "min": 0.0,
        "percentile_00_5": 5.0,
        "percentile_99_5": 90.0,
        "std": 15.0,
    }
    fingerprint = {
        "spacings": [list(SPACING_MM[::-1])] * 20,
        "shapes_after_crop": [list(SHAPE[::-1])] * 20,
        "foreground_intensity_properties_per_channel": {"0": hu},
        "median_relative_size_after_cropping": 1.0,
    }
    (ready / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its plans
        plans: dict[str, Any] = ExperimentPlanner(number, plans_name="nnUNetPlans").plan_experiment()
    return plans


def write_scan_header(file: Path) -> None:
    """Write a tiny image: the planner wants files to be there, and reads one to find out who can read
    them.
    """
    from ichnos.formats import nifti
    from ichnos.volume import Volume

    nifti.save(Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4)), file)


def nnunet_seconds(plans: dict[str, Any], configuration: str, tiles: int | None) -> tuple[float, int, int]:
    """Return seconds per tile, the number of tiles of the scan, and how many were timed (all where `tiles`
    is None).
    """
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    chosen = plans["configurations"][configuration]
    patch = chosen["patch_size"]
    how = chosen["architecture"]
    network = get_network_from_plans(
        how["network_class_name"],
        how["arch_kwargs"],
        how["_kw_requires_import"],
        1,
        CLASSES,
        allow_init=False,
        deep_supervision=False,
    ).eval()
    image = SHAPE[::-1] if len(patch) == 3 else SHAPE[1::-1]
    steps = compute_steps_for_sliding_window(tuple(image), tuple(patch), 0.5)
    count = int(np.prod([len(s) for s in steps])) * (1 if len(patch) == 3 else SHAPE[2])
    timed = count if tiles is None else min(tiles, count)
    tile = torch.zeros(1, 1, *patch)
    with torch.inference_mode():
        network(tile)  # the first one sets up
        started = time.perf_counter()
        for _ in range(timed):
            network(tile)
    return (time.perf_counter() - started) / timed, count, timed


def nnunet_rows(ours: float, tiles: int | None, threads: int) -> list[dict[str, object]]:
    """Time nnU-Net's default networks, with and without mirroring, against our time for the whole command."""
    import torch

    torch.set_num_threads(threads)
    rows: list[dict[str, object]] = []
    wanted = {("3d_fullres", True): ">= 100", ("3d_fullres", False): ">= 20", ("2d", False): "> 1"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plans = nnunet_plans(Path(folder))
        for configuration, mirrors in (("3d_fullres", 8), ("2d", 4)):
            each, count, timed = nnunet_seconds(plans, configuration, tiles)
            patch = "x".join(str(n) for n in plans["configurations"][configuration]["patch_size"])
            for mirroring in (True, False):
                passes = count * (mirrors if mirroring else 1)
                how = f"{passes} passes of {patch}, " + (
                    "all timed" if timed == passes else f"from {timed} timed at {each:.2f} s"
                )
                rows.append(
                    {
                        "name": f"nnU-Net {configuration}, mirroring {'on' if mirroring else 'off'}",
                        "value": each * passes,
                        "unit": "s",
                        "ratio": each * passes / ours,
                        "must reach": wanted.get((configuration, mirroring), ""),
                        "how": how,
                    }
                )
    return rows


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    """Rows: what, value, ratio to our whole command in the same run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--tiles", type=int, default=1)
    parser.add_argument("--scans", type=int, default=4, help="how many scans one process reads, 3 or more")
    parser.add_argument("--whole", action="store_true", help="time every tile")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--back-ends", action="store_true", help="compare torch with OpenVINO instead")
    given = parser.parse_args(arguments or [])
    if given.back_ends:
        return back_ends(given.model, given.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scan = folder / "scan.nii.gz"
        write_scan(scan)
        model = given.model or default_or_random(folder / "model")
        # fills the cache of compiled graphs, as a first use does
        whole_command(scan, model, folder / "warm", given.threads)
        ours, peak = whole_command(scan, model, folder / "timed", given.threads)
        further, grown = further_scans(scan, model, folder / "more", given.threads, given.scans)
    how = f"{model.name}, {given.threads} thread(s)"
    rows: list[dict[str, object]] = [
        {
            "name": "process start to files written",
            "value": ours,
            "unit": "s",
            "ratio": None,
            "must reach": "<= 15",
            "how": how,
        },
        {
            "name": "peak memory",
            "value": peak,
            "unit": "GiB",
            "ratio": None,
            "must reach": "<= 3",
            "how": "resident set",
        },
        {
            "name": "each further scan",
            "value": further,
            "unit": "s",
            "ratio": further / ours,
            "must reach": "<= 10",
            "how": "one process",
        },
        {
            "name": f"memory from scan 2 to {given.scans}",
            "value": grown,
            "unit": "MiB",
            "ratio": None,
            "must reach": "flat",
            "how": "one process",
        },
    ]
    return rows + nnunet_rows(ours, None if given.whole else given.tiles, given.threads)


if __name__ == "__main__":
    print(table(main(sys.argv[1:])))
