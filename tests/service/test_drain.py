"""A node that is told to stop finishes what it has begun; one whose disk is full takes nothing more."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

from builders.stored_node import open_stored, receive
from ichnos.reading import Reading, refused
from ichnos.service.assembler import assemble
from ichnos.service.receiver import OUT_OF_RESOURCES
from ichnos.service.run import run_loop
from ichnos.service.settings import StorageSettings
from ichnos.service.store.images import free_gib
from ichnos.service.store.tables import StudyRow, TaskRow
from ichnos.service.worker import Worker
from service.test_receiver import counts, listen, send, slices


# pynetdicom leaves the socket of a refused connection to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_association_that_runs_may_end_and_no_new_one_begins(tmp_path: Path) -> None:
    node, receiver = listen(tmp_path)
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", receiver.port, ae_title="ICHNOS")
    first, second = slices(2)
    assert association.send_c_store(first).Status == 0
    port = receiver.port
    stopping = threading.Thread(target=receiver.stop, kwargs={"drain_s": 10.0})
    stopping.start()
    time.sleep(0.3)
    assert association.send_c_store(second).Status == 0  # it began before
    association.release()
    stopping.join(10)
    assert not stopping.is_alive()
    assert not entity.associate("127.0.0.1", port, ae_title="ICHNOS").is_established
    assert counts(node) == (1, 2)
    node.database.close()


def test_a_drain_ends_when_its_time_is_over(tmp_path: Path) -> None:
    node, receiver = listen(tmp_path)
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(CTImageStorage)
    association = entity.associate("127.0.0.1", receiver.port, ae_title="ICHNOS")
    began = time.monotonic()
    receiver.stop(drain_s=0.3)
    assert time.monotonic() - began < 5
    association.abort()
    node.database.close()


def test_a_worker_that_is_told_to_stop_finishes_its_study(tmp_path: Path) -> None:
    node = open_stored(tmp_path)
    for study in ("1.2.3", "1.2.4"):
        receive(node, slices(1, study=study))
    assemble(replace(node, clock=lambda: 100.0))

    def told_meanwhile(folder: Path, name: str) -> Reading:
        node.stopping.set()
        return refused(name, "made")

    node.repeat(Worker(node, told_meanwhile).step, pause_s=0.01)
    with node.database.snapshot() as session:
        assert [session.get_one(StudyRow, k).state for k in (1, 2)] == ["refused", "queued"]
    node.database.close()


def test_sigterm_ends_a_loop_with_success(tmp_path: Path) -> None:
    node = open_stored(tmp_path)
    child = multiprocessing.get_context("fork").Process(target=run_loop, args=("assembler", node.settings))
    child.start()
    time.sleep(1.0)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGTERM)
    child.join(20)
    assert child.exitcode == 0
    node.database.close()


def test_below_the_watermark_images_are_refused_and_below_half_of_it_nothing_is_read(tmp_path: Path) -> None:
    free = free_gib(tmp_path)
    node, receiver = listen(tmp_path, storage=StorageSettings(refuse_below_gib=free * 1.5))
    try:
        assert send(receiver.port, slices(1)) == [OUT_OF_RESOURCES]
        receive(node, slices(1))
        assemble(replace(node, clock=lambda: 100.0))

        def reader(folder: Path, name: str) -> Reading:
            return refused(name, "made")

        storage = StorageSettings(refuse_below_gib=free * 3)
        full = replace(node, settings=node.settings.model_copy(update={"storage": storage}))
        assert not Worker(full, reader).step()
        with node.database.snapshot() as session:
            assert session.get_one(TaskRow, 1).attempts == 0  # no try was wasted
        assert Worker(node, reader).step()
    finally:
        receiver.stop()
        node.database.close()
