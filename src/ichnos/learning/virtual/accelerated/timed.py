"""Training against the clock: learning rate and patch follow the share of time that is over.

So the long cool-down always completes, whatever a step takes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ichnos.errors import InputRefused
from ichnos.files import atomic_file
from ichnos.learning.virtual.accelerated.optimisers import OptimiserName, Optimisers

_WARM_UP, _PLATEAU_END, _LAST = 0.03, 0.45, 0.01  # shares of the time; of the peak learning rate
_REBUILD_STEPS = 100  # after which a resumed optimiser has its moments again
_CLIP = 1.0  # greatest norm of the gradient


def rate_share(done: float) -> float:
    """Return the learning rate as a share of its peak, when a share of the time is over.

    >>> [round(rate_share(done), 2) for done in (0.0, 0.03, 0.4, 0.78, 1.0)]
    [0.02, 1.0, 1.0, 0.41, 0.01]
    """
    if done < _WARM_UP:
        return max(0.02, done / _WARM_UP)
    if done < _PLATEAU_END:
        return 1.0
    left = max(0.0, (1 - done) / (1 - _PLATEAU_END))
    return _LAST + (1 - _LAST) * left


@dataclass
class Clock:
    """How much of a training's time is over; a resumed training begins where the last call ended."""

    seconds: float
    before: float = 0.0  # share that was over when this call began
    until: float = 1.0  # share at which this call ends
    _began: float = 0.0

    def start(self) -> None:
        """Begin to count."""
        self._began = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began

    @property
    def done(self) -> float:
        """Return the share that is over, 0 to 1."""
        return min(1.0, self.before + self.spent_s / max(1e-6, self.seconds) * (self.until - self.before))

    @property
    def over(self) -> bool:
        """Say whether this call's time has been spent."""
        return self.spent_s >= self.seconds


@dataclass
class Rhythm:
    """When a line of a log is due, and how fast steps went since the last one."""

    every_s: float
    step: int  # at the last line
    _at: float = field(default_factory=time.monotonic)

    def steps_per_s(self, step: int) -> float | None:
        """Return the pace since the last line; None where none is due yet.

        >>> Rhythm(every_s=60.0, step=0).steps_per_s(8) is None
        True
        """
        seconds = time.monotonic() - self._at
        if seconds <= self.every_s:
            return None
        rate = (step - self.step) / seconds
        self.step, self._at = step, time.monotonic()
        return rate


class TimedTraining:
    """A network, its moving average and its optimiser."""

    def __init__(
        self,
        network: nn.Module,
        *,
        optimiser: OptimiserName,
        device: str,
        average_decay: float = 0.999,
        channels_last: bool = False,
    ) -> None:
        self.device = device
        layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval()
        for parameter in self.average.parameters():
            parameter.requires_grad_(False)
        self.channels_last = channels_last
        self.optimisers = Optimisers(self.network, optimiser, fused=device != "cpu")
        self.average_decay = average_decay
        self.step = self.own_steps = 0

    def laid_out(self, image: Tensor) -> Tensor:
        """Return the image in the order of axes that the network works in."""
        return image.contiguous(memory_format=torch.channels_last_3d) if self.channels_last else image

    def update(self, loss: Tensor, done: float) -> None:
        """Learn from a loss; what is not finite in its gradient counts as nothing.

        Nothing here waits for the device: a GPU would stand idle meanwhile.
        """
        loss.backward()
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        rebuilt = min(1.0, (self.own_steps + 1) / _REBUILD_STEPS) if self.step > self.own_steps else 1.0
        self.optimisers.step(rate_share(done) * rebuilt)
        self.step += 1
        self.own_steps += 1
        decay = min(self.average_decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            slow, fast = list(self.average.parameters()), list(self.network.parameters())
            torch._foreach_lerp_(slow, fast, 1 - decay)

    def save(self, file: Path, facts: Mapping[str, float]) -> None:
        """Write the network (not its average, which the model's folder holds) in half precision."""
        tensors = {
            name: value.detach().to("cpu", torch.float16).contiguous()
            for name, value in _own_tensors(self.network).items()
        }
        metadata = {name: repr(float(value)) for name, value in {**facts, "step": self.step}.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as temporary:
            save_file(tensors, str(temporary), metadata=metadata)

    def resume(self, file: Path, average: Mapping[str, Tensor]) -> dict[str, float]:
        """Go on from a file of `save` and the average's weights; return what was noted there."""
        from safetensors import safe_open

        with safe_open(str(file), framework="pt") as stored:
            facts = {name: float(value) for name, value in (stored.metadata() or {}).items()}
        try:
            self.network.load_state_dict(load_file(str(file)), strict=False)
            self.average.load_state_dict(dict(average), strict=False)
        except RuntimeError as error:
            raise InputRefused(f"{file} holds another network than this training's: {error}") from None
        self.step = int(facts.get("step", 0))
        return facts


def _own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return every tensor once: tensors that two names share are stored under the first."""
    seen: set[int] = set()
    own = {}
    for name, value in network.state_dict().items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            own[name] = value
    return own
