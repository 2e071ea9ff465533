"""Networks that nnU-Net has planned (PlainConvUNet, ResidualEncoderUNet), rebuilt from their plan; layers
come with the extra nnunet.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

from ichnos.errors import InputRefused, require

_FROM = (
    "torch.nn.",
    "dynamic_network_architectures.architectures.",
    "dynamic_network_architectures.building_blocks.",
)


class PlannedNetwork(nn.Module):
    """A network from `network_class_name` and `arch_kwargs` of an nnU-Net plan; `requires_import` names
    the arguments that are classes.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        dim: int,
        network_class_name: str,
        arch_kwargs: dict[str, Any],
        requires_import: list[str],
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        require("dynamic_network_architectures", extra="nnunet", purpose="a network that nnU-Net has planned")
        known = {
            name: _located(value) if name in requires_import and value is not None else value
            for name, value in arch_kwargs.items()
        }
        made_by = _located(network_class_name)
        self.dim = dim
        self.network: nn.Module = made_by(
            input_channels=input_channels,
            num_classes=num_classes,
            **known | {"deep_supervision": deep_supervision},
        )

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        logits: Tensor | list[Tensor] = self.network(image)
        return logits


def _located(name: str) -> Any:
    """Return a class by its full name; only layers and architectures are allowed, for a model's description
    is data, not a program.

    >>> _located("os.system")
    Traceback (most recent call last):
    ichnos.errors.InputRefused: the model asks for 'os.system', which is neither a layer of torch nor an
    architecture of nnU-Net
    """
    if not name.startswith(_FROM):
        raise InputRefused(
            f"the model asks for {name!r}, which is neither a layer of torch nor an architecture of nnU-Net"
        )
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise InputRefused(
            f"the model asks for {name!r}, which this installation does not have; see ichnos doctor"
        ) from None
