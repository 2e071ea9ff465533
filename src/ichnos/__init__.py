"""ichnos: from one plain head CT, what another exam would have shown. Research use only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from ichnos.api import read
    from ichnos.api import save_reading as save
    from ichnos.formats import open_scan as open
    from ichnos.scan import Scan
    from ichnos.volume import Volume

# Name -> (module, attribute). Loaded on first use, so that `import ichnos` stays light.
_LAZY = {
    "open": ("ichnos.formats", "open_scan"),
    "read": ("ichnos.api", "read"),
    "save": ("ichnos.api", "save_reading"),
    "Scan": ("ichnos.scan", "Scan"),
    "Volume": ("ichnos.volume", "Volume"),
}
_READING_NEEDS = (
    ("torch", "learning"),
    ("safetensors", "learning"),
    ("jinja2", "report"),
    ("matplotlib", "report"),
)
__all__ = ["Scan", "Volume", "__version__", "open", "read", "save"]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ichnos' has no attribute {name!r}")
    import importlib

    if name in ("read", "save"):
        from ichnos.errors import require_installed

        require_installed(_READING_NEEDS, purpose=f"ichnos.{name}")
    module, attribute = _LAZY[name]
    return getattr(importlib.import_module(module), attribute)
