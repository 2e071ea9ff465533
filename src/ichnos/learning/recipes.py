"""Recipes: whole settings of a training, as published or sized for two processor cores, or from a file.

`published` is what the papers and their code say (docs/training.md names the source of each value); where
they are silent the value is ours and marked so. `small` is the same design at a size that two processor
cores train within hours. A recipe is an ordinary settings tree: it is saved with the model, and a file with
such a tree is a recipe too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ichnos.errors import UsageError
from ichnos.learning.expansion.settings import (
    ClassifierLoop,
    ClassifierSettings,
    ForecastSettings,
    GeneratorSettings,
    published_classifier,
    region_classifier,
    small_generator,
)
from ichnos.learning.loop.settings import changed
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs

SMALL, PUBLISHED = "small", "published"
_Tree = TypeVar("_Tree", bound=BaseModel)
# One image is seen once in an epoch; no averaging, no warm-up, no clipping, where the papers name none.
_PLAIN = {"warm_up_steps": 0, "ema_decay": 0.0, "gradient_clip": 0.0}


def segmentation_recipe(targets: str, name: str) -> TrainSettings | NnunetSettings:
    """Return how a network that outlines some targets is trained.

    Published: U-Mamba (Yu 2025) for the haematoma in the topology of nnU-Net's planner, nnU-Net in two
    dimensions for leukoaraiosis (Ryu 2025), in three for anything else (Murray 2024 for the tract).

    >>> segmentation_recipe("haematoma", "published").epochs
    500
    >>> segmentation_recipe("tract", "small").preprocessing.spacing_mm
    (2.0, 2.0, 2.0)
    """
    specs = target_specs(targets)
    groups = {spec.group for spec in specs}
    if name == PUBLISHED:
        return NnunetSettings(targets=specs).changed(**_published_segmentation(groups))
    if name == SMALL:
        return TrainSettings(targets=specs).changed(**_small_segmentation(groups))
    content = recipe_file(name)
    if "iterations" in content:
        return _of(NnunetSettings, content | {"targets": specs}, name)
    return _of(TrainSettings, content | {"targets": specs}, name)


def _published_segmentation(groups: set[str]) -> dict[str, Any]:
    if groups == {"haematoma"}:
        return {"network": "umamba_enc", "epochs": 500, "iterations": 250, "learning_rate": 1e-3}
    if groups == {"leukoaraiosis"}:
        return {"network": "plain", "configuration": "2d", "epochs": 1000, "iterations": 250}
    return {"network": "plain", "epochs": 1000, "iterations": 250}


def _small_segmentation(groups: set[str]) -> dict[str, Any]:
    if groups == {"haematoma"}:
        shape = {"spacing_mm": (3.0, 3.0, 5.0), "patch": (48, 48, 16), "width": 12}
        return {"network": "umamba_enc", "batch": 2, "steps": 4000, **shape}
    if groups == {"leukoaraiosis"}:
        shape = {"spacing_mm": (1.0, 1.0, 5.0), "patch": (192, 192, 1), "width": 16}
        return {"network": "unet", "batch": 8, "steps": 4000, **shape}
    return {"network": "unet", "batch": 2, "steps": 3000, "width": 16}


def classifier_recipe(name: str, *, kind: str = "published", features: int = 0) -> ClassifierSettings:
    """Return how a classifier of expansion is trained; `kind` is the paper's design or ours.

    >>> settings = classifier_recipe("published")
    >>> settings.network.arguments["image_size"], settings.loop.epochs, settings.loop.batch
    ([224, 224], 100, 32)
    """
    if name == PUBLISHED:
        how: dict[str, Any] = {"epochs": 100, "batch": 32, "learning_rate": 2e-4, "weight_decay": 0.0}
        how |= _PLAIN
        if kind == "published":
            return published_classifier(**how)
        # ours has no publication: its own design at three times the width and depth
        large = region_classifier(features=features, **how | {"ema_decay": None, "warm_up_steps": None})
        arguments = large.network.arguments | {"width": 288, "depth": 12, "heads": 6}
        return large.model_copy(update={"network": large.network.model_copy(update={"arguments": arguments})})
    if name == SMALL:
        if kind == "published":
            return published_classifier(size=64, small=True, epochs=10, batch=16)
        return region_classifier(features=features, epochs=10, batch=16, learning_rate=5e-4)
    return _of(ClassifierSettings, recipe_file(name), name)


def measured_start_recipe() -> ClassifierLoop:
    """Return how a classifier of slices is started on measures, under `small`; `published` has no such start.

    >>> measured_start_recipe().for_examples(3309).steps
    2080
    """
    loop = {"epochs": 20, "batch": 32, "learning_rate": 1e-3, "weight_decay": 0.05}
    return changed(ClassifierLoop(), loop)


def generator_recipe(name: str, *, kind: str = "published") -> GeneratorSettings:
    """Return how a generator of slices is trained.

    >>> generator_recipe("published").loop.epochs
    1000
    """
    if kind not in ("published", "conditional"):
        raise UsageError(f"there is no generator {kind!r}; give published or conditional")
    if name == PUBLISHED:
        whole = GeneratorSettings(kind=kind)  # type: ignore[arg-type]
        how = {"schedule": "ukan", "weight_decay": 1e-4, "warm_up_steps": 0, "ema_decay": 0.0}
        return changed(whole, {"epochs": 1000, "batch": 32, "learning_rate": 1e-4, **how})
    if name == SMALL:
        return small_generator(kind, size=64, epochs=400)  # type: ignore[arg-type]
    return _of(GeneratorSettings, recipe_file(name), name)


def forecast_recipe(name: str, *, kind: str = "warp") -> ForecastSettings:
    """Return how a forecaster of the follow-up lesion is trained.

    >>> forecast_recipe("published").network().arguments["features_per_stage"]
    [64, 128, 256, 512]
    """
    if kind not in ("warp", "forecast"):
        raise UsageError(f"there is no forecaster {kind!r}; give warp or forecast")
    if name == PUBLISHED:
        whole = ForecastSettings(kind=kind, width=64)  # type: ignore[arg-type]
        # our own loop halves nothing for the warp, so that its rate is the published one
        rate = {"learning_rate": 1e-3 if kind == "warp" else 2e-3, "weight_decay": 0.0}
        border = {"patch": (64, 64, 64), "border_share": 0.8, "patches_per_pair": 5}
        wide = {"spacing_mm": (1.0, 1.0, 1.0), "shape": (160, 160, 128)}
        return changed(whole, {"epochs": 150, "schedule": "constant", **rate, **_PLAIN, **border, **wide})
    if name == SMALL:
        how: dict[str, Any] = {"steps": 1000}
        if kind == "warp":  # 64 mm a side, as published: beyond, little moves
            how |= {"patch": (32, 32, 16)}
        return changed(ForecastSettings(kind=kind, width=8), how)  # type: ignore[arg-type]
    return _of(ForecastSettings, recipe_file(name), name)


def recipe_file(name: str) -> dict[str, Any]:
    """Read a recipe from a file: YAML or JSON, as a training saves it.

    >>> recipe_file("huge")
    Traceback (most recent call last):
    ichnos.errors.UsageError: there is no recipe 'huge'; give small, published, or a settings file
    """
    import yaml

    file = Path(name)
    if not file.is_file():
        raise UsageError(f"there is no recipe {name!r}; give small, published, or a settings file")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"{file} is not readable as YAML ({reason})") from None
    if not isinstance(content, Mapping):
        raise UsageError(f"{file} holds no NAME: VALUE lines; give a settings file of a training")
    return dict(content)


def _of(kind: type[_Tree], content: Mapping[str, Any], name: str) -> _Tree:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        at = ".".join(str(part) for part in fault["loc"])
        raise UsageError(f"{name} is no recipe of this training: {at}: {fault['msg']}") from None
