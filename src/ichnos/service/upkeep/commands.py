"""The words of `ichnos serve` that do one thing and end: backup, restore, check, export, purge, audit …"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ichnos.errors import IchnosError, UsageError
from ichnos.service.node import Node
from ichnos.service.upkeep.audit_trail import audit_messages
from ichnos.service.upkeep.backup import RestoreCheck, back_up, check_node, restore

_ACTOR = "command line"
Chore = Callable[[Node, Path | None, Sequence[int]], Iterator[str]]  # gives lines to print


class NotWhole(IchnosError):
    """The node's files, tables or event chain do not agree."""


def _backup(node: Node, folder: Path | None, _studies: Sequence[int]) -> Iterator[str]:
    manifest = back_up(node, _needed(folder, "backup"))
    yield f"{manifest.files} files and {sum(manifest.rows.values())} rows in {folder}"


def _restore(node: Node, folder: Path | None, _studies: Sequence[int]) -> Iterator[str]:
    yield from _report(restore(node, _needed(folder, "restore")))


def _verify(node: Node, _folder: Path | None, _studies: Sequence[int]) -> Iterator[str]:
    yield from _report(check_node(node))


def _report(check: RestoreCheck) -> Iterator[str]:
    yield f"{check.studies} studies, {check.images} images, {check.events} events"
    yield from (f"missing  {path}" for path in check.missing)
    yield from (f"damaged  {path}" for path in check.damaged)
    if not check.whole:
        broken = "" if check.chain_whole else "; the event chain is broken"
        raise NotWhole(f"{len(check.missing)} files are missing, {len(check.damaged)} damaged{broken}")
    yield "every file is there with the bytes that were received; the event chain is whole"


def _export(node: Node, folder: Path | None, studies: Sequence[int]) -> Iterator[str]:
    from ichnos.service.upkeep.export import export_studies

    result = export_studies(node, _needed(folder, "export"), study_ids=studies, actor=_ACTOR)
    yield f"{result.patients} patients with {result.exams} exams in {result.folder}"
    yield from (f"study {number} left out: {why}" for number, why in sorted(result.left_out.items()))


def _audit(node: Node, _folder: Path | None, _studies: Sequence[int]) -> Iterator[str]:
    with node.database.snapshot() as session:
        yield from audit_messages(session, source=node.settings.receiver.ae_title)


def _purge(node: Node, _folder: Path | None, studies: Sequence[int]) -> Iterator[str]:
    from ichnos.service.upkeep.retention import keep_days_of, purge_expired, purge_study

    for number in studies:
        purge_study(node, number, actor=_ACTOR)
        yield f"study {number} removed"
    if not studies:
        days = keep_days_of(node)
        yield f"{purge_expired(node, keep_days=days)} studies removed that are older than {days:g} days"


def _hold(node: Node, _folder: Path | None, studies: Sequence[int]) -> Iterator[str]:
    yield from _set_hold(node, studies, held=True)


def _release(node: Node, _folder: Path | None, studies: Sequence[int]) -> Iterator[str]:
    yield from _set_hold(node, studies, held=False)


def _set_hold(node: Node, studies: Sequence[int], *, held: bool) -> Iterator[str]:
    from ichnos.service.upkeep.retention import hold_study

    if not studies:
        raise UsageError("give the studies with --study NUMBER")
    for number in studies:
        hold_study(node, number, held=held, actor=_ACTOR)
        yield f"study {number} is {'held' if held else 'free'}"


def _conformance(node: Node, _folder: Path | None, _studies: Sequence[int]) -> Iterator[str]:
    from ichnos.service.upkeep.conformance import conformance_statement

    yield conformance_statement(node.settings)


def _ohif(node: Node, package: Path | None, _studies: Sequence[int]) -> Iterator[str]:
    from ichnos.service.viewer import install_viewer

    if package is None:
        raise UsageError("give OHIF's npm package: `npm pack @ohif/app`, then ichnos serve ohif FILE.tgz")
    yield f"OHIF is in {install_viewer(node.settings.home, package)}; studies link to it"


CHORES: dict[str, Chore] = {
    "backup": _backup,
    "restore": _restore,
    "verify": _verify,
    "export": _export,
    "audit": _audit,
    "purge": _purge,
    "hold": _hold,
    "release": _release,
    "conformance": _conformance,
    "ohif": _ohif,
}

WITH_FOLDER = ("backup", "restore", "export", "ohif")
WITH_STUDIES = ("export", "purge", "hold", "release")
OF_A_NODE = ("backup", "verify", "export", "audit", "purge", "hold", "release")  # not of one to be made


def _needed(folder: Path | None, word: str) -> Path:
    if folder is None:
        raise UsageError(f"give a folder: ichnos serve {word} FOLDER")
    return folder
