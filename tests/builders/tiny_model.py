"""A model folder with random weights: quick to run, and of no use but to see that files come and go as
they should.
"""

from __future__ import annotations

from pathlib import Path

import torch

from builders.readable_head import TARGETS
from ichnos import networks
from ichnos.models import Manifest, Model, NetworkSpec, Preprocessing, Provenance, TargetSpec, save_model

NETWORK = NetworkSpec(
    name="unet",
    arguments={
        "input_channels": 1,
        "num_classes": len(TARGETS),
        "dim": 3,
        "features_per_stage": [4, 8],
        "strides": [1, 2],
        "n_conv_per_stage": 1,
        "n_conv_per_stage_decoder": 1,
    },
)


def tiny_model(folder: Path) -> Model:
    """Write a random model that calls nearly everything brain, so that a reading goes on to the end."""
    torch.manual_seed(3)
    network = networks.build(NETWORK.name, **NETWORK.arguments)
    biases = [parameter for parameter in network.parameters() if parameter.shape == (len(TARGETS),)]
    with torch.no_grad():
        biases[-1][TARGETS.index("brain")] += 6
    manifest = Manifest(
        name="tiny",
        version="1",
        limits=("Random weights.",),
        network=NETWORK,
        preprocessing=Preprocessing(spacing_mm=(6, 6, 6), windows_hu=((-100, 100),), patch=(32, 32, 32)),
        targets=tuple(TargetSpec(name=name) for name in TARGETS),
        provenance=Provenance(
            code_version="0",
            command="none",
            seeds=(3,),
            steps=0,
            data={},
            hardware="none",
            trained="2026-01-01",
        ),
    )
    return save_model(folder, network, manifest)
