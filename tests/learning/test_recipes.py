"""Recipes: the published ones have the papers' networks and lengths and train; a file is a recipe too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ichnos import networks
from ichnos.errors import UsageError
from ichnos.learning.expansion.classifier import train_classifier
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.forecast import forecast_map, train_forecaster
from ichnos.learning.expansion.pairs import LesionPair, patch_of
from ichnos.learning.expansion.settings import ForecastSettings
from ichnos.learning.expansion.slice_generator import Picture, train_generator
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.settings import LoopSettings, changed, learning_rate
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.recipes import (
    classifier_recipe,
    forecast_recipe,
    generator_recipe,
    segmentation_recipe,
)
from ichnos.learning.segmentation.objective import Batch, SegmentationSettings, train_segmentation
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.models import NetworkSpec, Preprocessing
from ichnos.networks import nnunet as adapter

ONE_STEP = {"steps": 1, "epochs": 0, "batch": 2, "precision": "fp32"}


def parameters(spec: NetworkSpec, *, device: str = "meta") -> int:
    """Count a network's parameters; on the meta device nothing is allocated."""
    with torch.device(device):
        network = networks.build(spec.name, **spec.arguments)
    return sum(p.numel() for p in network.parameters())


def watching() -> tuple[list[float], Resources]:
    losses: list[float] = []
    return losses, Resources(report=lambda progress: losses.append(progress.loss))


def test_published_networks_have_the_published_sizes() -> None:
    assert parameters(classifier_recipe("published").network) == pytest.approx(85.8e6, rel=1e-3)
    assert parameters(forecast_recipe("published").network()) == pytest.approx(21.8e6, rel=1e-3)
    ukan = generator_recipe("published").network()  # its splines are fitted at the start: not on meta
    assert parameters(ukan, device="cpu") == pytest.approx(26.9e6, rel=2e-3)


def planned_umamba(patch: tuple[int, ...] = (), **arguments: Any) -> NetworkSpec:
    """Return U-Mamba in the topology of nnU-Net's planner for head CT of 0.5 x 0.5 x 5 mm (z first).

    Without a patch it is made for the patch that the planner gives.
    """
    topology = pytest.importorskip("nnunetv2.experiment_planning.experiment_planners.network_topology")
    _, strides, kernels, fitted, _ = topology.get_pool_and_conv_props([5.0, 0.5, 0.5], [16, 320, 320], 4, 999)
    planned = {
        "features_per_stage": [min(32 * 2**stage, 320) for stage in range(len(strides))],
        "strides": [list(map(int, s)) for s in strides],
        "kernel_sizes": [list(map(int, k)) for k in kernels],
        "n_conv_per_stage": [2] * len(strides),
        "n_conv_per_stage_decoder": [2] * (len(strides) - 1),
    }
    settings = segmentation_recipe("haematoma", "published")
    size = [int(n) for n in patch or fitted]
    own = adapter.network_arguments(settings.network, planned, size)  # type: ignore[union-attr]
    return NetworkSpec(
        name="umamba_enc", arguments={"input_channels": 1, "num_classes": 2, **own, **arguments}
    )


def test_published_umamba_has_the_topology_of_nnunets_planner() -> None:
    spec = planned_umamba()
    assert spec.arguments["input_size"] == [16, 320, 320]
    assert len(spec.arguments["strides"]) == 7
    assert spec.arguments["features_per_stage"][-1] == 320
    assert parameters(spec) == pytest.approx(63.6e6, rel=1e-3)
    settings = segmentation_recipe("haematoma", "published")
    assert isinstance(settings, NnunetSettings)
    assert settings.network == spec.name
    assert settings.epochs * settings.iterations == 125_000
    assert settings.learning_rate == 1e-3


@pytest.mark.slow
def test_one_step_of_the_published_umamba_on_a_smaller_patch(tmp_path: Path) -> None:
    """All seven stages at full width; 8 x 64 x 64 voxels are the least that leave two at the bottom.

    The step of its own patch of 16 x 320 x 320 takes more memory than a machine for tests has.
    """
    spec = planned_umamba((8, 64, 64), num_classes=1, deep_supervision=True)
    assert parameters(spec) == pytest.approx(62.2e6, rel=1e-3), (
        "fewer voxels at the bottom, so fewer features"
    )
    how = Preprocessing(spacing_mm=(0.5, 0.5, 5.0), patch=(64, 64, 8), windows_hu=((0.0, 80.0),))
    settings = SegmentationSettings(
        network=spec,
        preprocessing=how,
        targets=target_specs("ICH"),
        loop=LoopSettings(steps=1, precision="fp32", validations=0),
    )
    image = torch.randn(1, 1, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    batch = Batch(image, (image > 1).float(), torch.ones(1, 1))
    losses, watched = watching()
    network = train_segmentation(settings, lambda number: batch, tmp_path, resources=watched)
    assert 0 < losses[0] < 4
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


@pytest.mark.parametrize(
    ("settings", "examples", "steps"),
    [
        (classifier_recipe("published").loop, 1103 * 3, 100 * 104),
        (generator_recipe("published").loop, 218 * 3, 1000 * 21),
        (forecast_recipe("published").loop, 29 * 5, 150 * 73),
        (classifier_recipe("small").loop, 48, 10 * 3),
        (LoopSettings(steps=7), 1000, 7),
    ],
)
def test_steps_follow_from_epochs(settings: LoopSettings, examples: int, steps: int) -> None:
    assert settings.for_examples(examples).steps == steps


def test_published_schedules() -> None:
    ukan = generator_recipe("published").loop.for_examples(640)
    rates = [learning_rate(ukan, step) for step in range(0, ukan.steps, ukan.steps // 20)]
    assert max(rates) == pytest.approx(2e-4, rel=0.05), "twice the rate after a tenth"
    assert rates[-1] < 0.3 * max(rates)
    warp = forecast_recipe("published").loop
    assert learning_rate(warp, 0) == learning_rate(warp, warp.steps - 1)
    vit = classifier_recipe("published").loop.for_examples(320)
    assert learning_rate(vit, 0) == pytest.approx(2e-4)


def test_one_step_of_the_published_classifier_on_smaller_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    some = [
        ImageExample(f"p{k}", rng.uniform(-1, 1, (3, 64, 64)).astype(np.float32), float(k % 2))
        for k in range(4)
    ]
    losses, watched = watching()
    how = changed(classifier_recipe("published"), ONE_STEP)
    smaller = NetworkSpec(name="vit", arguments=how.network.arguments | {"image_size": [64, 64]})
    how = how.model_copy(update={"network": smaller})
    train_classifier(some, how, tmp_path, resources=watched)
    assert losses == [pytest.approx(np.log(2), abs=0.7)]


def test_one_step_of_the_published_generator_on_smaller_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    some = [
        Picture(
            f"p{k}",
            rng.uniform(-1, 1, (32, 32)).astype(np.float32),
            np.zeros((32, 32), np.float32),
            1.0,
            f"p{k}",
        )
        for k in range(3)
    ]
    losses, watched = watching()
    how = changed(generator_recipe("published"), ONE_STEP | {"size": 32})
    train_generator(some, how, tmp_path, resources=watched)
    assert losses[0] > 0


def ball(shape: tuple[int, int, int] = (20, 20, 16)) -> LesionPair:
    at = np.stack(np.meshgrid(*[np.arange(n) - n / 2 for n in shape], indexing="ij"))
    radius = np.linalg.norm(at, axis=0)
    ich, later = (radius < 4).astype(np.float32), (radius < 6).astype(np.float32)
    hu = np.where(ich > 0, 65.0, 30.0).astype(np.float32)
    empty = np.zeros(shape, np.float32)
    return LesionPair(
        "p0", hu, ich, empty, np.ones(shape, bool), later, later_hu=hu, spacing_mm=(1.0, 1.0, 1.0)
    )


def test_one_step_of_the_published_warp_on_smaller_patches(tmp_path: Path) -> None:
    how = changed(forecast_recipe("published"), ONE_STEP | {"patch": (16, 16, 16)})
    losses, watched = watching()
    network = train_forecaster([ball()], how, tmp_path, resources=watched)
    assert losses[0] > 0
    share = forecast_map(network, ball(), "warp", patch=(16, 16, 16))
    assert share.shape == (20, 20, 16)
    assert 0 <= share.min() <= share.max() <= 1


def test_an_epoch_sees_as_many_patches_of_each_pair_as_the_recipe_says(tmp_path: Path) -> None:
    how = changed(forecast_recipe("small"), {"epochs": 2, "batch": 1, "width": 2, "patch": (16, 16, 16)})
    for patches in (1, 3):
        losses, watched = watching()
        several = how.model_copy(update={"patches_per_pair": patches})
        train_forecaster([ball()], several, tmp_path / str(patches), resources=watched)
        assert len(losses) == 2 * patches


def test_patches_lie_at_the_border_of_the_growth() -> None:
    rng = np.random.default_rng(0)
    at_border = [patch_of(ball((48, 48, 48)), (8, 8, 8), rng, border_share=1.0) for _ in range(20)]
    assert all(0 < patch.later.mean() < 1 for patch in at_border)
    anywhere = [patch_of(ball((48, 48, 48)), (8, 8, 8), rng, border_share=0.0) for _ in range(20)]
    assert min(patch.later.mean() for patch in anywhere) == 0
    assert patch_of(ball(), (32, 8, 8), rng, border_share=1.0).hu.shape == (32, 8, 8), "padded with air"


def test_every_training_has_a_small_recipe() -> None:
    for target in ("haematoma", "leukoaraiosis", "tract"):
        assert isinstance(segmentation_recipe(target, "small"), TrainSettings)
    assert classifier_recipe("small", kind="ours", features=4).network.arguments["clinical_features"] == 4
    assert generator_recipe("small", kind="conditional").size == 64
    assert forecast_recipe("small", kind="forecast").width == 8


def test_a_saved_settings_file_is_a_recipe(tmp_path: Path) -> None:
    own = TrainSettings().changed(targets="ICH", width=5, steps=77)
    (tmp_path / "own.json").write_text(own.model_dump_json())
    again = segmentation_recipe("ICH", str(tmp_path / "own.json"))
    assert again == own
    forecast = changed(ForecastSettings(), {"width": 3})
    (tmp_path / "forecast.json").write_text(forecast.model_dump_json())
    assert forecast_recipe(str(tmp_path / "forecast.json")) == forecast


@pytest.mark.parametrize("content", [{"depth": 3}, {"loop": {"steps": -1}}, ["a list"]])
def test_a_file_that_is_no_recipe_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(UsageError):
        forecast_recipe(str(tmp_path / "bad.json"))
    with pytest.raises(UsageError, match="small, published"):
        classifier_recipe("huge")
