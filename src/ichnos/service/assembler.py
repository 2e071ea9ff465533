"""The assembler: queues studies that are complete, and takes tasks back from workers that went silent."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ichnos.service.node import Node
from ichnos.service.partners.tuning import TUNE, note_end
from ichnos.service.store import queue, studies

_log = logging.getLogger(__name__)


def assemble(node: Node, complete: Mapping[int, str] | None = None) -> bool:
    """Do one round; `complete` are studies that need not wait, with the reason. True if anything changed."""
    assembly, reading = node.settings.assembly, node.settings.reading
    rule = studies.SettleRule(assembly.quiet_s, assembly.limit_s, reading.attempts)
    now = node.clock()
    with node.database.transaction() as session:
        settled = studies.settle_studies(session, rule, now=now, complete=complete or {})
        dead = queue.release_expired(session, now=now)
        for task in dead:
            if task.kind == TUNE:
                note_end(session, task, now=now)
            else:
                studies.set_aside(session, task, now=now)
    for study in settled:
        _log.info("study %d revision %d is complete: %d images", study.id, study.revision, study.images)
    return bool(settled or dead)
