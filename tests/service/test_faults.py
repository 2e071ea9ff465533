"""Workers that are killed at any moment: every study ends read, once, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path

from sqlalchemy import func, select

from ichnos.reading import Reading, refused
from ichnos.service.assembler import assemble
from ichnos.service.node import Node, open_node
from ichnos.service.settings import AssemblySettings, NodeSettings, ReadingSettings
from ichnos.service.store import events, studies
from ichnos.service.store.images import store_image
from ichnos.service.store.tables import EventRow, StudyRow, TaskRow
from ichnos.service.worker import Worker
from service.test_receiver import one_slice

STUDIES, KILLS = 8, 4


def settings_in(home: Path) -> NodeSettings:
    return NodeSettings(
        home=home,
        assembly=AssemblySettings(quiet_s=0.01),
        reading=ReadingSettings(lease_s=1.5, attempts=50),
    )


def slow_reader(folder: Path, name: str) -> Reading:
    assert len(list(folder.iterdir())) == 1
    time.sleep(random.uniform(0.0, 0.2))
    return refused(name, "made for this test")


def work(home: str) -> None:
    node = open_node(settings_in(Path(home)))
    node.repeat(Worker(node, slow_reader).step, pause_s=0.02)


def receive(node: Node, folder: Path) -> None:
    for number in range(STUDIES):
        file = folder / "image.dcm"
        one_slice(f"1.2.840.{number + 1}", 0).save_as(file, enforce_file_format=True)
        image = store_image(node.settings.home, file)
        with node.database.transaction() as session:
            studies.register_image(session, image, now=node.clock(), source="CT1")


def ended(node: Node) -> bool:
    with node.database.snapshot() as session:
        query = select(func.count()).select_from(StudyRow).where(StudyRow.state == "refused")
        return session.execute(query).scalar_one() == STUDIES


def test_killed_workers_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    home = tmp_path / "node"
    node = open_node(settings_in(home))
    receive(node, tmp_path)
    context, rng = multiprocessing.get_context("spawn"), random.Random(5)
    kills, ends = 0, time.monotonic() + 120
    child = context.Process(target=work, args=(str(home),))
    child.start()
    time.sleep(1.5)  # a new process imports for a while
    while not ended(node) and time.monotonic() < ends:
        time.sleep(rng.uniform(0.05, 0.4))
        assemble(node)
        if kills < KILLS and rng.random() < 0.5:
            child.kill()
            child.join()
            kills += 1
            child = context.Process(target=work, args=(str(home),))
            child.start()
            time.sleep(1.5)
    child.kill()
    child.join()
    assert ended(node)
    assert kills >= 2
    with node.database.transaction() as session:
        finished = (
            session.execute(select(EventRow.study_id).where(EventRow.kind == "refused")).scalars().all()
        )
        open_tasks = session.execute(select(func.count()).where(TaskRow.state != "done")).scalar_one()
        assert events.check_chain(session).whole
    assert Counter(finished) == Counter(range(1, STUDIES + 1))
    assert open_tasks == 0
    with node.database.snapshot() as session:
        readings = session.execute(select(StudyRow.reading)).scalars().all()
    assert len(set(readings)) == STUDIES
    assert all((home / reading / "reading.json").is_file() for reading in readings)
    node.database.close()
