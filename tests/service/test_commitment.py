"""Storage commitment that is reported on the association that asked for it, or refused."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from builders.stored_node import open_stored, receive
from ichnos.service.node import Node
from ichnos.service.sender import COMMITMENT_INSTANCE, Sender
from ichnos.service.settings import Destination, SendingSettings
from ichnos.service.store import studies
from ichnos.service.store.tables import DeliveryRow, StudyRow
from service.test_receiver import slices

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Peer:
    """A destination that stores, and answers a commitment request as it is told to."""

    def __init__(self, *, fails: bool = False, accepts: bool = True) -> None:
        self.fails, self.accepts = fails, accepts
        self.entity = entity = AE(ae_title="PEER")
        entity.add_supported_context(CTImageStorage)
        entity.add_supported_context(StorageCommitmentPushModel)
        handlers: list[Any] = [(evt.EVT_C_STORE, lambda _: 0), (evt.EVT_N_ACTION, self.act)]
        self.server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert self.server is not None
        self.port = self.server.socket.getsockname()[1]

    def close(self) -> None:
        """Stop; pynetdicom leaves sockets to the collector, which must find them here."""
        self.entity.shutdown()
        time.sleep(0.1)
        gc.collect()

    def act(self, event: Any) -> tuple[int, None]:
        if not self.accepts:
            return 0x0110, None
        threading.Thread(target=self.report, args=(event.assoc, event.action_information)).start()
        return 0x0000, None

    def report(self, association: Any, request: Dataset) -> None:
        time.sleep(0.1)
        told = Dataset()
        told.TransactionUID = request.TransactionUID
        told.ReferencedSOPSequence = [] if self.fails else request.ReferencedSOPSequence
        if self.fails:
            told.FailedSOPSequence = request.ReferencedSOPSequence
        kind = 2 if self.fails else 1
        association.send_n_event_report(told, kind, StorageCommitmentPushModel, COMMITMENT_INSTANCE)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = open_stored(tmp_path)
    receive(opened, slices(1))
    (result,) = slices(1, study="1.2.840.67")
    folder = tmp_path / "readings" / "1"
    folder.mkdir(parents=True)
    result.save_as(folder / "segmentation.dcm", enforce_file_format=True)
    yield opened
    opened.database.close()


def deliver(node: Node, peer: Peer) -> DeliveryRow:
    there = Destination(name="PEER", ae_title="PEER", host="127.0.0.1", port=peer.port, commitment=True)
    sending = Node(
        node.settings.model_copy(update={"sending": SendingSettings(destinations=(there,), attempts=1)}),
        node.database,
    )
    with node.database.transaction() as session:
        study = session.get_one(StudyRow, 1)
        study.state, study.reading = "ready", "readings/1"
        studies.deliver(session, study, "PEER", now=0.0, attempts_allowed=1)
    try:
        assert Sender(sending).step()
    finally:
        peer.close()
    with node.database.snapshot() as session:
        return session.get_one(DeliveryRow, 1)


def test_a_report_on_the_same_association_makes_it_stored(node: Node) -> None:
    assert deliver(node, Peer()).state == "stored"


def test_a_report_of_failure_leaves_it_sent_with_the_reason(node: Node) -> None:
    row = deliver(node, Peer(fails=True))
    assert row.state == "sent"
    assert "did not commit" in row.error


def test_a_destination_that_knows_no_commitment_is_named(node: Node) -> None:
    row = deliver(node, Peer(accepts=False))
    assert row.state == "dead"
    assert "storage commitment" in row.error
