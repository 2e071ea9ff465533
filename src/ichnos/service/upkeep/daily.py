"""What the assembler does now and then beside its rounds: retention and leftovers."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ichnos.service.node import Node
from ichnos.service.upkeep.leftovers import sweep
from ichnos.service.upkeep.retention import keep_days_of, purge_expired

EVERY_S = 600.0
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Upkeep:
    """Runs at start and then every ten minutes."""

    node: Node
    next_at: float = 0.0

    def step(self) -> bool:
        """Do what is due; False when nothing was."""
        now = self.node.clock()
        if now < self.next_at:
            return False
        self.next_at = now + EVERY_S
        purged = purge_expired(self.node, keep_days=keep_days_of(self.node))
        removed = sweep(self.node)
        if purged or removed:
            _log.info("upkeep: %d studies purged, %d leftovers removed", purged, removed)
        return bool(purged or removed)
