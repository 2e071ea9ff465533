"""Where partners' files lie below the home: shadow readings while their study is here, pairs while judged."""

from __future__ import annotations

from pathlib import Path


def shadow_folder(home: Path, study_id: int) -> Path:
    """Return the folder of a study's shadow readings, one folder per model inside.

    >>> shadow_folder(Path("node"), 7).as_posix()
    'node/partners/shadow/7'
    """
    return home / "partners" / "shadow" / str(study_id)


def pair_folder(home: Path, pair_id: int) -> Path:
    """Return the folder in which a pair is judged.

    >>> pair_folder(Path("node"), 7).as_posix()
    'node/partners/7'
    """
    return home / "partners" / str(pair_id)
