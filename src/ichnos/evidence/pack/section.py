"""A section of the evidence pack: text, tables, figures, flags, and what they say of the methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ichnos.evidence.figures import Figure
from ichnos.evidence.pack.flags import ReviewFlag
from ichnos.evidence.tables import Table


@dataclass(frozen=True, eq=False)
class Section:
    """Text, tables and figures under one title."""

    name: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    flags: tuple[ReviewFlag, ...] = ()
    methods: tuple[str, ...] = ()  # sentences for the methods paragraph of a paper
    numbers: Mapping[str, Any] = field(default_factory=dict)  # for evidence.json
