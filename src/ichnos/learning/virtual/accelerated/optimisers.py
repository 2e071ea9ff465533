"""Three optimisers behind one call, and the comparison of them at equal time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimiserName = Literal["adamw", "sgd", "muon"]
OPTIMISERS: tuple[OptimiserName, ...] = ("adamw", "sgd", "muon")
RATES: dict[OptimiserName, float] = {"adamw": 2e-3, "sgd": 3e-2, "muon": 2e-2}
_STEPS = 4  # of Newton and Schulz
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan 2024: steep at 0, so that small singular values grow fast


class MatrixUpdates(torch.optim.Optimizer):
    """Muon (Jordan 2024): momentum, made orthogonal as a matrix (out, all else), for convolutions' weights.

    >>> weight = nn.Parameter(torch.eye(4) * 3)
    >>> weight.grad = torch.eye(4) * 5
    >>> MatrixUpdates([weight], lr=0.5).step()
    >>> bool((weight.diagonal() < 3).all())
    True
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter.grad)
                average = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                ahead = parameter.grad.add(average, alpha=group["momentum"])
                matrix = ahead.reshape(len(ahead), -1)
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                update = _orthogonal(matrix).reshape(parameter.shape) * scale
                parameter.add_(update, alpha=-group["lr"])


def _orthogonal(matrix: Tensor) -> Tensor:
    """Return nearly U V^T of a matrix U S V^T, by an odd polynomial applied a few times."""
    a, b, c = _QUINTIC
    x = matrix.float() / (matrix.float().norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    turned: Tensor = x.T if tall else x
    return turned.to(matrix.dtype)


class Optimisers:
    """One or two optimisers over a network's parameters, stepped together at a share of their peak rates."""

    def __init__(self, network: nn.Module, name: OptimiserName, *, fused: bool = False) -> None:
        parameters = list(network.parameters())
        self._parts: list[tuple[torch.optim.Optimizer, float]]
        if name == "sgd":
            sgd = torch.optim.SGD(parameters, RATES["sgd"], momentum=0.95, nesterov=True, weight_decay=3e-5)
            self._parts = [(sgd, RATES["sgd"])]
            return
        matrices = [p for p in parameters if p.dim() > 2 and name == "muon"]
        others = [p for p in parameters if not (p.dim() > 2 and name == "muon")]
        adam = torch.optim.AdamW(others, RATES["adamw"], betas=(0.9, 0.98), weight_decay=1e-2, fused=fused)
        self._parts = [(adam, RATES["adamw"])]
        if matrices:
            self._parts.append((MatrixUpdates(matrices, RATES["muon"]), RATES["muon"]))

    def step(self, share: float) -> None:
        """Update the parameters at a share of the peak learning rates, and forget the gradients."""
        for optimiser, peak in self._parts:
            for group in optimiser.param_groups:
                group["lr"] = peak * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
