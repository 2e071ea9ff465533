"""Settings of the learners of haematoma expansion: classifiers, generators of slices, forecasters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ichnos.clinical.expansion import DEFAULT_DEFINITION
from ichnos.inference.crops import REGION_SHAPE, REGION_SPACING_MM
from ichnos.learning.loop.settings import LoopSettings, changed
from ichnos.models import NetworkSpec

_Arm = Literal["as is", "synthesis", "oversample", "weight", "focal"]
ARMS: tuple[_Arm, ...] = ("as is", "synthesis", "oversample", "weight", "focal")
ForecastKind = Literal["warp", "forecast"]
GeneratorKind = Literal["published", "conditional"]

CURVE = "curve.jsonl"  # beside a training's checkpoints: a line per validation
MaskSource = Literal["reader", "outlines"]


class ClassifierLoop(LoopSettings):
    """The loop of a classifier; every fold is trained to its last step, and validation only watches."""

    steps: int = Field(default=600, gt=0, description="optimiser steps of each fold")
    batch: int = Field(default=32, gt=1, description="images in each step")
    learning_rate: float = Field(default=2e-4, gt=0, description="highest learning rate")
    warm_up_steps: int | None = Field(default=20, ge=0, description="steps of linear warm-up")
    ema_decay: float | None = Field(default=0.99, ge=0, lt=1, description="decay of the averaged weights")
    gradient_clip: float = Field(default=1.0, ge=0, description="largest norm of the gradient; 0: any")
    validations: int = Field(default=0, ge=0, description="validations, evenly spread; 0: none")


class ClassifierSettings(BaseModel):
    """How a classifier of expansion is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkSpec = Field(description="network and its arguments")
    loop: ClassifierLoop = ClassifierLoop()
    arm: _Arm = Field(default="as is", description="how the classes are balanced")
    others_per_expanded: float | None = Field(
        default=None,
        gt=0,
        description="ratio that an arm brings training to: 2 for 1:2 (default: as the data)",
    )
    vit_weights: str = Field(
        default="", description="standard ViT weights to start from (names of timm or torchvision)"
    )
    crop: bool = Field(default=False, description="RandomResizedCrop, as published; otherwise sizes are kept")

    def named(self) -> str:
        """Return the arm with its ratio, as tables name it.

        >>> published_classifier(steps=1, arm="weight", others_per_expanded=2).named()
        'weight 1:2'
        """
        return self.arm if self.others_per_expanded is None else f"{self.arm} 1:{self.others_per_expanded:g}"


def published_classifier(*, size: int = 224, small: bool = False, **changes: Any) -> ClassifierSettings:
    """Return the published settings: ViT-B/16, 2e-4 with a cosine, RandomResizedCrop and flips.

    `small` shrinks the network, and its patches, so that there are as many as 64 in an image of 64 pixels.

    >>> published_classifier(small=True).network.arguments["depth"], published_classifier().crop
    (4, True)
    """
    whole = {"num_classes": 2, "image_size": [size, size], "patch_size": 16, "input_channels": 3}
    if small:
        whole |= {"width": 96, "depth": 4, "heads": 4, "patch_size": 8}
    settings = ClassifierSettings(network=NetworkSpec(name="vit", arguments=whole), crop=True)
    return changed(settings, changes)


def region_classifier(
    *, shape: Sequence[int] = (48, 48, 24), channels: int = 4, features: int = 0, **changes: Any
) -> ClassifierSettings:
    """Return ours: a 3-D ViT over the region with its masks as channels, one token per clinical fact.

    >>> region_classifier(steps=5, features=3).network.arguments["clinical_features"]
    3
    """
    arguments = {
        "num_classes": 2,
        "image_size": list(shape),
        "patch_size": [8, 8, 4],
        "input_channels": channels,
        "width": 96,
        "depth": 4,
        "heads": 4,
        "dropout": 0.1,
        "clinical_features": features,
    }
    return changed(ClassifierSettings(network=NetworkSpec(name="vit", arguments=arguments)), changes)


class ForecastLoop(LoopSettings):
    """The loop of a forecaster; only patients of an inner fold can validate, not synthetic copies."""

    steps: int = Field(default=1000, gt=0, description="optimiser steps")
    learning_rate: float = Field(
        default=2e-3, gt=0, description="highest learning rate; the warp takes a tenth of it"
    )
    warm_up_steps: int | None = Field(default=20, ge=0, description="steps of linear warm-up")
    ema_decay: float | None = Field(default=0.99, ge=0, lt=1, description="decay of the averaged weights")
    gradient_clip: float = Field(default=1.0, ge=0, description="largest norm of the gradient; 0: any")
    validations: int = Field(default=0, ge=0, description="validations, evenly spread; 0: none")


class ForecastSettings(BaseModel):
    """How a forecaster of the follow-up lesion is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ForecastKind = Field(
        default="forecast", description="forecast (ours) or warp (after Abramova 2024)"
    )
    width: int = Field(default=16, ge=1, description="features of the first stage; the published warp has 64")
    spacing_mm: tuple[float, float, float] = Field(
        default=REGION_SPACING_MM, description="voxel size of the region, mm"
    )
    shape: tuple[int, int, int] = Field(default=REGION_SHAPE, description="voxels of the region")
    patch: tuple[int, int, int] | None = Field(
        default=None, description="voxels of a training patch (default: the whole region)"
    )
    border_share: float = Field(
        default=0.8, ge=0, le=1, description="fraction of patches centred on the border of the growth"
    )
    patches_per_pair: int = Field(default=1, ge=1, description="patches of each pair in an epoch")
    loop: ForecastLoop = ForecastLoop()

    def network(self) -> NetworkSpec:
        """Return the network of the kind.

        >>> ForecastSettings(kind="warp", width=64).network().arguments["features_per_stage"]
        [64, 128, 256, 512]
        """
        width = self.width
        features = [width, 2 * width, 4 * width]
        if self.kind == "warp":
            arguments = {"input_channels": 2, "features_per_stage": [*features, 8 * width]}
            return NetworkSpec(name="affine_warp", arguments=arguments)
        shape = {
            "features_per_stage": features,
            "strides": [1, 2, 2],
            "n_conv_per_stage": [1, 1, 2],
            "n_conv_per_stage_decoder": [1, 1],
        }
        return NetworkSpec(name="unet", arguments={"input_channels": 5, "num_classes": 1, "dim": 3, **shape})


class GeneratorLoop(LoopSettings):
    """The loop of a generator; it has no validation."""

    batch: int = Field(default=32, gt=0, description="images in each step, in training and in sampling")
    learning_rate: float = Field(default=1e-4, gt=0, description="highest learning rate")
    warm_up_steps: int | None = Field(default=20, ge=0, description="steps of linear warm-up")
    ema_decay: float | None = Field(default=0.995, ge=0, lt=1, description="decay of the averaged weights")
    gradient_clip: float = Field(default=1.0, ge=0, description="largest norm of the gradient; 0: any")
    validations: int = Field(default=0, ge=0, description="validations, evenly spread; 0: none")


class GeneratorSettings(BaseModel):
    """How a generator is trained and sampled; the defaults are the published sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: GeneratorKind = Field(
        default="conditional", description="conditional (ours), or published (of expanded haematomas only)"
    )
    size: int = Field(default=224, gt=0, description="pixels along a side of an image")
    noise_steps: int = Field(default=1000, gt=1, description="steps of the diffusion")
    sampling_steps: int | None = Field(
        default=50, gt=0, description="even steps of sampling (DDIM); null: every step, as published"
    )
    ch: int = Field(default=64, gt=0, description="channels of the first level")
    ch_mult: tuple[int, ...] = Field(
        default=(1, 2, 3, 4), description="channels of each level over the first"
    )
    embed_dims: tuple[int, int, int] = Field(default=(256, 320, 512), description="widths of the KAN layers")
    res_blocks: int = Field(default=2, gt=0, description="residual blocks of each level")
    dropout: float = Field(default=0.15, ge=0, lt=1, description="dropout of the residual blocks")
    loop: GeneratorLoop = GeneratorLoop()

    def network(self) -> NetworkSpec:
        """Return the network of these settings.

        >>> GeneratorSettings(kind="published").network().arguments["in_channels"]
        3
        """
        conditional = self.kind == "conditional"
        arguments = {
            "T": self.noise_steps,
            "ch": self.ch,
            "ch_mult": list(self.ch_mult),
            "embed_dims": list(self.embed_dims),
            "num_res_blocks": self.res_blocks,
            "dropout": self.dropout,
            "in_channels": 1 if conditional else 3,
        }
        extra = {"condition_channels": 1, "condition_features": 1} if conditional else {}
        return NetworkSpec(name="diffusion_ukan", arguments=arguments | extra)


def small_generator(kind: GeneratorKind, **changes: Any) -> GeneratorSettings:
    """Return settings whose network a processor without an accelerator can train in minutes.

    >>> small_generator("conditional", steps=10).network().arguments["condition_channels"]
    1
    """
    small = {"size": 32, "ch": 32, "ch_mult": (1, 2), "embed_dims": (64, 64, 96), "res_blocks": 1}
    how = {"dropout": 0.05, "batch": 8, "learning_rate": 5e-4}
    return changed(GeneratorSettings(kind=kind), small | how | changes)


class ExpansionSettings(BaseModel):
    """How the chain to a probability of expansion is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    design: Literal["ours", "published"] = Field(default="ours", description="ours or published")
    reader: str = Field(default="default", description="model whose masks are used: its folder, or `default`")
    masks: MaskSource = Field(default="reader", description="reader, or outlines (of the cohort)")
    folds: int = Field(default=5, ge=2, description="folds, each with a network of its own")
    definition: str = Field(default=DEFAULT_DEFINITION, description="definition of expansion")
    recipe: str = Field(default="small", description="small, published, or a settings file")
    classifier: ClassifierSettings | None = Field(default=None, description="in place of the recipe")
    vit_weights: str = Field(
        default="", description="standard ViT weights that the recipe's published design starts from"
    )
