"""The model that a user names: a folder, or the name of one that ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ichnos.errors import InputRefused

if TYPE_CHECKING:
    from ichnos.models import Model


def model_folder(name: str | Path) -> Path:
    """Return the folder of a model: a folder as it is, `default`, or the name of one that ships.

    >>> model_folder("default").name, model_folder("multi").name
    ('multi', 'multi')
    """
    from ichnos.models import shipped_models
    from ichnos.models.store import DEFAULT, SHIPPED

    if Path(name).is_dir():
        return Path(name)
    shipped = {folder.name: folder for folder in shipped_models()}
    if str(name) == "default":
        return SHIPPED / DEFAULT
    if str(name) in shipped:
        return shipped[str(name)]
    raise InputRefused(
        f"there is no model {name}; give a model folder, `default`, or one of {', '.join(shipped) or 'none'}"
    )


def named_model(name: str | Path) -> Model:
    """Load the model that a user names, its files checked."""
    from ichnos.models import default_model, load_model

    if str(name) == "default" and not Path(name).is_dir():
        return default_model()  # it says how to get one where none came
    return load_model(model_folder(name))
