"""Optimisers: orthogonal updates, learning rates as shares of a peak, gradients forgotten after a step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from builders.ball_phantom import seeded
from ichnos.learning.virtual.accelerated.optimisers import (
    OPTIMISERS,
    RATES,
    MatrixUpdates,
    OptimiserName,
    Optimisers,
)


def _network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 2, 1))


def _backward(network: nn.Module, *, factor: float = 1.0) -> None:
    image = torch.randn(2, 1, 5, 5, 5, generator=seeded(0))
    (factor * (network(image) ** 2).mean()).backward()


def _weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def _update_of(gradient: torch.Tensor, *, rate: float = 1.0) -> torch.Tensor:
    """Return what one step of matrix updates subtracts from a weight."""
    weight = nn.Parameter(torch.zeros_like(gradient))
    weight.grad = gradient.clone()
    MatrixUpdates([weight], lr=rate).step()
    return -weight.detach()


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_a_matrix_update_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    update = _update_of(torch.randn(shape, generator=seeded(1)))
    scale = max(1.0, shape[0] / shape[1]) ** 0.5
    singular = torch.linalg.svdvals(update) / scale
    assert 0.3 < float(singular.min())
    assert float(singular.max()) < 1.4


def test_a_matrix_update_keeps_the_singular_vectors() -> None:
    gradient = torch.diag(torch.tensor([8.0, 4.0, 2.0]))
    update = _update_of(gradient)
    assert torch.allclose(update, torch.diag(update.diagonal()), atol=1e-5)
    assert bool((update.diagonal() > 0).all())


def test_the_size_of_a_gradient_does_not_matter_to_a_matrix_update() -> None:
    gradient = torch.randn(5, 7, generator=seeded(3))
    assert torch.allclose(_update_of(gradient), _update_of(1000 * gradient), atol=1e-4)


def test_a_matrix_update_turns_its_sign_with_the_gradient() -> None:
    gradient = torch.randn(4, 3, 3, 3, 3, generator=seeded(4))
    update = _update_of(gradient)
    assert torch.allclose(update, -_update_of(-gradient), atol=1e-6)
    assert update.shape == gradient.shape


def test_a_matrix_update_scales_with_its_rate() -> None:
    gradient = torch.randn(4, 6, generator=seeded(5))
    assert torch.allclose(_update_of(gradient, rate=0.1), 0.1 * _update_of(gradient), atol=1e-6)


def test_momentum_goes_on_in_the_direction_of_earlier_gradients() -> None:
    weight = nn.Parameter(torch.zeros(3, 3))
    optimiser = MatrixUpdates([weight], lr=0.1)
    weight.grad = torch.eye(3)
    optimiser.step()
    before = weight.detach().clone()
    weight.grad = torch.zeros(3, 3)
    optimiser.step()
    assert bool((weight.detach().diagonal() < before.diagonal()).all())


def test_a_parameter_without_gradient_stays() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    MatrixUpdates([weight], lr=1.0).step()
    assert torch.equal(weight.detach(), torch.ones(3, 3))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_gradients_are_forgotten_after_a_step(name: OptimiserName) -> None:
    network = _network()
    optimisers = Optimisers(network, name)
    _backward(network)
    optimisers.step(1.0)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_parameter_is_updated_once(name: OptimiserName) -> None:
    network = _network()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimisers = Optimisers(network, name)
    _backward(network)
    optimisers.step(1.0)
    changed = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert all(changed)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_half_the_rate_moves_half_as_far_in_the_first_step(name: OptimiserName) -> None:
    whole, half = _network(), _network()
    start = _weights(whole)
    for network, share in ((whole, 1.0), (half, 0.5)):
        optimisers = Optimisers(network, name)
        _backward(network)
        optimisers.step(share)
    far, near = _weights(whole) - start, _weights(half) - start
    assert float(near.norm() / far.norm()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_share_of_zero_moves_nothing(name: OptimiserName) -> None:
    network = _network()
    start = _weights(network)
    optimisers = Optimisers(network, name)
    _backward(network)
    optimisers.step(0.0)
    assert torch.allclose(_weights(network), start)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_equal_networks_and_gradients_give_equal_weights(name: OptimiserName) -> None:
    first = _network()
    second = copy.deepcopy(first)
    for network in (first, second):
        optimisers = Optimisers(network, name)
        for _ in range(2):
            _backward(network)
            optimisers.step(0.7)
    assert torch.equal(_weights(first), _weights(second))


def test_every_optimiser_has_a_positive_peak_rate() -> None:
    assert set(RATES) == set(OPTIMISERS)
    assert all(0 < rate < 1 for rate in RATES.values())
