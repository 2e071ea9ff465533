"""The user's own folders outside the working directory."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for what can be made again: source heads, prepared patches, compiled networks."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ichnos"


def state_folder() -> Path:
    """Return the folder for what cannot: the file of names behind pseudonyms."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ichnos"
