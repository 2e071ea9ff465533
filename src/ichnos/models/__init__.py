"""The store of models: load, verify, card; weights that ship."""

from ichnos.models.manifest import Manifest, NetworkSpec, Preprocessing, Provenance, TargetSpec
from ichnos.models.store import Model, load_model, read_manifest, save_model, shipped_models

__all__ = [
    "Manifest",
    "Model",
    "NetworkSpec",
    "Preprocessing",
    "Provenance",
    "TargetSpec",
    "load_model",
    "read_manifest",
    "save_model",
    "shipped_models",
]
