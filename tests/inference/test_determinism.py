"""The same bytes whatever the number of threads: sums have one order, a tile has one thread."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from builders.readable_head import head
from builders.tiny_model import tiny_model
from ichnos.inference import Predictor
from ichnos.inference.backends import outputs_of
from ichnos.inference.coordinates import smoothed_coordinates
from ichnos.inference.sliding import slide

FIVE_SUMS = """
import hashlib
import numpy as np
from ichnos.inference.coordinates import smoothed_coordinates
from ichnos.inference.grid import axis_weights, resampled
rng = np.random.default_rng(0)
array = rng.normal(0, 50, (120, 120, 40)).astype(np.float32)
weights = [axis_weights(n, 1.0, n // 3, 3.0) for n in array.shape]
coarse = resampled(array, weights)
position = rng.normal(0, 30, (3, 40, 40, 20)).astype(np.float32)
smooth = smoothed_coordinates(position, np.ones((40, 40, 20), np.float32), (3.0, 3.0, 3.0))
print(hashlib.sha256(coarse.tobytes() + smooth.tobytes()).hexdigest())
"""


def _digest(prediction: object) -> str:
    return hashlib.sha256(prediction.probabilities.tobytes()).hexdigest()  # type: ignore[attr-defined]


def test_openvino_gives_the_same_bytes_at_one_two_and_four_threads(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = tiny_model(tmp_path / "model")
    by_threads = [
        Predictor(model, backend="openvino", threads=threads, cache=tmp_path / "cache")
        for threads in (1, 2, 4)
    ]
    digests = {_digest(predictor(head())) for predictor in by_threads}
    assert len(digests) == 1


@pytest.mark.parametrize("kind", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_the_sums_around_the_network_do_not_depend_on_the_threads_of_blas(kind: str) -> None:
    digests = set()
    for threads in ("1", "4"):
        done = subprocess.run(
            [sys.executable, "-c", FIVE_SUMS],
            env={**_environment(), kind: threads},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}


def test_tiles_side_by_side_come_back_in_their_order(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from ichnos.inference.backends import backend_for

    model = tiny_model(tmp_path / "model")
    run = backend_for(model, name="openvino", threads=3)
    rng = np.random.default_rng(1)
    tiles = [rng.normal(0, 1, (1, 1, 32, 32, 32)).astype(np.float32) for _ in range(7)]
    together = list(outputs_of(run, tiles))
    assert len(together) == len(tiles)
    assert all((out == run(tile)).all() for out, tile in zip(together, tiles, strict=True))


def test_a_function_of_ones_own_is_called_tile_by_tile() -> None:
    calls = []

    def run(tile: np.ndarray) -> np.ndarray:
        calls.append(tile.shape)
        return tile * 2

    image = np.arange(6 * 5 * 5, dtype=np.float32).reshape(1, 6, 5, 5)
    out = slide(image, run, patch=(4, 4, 4), channels=1)
    assert np.allclose(out, 2 * image, rtol=1e-5)
    assert set(calls) == {(1, 1, 4, 4, 4)}


def test_coordinates_that_are_a_cubic_already_stay() -> None:
    axes = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in (20, 22, 18)], indexing="ij")
    cubic = np.stack([50 * axes[0] + 5 * axes[1] ** 3, 60 * axes[1] - 4 * axes[0] * axes[2], 40 * axes[2]])
    found = smoothed_coordinates(cubic, np.ones(cubic.shape[1:], np.float32), (3.0, 3.0, 3.0))
    assert np.abs(found - cubic).max() < 1e-3
