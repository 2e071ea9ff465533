"""Collects the verbs and turns errors into sentences and exit codes."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, cast

import typer

from ichnos.cli.terminal.collector import collect_seldom
from ichnos.cli.verbs import VERBS, Verb
from ichnos.errors import IchnosError, require_installed

# typer carries a click of its own, whose base error it does not export; its public BadParameter descends
# from it.
_CallError = cast(
    type[Exception], next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
)
_HELP_COLUMNS = 80


def main(arguments: list[str] | None = None) -> None:
    """Run a verb and leave with its exit code."""
    collect_seldom()
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run a verb; return 0 fine, 2 refused input, 3 bad usage, 130 interrupted.

    A bug of ours is let through, and Python leaves with 1.

    >>> run(["--version"])
    ichnos ...
    0
    """
    words = _joined(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        result: Any = application(_verbs_in(words))(words, standalone_mode=False, prog_name="ichnos")
        return result if isinstance(result, int) else 0
    except IchnosError as error:
        return _report(str(error), error.exit_code)
    except typer.Exit as stop:
        return stop.exit_code
    except _CallError as error:
        return _report(cast(Any, error).format_message() or "give a verb; ichnos --help lists them", 3)
    except (KeyboardInterrupt, typer.Abort):
        return _report("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _report(f"{error.filename or 'the system'}: {error.strerror or error}", 2)


def _joined(words: list[str]) -> list[str]:
    """Make one word of a verb of two: `ichnos train default` is a verb of its own."""
    pair = " ".join(words[:2])
    return [pair, *words[2:]] if len(words) > 1 and pair in VERBS else words


def _verbs_in(words: list[str]) -> frozenset[str]:
    """Return the verbs whose modules a call needs: its own, or all when a shell asks for completions."""
    if "_ICHNOS_COMPLETE" in os.environ:
        return frozenset(VERBS)
    return frozenset([word for word in words if not word.startswith("-")][:1])


def application(loaded: frozenset[str] = frozenset(VERBS)) -> typer.Typer:
    """Return the command line; verbs that are not loaded have only their line of help."""
    app = typer.Typer(
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "max_content_width": _HELP_COLUMNS,
        },
    )
    app.callback()(_ichnos)
    for name, verb in VERBS.items():
        function = _loaded(name, verb) if name in loaded else _not_loaded
        summary = verb.summary[0].upper() + verb.summary[1:] + "."
        epilog = f"Example: {verb.example}"
        decorate = app.command(
            name=name, help=summary, short_help=verb.summary, epilog=epilog, hidden=verb.hidden
        )
        decorate(function)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        from ichnos import __version__

        typer.echo(f"ichnos {__version__}")
        raise typer.Exit(0)


def _ichnos(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version and exit", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """From one plain head CT, what another exam would have shown.

    Research use only. `ichnos VERB --help` describes a verb.
    """


def _loaded(name: str, verb: Verb) -> Callable[..., Any]:
    """Import a verb's function; called, it first checks that what it needs is installed."""
    function = getattr(importlib.import_module(verb.module), f"{name.replace(' ', '_')}_command")

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        require_installed(verb.needs, purpose=f"ichnos {name}")
        return function(**given)

    return command


def _not_loaded() -> None:
    raise AssertionError("a verb was called whose module was not loaded")


def _report(sentence: str, code: int) -> int:
    sys.stderr.write(f"ichnos: {sentence}\n")
    return code
