"""Whether a device that a user names is there: asked before any work begins."""

from __future__ import annotations

import importlib.util

from ichnos.errors import UsageError


def check_device(device: str, name: str = "--device") -> None:
    """Refuse a device that torch cannot use here; `cpu` is always there and asks nothing.

    >>> check_device("cpu")
    """
    if device == "cpu" or importlib.util.find_spec("torch") is None:
        return
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"{name} {device} cannot be used here ({reason}); give {_devices()}") from None


def _devices() -> str:
    import torch

    others = ["cuda"] if torch.cuda.is_available() else []
    others += ["mps"] if torch.backends.mps.is_available() else []
    return " or ".join(["cpu", *others])
