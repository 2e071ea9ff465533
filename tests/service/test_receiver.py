"""The receiver against a sender: what is acknowledged is on the disk and in the database."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from sqlalchemy import func, select

from ichnos.errors import UsageError
from ichnos.service.node import Node, open_node
from ichnos.service.receiver import NOT_AUTHORISED, OUT_OF_RESOURCES, Receiver, refuse_taken_port
from ichnos.service.settings import NodeSettings, Peer, ReceiverSettings, StorageSettings
from ichnos.service.store.tables import InstanceRow, StudyRow

ANY_PORT = ReceiverSettings(port=0)


def slices(count: int, *, study: str = "1.2.840.99") -> list[Dataset]:
    return [one_slice(study, number) for number in range(count)]


def one_slice(study: str, number: int) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{study}.1.{number + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.1"
    dataset.PatientID, dataset.PatientName, dataset.Modality = "P1", "DOE^JANE", "CT"
    dataset.StudyDate, dataset.Rows, dataset.Columns = "20260101", 4, 4
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 1, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = np.full((4, 4), number, np.int16).tobytes()
    dataset.preamble, dataset.file_meta = bytes(128), FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def listen(home: Path, **changes: object) -> tuple[Node, Receiver]:
    node = open_node(NodeSettings(home=home, receiver=ANY_PORT).model_copy(update=changes))
    receiver = Receiver(node)
    receiver.start()
    return node, receiver


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[Node, Receiver]]:
    node, receiver = listen(tmp_path)
    yield node, receiver
    receiver.stop()
    node.database.close()


def send(port: int, datasets: list[Dataset], *, ae_title: str = "SENDER") -> list[int]:
    entity = AE(ae_title=ae_title)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port)
    assert association.is_established
    statuses = [association.send_c_store(dataset).Status for dataset in datasets]
    association.release()
    return statuses


def counts(node: Node) -> tuple[int, int]:
    with node.database.snapshot() as session:
        studies = session.execute(select(func.count()).select_from(StudyRow)).scalar_one()
        return studies, session.execute(select(func.count()).select_from(InstanceRow)).scalar_one()


def test_every_acknowledged_image_is_on_the_disk_with_its_pixels(listening: tuple[Node, Receiver]) -> None:
    node, receiver = listening
    assert send(receiver.port, slices(3)) == [0, 0, 0]
    assert counts(node) == (1, 3)
    with node.database.snapshot() as session:
        rows = session.execute(select(InstanceRow).order_by(InstanceRow.sop_uid)).scalars().all()
    for number, row in enumerate(rows):
        stored = dcmread(node.settings.home / row.path)
        assert stored.PixelData == np.full((4, 4), number, np.int16).tobytes()
        assert stored.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert not list((node.settings.home / "incoming").rglob("*.dcm"))


def test_sending_twice_changes_nothing(listening: tuple[Node, Receiver]) -> None:
    node, receiver = listening
    assert send(receiver.port, slices(2)) == send(receiver.port, slices(2)) == [0, 0]
    assert counts(node) == (1, 2)


def test_a_full_disk_is_answered_with_the_right_status_and_nothing_is_kept(tmp_path: Path) -> None:
    node, receiver = listen(tmp_path, storage=StorageSettings(refuse_below_gib=1e9))
    try:
        assert send(receiver.port, slices(1)) == [OUT_OF_RESOURCES]
        assert counts(node) == (0, 0)
    finally:
        receiver.stop()


def test_an_address_that_is_not_listed_is_not_served(tmp_path: Path) -> None:
    peers = (Peer(ae_title="SENDER", address="10.9.8.7"),)
    _, receiver = listen(tmp_path, receiver=ANY_PORT.model_copy(update={"peers": peers}))
    try:
        entity = AE(ae_title="SENDER")
        entity.add_requested_context(Verification)
        association = entity.associate("127.0.0.1", receiver.port, ae_title="ICHNOS")
        assert association.is_established
        assert association.send_c_echo().Status == NOT_AUTHORISED
        association.release()
        stranger = AE(ae_title="STRANGER")
        stranger.add_requested_context(Verification)
        assert not stranger.associate("127.0.0.1", receiver.port, ae_title="ICHNOS").is_established
    finally:
        receiver.stop()


@pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed (Debian: dcmtk)")
def test_dcmtk_echoes_and_stores(listening: tuple[Node, Receiver], tmp_path: Path) -> None:
    node, receiver = listening
    folder = tmp_path / "out"
    folder.mkdir()
    for number, dataset in enumerate(slices(4, study="1.2.840.77")):
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    where = ["127.0.0.1", str(receiver.port)]
    subprocess.run(["echoscu", *where], check=True, capture_output=True)
    subprocess.run(["storescu", *where, "+sd", str(folder)], check=True, capture_output=True)
    assert counts(node) == (1, 4)


def test_a_port_outside_loopback_needs_peers() -> None:
    with pytest.raises(ValueError, match="no peer is listed"):
        ReceiverSettings(host="0.0.0.0")
    assert ReceiverSettings(host="0.0.0.0", peers=(Peer(ae_title="CT1"),)).peers


def test_two_processes_share_a_port_and_a_second_node_may_not(
    listening: tuple[Node, Receiver], tmp_path: Path
) -> None:
    node, receiver = listening
    shared = ANY_PORT.model_copy(update={"port": receiver.port})
    second = Receiver(Node(node.settings.model_copy(update={"receiver": shared}), node.database))
    second.start()
    try:
        for number in range(8):  # the system chooses who takes each association
            assert send(receiver.port, slices(1, study=f"1.2.840.{number + 1}")) == [0]
        assert counts(node) == (8, 8)
        with pytest.raises(UsageError, match="give another port"):
            refuse_taken_port(shared)
    finally:
        second.stop()
    assert send(receiver.port, slices(1, study="1.2.840.99")) == [0]
    refuse_taken_port(ANY_PORT)
