"""The DICOM receiver: C-ECHO and C-STORE. Success means: the image is on the disk and in the database.

Status codes: DICOM PS3.4, table B.2-1 (C-STORE) and PS3.7, annex C.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer
from sqlalchemy.exc import SQLAlchemyError

from ichnos.errors import InputRefused, UsageError
from ichnos.service.node import Node, worker_name
from ichnos.service.reception import Reception
from ichnos.service.sender import note_commitment
from ichnos.service.settings import LOOPBACK, ReceiverSettings
from ichnos.service.store import queue
from ichnos.service.store.images import free_gib

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND, PROCESSING_FAILURE, NOT_AUTHORISED = (
    0x0000, 0xA700, 0xC000, 0x0110, 0x0124,
)  # fmt: skip
MAXIMUM_PDU_BYTES = 131_072  # what dcmtk sends at most; each PDU costs Python as much, whatever its size
_LOOK_EVERY_S = 1.0  # how often disk and queue are looked at while images come
_log = logging.getLogger(__name__)


class _SharedPort(ThreadedAssociationServer):
    """A server whose port several processes listen on; the system spreads connections over them."""

    def server_bind(self) -> None:
        """Bind, and let others bind to the same port."""
        if self.socket is not None and hasattr(socket, "SO_REUSEPORT"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


@dataclass(eq=False)
class Receiver:
    """Listens for associations until it is stopped."""

    node: Node
    server: Any = None
    reception: Reception = field(init=False)
    _full: bool = False
    _looked_at: float = field(default=-_LOOK_EVERY_S)

    def __post_init__(self) -> None:
        self.reception = Reception(self.node)

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        return int(self.server.socket.getsockname()[1])

    def start(self) -> None:
        """Listen in threads of this process; returns at once."""
        settings = self.node.settings.receiver
        _receive_into(self.node.settings.home / "incoming" / worker_name("receiver"))
        entity = self._entity()
        self.server = entity.make_server(
            (settings.host, settings.port),
            evt_handlers=self._handlers(),
            ssl_context=tls_context(settings),
            server_class=_SharedPort,
        )
        entity._servers.append(self.server)  # as start_server does, which takes no server class
        threading.Thread(target=self.server.serve_forever, name="receiver", daemon=True).start()

    def _entity(self) -> Any:
        settings = self.node.settings.receiver
        entity = AE(ae_title=settings.ae_title)
        entity.maximum_associations = settings.associations
        entity.maximum_pdu_size = MAXIMUM_PDU_BYTES
        entity.require_called_aet = bool(settings.peers)
        entity.require_calling_aet = sorted({peer.ae_title for peer in settings.peers})
        entity.add_supported_context(Verification)
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        return entity

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_EVENT_REPORT, self._commitment),
        ]

    def stop(self, *, drain_s: float = 0.0) -> None:
        """Stop listening; give running associations `drain_s` seconds to end by themselves."""
        if self.server is None:
            return
        running = self.server.ae
        self.server.shutdown()
        ends = time.monotonic() + drain_s
        while running.active_associations and time.monotonic() < ends:
            time.sleep(0.05)
        running.shutdown()

    def _echo(self, event: Any) -> int:
        return SUCCESS if self._admitted(event) else NOT_AUTHORISED

    def _store(self, event: Any) -> int:
        if not self._admitted(event):
            return NOT_AUTHORISED
        try:
            if self._is_full():
                return OUT_OF_RESOURCES
        except SQLAlchemyError as error:
            _log.error("the database did not answer: %s", type(error).__name__)
            return PROCESSING_FAILURE
        return self._keep(Path(event.dataset_path), source=str(event.assoc.requestor.ae_title).strip())

    def _commitment(self, event: Any) -> tuple[int, None]:
        """Take the result of a storage commitment that comes on an association of its own."""
        if not self._admitted(event):
            return NOT_AUTHORISED, None
        known = note_commitment(self.node, event.event_information, int(event.event_type))
        return (SUCCESS if known else PROCESSING_FAILURE), None

    def _keep(self, received: Path, *, source: str) -> int:
        """Store one image; whatever goes wrong, the sender is not told of success and sends again."""
        try:
            self.reception.keep(received, source=source)
        except InputRefused as refusal:
            _log.warning("image refused: %s", refusal)
            return CANNOT_UNDERSTAND
        except OSError as error:
            _log.error("image not stored: %s", error.strerror)
            return OUT_OF_RESOURCES
        except SQLAlchemyError as error:
            _log.error("image not registered: %s", type(error).__name__)
            return PROCESSING_FAILURE
        return SUCCESS

    def _admitted(self, event: Any) -> bool:
        requestor = event.assoc.requestor
        return is_admitted(self.node.settings.receiver, str(requestor.ae_title), str(requestor.address))

    def _is_full(self) -> bool:
        """Look at disk and queue, at most once a second: many images arrive in between."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._full, self._looked_at = self._look(), now
        return self._full

    def _look(self) -> bool:
        storage = self.node.settings.storage
        if free_gib(self.node.settings.home) < storage.refuse_below_gib:
            return True
        with self.node.database.snapshot() as session:
            return queue.tasks_waiting(session, "read") >= storage.queue_limit


def _receive_into(incoming: Path) -> None:
    """Let pynetdicom write what arrives into files of this folder, in chunks, as it comes."""
    incoming.mkdir(parents=True)  # its own: what a killed process leaves in its folder is swept later
    tempfile.tempdir = str(incoming)  # the later move stays on one disk
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.UNRESTRICTED_STORAGE_SERVICE = True  # every storage class, each transfer syntax as it comes


def refuse_taken_port(settings: ReceiverSettings) -> None:
    """Refuse a port that somebody else listens on: processes of two nodes would share what arrives."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise UsageError(
                f"the receiver cannot listen on {settings.host}:{settings.port} ({error.strerror}); give"
                " another port (receiver.port)"
            ) from None


def is_admitted(settings: ReceiverSettings, ae_title: str, address: str) -> bool:
    """Tell whether a sender may connect: a listed peer, or anyone on loopback where no peers are listed.

    >>> [is_admitted(ReceiverSettings(), "ANY", address) for address in ("127.0.0.1", "10.0.0.7")]
    [True, False]
    """
    if not settings.peers:
        return address in LOOPBACK or ipaddress.ip_address(address).is_loopback
    return any(p.ae_title == ae_title.strip() and p.address in ("", address) for p in settings.peers)


def tls_context(settings: ReceiverSettings) -> ssl.SSLContext | None:
    """Return the TLS context of the receiver; None without a certificate.

    >>> tls_context(ReceiverSettings()) is None
    True
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    if settings.tls_peers is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(settings.tls_peers)
    return context
