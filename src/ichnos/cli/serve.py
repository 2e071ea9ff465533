"""`ichnos serve`: the node next to the archive."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ichnos.cli.terminal.devices import check_device
from ichnos.cli.terminal.settings import with_settings
from ichnos.errors import UsageError
from ichnos.service.settings import NodeSettings, missing_files


@with_settings(NodeSettings)
def serve_command(
    part: Annotated[
        str, typer.Argument(metavar="[PART|WORD]", help="one part, or a word such as backup (default: all)")
    ] = "",
    folder: Annotated[Path | None, typer.Argument(help="of backup, restore, export")] = None,
    study: Annotated[list[int] | None, typer.Option(help="number of a study: export, hold, purge")] = None,
    *,
    settings: NodeSettings,
    dicom_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="port of the receiver [11112]")
    ] = None,
    web_port: Annotated[int | None, typer.Option(min=0, max=65535, help="port of the pages [8045]")] = None,
    check: Annotated[bool, typer.Option("--check", help="check the settings and end")] = False,
) -> int:
    """Receive exams, read them, send results, show a worklist."""
    _refuse_unused(part, folder, study or [], check=check)
    settings = _with_ports(settings, dicom_port, web_port)
    if missing := missing_files(settings):
        raise UsageError("; ".join(missing))
    check_device(settings.reading.device, "reading.device")
    check_device(settings.fine_tuning.device, "fine_tuning.device")
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
    from ichnos.service.upkeep.commands import CHORES, OF_A_NODE

    if word in OF_A_NODE:
        _refuse_no_node(settings)
    node = open_node(settings)
    try:
        for line in CHORES[word](node, folder, studies):
            sys.stdout.write(line + "\n")
    finally:
        node.database.close()
    return 0


def _refuse_unused(part: str, folder: Path | None, studies: list[int], *, check: bool) -> None:
    """Refuse an unknown word, and what a word has no use for: `purge 1` must not remove all that is old."""
    from ichnos.service.run import LOOPS
    from ichnos.service.upkeep.commands import CHORES, WITH_FOLDER, WITH_STUDIES

    if part and part not in LOOPS and part not in CHORES:
        raise UsageError(
            f"{part!r} is no part of the node; give {', '.join(LOOPS)}, nothing for all, or one of"
            f" {', '.join(CHORES)}"
        )
    said = f"ichnos serve {part}".rstrip()
    if folder is not None and part not in WITH_FOLDER:
        raise UsageError(
            f"{said} takes no {str(folder)!r}: leave it out"
            + (", or give the study by --study NUMBER" if part in WITH_STUDIES else "")
        )
    if studies and part not in WITH_STUDIES:
        raise UsageError(f"{said} takes no --study: leave it out")
    if check and part in CHORES:
        raise UsageError(f"--check checks the settings and ends: leave out {part}, or --check")


def _refuse_no_node(settings: NodeSettings) -> None:
    """Refuse a home that holds no node: a mistyped one would be made, and be empty."""
    there = settings.home.is_dir() if settings.database else (settings.home / "node.db").is_file()
    if not there:
        raise UsageError(f"{settings.home} holds no node; give its folder by --home")


def _with_ports(settings: NodeSettings, dicom_port: int | None, web_port: int | None) -> NodeSettings:
    update: dict[str, Any] = {}
    for group, port in (("receiver", dicom_port), ("web", web_port)):
        if port is not None:
            update[group] = getattr(settings, group).model_copy(update={"port": port})
    return settings.model_copy(update=update)


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
