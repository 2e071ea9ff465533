"""The small networks: affine warp, refiner, calibrated ensemble, UNETR, planned networks, finite layers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from builders.ball_phantom import seeded
from ichnos.errors import InputRefused, UsageError
from ichnos.networks import build, names, network_class
from ichnos.networks.ensemble import CalibratedEnsemble
from ichnos.networks.finite import NotFinite, finite_layers, require_finite
from ichnos.networks.planned import PlannedNetwork
from ichnos.networks.refiner import Refiner
from ichnos.networks.unetr import Unetr
from ichnos.networks.warp import AffineWarp

VIT: dict[str, Any] = {
    "name": "vit",
    "arguments": {"image_size": [8, 8], "patch_size": 8, "width": 8, "depth": 1, "heads": 2},
}


# ---- affine warp -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warp() -> AffineWarp:
    """Return an affine warp that has learnt nothing yet."""
    torch.manual_seed(0)
    return AffineWarp(2, features_per_stage=[3, 4], localisation=4)


def _blob() -> Tensor:
    image = torch.zeros(1, 2, 16, 16, 16)
    image[:, :, 6:10, 6:10, 6:10] = 1.0
    return image


def _change(entries: dict[tuple[int, int], float]) -> Tensor:
    change = torch.zeros(1, 3, 4)
    for (row, column), value in entries.items():
        change[0, row, column] = value
    return change


def test_an_untrained_warp_moves_nothing(warp: AffineWarp) -> None:
    assert not bool(warp.change(_blob()).any())
    assert torch.allclose(warp(_blob()), _blob(), atol=1e-5)


def test_a_shift_by_half_a_width_moves_by_so_many_voxels(warp: AffineWarp) -> None:
    moved = warp.warped(_blob(), _change({(2, 3): 0.5}))  # torch names the last axis first: row 2 is x
    assert torch.allclose(moved[:, :, :-4], _blob()[:, :, 4:], atol=1e-5)


def test_a_smaller_scale_enlarges_what_is_in_the_middle(warp: AffineWarp) -> None:
    half = {(axis, axis): -0.5 for axis in range(3)}
    grown = warp.warped(_blob(), _change(half))
    assert float(grown.sum()) == pytest.approx(8 * float(_blob().sum()), rel=0.15)


def test_opposite_shifts_take_each_other_back(warp: AffineWarp) -> None:
    there = warp.warped(_blob(), _change({(0, 3): 0.25}))
    assert torch.allclose(warp.warped(there, _change({(0, 3): -0.25})), _blob(), atol=1e-5)


def test_beyond_the_edge_an_image_goes_on_as_its_edge_does(warp: AffineWarp) -> None:
    flat = torch.full((1, 2, 8, 8, 8), 7.0)
    assert torch.allclose(warp.warped(flat, _change({(0, 3): 3.0, (1, 3): -2.0})), flat)


def test_every_patient_of_a_batch_has_a_move_of_its_own(warp: AffineWarp) -> None:
    both = torch.cat([_blob(), _blob()])
    change = torch.cat([_change({}), _change({(2, 3): 0.5})])
    moved = warp.warped(both, change)
    assert torch.allclose(moved[0], _blob()[0], atol=1e-5)
    assert not torch.allclose(moved[1], _blob()[0], atol=0.1)


def test_a_warp_learns_from_its_image(warp: AffineWarp) -> None:
    (warp(_blob()) - _blob().roll(1, 2)).square().mean().backward()
    assert warp.move.bias.grad is not None
    assert bool(warp.move.bias.grad.any())


# ---- refiner ---------------------------------------------------------------------------------------


@given(st.floats(0.5, 8.0), st.integers(0, 3))
def test_a_new_refiner_says_what_it_was_told(unit: float, first: int) -> None:
    refiner = Refiner(
        5, 2, first_logits=first, logit_unit=unit, features_per_stage=[2, 3], kernel_sizes=3, strides=[1, 2]
    )
    image = torch.randn(1, 5, 4, 4, 4, generator=seeded(0))
    with torch.inference_mode():
        assert torch.allclose(refiner(image), unit * image[:, first : first + 2])


def test_a_new_refiner_has_a_gradient_to_start_from() -> None:
    refiner = Refiner(
        3, 1, first_logits=1, logit_unit=1.0, features_per_stage=[2, 3], kernel_sizes=3, strides=[1, 2]
    )
    (refiner(torch.randn(1, 3, 4, 4, 4, generator=seeded(1))) - 1).square().mean().backward()
    last = refiner.body.decoder.seg_layers[-1]
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in last.parameters())


# ---- calibrated ensemble ---------------------------------------------------------------------------


@pytest.fixture
def ensemble() -> CalibratedEnsemble:
    """Return two members that look at images alone."""
    torch.manual_seed(0)
    return CalibratedEnsemble(VIT, members=2).eval()


def test_members_give_probabilities(ensemble: CalibratedEnsemble) -> None:
    each = ensemble(torch.randn(4, 3, 8, 8, generator=seeded(0)))
    assert each.shape == (4, 2)
    assert bool(((each > 0) & (each < 1)).all())
    assert not torch.allclose(each[:, 0], each[:, 1])


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2))
def test_an_uncalibrated_ensemble_takes_the_mean_of_the_log_odds(values: list[float]) -> None:
    ensemble = CalibratedEnsemble(VIT, members=2)
    odds = sum(math.log(p / (1 - p)) for p in values) / 2
    wanted = 1 / (1 + math.exp(-odds))
    assert ensemble.calibrated(torch.tensor([values])) == pytest.approx(wanted, abs=1e-4)


@given(st.floats(-2, 2), st.floats(0.1, 3))
def test_a_calibrated_probability_rises_with_its_members(intercept: float, slope: float) -> None:
    ensemble = CalibratedEnsemble(VIT, members=1)
    ensemble.platt.copy_(torch.tensor([intercept, slope]))
    risks = [ensemble.calibrated(torch.tensor([[p]])) for p in (0.1, 0.4, 0.8)]
    assert risks[0] < risks[1] < risks[2]


def test_certainty_stays_finite(ensemble: CalibratedEnsemble) -> None:
    for each in (torch.ones(2, 2), torch.zeros(2, 2)):
        assert 0 < ensemble.calibrated(each) < 1


def test_an_ensemble_builds_again_from_plain_data(ensemble: CalibratedEnsemble) -> None:
    again = build("calibrated_ensemble", member=VIT, members=2)
    again.load_state_dict(ensemble.state_dict())
    image = torch.randn(1, 3, 8, 8, generator=seeded(3))
    assert torch.equal(again.eval()(image), ensemble(image))


# ---- UNETR and planned networks --------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (16, 16, 0), ()])
def test_unetr_refuses_sides_that_are_no_volume(size: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="UNETR needs three sides of at least one voxel"):
        Unetr(1, 2, input_size=size, features=4, width=24, heads=2)


def test_unetr_fills_its_image_up_and_cuts_it_back() -> None:
    network = Unetr(1, 2, input_size=[16, 12, 16], features=4, width=24, heads=2)
    assert network.filling == [0, 0, 0, 4, 0, 0]
    assert network(torch.zeros(1, 1, 16, 12, 16)).shape == (1, 2, 16, 12, 16)


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "subprocess.Popen", "torch.load"])
def test_a_plan_cannot_name_any_program(name: str) -> None:
    with pytest.raises(InputRefused, match="neither a layer of torch nor an architecture of nnU-Net"):
        PlannedNetwork(1, 2, dim=3, network_class_name=name, arch_kwargs={}, requires_import=[])


def test_a_plan_that_names_a_missing_layer_is_refused() -> None:
    with pytest.raises(InputRefused, match="which this installation does not have; see ichnos doctor"):
        PlannedNetwork(1, 2, dim=3, network_class_name="torch.nn.NoSuch", arch_kwargs={}, requires_import=[])


# ---- the registry, finite layers -------------------------------------------------------------------


def test_every_name_has_a_class_of_its_own() -> None:
    classes = [network_class(name) for name in names()]
    assert len(set(classes)) == len(names())
    assert all(issubclass(kind, nn.Module) for kind in classes)


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UsageError, match="there is no network called 'resnet'; there are affine_warp"):
        network_class("resnet")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_counted(bad: float) -> None:
    value = torch.tensor([1.0, bad, bad])
    with pytest.raises(NotFinite, match="the loss holds 2 of 3 values that are NaN or infinite"):
        require_finite(value, name="the loss")


def test_finite_values_are_given_back_themselves() -> None:
    value = torch.tensor([1.0, 1e30])
    assert require_finite(value, name="x") is value


class _Root(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


def test_the_first_bad_layer_is_named_and_later_calls_are_free() -> None:
    network = nn.Sequential(nn.Identity(), _Root(), nn.ReLU())
    with finite_layers(network), pytest.raises(NotFinite, match=r"the output of 1 \(_Root\)"):
        network(torch.tensor([-1.0]))
    assert bool(torch.isnan(network(torch.tensor([-1.0]))).all())


def test_good_layers_pass_the_watch() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    image = torch.ones(1, 2)
    with finite_layers(network):
        watched = network(image)
    assert torch.equal(watched, network(image))
