"""Prognostic and calibration models on disk: plain numbers as JSON beside a Model's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ichnos.errors import InputRefused


class PlainModel(BaseModel):
    """What these models are made of: frozen, and without fields that are not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Plain = TypeVar("Plain", bound=PlainModel)


def load_plain(file: Path, kind: type[Plain]) -> Plain:
    """Read a model from its JSON file; a missing or damaged file is refused by name."""
    if not file.is_file():
        raise InputRefused(f"{file.parent} holds no {file.name}, so there is no {_words(kind)} to load")
    try:
        return kind.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise InputRefused(f"{file} cannot be used: {where}: {first['msg']}") from None


def load_plain_if_there(file: Path, kind: type[Plain]) -> Plain | None:
    """Read a model from its JSON file; None where there is no such file, a refusal where it is damaged."""
    return load_plain(file, kind) if file.is_file() else None


def first_plain(folders: tuple[Path, ...], name: str, kind: type[Plain]) -> Plain | None:
    """Read a model from the first of several folders that holds its file; None where none does."""
    return next((load_plain(folder / name, kind) for folder in folders if (folder / name).is_file()), None)


def plain_text(model: PlainModel) -> str:
    """Return a model as the text of its file; numbers to six digits, which is more than a fit knows."""

    def rounded(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, dict):
            return {key: rounded(part) for key, part in value.items()}
        return [rounded(part) for part in value] if isinstance(value, (list, tuple)) else value

    return json.dumps(rounded(model.model_dump(mode="json")), indent=1, ensure_ascii=False) + "\n"


def _words(kind: type[PlainModel]) -> str:
    """Return the name of a class in words: GrowthModel is a growth model."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).strip()
