"""Which precision a training computes in: measured at its start, on its own network, data and processor."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from ichnos import networks
from ichnos.files import atomic_file
from ichnos.learning.loop.settings import LoopSettings, Precision
from ichnos.learning.loop.steps import LossOf, Step, autocast
from ichnos.learning.loop.team import Team
from ichnos.models import NetworkSpec

PRECISION_FILE = "precision.json"
_FEWEST_STEPS = 100  # a shorter training is over before a measurement would pay
_MEASURED_STEPS = 3
_LEAST_GAIN = 1.1  # times fp32's pace, below which fp32 stays
_LEAST_COSINE = 0.98  # between the gradients of a step in both precisions
_HOPELESS = 3.0  # times fp32's duration, after which no second step is tried


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision, and what was measured to choose it."""

    precision: Precision
    gain: float = float("nan")  # the half precision's pace over fp32's
    cosine: float = float("nan")  # between the gradients of one step in both
    tried: str = ""  # the half precision that was tried; "": none
    tf32: bool = False  # whether fp32 matrix products on a GPU are rounded to TF32

    def __str__(self) -> str:
        """Say the choice in a sentence for a model's card.

        >>> print(PrecisionChoice("bf16", 1.93, 0.9991, "bf16"))
        bf16 (1.9 times fp32's pace, cosine of the gradients 0.999)
        >>> print(PrecisionChoice("fp32"))
        fp32
        """
        suffix = " (TF32 matrix products)" if self.tf32 and self.precision == "fp32" else ""
        if not self.tried:
            return f"{self.precision}{suffix}"
        measured = f"{self.gain:.1f} times fp32's pace, cosine of the gradients {self.cosine:.3f}"
        if self.precision == "fp32":
            return f"fp32{suffix} ({self.tried}: {measured})"
        return f"{self.precision} ({measured})"


def with_precision(
    settings: LoopSettings, spec: NetworkSpec, loss_of: LossOf, out: Path, *, device: str, team: Team
) -> LoopSettings:
    """Return the settings with a precision in place of `auto`; a folder keeps the choice that it holds."""
    if settings.precision != "auto":
        return settings
    file = out / PRECISION_FILE
    if file.is_file():
        choice = PrecisionChoice(**json.loads(file.read_text(encoding="utf-8")))
    else:
        choice = measured_precision(settings, spec, loss_of, device=device, team=team)
        if team.leads:
            with atomic_file(file) as temporary:
                temporary.write_text(json.dumps(asdict(choice)) + "\n", encoding="utf-8")
    return settings.model_copy(update={"precision": choice.precision})


def precision_note(out: Path) -> str:
    """Return what the precision of a training was, for its card; "" where none was chosen."""
    file = out / PRECISION_FILE
    if not file.is_file():
        return ""
    return str(PrecisionChoice(**json.loads(file.read_text(encoding="utf-8"))))


def measured_precision(
    settings: LoopSettings, spec: NetworkSpec, loss_of: LossOf, *, device: str, team: Team
) -> PrecisionChoice:
    """Take a few steps in fp32 and in the device's half precision; choose the faster that agrees."""
    kind = torch.device(device).type
    tf32 = kind == "cuda" and torch.backends.cudnn.allow_tf32
    half = half_precision(kind)
    if half is None or settings.steps < _FEWEST_STEPS:
        return PrecisionChoice("fp32", tf32=tf32)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if kind == "cuda" else []):
        torch.manual_seed(settings.seed)
        network = networks.build(spec.name, **spec.arguments).to(device).train()
        single, gradient = _steps(network, loss_of, kind, "fp32", limit_s=float("inf"))
        halved, other = _steps(network, loss_of, kind, half, limit_s=_HOPELESS * single)
    gain = team.from_leader(single / halved)
    cosine = team.from_leader(float(nn.functional.cosine_similarity(gradient, other, dim=0)))
    chosen = half if gain >= _LEAST_GAIN and cosine >= _LEAST_COSINE else "fp32"
    return PrecisionChoice(chosen, gain, cosine, half, tf32)


def half_precision(device_type: str) -> Precision | None:
    """Return the half precision that a kind of device may profit from; None where there is none.

    >>> half_precision("mps") is None
    True
    """
    if device_type == "cpu":
        return "bf16"
    if device_type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return None


def _steps(
    network: nn.Module, loss_of: LossOf, kind: str, precision: Precision, *, limit_s: float
) -> tuple[float, Tensor]:
    """Return the seconds of a step, and the gradient of the first one."""
    # on a processor its own time: other programs then do not decide the choice
    clock = time.process_time if kind == "cpu" else time.perf_counter
    seconds: list[float] = []
    gradient = torch.zeros(0)
    for number in range(_MEASURED_STEPS):
        torch.manual_seed(number)
        network.zero_grad(set_to_none=True)
        began = clock()
        loss_of(network, Step(number, 0.0, partial(autocast, kind, precision))).value.backward()
        if kind == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - began)
        if number == 0:
            parts = [p.grad.detach().float().flatten() for p in network.parameters() if p.grad is not None]
            gradient = torch.cat(parts).cpu()
        if seconds[-1] > limit_s:
            break
    network.zero_grad(set_to_none=True)
    return median(seconds[1:] or seconds), gradient
