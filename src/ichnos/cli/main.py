"""Collects the verbs and turns errors into sentences and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, cast

import typer

from ichnos.errors import IchnosError

# Verb -> one line of help, in the order of a working day. `ichnos VERB` is the function `VERB` in
# ichnos/cli/VERB.py;
# these modules import heavy libraries only inside their functions, so that `ichnos --help` is quick.
VERBS: dict[str, str] = {
    "inspect": "list the series of a folder, name the head CT, say whether it may be read",
    "convert": "make NIfTI files without identity of the head CTs in a folder of studies",
    "read": "read head CTs: masks, measures, DICOM SEG and SR, a report each",
    "models": "list, show, verify, export and import models",
    "simulate": "make a virtual paired, multi-centre cohort, with the truth",
    "transfer": "bring what partner exams show onto the CTs, with a verdict per pair",
    "train": "teach a network to read a target from CT, by our own loop or by nnU-Net",
    "synthesize": "learn slices of haematomas by diffusion, draw new ones with a ledger, and look for copies",
    "study": "run a paper's whole design on a cohort, and set its table beside ours",
    "evaluate": "say how far a model can be believed: tables, figures, methods and checklists",
    "serve": "receive, read and send exams next to an archive",
    "doctor": "say what is installed, what an extra would add, and test this installation",
}

# typer carries a click of its own, whose base error it does not export; its public BadParameter descends from
# it.
_CallError = cast(
    type[Exception], next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
)

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def ichnos() -> None:
    """From one plain head CT, what another exam would have shown. Research use only."""


for _verb, _summary in VERBS.items():
    app.command(name=_verb, help=_summary)(getattr(importlib.import_module(f"ichnos.cli.{_verb}"), _verb))


def main(arguments: list[str] | None = None) -> None:
    """Run a verb and leave with its exit code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run a verb; return 0 fine, 2 refused input, 3 bad usage, 130 interrupted. A bug of ours is let
    through, and Python leaves with 1.
    """
    try:
        result: Any = app(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except IchnosError as error:
        return _say(str(error), error.exit_code)
    except typer.Exit as stop:
        return stop.exit_code
    except _CallError as error:
        return _say(cast(Any, error).format_message() or "say what to do: ichnos --help lists the verbs", 3)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _say(f"{error.filename or 'the system'}: {error.strerror or error}", 2)


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"ichnos: {sentence}\n")
    return code
