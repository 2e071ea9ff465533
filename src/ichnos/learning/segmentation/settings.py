"""The settings of a segmentation training on a cohort: one tree, as a file, flags and a saved run hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ichnos.learning.loop.settings import LoopSettings, changed
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.models import Preprocessing, TargetSpec

WINDOWS_HU = ((-20.0, 100.0), (0.0, 40.0), (20.0, 80.0), (-1000.0, 1000.0))


@dataclass(frozen=True)
class Augmentation:
    """How often, and how far. `OFF` changes nothing."""

    mirrored_share: float = 0.5  # left and right exchanged, with the targets of both sides
    turned_share: float = 0.3  # share of patches that are rotated, scaled and moved
    turn_deg: float = 15.0  # greatest, about each axis; in the plane alone for slices
    zoom: float = 0.15  # greatest change of size, either way
    offset_hu: float = 8.0  # greatest, either way
    gain: float = 0.03  # greatest change of contrast, either way
    noise_hu: float = 5.0  # greatest standard deviation
    noisy_share: float = 0.5
    blurred_share: float = 0.2
    thick_share: float = 0.2  # share of patches seen as through thicker slices
    thick_factor: int = 3  # greatest

    @property
    def margin(self) -> float:
        """Return how much larger than the patch a region must be so that a turned patch has no empty
        corners (in share of its side).

        >>> Augmentation().margin, OFF.margin
        (0.25, 0.0)
        """
        return 0.25 if self.turned_share > 0 else 0.0


OFF = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1)


class Objective(BaseModel):
    """Weights of the loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # it falls to 0 while the network still learns, so that probabilities, and Dice at 0.5, become honest
    sparse_weight: float = Field(
        default=0.5, ge=0, description="extra weight of a target's own voxels at the start"
    )
    sparse_until: float = Field(
        default=0.5, gt=0, le=1, description="share of the steps over which this weight falls to 0"
    )
    cl_dice_weight: float = Field(
        default=0.0, ge=0, description="weight of the centre-line term, for thin tubes such as the tract"
    )
    rim_weight: float = Field(default=0.0, ge=0, description="weight of the boundary term")


class ArchitectureSettings(BaseModel):
    """The network; how often it halves an axis follows from patch and voxel size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Literal["unet", "umamba_bot", "umamba_enc", "unetr"] = Field(
        default="unet", description="unet, umamba_bot, umamba_enc or unetr"
    )
    width: int = Field(default=16, ge=1, description="features of the first stage")
    deep_supervision: bool = Field(default=True, description="a loss at every resolution of the decoder")


class InputSettings(Preprocessing):
    """How the network sees a scan."""

    spacing_mm: tuple[float, float, float] = Field(
        default=(2.0, 2.0, 2.0), description="voxel size along x, y, z in mm"
    )
    windows_hu: tuple[tuple[float, float], ...] = Field(
        default=WINDOWS_HU, description="HU windows, one input channel each"
    )
    patch: tuple[int, int, int] = Field(
        default=(64, 64, 64), description="voxels along x, y, z; z of 1: a network of slices"
    )


class SamplingSettings(BaseModel):
    """Which patches are trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    foreground_share: float = Field(
        default=0.6, ge=0, le=1, description="fraction of patches centred on a voxel of a target"
    )
    simulated_share: float = Field(
        default=0.0, ge=0, lt=1, description="fraction of batches simulated during training"
    )
    augmentation: Augmentation = Field(default=Augmentation(), description="random changes of patches")


def _specs(value: Any) -> Any:
    """Read targets from a comma list or from their names."""
    if isinstance(value, str):
        return target_specs(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
        return target_specs(",".join(value))
    return value


TargetList = Annotated[tuple[TargetSpec, ...], BeforeValidator(_specs)]  # also from names


class TrainSettings(BaseModel):
    """What to train on a cohort, and how; a training is resumed only under the same settings.

    >>> TrainSettings(targets="ICH,tract", loop={"steps": 10}).names
    ('ICH', 'tract_left', 'tract_right')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: TargetList = target_specs("haematoma")  # or their names
    architecture: ArchitectureSettings = ArchitectureSettings()
    preprocessing: InputSettings = InputSettings()
    sampling: SamplingSettings = SamplingSettings()
    objective: Objective = Objective()
    loop: LoopSettings = LoopSettings()
    validate_on: int = Field(default=0, ge=0, description="validation patients; 0: all that are set aside")
    start: str = Field(default="", description="fine-tune from this model folder, or `default`")

    @model_validator(mode="after")
    def _validates(self) -> Self:
        if self.loop.validations < 1:
            raise ValueError("a training on a cohort needs 1 validation or more, to choose the best step")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the targets.

        >>> TrainSettings(targets="tract").names
        ('tract_left', 'tract_right')
        """
        return tuple(target.name for target in self.targets)

    @property
    def flat(self) -> bool:
        """Say whether the network sees single slices.

        >>> TrainSettings().flat, TrainSettings(preprocessing={"patch": (64, 64, 1)}).flat
        (False, True)
        """
        return self.preprocessing.patch[2] == 1

    def changed(self, **changes: Any) -> Self:
        """Return the settings with some of them changed, wherever in the tree they are.

        >>> TrainSettings(targets="ICH").changed(width=4, steps=10).architecture.width
        4
        """
        return changed(self, changes)
