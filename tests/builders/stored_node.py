"""A node that holds studies, some of them read: rows and files, without any process running."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset

from ichnos.reading import refused
from ichnos.reading.save import write_record
from ichnos.service.node import Node, open_node
from ichnos.service.settings import NodeSettings
from ichnos.service.store import queue, studies
from ichnos.service.store.images import store_image
from ichnos.service.store.studies import ReadingOutcome, SettleRule

DAY_S = 86_400.0


def open_stored(home: Path, **changes: object) -> Node:
    """Open an empty node with settings of its own."""
    return open_node(NodeSettings(home=home).model_copy(update=changes))


def receive(node: Node, datasets: list[Dataset], *, now: float = 0.0) -> None:
    """Store and register images as the receiver does."""
    for number, dataset in enumerate(datasets):
        file = node.settings.home / f"in{number}.dcm"
        dataset.save_as(file, enforce_file_format=True)
        image = store_image(node.settings.home, file)
        with node.database.transaction() as session:
            studies.register_image(session, image, now=now, source="CT1")


def read_all(node: Node, *, now: float = 0.0, destinations: tuple[str, ...] = ()) -> list[int]:
    """Settle what has arrived and give each study a reading; return their numbers."""
    with node.database.transaction() as session:
        rule = SettleRule(quiet_s=0.001, limit_s=1.0)
        settled = [study.id for study in studies.settle_studies(session, rule, now=now + 1)]
    for number in settled:
        folder = node.settings.home / "readings" / f"{number}-r"
        write_record(refused(f"study-{number}", "made"), folder, draw_page=lambda _: "<p>made</p>")
        with node.database.transaction() as session:
            task = queue.claim_task(session, "read", worker="w", now=now + 1, lease_s=10)
            assert task is not None
            outcome = ReadingOutcome(f"readings/{number}-r", urgency=1.0, summary={"ich_volume": 3.0})
            studies.finish_reading(
                session, task, outcome, now=now + 1, destinations=destinations, attempts_allowed=3
            )
    return settled
