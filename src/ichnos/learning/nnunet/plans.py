"""nnU-Net's plans.json and dataset.json, checked before anything is built from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ichnos.errors import InputRefused
from ichnos.formats.text import read_json
from ichnos.models import Preprocessing

Millimetres = Annotated[float, Field(gt=0.01, lt=1000, allow_inf_nan=False)]
Voxels = Annotated[int, Field(ge=1, le=4096)]
_M = TypeVar("_M", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class PlannedArchitecture(_Part):
    """The call that builds a planned network."""

    network_class_name: str = ""
    arch_kwargs: dict[str, Any]
    requires_import: list[str] = Field(alias="_kw_requires_import", default=[])


class PlannedConfiguration(_Part):
    """One configuration of the plans, with what it inherits."""

    spacing: Annotated[list[Millimetres], Field(min_length=2, max_length=3)]
    patch_size: Annotated[list[Voxels], Field(min_length=2, max_length=3)]
    normalization_schemes: list[str] = []
    architecture: PlannedArchitecture | None = None


class IntensityStatistics(_Part):
    """HU of the targets in the training scans."""

    mean: float = Field(allow_inf_nan=False)
    std: float = Field(ge=0, allow_inf_nan=False)
    percentile_00_5: float = Field(allow_inf_nan=False)
    percentile_99_5: float = Field(allow_inf_nan=False)


class Plans(_Part):
    """What ichnos needs of plans.json."""

    transpose_forward: list[int]
    original_median_spacing_after_transp: Annotated[list[Millimetres], Field(min_length=3, max_length=3)]
    foreground_intensity_properties_per_channel: dict[str, IntensityStatistics]
    configuration: PlannedConfiguration

    @model_validator(mode="after")
    def _consistent(self) -> Plans:
        if sorted(self.transpose_forward) != [0, 1, 2]:
            raise ValueError(f"transpose_forward {self.transpose_forward} is no order of three axes")
        if "0" not in self.foreground_intensity_properties_per_channel:
            raise ValueError("there are no intensities of channel 0")
        return self

    def preprocessing(self, configuration: str) -> Preprocessing:
        """Return nnU-Net's voxel size, intensities and patch in our terms."""
        hu = self.foreground_intensity_properties_per_channel["0"]
        axes = "".join("zyx"[axis] for axis in self.transpose_forward)
        spacing, patch = list(self.configuration.spacing), list(self.configuration.patch_size)
        if configuration == "2d":
            if axes[0] != "z":
                raise InputRefused(
                    f"nnU-Net planned slices across {axes[0]}, not across z; these are no axial head CTs"
                )
            spacing, patch = [self.original_median_spacing_after_transp[0], *spacing], [1, *patch]
        step, side = dict(zip(axes, spacing, strict=True)), dict(zip(axes, patch, strict=True))
        return Preprocessing(
            spacing_mm=(step["x"], step["y"], step["z"]),
            windows_hu=((hu.percentile_00_5, hu.percentile_99_5),),
            patch=(side["x"], side["y"], side["z"]),
            z_score=((hu.mean, max(hu.std, 1e-8)),),
            axes=axes,  # type: ignore[arg-type]
        )


class Dataset(_Part):
    """What ichnos needs of dataset.json."""

    labels: dict[str, int | list[int]]
    channel_names: dict[str, str] = Field(default={}, validation_alias="channel_names")


def plans_of(content: Mapping[str, Any], configuration: str, *, source: str) -> Plans:
    """Return a configuration of plans, with what it inherits from others.

    >>> loop = {"configurations": {"2d": {"inherits_from": "2d"}}}
    >>> plans_of(loop, "2d", source="plans.json")
    Traceback (most recent call last):
    ichnos.errors.InputRefused: plans.json cannot be used: the configuration 2d inherits from itself
    """
    resolved = resolved_configuration(content, configuration, source=source)
    return _checked(Plans, {**content, "configuration": resolved}, source)


def resolved_configuration(content: Mapping[str, Any], name: str, *, source: str) -> dict[str, Any]:
    """Return a configuration with what it inherits from others.

    >>> plans = {"configurations": {"a": {"patch": 64, "batch": 2}, "b": {"inherits_from": "a", "batch": 4}}}
    >>> resolved_configuration(plans, "b", source="plans.json")
    {'patch': 64, 'batch': 4}
    """
    configurations = content.get("configurations")
    chain: list[str] = []
    chosen: dict[str, Any] = {"inherits_from": name}
    while "inherits_from" in chosen:
        parent = chosen.pop("inherits_from")
        if parent in chain:
            raise InputRefused(f"{source} cannot be used: the configuration {parent} inherits from itself")
        chain.append(parent)
        named = isinstance(configurations, Mapping) and isinstance(parent, str)
        held = dict(configurations or {}).get(parent) if named else None
        if not isinstance(held, Mapping):
            raise InputRefused(f"{source} cannot be used: it has no configuration {parent!r}")
        chosen = {**held, **chosen}
    return chosen


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object, or say what is wrong with the file."""
    if not file.is_file():
        raise InputRefused(f"{file.parent} is no result folder of nnU-Net: it has no {file.name}")
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputRefused(f"{file} holds no JSON object; a {file.name} of nnU-Net is expected")
    return content


def dataset_of(content: Mapping[str, Any], *, source: str) -> Dataset:
    """Return the labels and channels of a dataset; nnU-Net v1 calls the channels modality.

    >>> dataset_of({"labels": {"ICH": 1}, "modality": {"0": "CT"}}, source="dataset.json").channel_names
    {'0': 'CT'}
    """
    channels = content.get("channel_names") or content.get("modality") or {}
    return _checked(Dataset, {**content, "channel_names": channels}, source)


def _checked(kind: type[_M], content: Mapping[str, Any], source: str) -> _M:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        at = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise InputRefused(
            f"{source} cannot be used: {at}: {fault['msg'].removeprefix('Value error, ')}"
        ) from None
