"""Models of a node: those that ship with ichnos, those in its `models` folder, and the one that reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.orm import Session

from ichnos.errors import InputRefused, UsageError
from ichnos.models import read_manifest, shipped_models
from ichnos.models.card import card_text
from ichnos.models.store import DEFAULT
from ichnos.service.settings import NodeSettings
from ichnos.service.store.options import option, set_option

READING_MODEL = "reading.model"  # the option that holds the name of the model that was chosen in the pages


@dataclass(frozen=True)
class InstalledModel:
    """A model that this node can read with."""

    name: str  # of its folder
    folder: Path
    title: str
    version: str
    targets: tuple[str, ...]
    problem: str  # why it cannot be used; "" where it can
    reads: bool  # new studies are read with it


def installed_models(session: Session, settings: NodeSettings) -> list[InstalledModel]:
    """Return every model of the node, sorted by name; one in the node's folder hides one that ships.

    A chosen one that is not there any more is among them, with that as its problem.
    """
    folders, missing = _folders(settings), missing_model(session, settings)
    chosen = missing or folder_of_model(session, settings)
    found = [_described(name, folder, chosen) for name, folder in folders.items()]
    if missing:
        folder, why = settings.home / "models" / missing, _no_such_model(missing, folders)
        found.append(InstalledModel(missing, folder, missing, "", (), why, reads=True))
    return sorted(found, key=lambda model: model.name)


def missing_model(session: Session, settings: NodeSettings) -> str:
    """Return the name of the model that was chosen in the pages where its folder is gone, else ""."""
    chosen = str(option(session, READING_MODEL, ""))
    return "" if chosen in _folders(settings) else chosen


def folder_of_model(session: Session, settings: NodeSettings, name: str = "") -> str:
    """Return the folder of a model by its name, else of the one that reads; "" for ichnos' own default."""
    wanted = name or str(option(session, READING_MODEL, ""))
    if not wanted:
        return settings.reading.model
    folders = _folders(settings)
    if wanted not in folders:
        raise InputRefused(_no_such_model(wanted, folders))
    return str(folders[wanted])


def choose_model(session: Session, settings: NodeSettings, name: str, *, now: float, actor: str) -> None:
    """Read new studies with this model from now on."""
    folders = _folders(settings)
    if name not in folders:
        raise UsageError(_no_such_model(name, folders))
    if problem := _described(name, folders[name], "").problem:
        raise UsageError(f"the model {name} cannot be used: {problem}")
    set_option(session, READING_MODEL, name, now=now, actor=actor)


def free_folder(settings: NodeSettings, name: str, *, now: float) -> Path:
    """Return a folder for a new model: a name with the day, and a number from the second on.

    >>> free_folder(NodeSettings(home=Path("no-such-node")), "site", now=0.0).name
    'site-19700101'
    """
    models = settings.home / "models"
    day = f"{name}-{datetime.fromtimestamp(now, UTC):%Y%m%d}"
    names = (day, *(f"{day}-{number}" for number in range(2, 1000)))
    return next(models / one for one in names if not (models / one).exists())


def model_card(settings: NodeSettings, name: str) -> str | None:
    """Return the card of a model as Markdown; None when there is no such model."""
    folder = _folders(settings).get(name)
    return None if folder is None else card_text(read_manifest(folder))


def _no_such_model(name: str, folders: Iterable[str]) -> str:
    return f"there is no model called {name}; the installed models are {', '.join(sorted(folders))}"


def _folders(settings: NodeSettings) -> dict[str, Path]:
    own = [path.parent for path in (settings.home / "models").glob("*/model.json")]
    configured = [Path(settings.reading.model)] if settings.reading.model else []
    return {folder.name: folder for folder in (*shipped_models(), *configured, *own)}


def _described(name: str, folder: Path, chosen: str) -> InstalledModel:
    reads = Path(chosen) == folder if chosen else name == DEFAULT
    try:
        manifest = read_manifest(folder)
    except InputRefused as problem:
        return InstalledModel(name, folder, name, "", (), str(problem), reads)
    targets = tuple(target.name for target in manifest.targets)
    return InstalledModel(name, folder, manifest.name, manifest.version, targets, "", reads)
