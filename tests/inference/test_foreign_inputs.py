"""A model may want its axes in another order, single slices, standardised HU or a softmax: the answer on
the scan must not care.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ichnos import networks
from ichnos.inference import Predictor, backends, input_channels
from ichnos.models import Manifest, NetworkSpec, Preprocessing, Provenance, TargetSpec, load_model, save_model
from ichnos.models.manifest import Manifest as StoredManifest
from ichnos.scan import Scan
from ichnos.volume import Volume


def scan() -> Scan:
    hu = np.full((30, 26, 22), -1000.0, np.float32)
    hu[4:24, 5:20, 3:18] = 30 + np.random.default_rng(0).normal(0, 20, (20, 15, 15))
    return Scan(Volume(hu, np.diag([4.0, 4.0, 4.0, 1.0])))


def manifest(*, dim: int = 3, classes: int = 1, activation: str = "sigmoid", **how: Any) -> Manifest:
    network = {
        "input_channels": 1,
        "num_classes": classes,
        "dim": dim,
        "features_per_stage": [4, 8],
        "strides": [1, 2],
    }
    patch = (16, 12, 8) if dim == 3 else (16, 12, 1)
    return Manifest(
        name="tiny",
        version="1",
        limits=(),
        network=NetworkSpec(name="unet", arguments=network),
        preprocessing=Preprocessing(spacing_mm=(4, 4, 4), windows_hu=((0, 80),), patch=patch, **how),
        targets=(TargetSpec(name="bright"),),
        activation=activation,  # type: ignore[arg-type]
        provenance=Provenance(
            code_version="0",
            command="none",
            seeds=(0,),
            steps=0,
            data={},
            hardware="none",
            trained="2026-01-01",
        ),
    )


def weights(told: Manifest) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return networks.build("unet", **told.network.arguments)


def turned(network: torch.nn.Module) -> torch.nn.Module:
    """Return the same convolutions with their kernels' axes in the order z, y, x."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv3d, torch.nn.Conv2d)):
                axes = range(2, module.weight.ndim)
                module.weight.copy_(module.weight.permute(0, 1, *reversed(axes)).contiguous())
    return network


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_the_order_of_axes_does_not_change_the_answer(
    dim: int, backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
        # what is asked here must not drown in the rounding of bf16
        monkeypatch.setattr(backends, "_precision", lambda core: "f32")
    ours, theirs = manifest(dim=dim), manifest(dim=dim, axes="zyx")
    save_model(tmp_path / "ours", weights(ours), ours)
    save_model(tmp_path / "theirs", turned(weights(theirs)), theirs)
    a, b = (
        Predictor(load_model(tmp_path / name), backend=backend, threads=1)(scan())
        for name in ("ours", "theirs")
    )
    assert a.probabilities.std() > 0.01
    assert np.abs(a.probabilities - b.probabilities).max() < 1e-5


def test_softmax_leaves_the_background_out(tmp_path: Path) -> None:
    told = manifest(classes=2, activation="softmax")
    network = weights(told).eval()
    predicted = Predictor(save_model(tmp_path / "m", network, told), backend="torch")(scan()).probabilities
    assert predicted.shape[0] == 1
    with torch.inference_mode():
        background, bright = network(torch.zeros(1, 1, 16, 12, 8))[0].numpy()

    def constant(tile: np.ndarray) -> np.ndarray:
        return np.stack([np.full(tile.shape[2:], v, np.float32) for v in (background.mean(), bright.mean())])[
            None
        ]

    both = Predictor(load_model(tmp_path / "m"), backend=constant)(scan()).probabilities
    expected = np.exp(bright.mean()) / (np.exp(bright.mean()) + np.exp(background.mean()))
    assert both == pytest.approx(np.full_like(both, expected), abs=1e-5)


def test_standardised_hu() -> None:
    how = Preprocessing(
        spacing_mm=(1, 1, 1), windows_hu=((-10, 90),), patch=(8, 8, 8), z_score=((40.0, 20.0),)
    )
    hu = np.array([[[-1000.0, 40.0, 60.0, 3000.0]]], np.float32)
    assert input_channels(hu, how).ravel().tolist() == [-2.5, 0.0, 1.0, 2.5]
    assert how.padding == 0.0


def test_a_manifest_written_before_these_fields_is_read() -> None:
    old = manifest().model_dump()
    del old["preprocessing"]["z_score"], old["preprocessing"]["axes"], old["activation"]
    assert StoredManifest.model_validate(old) == manifest()


def test_as_many_standardisations_as_windows() -> None:
    with pytest.raises(ValueError, match="one \\(mean, sd\\) per window"):
        Preprocessing(
            spacing_mm=(1, 1, 1), windows_hu=((0, 80),), patch=(8, 8, 8), z_score=((40, 20), (30, 10))
        )
