"""Minutes that all calls of one work took together, kept on disk."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import TracebackType

from ichnos.files import atomic_file


class Stopwatch:
    """Use it as a context: it writes the minutes at each call and each minute, so that a kill loses one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Stopwatch(Path(folder) / "minutes.json") as spent:
    ...     spent() < 1
    True
    """

    def __init__(self, file: Path, *, every_s: float = 60.0) -> None:
        self.file, self.every_s, self.began = file, every_s, time.monotonic()
        self.before = float(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else 0.0
        self._ended, self._one = threading.Event(), threading.Lock()
        self._ticking = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Stopwatch:
        self._ticking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._ticking.join()

    def __call__(self) -> float:
        """Return the minutes of all calls, and write them."""
        with self._one:
            total = self.before + (time.monotonic() - self.began) / 60
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.file) as temporary:
                temporary.write_text(f"{total:.3f}\n", encoding="utf-8")
            return total

    def _tick(self) -> None:
        while not self._ended.wait(self.every_s):
            self()
