"""The store of models: load, verify, card; weights that ship."""

from ichnos.models.manifest import (
    ATLAS_CHANNELS,
    COORDINATE_MM,
    LOGIT_UNIT,
    Manifest,
    NetworkSpec,
    Preprocessing,
    Provenance,
    TargetSpec,
)
from ichnos.models.store import (
    Model,
    default_model,
    load_model,
    note_validation,
    read_manifest,
    save_model,
    shipped_models,
)

__all__ = [
    "ATLAS_CHANNELS",
    "COORDINATE_MM",
    "LOGIT_UNIT",
    "Manifest",
    "Model",
    "NetworkSpec",
    "Preprocessing",
    "Provenance",
    "TargetSpec",
    "default_model",
    "load_model",
    "note_validation",
    "read_manifest",
    "save_model",
    "shipped_models",
]
