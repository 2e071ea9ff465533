"""`ichnos config VERB`: the settings file of a verb, commented, with its defaults."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from ichnos.cli.verbs import VERBS
from ichnos.errors import UsageError


def config_command(
    verb: Annotated[list[str], typer.Argument(help="verb whose settings to print")],
) -> int:
    """Print a verb's settings file with its defaults."""
    from ichnos.cli.terminal.settings import settings_text, tree_of

    name = " ".join(verb)
    if name not in VERBS:
        raise UsageError(f"there is no verb {name}; ichnos --help lists them")
    module = importlib.import_module(VERBS[name].module)
    tree = tree_of(getattr(module, f"{name.replace(' ', '_')}_command"))
    if tree is None:
        raise UsageError(f"ichnos {name} has no settings beyond its flags: ichnos {name} --help")
    title = f"Settings of `ichnos {name}`, with their defaults.\nUse: ichnos {name} … --config FILE.yaml"
    typer.echo(settings_text(tree(), title), nl=False)
    return 0
