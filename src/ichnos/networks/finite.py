"""Stop at the first number that is not one, and say which layer made it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ichnos.errors import IchnosError


class NotFinite(IchnosError):
    """A network produced NaN or infinity."""


def require_finite(value: Tensor, *, name: str) -> Tensor:
    """Return `value`, or say that it holds NaN or infinity.

    >>> require_finite(torch.ones(2), name="the loss")
    tensor([1., 1.])
    """
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise NotFinite(
            f"{name} holds {bad} of {value.numel()} values that are NaN or infinite: lower the learning rate,"
            " clip gradients, or train in float32 instead of mixed precision"
        )
    return value


@contextmanager
def finite_layers(network: nn.Module) -> Iterator[None]:
    """Within this context, raise `NotFinite` naming the first layer whose output is not finite. Costs one
    pass over every output.
    """

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            for tensor in output if isinstance(output, tuple | list) else (output,):
                if isinstance(tensor, Tensor) and tensor.is_floating_point():
                    require_finite(tensor, name=f"the output of {name}")

        return hook

    leaves = [
        (name, module) for name, module in network.named_modules() if name and not any(module.children())
    ]
    handles = [
        module.register_forward_hook(watch(f"{name} ({type(module).__name__})")) for name, module in leaves
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
