"""A step of a training: what the loop says of it, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ichnos.learning.loop.settings import Precision

Validate = Callable[[nn.Module, int], float]  # (averaged network, step) -> score, higher is better


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


@dataclass(frozen=True)
class Progress:
    """The state of a running training after a step."""

    step: int
    loss: float
    steps: int
    seconds_left: float
    measures: dict[str, float] = field(default_factory=dict)  # running means, as Dice per target
    score: float | None = None  # of the validation after this step, if there was one

    def __str__(self) -> str:
        """Return one line for a log.

        >>> print(Progress(step=3, loss=0.5, steps=9, seconds_left=1.0, measures={"ICH": 0.81}))
        step 3/9 loss 0.500 | ICH 0.81
        """
        measures = " ".join(f"{name} {value:.2f}" for name, value in self.measures.items())
        return f"step {self.step}/{self.steps} loss {self.loss:.3f}" + (f" | {measures}" if measures else "")


LossOf = Callable[[nn.Module, Step], Loss]  # builds the step's batch itself; the loss is float32
