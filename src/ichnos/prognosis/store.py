"""Laws that lie as plain numbers beside a model's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ichnos.errors import InputRefused


class LawPart(BaseModel):
    """What laws are made of: fixed, and nothing in it that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Law = TypeVar("Law", bound=LawPart)


def load_law(file: Path, kind: type[Law]) -> Law | None:
    """Read a law from its file in a model folder; None where there is none, a refusal where it is damaged."""
    if not file.is_file():
        return None
    try:
        return kind.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise InputRefused(f"{file} cannot be used: {error.errors()[0]['msg']}") from None
