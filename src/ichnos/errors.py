"""Errors that people read: what was given, what was expected, what to do.

The exit code of the command line follows from the class: 2 for an input that cannot be used, 3 for wrong
usage, 1 for a bug of ours.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from types import ModuleType

# Around names and values of an input within an error's text: private-use characters, gone when it is shown.
_OPEN, _CLOSE = "\ue000", "\ue001"
_FOREIGN = re.compile(f"{_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE}")


def foreign(text: object) -> str:
    """Mark a file's name, a header's value or a library's message within the text of an error.

    >>> error = InputRefused(f"{foreign('/data/DOE_JOHN.dcm')} is cut short")
    >>> str(error), error.without_names
    ('/data/DOE_JOHN.dcm is cut short', 'the input is cut short')
    """
    return f"{_OPEN}{_unmarked(str(text))}{_CLOSE}"


def _unmarked(text: str) -> str:
    return text.replace(_OPEN, "").replace(_CLOSE, "")


class IchnosError(Exception):
    """Base of every error that ichnos raises on purpose; its text is one sentence for a person.

    >>> str(InputRefused("the file is empty")), InputRefused.exit_code, UsageError.exit_code
    ('the file is empty', 2, 3)
    """

    exit_code = 2

    def __str__(self) -> str:
        return _unmarked(super().__str__())

    @property
    def marked(self) -> str:
        """Return the text with its marks, to be raised again."""
        return super().__str__()

    @property
    def without_names(self) -> str:
        """Return the text without anything that came from the input: safe to be shared.

        >>> InputRefused(f"{foreign('DOE_JOHN.dcm')} holds no pixels").without_names
        'the input holds no pixels'
        """
        text = super().__str__()
        first = _FOREIGN.match(text)
        text = f"the input{text[first.end() :]}" if first else text
        return _unmarked(_FOREIGN.sub("…", text))


class InputRefused(IchnosError):
    """The input was understood and cannot be used: not a head CT, damaged, incomplete, inconsistent."""


class UsageError(IchnosError):
    """The call itself is wrong: an option that does not exist, two that contradict each other, an output
    that holds something else.
    """

    exit_code = 3


class MissingExtra(IchnosError):
    """An optional part is needed and not installed."""

    exit_code = 3


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    >>> require("json", extra="learning", purpose="reading JSON").__name__
    'json'
    >>> require("no_such_module", extra="learning", purpose="training")
    Traceback (most recent call last):
    ichnos.errors.MissingExtra: training needs no_such_module, which is not installed: pip install
    "ichnos[learning]"
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and not (module == error.name or module.startswith(error.name + ".")):
            raise
        raise MissingExtra(
            f'{purpose} needs {module}, which is not installed: pip install "ichnos[{extra}]"'
        ) from None


def require_installed(needs: tuple[tuple[str, str], ...], *, purpose: str) -> None:
    """Refuse at once, before any work, if libraries are missing; importing none of them.

    `needs` are pairs of a library and the extra that brings it.

    >>> require_installed((("json", "learning"),), purpose="reading JSON")
    >>> require_installed((("no_such_module", "learning"), ("nor_this", "report")), purpose="training")
    Traceback (most recent call last):
    ichnos.errors.MissingExtra: training needs no_such_module and nor_this, which are not installed: pip
    install "ichnos[learning,report]"
    """
    missing = [(name, extra) for name, extra in needs if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(name for name, _ in missing)
        extras = ",".join(dict.fromkeys(extra for _, extra in missing))
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtra(
            f'{purpose} needs {names}, which {verb} not installed: pip install "ichnos[{extras}]"'
        )
