"""A step of a training: what the loop says of it, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ichnos.learning.loop.settings import Precision


def autocast(device_type: str, precision: Precision) -> AbstractContextManager[Any]:
    """Return the context in which a network computes in a precision."""
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device_type, half, enabled=precision in ("bf16", "fp16"))


@dataclass(frozen=True)
class Step:
    """Which step this is."""

    number: int  # of its batch: every member of a team and every step has another one
    share_done: float  # of the training, 0..1
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext  # for the network's forward pass alone


@dataclass(frozen=True)
class Loss:
    """The loss of a step, and what a log should follow beside it (NaN: nothing to say)."""

    value: Tensor
    measures: Mapping[str, float] = field(default_factory=dict)


LossOf = Callable[[nn.Module, Step], Loss]  # builds the step's batch itself; the loss is float32
