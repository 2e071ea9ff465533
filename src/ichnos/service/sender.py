"""The sender: delivers SEG, SR and the report to each destination, and asks for storage commitment.

`sent` means that the destination answered success for every instance; `stored` that it promised to keep them.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]
from sqlalchemy import select

from ichnos.errors import IchnosError, InputRefused
from ichnos.service.lease import kept_lease
from ichnos.service.node import Node, worker_name
from ichnos.service.remote.archive import kind_of_failure
from ichnos.service.remote.destinations import find_destination
from ichnos.service.results.extras import files_for
from ichnos.service.settings import Destination
from ichnos.service.store import events, queue
from ichnos.service.store.studies import set_aside
from ichnos.service.store.tables import DeliveryRow, StudyRow

COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"  # well-known instance of the push model, PS3.4 annex J
CONNECT_S = 10.0  # a destination that is switched off must not hold up the others
_SAME_ASSOCIATION_S = 1.0  # for a commitment report that comes on the association that asked for it
TakeCommitment = Callable[[Dataset, int], bool]  # (report, event type) -> whether its transaction is known
_log = logging.getLogger(__name__)


class NotDelivered(IchnosError):
    """A destination did not take everything."""


@dataclass(eq=False)
class Sender:
    """Delivers one study after the other."""

    node: Node
    name: str = field(default_factory=lambda: worker_name("sender"))
    rng: random.Random = field(default_factory=random.Random)

    def step(self, _node: Node | None = None) -> bool:
        """Deliver the next results; False when nothing waits."""
        settings, now = self.node.settings.reading, self.node.clock()
        with self.node.database.transaction() as session:
            task = queue.claim_task(session, "send", worker=self.name, now=now, lease_s=settings.lease_s)
            if task is None:
                return False
            delivery = session.get_one(DeliveryRow, int(task.payload["delivery"]))
            delivery.state = "sending"
            # Noted before anything is sent: the commitment may come back at once, on another association.
            delivery.transaction_uid = transaction_uid = str(generate_uid())
            study = session.get_one(StudyRow, delivery.study_id)
            destination = find_destination(session, self.node.settings, delivery.destination)
            extras = destination.extras if destination is not None else ()
            files = files_for(self.node.settings.home / study.reading, extras)
        try:
            if destination is None:
                raise NotDelivered(f"{delivery.destination} is disabled, or no longer among the destinations")
            with kept_lease(self.node, task.id, worker=self.name):
                deliver_files(
                    files,
                    destination,
                    self.node.settings.receiver.ae_title,
                    transaction_uid,
                    on_commitment=partial(note_commitment, self.node),
                )
        except (IchnosError, OSError, RuntimeError, ValueError) as error:
            self._fail(task.id, str(error) or type(error).__name__)
            return True
        self._finish(task.id, delivery.id)
        return True

    def _finish(self, task_id: int, delivery_id: int) -> None:
        now = self.node.clock()
        with self.node.database.transaction() as session:
            task = queue.held_task(session, task_id, worker=self.name)
            if task is None:
                return
            delivery = session.get_one(DeliveryRow, delivery_id)
            queue.complete_task(session, task)
            if delivery.state == "sending":  # else the report of the commitment was quicker
                delivery.state, delivery.error, delivery.changed_at = "sent", "", now
            details = {"destination": delivery.destination}
            events.append_event(
                session, "sent", at=now, actor=self.name, study_id=delivery.study_id, details=details
            )

    def _fail(self, task_id: int, error: str) -> None:
        now, wait_s = self.node.clock(), self.node.settings.sending.first_wait_s
        with self.node.database.transaction() as session:
            task = queue.held_task(session, task_id, worker=self.name)
            if task is None:
                return
            delivery = session.get_one(DeliveryRow, int(task.payload["delivery"]))
            delivery.state, delivery.error, delivery.changed_at = "waiting", error, now
            if queue.fail_task(session, task, error, now=now, first_wait_s=wait_s, rng=self.rng):
                set_aside(session, task, now=now)


def deliver_files(
    files: Sequence[Path],
    destination: Destination,
    ae_title: str,
    transaction_uid: str,
    *,
    on_commitment: TakeCommitment | None = None,
) -> None:
    """Send files; then ask for storage commitment under `transaction_uid`, where the destination wants it.

    Its report may come at once, on the same association (`on_commitment`), or later on one to the receiver.
    """
    if not files:
        raise InputRefused("the reading holds no DICOM results: its input was not DICOM")
    if destination.kind == "stow":
        _stow(files, destination)
        return
    datasets = [dcmread(file) for file in files]
    with _association(datasets, destination, ae_title, on_commitment) as association:
        for dataset in datasets:
            _store(association, dataset, destination)
        if destination.commitment:
            _ask_for_commitment(association, datasets, destination, transaction_uid)
            _wait_a_moment(association, on_commitment)


@contextmanager
def _association(
    datasets: Sequence[Dataset],
    destination: Destination,
    ae_title: str,
    on_commitment: TakeCommitment | None,
) -> Iterator[Any]:
    entity = AE(ae_title=ae_title)
    entity.connection_timeout = CONNECT_S
    for kind, syntax in {(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}:
        entity.add_requested_context(kind, syntax)
    if destination.commitment:
        entity.add_requested_context(StorageCommitmentPushModel)

    def report(event: Any) -> tuple[int, None]:
        known = on_commitment is not None and on_commitment(event.event_information, int(event.event_type))
        event.assoc.ichnos_reported = True
        return (0x0000 if known else 0x0110), None

    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, report)]
    association = entity.associate(
        destination.host, destination.port, ae_title=destination.ae_title, evt_handlers=handlers
    )
    if not association.is_established:
        raise NotDelivered(f"{destination.name} at {destination.host}:{destination.port} does not answer")
    try:
        yield association
    finally:
        association.release()


def _store(association: Any, dataset: Dataset, destination: Destination) -> None:
    status = association.send_c_store(dataset)
    if status is None or "Status" not in status or status.Status != 0:
        code = f"status 0x{status.Status:04X}" if status and "Status" in status else "no answer"
        raise NotDelivered(f"{destination.name} did not take the {dataset.Modality}: {code}")


def _wait_a_moment(association: Any, on_commitment: TakeCommitment | None) -> None:
    """Leave the association open for those who report on it; others open one of their own."""
    ends = time.monotonic() + _SAME_ASSOCIATION_S
    while (
        on_commitment is not None
        and association.is_established
        and not getattr(association, "ichnos_reported", False)
        and time.monotonic() < ends
    ):
        time.sleep(0.02)


def _ask_for_commitment(
    association: Any, datasets: Sequence[Dataset], destination: Destination, transaction_uid: str
) -> None:
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = []
    for dataset in datasets:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
            dataset.SOPClassUID,
            dataset.SOPInstanceUID,
        )
        request.ReferencedSOPSequence.append(item)
    status, _ = association.send_n_action(request, 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE)
    if not status or status.Status != 0:
        raise NotDelivered(f"{destination.name} does not accept requests for storage commitment")


def _stow(files: Sequence[Path], destination: Destination) -> None:
    from dicomweb_client.api import DICOMwebClient

    datasets = [dcmread(file) for file in files]
    try:
        client = DICOMwebClient(destination.url)
        client.set_http_retry_params(retry=False)  # the queue tries again, and says why
        reply = client.store_instances(datasets)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # their text holds the URL, which may hold a password
        raise NotDelivered(f"{destination.name} did not take the results: {kind_of_failure(error)}") from None
    if failed := reply.get("FailedSOPSequence"):
        raise NotDelivered(f"{destination.name} did not take {len(failed)} of {len(files)} instances")


def note_commitment(node: Node, report: Dataset, event_type: int) -> bool:
    """Take the result of a storage commitment; False when its transaction is unknown.

    Event type 1 (PS3.4 J.3.3): the destination keeps every instance.
    """
    now, transaction_uid = node.clock(), str(report.get("TransactionUID", ""))
    with node.database.transaction() as session:
        wanted = select(DeliveryRow).where(DeliveryRow.transaction_uid == transaction_uid)
        delivery = session.execute(wanted).scalar()
        if delivery is None or not transaction_uid:
            return False
        kept = event_type == 1 and not report.get("FailedSOPSequence")
        delivery.state, delivery.changed_at = ("stored" if kept else "sent"), now
        delivery.error = "" if kept else "the destination did not commit to keeping everything"
        details = {"destination": delivery.destination}
        kind = "stored" if kept else "not stored"
        events.append_event(
            session, kind, at=now, actor="sender", study_id=delivery.study_id, details=details
        )
    return True
