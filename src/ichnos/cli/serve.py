"""`ichnos serve`: the node next to the archive."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichnos.errors import InputRefused, UsageError

if TYPE_CHECKING:
    from ichnos.service.settings import NodeSettings


def serve_command(
    part: Annotated[
        str, typer.Argument(metavar="[PART|WORD]", help="one part, or a word such as backup (default: all)")
    ] = "",
    folder: Annotated[Path | None, typer.Argument(help="of backup, restore, export")] = None,
    study: Annotated[list[int] | None, typer.Option(help="number of a study: export, hold, purge")] = None,
    home: Annotated[Path | None, typer.Option(help="folder of the node's files [ichnos-node]")] = None,
    config: Annotated[Path | None, typer.Option(help="settings file (YAML)")] = None,
    database: Annotated[str, typer.Option(help="database URL (default: SQLite in the home)")] = "",
    dicom_port: Annotated[int | None, typer.Option(help="port of the receiver [11112]")] = None,
    web_port: Annotated[int | None, typer.Option(help="port of the pages [8045]")] = None,
    check: Annotated[bool, typer.Option("--check", help="check the settings and end")] = False,
) -> int:
    """Receive exams, read them, send results, show a worklist."""
    settings = _settings(home, config, database, dicom_port, web_port)
    if check:
        sys.stdout.write(settings.model_dump_json(indent=2) + "\n")
        return 0
    from ichnos.service.run import LOOPS, log_to_stderr, run_all, run_loop

    log_to_stderr()

    if part and part not in LOOPS:
        return _operate(part, settings, folder, study or [])
    if part:
        run_loop(next(loop for loop in LOOPS if loop == part), settings)
        return 0
    _greet(settings)
    run_all(settings)
    return 0


def _operate(word: str, settings: NodeSettings, folder: Path | None, studies: list[int]) -> int:
    """Do one thing to the node's data, print what was done, and end."""
    from ichnos.service.node import open_node
    from ichnos.service.run import LOOPS
    from ichnos.service.upkeep.commands import CHORES

    if word not in CHORES:
        raise UsageError(
            f"{word!r} is no part of the node; give {', '.join(LOOPS)}, nothing for all, or one of"
            f" {', '.join(CHORES)}"
        )
    node = open_node(settings)
    try:
        for line in CHORES[word](node, folder, studies):
            sys.stdout.write(line + "\n")
    finally:
        node.database.close()
    return 0


def _settings(
    home: Path | None, config: Path | None, database: str, dicom_port: int | None, web_port: int | None
) -> NodeSettings:
    """Defaults < file < flags."""
    from pydantic import ValidationError

    from ichnos.service.settings import NodeSettings

    tree: dict[str, Any] = _file(config) if config else {}
    if home is not None:
        tree["home"] = home
    if database:
        tree["database"] = database
    for group, port in (("receiver", dicom_port), ("web", web_port)):
        if port is not None:
            tree[group] = {**(tree.get(group) or {}), "port": port}
    try:
        return NodeSettings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"the settings are wrong: {where}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def _file(path: Path) -> dict[str, Any]:
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputRefused(f"{path} cannot be read as YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputRefused(f"{path} must hold settings as NAME: VALUE lines")
    return tree


def _greet(settings: NodeSettings) -> None:
    """Say where to look, and show the first password once."""
    from ichnos.service.accounts.auth import first_password
    from ichnos.service.node import open_node

    node = open_node(settings)
    with node.database.transaction() as session:
        password = first_password(session)
    node.database.close()
    receiver, web = settings.receiver, settings.web
    lines = [
        f"pages     http://{web.host}:{web.port}",
        f"receiver  {receiver.ae_title} at {receiver.host}:{receiver.port}",
        f"files     {settings.home}",
    ]
    if password:
        lines.append(f"sign in   admin / {password}   (shown once)")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
