"""Collects the verbs and turns errors into sentences and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click
import typer
from typer.core import TyperGroup

from ichnos.errors import IchnosError

# Verb -> (module in ichnos.cli, one line of help). A verb's module is imported only when it is called.
VERBS = {
    "inspect": ("inspect", "Which series are here, which is the head CT, may it be read?"),
    "convert": ("convert", "Head CTs as NIfTI with a sidecar, without patient identity."),
    "simulate": ("simulate", "Make a virtual cohort of paired exams with the truth."),
    "evaluate": ("evaluate", "The evidence pack: tables, figures, checklists."),
    "transfer": ("transfer", "Partner exams -> targets on the CT, with verdicts."),
    "doctor": ("doctor", "What is installed, what an extra would add, a self-test."),
}


class LazyGroup(TyperGroup):
    """A group of verbs whose modules load on use, so that `ichnos --help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a working day."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one verb: the function of that name in its module, made a typer command."""
        if cmd_name not in VERBS:
            return None
        module, summary = VERBS[cmd_name]
        function = getattr(importlib.import_module(f"ichnos.cli.{module}"), module)
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(name=cmd_name, help=summary)(function)
        command = typer.main.get_command(app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table, without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, summary) for verb, (_, summary) in VERBS.items()])


app = typer.Typer(cls=LazyGroup, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def ichnos() -> None:
    """From one plain head CT, what another exam would have shown. Research use only."""


def main(arguments: list[str] | None = None) -> None:
    """Run a verb and leave with its exit code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run a verb; return 0 fine, 2 refused input, 3 bad usage, 1 bug of ours, 130 interrupted."""
    try:
        result: Any = app(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except IchnosError as error:
        return _say(str(error), error.exit_code)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _say(error.format_message(), 3)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _say(f"{error.filename or 'the system'}: {error.strerror or error}", 2)


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"ichnos: {sentence}\n")
    return code
