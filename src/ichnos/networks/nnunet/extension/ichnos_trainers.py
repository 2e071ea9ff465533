"""Trainers that nnU-Net finds by name through nnUNet_extTrainer; training itself is nnU-Net's, as it was for
the published U-Mamba.

nnU-Net imports this file by its path; it holds nothing but the choice of a network.
"""

from __future__ import annotations

from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from ichnos.networks.nnunet import network_from_plans


class nnUNetTrainerIchnosUNet(nnUNetTrainer):  # type: ignore[misc]  # noqa: N801
    """Train the plain twin of U-Mamba."""

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        return network_from_plans(
            "unet", configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )


class nnUNetTrainerUMambaBot(nnUNetTrainer):  # type: ignore[misc]  # noqa: N801
    """Train U-Mamba with one Mamba layer at the bottom."""

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        return network_from_plans(
            "umamba_bot",
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )


class nnUNetTrainerUMambaEnc(nnUNetTrainer):  # type: ignore[misc]  # noqa: N801
    """Train U-Mamba with Mamba layers in the encoder."""

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        return network_from_plans(
            "umamba_enc",
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )
