"""`ichnos config VERB`: the settings file of a verb, commented, with its defaults."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from ichnos.cli.verbs import VERBS
from ichnos.errors import UsageError


def config_command(
    verb: Annotated[str, typer.Argument(help="verb whose settings to print")],
) -> int:
    """Print a verb's settings file with its defaults."""
    from ichnos.cli.terminal.settings import settings_text, tree_of

    if verb not in VERBS:
        raise UsageError(f"there is no verb {verb}; ichnos --help lists them")
    tree = tree_of(getattr(importlib.import_module(VERBS[verb].module), f"{verb}_command"))
    if tree is None:
        raise UsageError(f"ichnos {verb} has no settings beyond its flags: ichnos {verb} --help")
    title = f"Settings of `ichnos {verb}`, with their defaults.\nUse: ichnos {verb} … --config FILE.yaml"
    typer.echo(settings_text(tree(), title), nl=False)
    return 0
