"""model.json: everything that rebuilds a network and its preprocessing, and says where the weights come from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkSpec(_Frozen):
    """The call that builds the network: a name of `ichnos.networks.build` and its plain-data arguments."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Preprocessing(_Frozen):
    """How a Scan becomes the network's input: RAS axes of the scan itself, one voxel size, HU windows as channels."""

    spacing_mm: tuple[float, float, float]  # of the grid that the network sees, along (x, y, z)
    windows_hu: tuple[tuple[float, float], ...]  # one input channel each; lower edge -> -1, upper edge -> +1, clipped
    patch: tuple[int, int, int]  # voxels (x, y, z) of one tile

    @model_validator(mode="after")
    def _sensible(self) -> Preprocessing:
        if min(self.spacing_mm) <= 0 or min(self.patch) < 1:
            raise ValueError(f"spacing_mm {self.spacing_mm} and patch {self.patch} must be positive")
        if not self.windows_hu or any(low >= high for low, high in self.windows_hu):
            raise ValueError(f"windows_hu {self.windows_hu} must hold at least one (lower, upper) pair with lower < upper")
        return self


class TargetSpec(_Frozen):
    """One output channel and what it means."""

    name: str  # "ICH", "IVH", "PHE", "brain", "ventricles", "leukoaraiosis", "tract_left", "tract_right"
    threshold: float = Field(default=0.5, ge=0, le=1)  # operating point: probability above which a voxel counts
    group: Literal["haematoma", "leukoaraiosis", "tract", "expansion", "anatomy"] = "anatomy"


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
    provenance: Provenance
    weights_sha256: str = ""  # of model.safetensors; filled in by the store

    def channel(self, target: str) -> int:
        """Return the output channel of a target."""
        return [t.name for t in self.targets].index(target)
