"""What benchmarks/kill.py disturbs: four verbs on small inputs, and a memory for their long computations.

A disturbed run forks from a process that has run the verb once and remembers what its long pure functions
returned (a simulated patient, a registration). Arguments are compared by content, random generators by their
state, so a resumed run that asks for anything else computes it afresh. Files, ledger and resuming are real.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

PURE = (  # module and function; each returns the same for the same arguments
    ("ichnos.simulation.cohort.write", "make_subject"),
    ("ichnos.simulation.cohort.exam_files", "simulate_ct"),
    ("ichnos.simulation.cohort.exam_files", "masks_on_grid"),
    ("ichnos.transfer.makers", "register"),
    ("ichnos.transfer.pairs", "measure_pair"),
)


@dataclass(frozen=True)
class Verb:
    """One command on small inputs."""

    name: str
    prepare: Callable[[Path], list[str]]  # folder for inputs -> arguments; "OUT" stands for the output
    has_workers: bool = True


def _read(home: Path) -> list[str]:
    from builders.head import head_hu
    from builders.tiny_model import tiny_model
    from ichnos.formats import nifti
    from ichnos.volume import Volume

    tiny_model(home / "model")
    affine = np.diag([8.0, 8, 8, 1])
    affine[:3, 3] = -110
    grid = Volume(np.zeros((28, 28, 28), np.int16), affine)
    mm = grid.world(np.indices(grid.shape).transpose(1, 2, 3, 0))
    for number in range(2):
        hu = head_hu(bleed_mm=14 + number)(mm).astype(np.int16)
        nifti.save(grid.with_array(hu), home / "scans" / f"s{number}.nii.gz")
    given = ["--model", str(home / "model"), "--keep-names", "--only", "haematoma", "--backend", "torch"]
    return ["read", str(home / "scans"), "-o", "OUT", "--threads", "1", *given]


def _simulate(home: Path) -> list[str]:
    assert home.is_dir()
    return ["simulate", "OUT", "--patients", "2", "--exams", "ct", "--voxel-mm", "3"]


def _transfer(home: Path) -> list[str]:
    from builders.painted import painted, posed
    from ichnos.formats import bids
    from ichnos.volume import Volume, sphere

    root = home / "cohort"
    ct = painted("ct", noise=5.0).resampled((4.0, 4.0, 6.0), fill=-1000.0)
    flair, truth = posed(painted("flair", seed=1), (6, -4, 5), (4, 2, 8))
    flair = flair.resampled((3.0, 3.0, 4.0))
    ball = sphere(radius_mm=9, spacing_mm=1.0, centre_mm=(-26, -8, 28))
    drawn = Volume(ball.array, truth.matrix @ ball.affine).on_grid(flair, interpolation="nearest")
    for who in ("1", "2"):
        bids.write_exam(root, who, "ct", ct.astype(np.int16))
        bids.write_exam(root, who, "flair", flair)
        bids.write_derivative(
            root, who, drawn, pipeline="manual", label="leukoaraiosis", kind="mask", exam="flair"
        )
    (root / "participants.tsv").write_text("participant_id\tcentre\tsplit\nsub-1\tA\ttrain\nsub-2\tA\ttest\n")
    return ["transfer", str(root), "-o", "OUT", "--targets", "leukoaraiosis"]


def _train(home: Path) -> list[str]:
    from builders.trainable_cohort import write_trainable_cohort

    write_trainable_cohort(home / "cohort")
    small = ["--steps", "4", "--patch", "16,16,16", "--spacing", "4,4,4", "--network", "unet"]
    small += ["--set", "loop.validations=2", "--validate-on", "1", "--quiet"]
    return ["train", "haematoma", str(home / "cohort"), "-o", "OUT/model", *small]


VERBS = (
    Verb("read", _read),
    Verb("simulate", _simulate),
    Verb("transfer", _transfer),
    Verb("train", _train, has_workers=False),
)


# ---- a memory that forked processes inherit


def remember_long_computations() -> None:
    """Let the functions of PURE keep what they return in this process and in those it forks."""
    for module_name, name in PURE:
        module = importlib.import_module(module_name)
        setattr(module, name, _remembering(getattr(module, name)))


def _remembering(function: Callable[..., Any]) -> Callable[..., Any]:
    returned: dict[str, Any] = {}

    def call(*args: Any, **named: Any) -> Any:
        digest = hashlib.sha256()
        _digest((args, sorted(named.items())), digest.update)
        key = digest.hexdigest()
        if key not in returned:
            returned[key] = function(*args, **named)
        return returned[key]

    return call


def _digest(value: Any, update: Callable[[bytes], None]) -> None:
    """Feed a value's content to a hash: arrays by their bytes, generators by their state."""
    update(type(value).__name__.encode())
    if isinstance(value, torch.Generator):
        value = value.get_state()
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        update(f"{value.shape}{value.dtype}".encode())
        update(np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            _digest(getattr(value, field.name), update)
    elif isinstance(value, Mapping):
        _digest(list(value.items()), update)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes | Path):
        for item in value:
            _digest(item, update)
    else:
        update(repr(value).encode())
