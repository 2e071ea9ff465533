"""networks: one architecture per file, built from plain data, so that the configuration *is* the call.

>>> network = build("unet", input_channels=1, num_classes=2, dim=2, features_per_stage=[4, 8], strides=[1, 2])
>>> type(network).__name__
'ResidualUNet'
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from ichnos.errors import UsageError, require

if TYPE_CHECKING:
    from torch import nn

# Name in model.json -> where the class is. A module is imported when its network is built.
_NETWORKS = {
    "unet": "unet:ResidualUNet",
    "umamba_bot": "umamba:UMambaBot",
    "umamba_enc": "umamba:UMambaEnc",
    "diffusion_ukan": "ukan:DiffusionUKAN",
    "planned": "planned:PlannedNetwork",
    "vit": "vit:VisionTransformer",
    "calibrated_ensemble": "ensemble:CalibratedEnsemble",
    "affine_warp": "warp:AffineWarp",
    "unetr": "unetr:Unetr",
    "refiner": "refiner:Refiner",
    "mean_ensemble": "average:MeanEnsemble",
}


def names() -> list[str]:
    """List the networks that `build` knows.

    >>> "unet" in names(), "vit" in names()
    (True, True)
    """
    return sorted(_NETWORKS)


def network_class(name: str) -> type[nn.Module]:
    """Return the class behind a name, or say which names there are."""
    if name not in _NETWORKS:
        raise UsageError(f"there is no network called {name!r}; there are {', '.join(names())}")
    require("torch", extra="learning", purpose="building a network")
    module, attribute = _NETWORKS[name].split(":")
    found: type[nn.Module] = getattr(importlib.import_module(f"ichnos.networks.{module}"), attribute)
    return found


def build(name: str, **arguments: Any) -> nn.Module:
    """Build a network from its name and plain-data arguments (numbers, strings, lists), as a model's
    model.json holds them.
    """
    made_by = network_class(name)
    known = inspect.signature(made_by).parameters
    unknown = sorted(set(arguments) - set(known))
    missing = [p.name for p in known.values() if p.default is p.empty and p.name not in arguments]
    if unknown or missing:
        raise UsageError(
            f"{name} takes {', '.join(known)}; unknown here: {unknown or 'none'}, missing:"
            f" {missing or 'none'}"
        )
    return made_by(**arguments)
