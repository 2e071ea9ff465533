"""How long and how fast a network is trained: the settings that every training of ichnos shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ichnos.errors import UsageError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
LearningSchedule = Literal["cosine", "constant", "ukan"]
M = TypeVar("M", bound=BaseModel)
_UKAN_EPOCHS = 1000  # of the published training
_FINAL_SHARE = 0.01  # of the learning rate, where the cosine ends


class LoopSettings(BaseModel):
    """What decides the numbers of a training beside its network, its data and its loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=2000, gt=0, description="optimiser steps")
    epochs: int = Field(default=0, ge=0, description="passes over the examples; 0: as many steps as given")
    batch: int = Field(default=2, gt=0, description="examples in each step")
    learning_rate: float = Field(default=2e-3, gt=0, description="highest learning rate")
    weight_decay: float = Field(default=1e-4, ge=0, description="decoupled weight decay of AdamW")
    warm_up_steps: int | None = Field(
        default=None, ge=0, description="steps of linear warm-up (default: a tenth of all, at most 200)"
    )
    ema_decay: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="decay of the averaged weights (default: 1 - 10/steps, at most 0.999)",
    )
    schedule: LearningSchedule = Field(
        default="cosine", description="of the learning rate: cosine, constant, or ukan's"
    )
    gradient_clip: float = Field(default=5.0, ge=0, description="largest norm of the gradient; 0: any")
    precision: Precision = Field(
        default="auto", description="of the forward pass: auto (measured), fp32, bf16 or fp16"
    )
    validations: int = Field(default=10, ge=0, description="validations, evenly spread; 0: none")
    patience: int = Field(
        default=0, ge=0, description="stop after this many validations without a better one; 0: never"
    )
    seed: int = Field(default=0, description="same seed, same numbers")

    @property
    def validate_every(self) -> int:
        """Return the steps from one validation to the next; 0 for none.

        >>> LoopSettings(steps=1000, validations=4).validate_every
        250
        """
        return max(1, self.steps // self.validations) if self.validations else 0

    @property
    def averaging(self) -> float:
        """Return the decay of the averaged weights once the training is under way.

        >>> LoopSettings(steps=100).averaging, LoopSettings(ema_decay=0.5).averaging
        (0.9, 0.5)
        """
        return min(0.999, max(0.0, 1 - 10 / self.steps)) if self.ema_decay is None else self.ema_decay

    def for_examples(self, count: int) -> Self:
        """Return the settings with the steps that the epochs take over so many examples.

        >>> LoopSettings(epochs=100, batch=32).for_examples(1103 * 3).steps
        10400
        """
        if not self.epochs:
            return self
        return self.model_copy(update={"steps": self.epochs * -(-count // self.batch)})

    @property
    def warm_up(self) -> int:
        """Return the steps of warm-up.

        >>> LoopSettings(steps=1000).warm_up, LoopSettings(warm_up_steps=7).warm_up
        (100, 7)
        """
        return min(200, self.steps // 10) if self.warm_up_steps is None else self.warm_up_steps


def published_learning_rate(epoch: int, epochs: int, *, rate: float = 2e-4, peak: float = 2.0) -> float:
    """Learning rate of Diffusion U-KAN during `epoch` (from 1): linear warm-up to `peak` times `rate`, then a
    cosine of period 2 `epochs`.

    The cosine restarts one epoch late and a hair above its peak, and ends well above zero; the published
    trace is reproduced as it is.

    >>> published_learning_rate(1, 100), published_learning_rate(11, 100)
    (0.0002, 0.0004)
    """
    warm, at = epochs // 10, epoch - 1
    if at <= warm and warm:
        return rate * (1.0 + (peak - 1.0) * at / warm)
    return (
        rate
        * peak
        * (1.0 + math.cos(math.pi * (at - warm - 1) / epochs))
        / (1.0 + math.cos(math.pi / epochs))
    )


def learning_rate(settings: LoopSettings, step: int) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to a hundredth, or constant.

    The schedule of Diffusion U-KAN warms up to twice the rate over a tenth of the epochs, then a cosine.

    >>> how = LoopSettings(steps=100, learning_rate=1.0, warm_up_steps=10)
    >>> [round(learning_rate(how, step), 3) for step in (0, 9, 55, 100)]
    [0.1, 1.0, 0.505, 0.01]
    """
    if settings.schedule == "ukan":
        epochs = settings.epochs or _UKAN_EPOCHS
        epoch = 1 + step * epochs // settings.steps
        return published_learning_rate(epoch, epochs, rate=settings.learning_rate)
    if step < settings.warm_up:
        return settings.learning_rate * (step + 1) / settings.warm_up
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warm_up) / max(1, settings.steps - settings.warm_up)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return settings.learning_rate * (_FINAL_SHARE + (1 - _FINAL_SHARE) * cosine)


def changed(settings: M, changes: Mapping[str, Any]) -> M:
    """Return a settings tree with some fields changed, each named by its own name or by its path.

    >>> changed(LoopSettings(), {"steps": "40"}).steps
    40
    >>> changed(LoopSettings(), {"depth": 3})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ichnos.errors.UsageError: there is no setting 'depth'; there are steps, epochs, batch, ...
    """
    tree = settings.model_dump()
    paths = dict(_paths(settings))
    for name, value in changes.items():
        *parents, leaf = _path_called(name, paths).split(".")
        branch = tree
        for parent in parents:
            branch = branch[parent]
        branch[leaf] = value
    try:
        return type(settings).model_validate(tree)
    except ValidationError as error:
        raise UsageError("; ".join(_sentence(dict(fault)) for fault in error.errors())) from None


def _path_called(name: str, paths: Mapping[str, Any]) -> str:
    """Return the only path that a name stands for, or say that there is none, or several."""
    fitting = [path for path in paths if path == name or path.endswith(f".{name}")]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"the setting {name!r} is ambiguous: {', '.join(fitting)}")
    raise UsageError(f"there is no setting {name!r}; {_choices(paths)}")


def _paths(settings: BaseModel, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the path and value of every setting; those of models inside come with a dot."""
    rows: list[tuple[str, Any]] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        rows.append((f"{prefix}{name}", value))
        if isinstance(value, BaseModel):
            rows += _paths(value, f"{prefix}{name}.")
    return rows


def _choices(paths: Mapping[str, Any]) -> str:
    names = [path.rsplit(".", 1)[-1] for path, value in paths.items() if not isinstance(value, BaseModel)]
    return f"there are {', '.join(names)}"


def _sentence(fault: Mapping[str, Any]) -> str:
    name = str(fault["loc"][-1]) if fault["loc"] else "the settings"
    return f"{name} = {fault['input']!r}: {fault['msg'].removeprefix('Value error, ')}"
