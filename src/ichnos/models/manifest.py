"""model.json: everything that rebuilds a network and its preprocessing, and says where the weights come
from.
"""

from __future__ import annotations

import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

import ichnos
from ichnos.errors import InputRefused


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkSpec(_Frozen):
    """The call that builds the network: a name of `ichnos.networks.build` and its plain-data arguments.

    >>> NetworkSpec(name="unet", arguments={"dim": 3}).arguments["dim"]
    3
    """

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Preprocessing(_Frozen):
    """How a Scan becomes the network's input: RAS axes of the scan itself, one voxel size, HU windows as
    channels.

    >>> how = Preprocessing(spacing_mm=(3.0, 3.0, 5.0), windows_hu=((0.0, 80.0),), patch=(64, 64, 16))
    >>> how.axes, how.padding
    ('xyz', -1.0)
    """

    spacing_mm: tuple[float, float, float]  # of the grid that the network sees, along (x, y, z)
    # one input channel each; lower edge -> -1, upper edge -> +1, clipped
    windows_hu: tuple[tuple[float, float], ...]
    patch: tuple[int, int, int]  # voxels (x, y, z) of one tile; z is 1 for a network that sees single slices
    # (mean, sd) in HU per window: clipped HU are standardised, not mapped to -1..1
    z_score: tuple[tuple[float, float], ...] = ()
    # HU to which the median of the scan's soft core is moved before the windows; None: HU as scanned
    recentred_hu: float | None = None
    axes: Literal["xyz", "xzy", "yxz", "yzx", "zxy", "zyx"] = (
        "xyz"  # order in which the network takes them; nnU-Net's is "zyx"
    )

    @model_validator(mode="after")
    def _sensible(self) -> Preprocessing:
        if min(self.spacing_mm) <= 0 or min(self.patch) < 1:
            raise ValueError(f"spacing_mm {self.spacing_mm} and patch {self.patch} must be positive")
        if not self.windows_hu or any(low >= high for low, high in self.windows_hu):
            raise ValueError(
                f"windows_hu {self.windows_hu} must hold at least one (lower, upper) pair with lower < upper"
            )
        if self.z_score and (
            len(self.z_score) != len(self.windows_hu) or any(sd <= 0 for _, sd in self.z_score)
        ):
            raise ValueError(f"z_score {self.z_score} must hold one (mean, sd) per window, with sd > 0")
        return self

    @property
    def padding(self) -> float:
        """Return what stands for voxels outside the scan in every channel.

        >>> how = {"spacing_mm": (3, 3, 5), "windows_hu": ((0, 80),), "patch": (64, 64, 16)}
        >>> Preprocessing(**how).padding, Preprocessing(**how, z_score=((40.0, 10.0),)).padding
        (-1.0, 0.0)
        """
        return 0.0 if self.z_score else -1.0


COORDINATE_MM = 50.0  # a coordinate channel's unit
LOGIT_UNIT = 4.0  # of what a first network says, as a refinement is shown it
ATLAS_CHANNELS = 2  # of a refinement: the tract atlas, left and right


class TargetSpec(_Frozen):
    """One output channel and what it means: a mask (its logit), or one axis of the voxel's position in MNI152
    space.

    Three kinds are not read from a scan alone: "patient" is one probability of a whole patient, "region" a
    map around an outline that is given, "image" an image that is drawn.

    >>> TargetSpec(name="haematoma").kind, TargetSpec(name="haematoma").threshold
    ('mask', 0.5)
    """

    name: str  # in `ichnos.targets`, or one of the model's own
    kind: Literal["mask", "coordinate", "patient", "region", "image"] = (
        "mask"  # a coordinate is given in units of COORDINATE_MM, inside the brain
    )
    # operating point: probability above which a voxel counts
    threshold: float = Field(default=0.5, ge=0, le=1)
    group: str = "anatomy"  # as in `ichnos.targets`


class Provenance(_Frozen):
    """Where the weights come from."""

    code_version: str
    command: str
    seeds: tuple[int, ...]
    steps: int = Field(ge=0)
    data: dict[str, str]  # file name of a source (head, cohort) -> SHA-256 of its content
    hardware: str  # in general terms: "2 CPU cores", "1 data-centre GPU"
    trained: str  # ISO date
    validation: dict[str, float] = Field(default_factory=dict)  # measure -> value on the held-out side
    parents: tuple[str, ...] = ()  # SHA-256 of the weights that training went on from

    @classmethod
    def of_today(cls, **facts: Any) -> Provenance:
        """Return the provenance of weights that this version of ichnos has trained today.

        >>> made = Provenance.of_today(command="", seeds=(0,), steps=1, data={}, hardware="CPU")
        >>> len(made.trained), made.parents
        (10, ())
        """
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        return cls(code_version=ichnos.__version__, trained=today, **facts)


class Manifest(_Frozen):
    """The content of model.json."""

    format: Literal["ichnos-model-1"] = "ichnos-model-1"
    name: str
    version: str
    intended_use: str = "Research use only. Not a medical device."
    limits: tuple[str, ...]  # what the model never saw, in sentences
    network: NetworkSpec
    preprocessing: Preprocessing
    targets: tuple[TargetSpec, ...]  # in the order of the network's output channels
    activation: Literal["sigmoid", "softmax"] = (
        "sigmoid"  # softmax: a channel for the background comes before those of the targets
    )
    provenance: Provenance
    weights_sha256: str = ""  # of model.safetensors; filled in by the store
    refines: str = (
        ""  # SHA-256 of the weights whose answers this model corrects; "": it reads scans by itself
    )

    @property
    def input_channels(self) -> int:
        """Return how many channels the network sees: one per window; a refinement also sees the first
        answers and the atlas.
        """
        return len(self.preprocessing.windows_hu) + (
            len(self.targets) + ATLAS_CHANNELS if self.refines else 0
        )

    def check_reads_scans(self, purpose: str) -> None:
        """Refuse a model that does not give a value to the voxels of a scan from the scan alone."""
        if self.refines:
            raise InputRefused(
                f"the model {self.name} corrects what another one says, so {purpose} cannot use it alone;"
                " name the other one"
            )
        told = {
            "patient": "one number per patient",
            "region": "a map around an outline that must be given",
            "image": "images that are drawn",
        }
        if other := next((t for t in self.targets if t.kind in told), None):
            raise InputRefused(
                f"the model {self.name} gives {told[other.kind]} ({other.name}), so {purpose} cannot use it;"
                " name another"
            )

    def channel(self, target: str) -> int:
        """Return the place of a target among the probabilities."""
        return [t.name for t in self.targets].index(target)
