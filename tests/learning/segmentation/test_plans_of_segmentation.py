"""From patches to networks, targets to thresholds, patches to what other scanners show: the pure parts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from builders.ball_phantom import seeded
from ichnos import networks
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import nifti
from ichnos.inference.channels import windows
from ichnos.learning.segmentation.augmentation import network_input, rescanned, turned
from ichnos.learning.segmentation.losses import (
    _dilated,
    _eroded,
    cl_dice_loss,
    dice_and_cross_entropy,
    multi_target_loss,
    rim_loss,
)
from ichnos.learning.segmentation.operating_points import Overlaps
from ichnos.learning.segmentation.planning import SEGMENTERS, planned_network
from ichnos.learning.segmentation.settings import Augmentation
from ichnos.learning.segmentation.target_files import target_degree, target_specs
from ichnos.models import Preprocessing, TargetSpec
from ichnos.volume import Volume

SIDES = st.sampled_from([16, 24, 32, 48, 64])
KNOWN = torch.ones(1, 1)

# ---- planning --------------------------------------------------------------------------------------


@given(st.tuples(SIDES, SIDES, SIDES), st.tuples(*[st.sampled_from([1.0, 2.0, 5.0])] * 3))
@settings(max_examples=60)
def test_strides_divide_the_patch_and_leave_voxels_at_the_bottom(
    patch: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    spec = planned_network("unet", channels=1, targets=2, patch=patch, spacing_mm=spacing_mm)
    arguments = spec.arguments
    total = np.prod(arguments["strides"], axis=0)
    assert all(n % t == 0 and n // t >= 4 for n, t in zip(patch, total, strict=True))
    stages = len(arguments["strides"])
    assert arguments["strides"][0] == [1, 1, 1]
    for name in ("kernel_sizes", "features_per_stage", "n_conv_per_stage"):
        assert len(arguments[name]) == stages
    assert len(arguments["n_conv_per_stage_decoder"]) == stages - 1
    assert arguments["features_per_stage"] == sorted(arguments["features_per_stage"])


def test_kernels_do_not_reach_along_a_coarse_axis() -> None:
    spec = planned_network("unet", channels=1, targets=1, patch=(64, 64, 16), spacing_mm=(1.0, 1.0, 5.0))
    assert spec.arguments["kernel_sizes"][0] == [3, 3, 1]
    assert spec.arguments["kernel_sizes"][-1] == [3, 3, 3]


def test_a_patch_of_one_slice_asks_for_a_network_of_slices() -> None:
    spec = planned_network(
        "unet", channels=3, targets=2, patch=(32, 48, 1), spacing_mm=(1.0, 1.0, 5.0), width=4
    )
    assert spec.arguments["dim"] == 2
    network = networks.build(spec.name, **spec.arguments)
    assert network(torch.zeros(1, 3, 32, 48))[0].shape == (1, 2, 32, 48)


@pytest.mark.parametrize("name", ["vit", "nothing"])
def test_other_networks_do_not_segment(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name!r} is no network for segmentation; there are unet"):
        planned_network(name, channels=1, targets=1, patch=(16, 16, 16), spacing_mm=(1.0, 1.0, 1.0))
    assert name not in SEGMENTERS


# ---- targets ---------------------------------------------------------------------------------------


def test_a_label_map_stands_for_its_targets_once() -> None:
    names = [target.name for target in target_specs("haematoma, ICH ,tract_left")]
    assert names == ["ICH", "IVH", "PHE", "tract_left"]


@pytest.mark.parametrize(("text", "named"), [("tumour", "tumour"), ("", "none"), (" , ", "none")])
def test_targets_that_do_not_exist_are_named(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=f"targets {named} were asked for; give any of"):
        target_specs(text)


@pytest.fixture
def ct() -> Volume:
    """Return a small CT's grid."""
    return Volume(np.zeros((4, 3, 2), np.int16), np.diag([1.0, 1.0, 5.0, 1.0]))


def test_the_values_of_a_label_map_are_told_apart(ct: Volume, tmp_path: Path) -> None:
    labels = np.zeros(ct.shape, np.uint8)
    labels[0], labels[1], labels[2] = 1, 2, 3
    nifti.save(ct.with_array(labels), tmp_path / "map.nii.gz")
    degree = target_degree(tmp_path / "map.nii.gz", (1, 3), ct)
    assert degree[:, 0, 0].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert target_degree(tmp_path / "map.nii.gz", (), ct)[:, 0, 0].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_degrees_stay_degrees_between_nothing_and_all(ct: Volume, tmp_path: Path) -> None:
    shares = np.full(ct.shape, 0.25, np.float32)
    shares[0] = 1.5
    nifti.save(ct.with_array(shares), tmp_path / "share.nii.gz")
    degree = target_degree(tmp_path / "share.nii.gz", (), ct)
    assert sorted(np.unique(degree).tolist()) == [0.25, 1.0]


def test_a_mask_on_another_grid_is_refused(ct: Volume, tmp_path: Path) -> None:
    nifti.save(Volume(np.zeros(ct.shape, np.uint8), np.diag([2.0, 1.0, 5.0, 1.0])), tmp_path / "m.nii.gz")
    with pytest.raises(InputRefused, match="lies on another grid than its CT"):
        target_degree(tmp_path / "m.nii.gz", (), ct)


# ---- thresholds ------------------------------------------------------------------------------------


@given(st.floats(0.1, 0.9))
def test_a_threshold_lies_where_truth_and_background_part(edge: float) -> None:
    seen = Overlaps((TargetSpec(name="ICH"),))
    shares = torch.linspace(0.01, 0.99, 99)
    seen.add(0, torch.logit(shares), shares > edge)
    assert seen.points()[0].threshold == pytest.approx(edge, abs=0.06)


def test_a_target_that_is_missed_keeps_its_threshold() -> None:
    seen = Overlaps((TargetSpec(name="ICH", threshold=0.35), TargetSpec(name="IVH", threshold=0.4)))
    seen.add(0, torch.full((10,), -9.0), torch.ones(10, dtype=torch.bool))
    assert [target.threshold for target in seen.points()] == [0.35, 0.4]


# ---- losses ----------------------------------------------------------------------------------------


def _cube(*, shift: int = 0) -> torch.Tensor:
    truth = torch.zeros(1, 1, 10, 10, 10)
    truth[..., 3 + shift : 7 + shift, 3:7, 3:7] = 1.0
    return truth


def test_the_rim_loss_grows_with_the_shift() -> None:
    values = [float(rim_loss(_cube(shift=k), _cube(), KNOWN)) for k in range(3)]
    assert values[0] == pytest.approx(0.0, abs=1e-4)
    assert values[0] < values[1] < values[2] <= 1.0 + 1e-6


def test_a_centre_line_may_lie_anywhere_within_and_nowhere_beyond() -> None:
    values = [float(cl_dice_loss(_cube(shift=k), _cube(), KNOWN)) for k in (0, 1, 3)]
    assert values[0] == values[1] == pytest.approx(0.0, abs=1e-4)
    assert 0.05 < values[2] <= 1.0 + 1e-6


@pytest.mark.parametrize("shape", [(7, 6, 5), (4, 2, 3), (8, 8, 1)])
@pytest.mark.parametrize("wanted", [True, False])
def test_erosion_and_dilation_are_those_of_scipy_with_and_without_a_gradient(
    shape: tuple[int, int, int], wanted: bool
) -> None:
    field = torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(3)).requires_grad_(wanted)
    plain = field.detach().numpy()[0, 0]
    cross = ndimage.generate_binary_structure(3, 1)
    eroded, dilated = (made(field).detach().numpy()[0, 0] for made in (_eroded, _dilated))
    assert np.array_equal(eroded, ndimage.grey_erosion(plain, footprint=cross, mode="nearest"))
    assert np.array_equal(dilated, ndimage.grey_dilation(plain, size=(3, 3, 3), mode="nearest"))


@pytest.mark.parametrize("loss", [cl_dice_loss, rim_loss])
def test_what_is_unknown_or_absent_has_no_shape_to_judge(loss: Any) -> None:
    assert float(loss(_cube(shift=2), _cube(), torch.zeros(1, 1))) == 0.0
    assert float(loss(_cube(), torch.zeros_like(_cube()), KNOWN)) == 0.0


def test_a_surer_right_answer_costs_less() -> None:
    losses = [
        float(dice_and_cross_entropy((2 * _cube() - 1) * sure, _cube(), KNOWN)) for sure in (1.0, 3.0, 9.0)
    ]
    assert losses[0] > losses[1] > losses[2]


def test_an_unknown_target_changes_nothing_whatever_is_said() -> None:
    truth = torch.cat([_cube(), _cube()], dim=1)
    known = torch.tensor([[1.0, 0.0]])
    said = [torch.cat([_cube(), factor * _cube()], dim=1) for factor in (-9.0, 9.0)]
    first, second = (multi_target_loss(logits, truth, known) for logits in said)
    assert float(first) == pytest.approx(float(second))


def test_the_sparse_term_asks_for_more_of_a_missed_target() -> None:
    plain, sparse = (
        float(dice_and_cross_entropy(-4 * torch.ones_like(_cube()), _cube(), KNOWN, sparse_weight=weight))
        for weight in (0.0, 0.5)
    )
    assert sparse == pytest.approx(plain + 0.5 * math.log1p(math.exp(4.0)), rel=1e-4)


# ---- augmentation ----------------------------------------------------------------------------------

STILL = Augmentation(turn_deg=0, zoom=0, blurred_share=0, thick_share=0, noisy_share=0, gain=0, offset_hu=0)


def _region() -> torch.Tensor:
    return torch.randn((2, 12, 12, 8), generator=seeded(0)) * 20


def test_without_turn_and_zoom_the_middle_is_cut_out() -> None:
    patch = turned(_region(), (8, 8, 4), STILL, np.random.default_rng(0))
    assert torch.allclose(patch, _region()[:, 2:10, 2:10, 2:6], atol=1e-2)


def test_beyond_a_region_lies_air_and_no_target() -> None:
    patch = turned(_region(), (20, 12, 8), STILL, np.random.default_rng(0))
    assert torch.allclose(patch[0, 0], torch.tensor(-1000.0), atol=1e-2)
    assert not bool(patch[1, 0].any())


def test_slices_turn_in_their_plane_alone() -> None:
    region = torch.arange(12.0).expand(1, 9, 9, 12)[:, :, :, :1].contiguous()
    patch = turned(region, (5, 5, 1), replace(STILL, turn_deg=30.0), np.random.default_rng(1))
    assert patch.shape == (1, 5, 5, 1)
    assert torch.allclose(patch, torch.zeros(1, 5, 5, 1), atol=1e-2)


def test_a_scanner_that_changes_nothing_changes_nothing() -> None:
    hu = _region()[0]
    assert torch.allclose(rescanned(hu, STILL, np.random.default_rng(0), seeded(0)), hu, atol=1e-4)


@pytest.mark.parametrize("share", ["blurred_share", "thick_share", "noisy_share"])
def test_every_change_keeps_flat_tissue_flat_or_its_mean(share: str) -> None:
    changed = replace(STILL, **{share: 1.0})  # type: ignore[arg-type]
    flat = torch.full((12, 12, 12), 40.0)
    out = rescanned(flat, changed, np.random.default_rng(2), seeded(2))
    assert float(out.mean()) == pytest.approx(40.0, abs=0.5)
    assert bool((out != flat).any()) is (share == "noisy_share") or torch.allclose(out, flat, atol=1e-3)


def test_the_network_sees_in_training_what_it_sees_in_reading() -> None:
    how = Preprocessing(spacing_mm=(1, 1, 1), windows_hu=((0, 80), (-1000, 1000)), patch=(8, 8, 8))
    hu = _region()[0]
    assert np.allclose(
        network_input(hu[None], how)[0].numpy(), windows(hu.numpy(), how.windows_hu), atol=1e-5
    )
