"""The checkpoints of a training: the last good state to resume from, and the network of the best validation.

A full disk or a kill leaves both whole.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from ichnos import networks
from ichnos.errors import IchnosError, InputRefused, UsageError
from ichnos.learning.loop.settings import LoopSettings
from ichnos.models import NetworkSpec

# what a cut or overwritten file raises in the unpickler
_DAMAGE = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError)
CHECKPOINT, BEST = "checkpoint.pt", "best.pt"


class TrainingKey(BaseModel):
    """What decides the numbers of a training; a checkpoint is resumed only under an equal one."""

    model_config = ConfigDict(frozen=True)

    network: NetworkSpec
    loop: dict[str, Any]  # the loop's settings
    data: str  # fingerprint of the data and of the loss


@dataclass
class TrainingState:
    """A training between two steps."""

    network: torch.nn.Module
    average: torch.nn.Module  # of the weights over the last steps; what is kept in the end
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of the loss, for fp16 alone
    step: int = 0
    best_score: float = float("-inf")
    best_step: int = 0
    stale: int = 0  # validations since the best one


def start(
    spec: NetworkSpec, settings: LoopSettings, device: str, initial: dict[str, torch.Tensor] | None = None
) -> TrainingState:
    """Build the network with the seed's weights, or with `initial` ones."""
    with torch.random.fork_rng(devices=[]):
        # the initial weights only, inside a fork: no global state is left behind
        torch.manual_seed(settings.seed)
        network = networks.build(spec.name, **spec.arguments).to(device)
    if initial is not None:
        network.load_state_dict(initial)
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=settings.precision == "fp16")
    return TrainingState(network, average, optimiser, scaler)


def save_checkpoint(state: TrainingState, key: TrainingKey, out: Path) -> None:
    """Write the last state; the one before it stays until the new one is whole."""
    _write(
        out / CHECKPOINT,
        {
            "settings": key.model_dump_json(),
            "step": state.step,
            "network": state.network.state_dict(),
            "average": state.average.state_dict(),
            "optimiser": state.optimiser.state_dict(),
            "scaler": state.scaler.state_dict(),
            "best": [state.best_score, state.best_step, state.stale],
        },
    )


def save_best(state: TrainingState, out: Path) -> None:
    """Write the averaged network as the best so far."""
    _write(out / BEST, {"step": state.step, "score": state.best_score, "average": state.average.state_dict()})


def resume(key: TrainingKey, settings: LoopSettings, out: Path, device: str) -> TrainingState | None:
    """Load the checkpoint of a folder, if it holds one; refuse one of another training."""
    file = out / CHECKPOINT
    if not file.is_file():
        return None
    content = _read(file, device)
    if json.loads(content["settings"]) != json.loads(key.model_dump_json()):
        raise UsageError(
            f"{out} holds a training with other settings or other data, or one begun by another version of"
            " ichnos; give another folder, or the same settings to resume it"
        )
    state = start(key.network, settings, device)
    state.network.load_state_dict(content["network"])
    state.average.load_state_dict(content["average"])
    state.optimiser.load_state_dict(content["optimiser"])
    if content.get("scaler"):
        state.scaler.load_state_dict(content["scaler"])
    state.step = content["step"]
    state.best_score, state.best_step, state.stale = content.get("best", [float("-inf"), 0, 0])
    return state


def reached(out: Path) -> int:
    """Return the step of the training in a folder; 0 where there is none."""
    file = out / CHECKPOINT
    return int(_read(file, "cpu")["step"]) if file.is_file() else 0


def best_network(state: TrainingState, out: Path, device: str) -> torch.nn.Module:
    """Return the averaged network of the best validation; the last one where there was none."""
    if state.best_step > 0:
        state.average.load_state_dict(_read(out / BEST, device)["average"])
    return state.average.eval()


def _write(file: Path, content: dict[str, Any]) -> None:
    partial = file.with_name(f"{file.name}.partial")
    try:
        torch.save(_interned(content), partial)
        os.replace(partial, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        partial.unlink(missing_ok=True)
        kept = "the last good one is kept" if file.is_file() else "there is none before it"
        raise IchnosError(
            f"{file} could not be written ({_first_line(error)}); {kept}. Make room on the disk and run the"
            " same call again"
        ) from None


def _interned(value: Any) -> Any:
    """Return nested plain data in which equal words are one object.

    A pickle writes a word once and refers to it after that; words that a checkpoint brought are objects of
    their own, and the same state would make other bytes after resuming.
    """
    if isinstance(value, str):
        return sys.intern(value)
    if type(value) is dict:
        return {_interned(key): _interned(item) for key, item in value.items()}
    if type(value) is list:
        return [_interned(item) for item in value]
    return value


def _read(file: Path, device: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    except (*_DAMAGE, pickle.UnpicklingError) as error:
        raise InputRefused(f"{file} is damaged ({_first_line(error)}); remove it to start again") from None
    return content


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
