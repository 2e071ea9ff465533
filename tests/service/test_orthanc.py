"""Against Orthanc, the archive that many hospitals use: it sends us a study and takes our results."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from ichnos.service.node import Node
from ichnos.service.partners.search import PartnerSearch
from ichnos.service.receiver import Receiver
from ichnos.service.reception import keep_retrieved
from ichnos.service.remote.archive import (
    ArchiveProblem,
    fetch_study,
    images_of_study,
    studies_of_patient,
)
from ichnos.service.sender import Sender, deliver_files
from ichnos.service.settings import ArchiveSettings, Destination, PartnerSettings, SendingSettings
from ichnos.service.store import studies
from ichnos.service.store.images import store_image
from ichnos.service.store.tables import DeliveryRow, StudyRow
from service.test_receiver import counts, listen, slices

ORTHANC = shutil.which("Orthanc") or shutil.which("orthanc", path="/usr/sbin")
if ORTHANC is None and os.environ.get("CI"):
    pytest.fail("Orthanc is not installed; CI installs it", pytrace=False)
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")  # Debian: orthanc-dicomweb
pytestmark = pytest.mark.skipif(ORTHANC is None, reason="Orthanc is not installed (Debian: orthanc)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Archive:
    """An Orthanc of the test's own, on loopback."""

    def __init__(self, folder: Path, node_port: int) -> None:
        self.dicom, self.http = free_port(), free_port()
        files = str(folder / "files")
        settings = {
            "Name": "archive",
            "StorageDirectory": files,
            "IndexDirectory": files,
            "DicomAet": "ARCHIVE",
            "DicomPort": self.dicom,
            "HttpPort": self.http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {"ichnos": ["ICHNOS", "127.0.0.1", node_port]},
            "DicomAlwaysAllowStore": True,
            "DicomCheckCalledAet": False,
            "Plugins": [str(DICOMWEB)] if DICOMWEB.is_file() else [],
        }
        file = folder / "orthanc.json"
        file.write_text(json.dumps(settings))
        assert ORTHANC is not None
        self.process = subprocess.Popen(
            [ORTHANC, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(200):
            try:
                self.ask("/system")
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("Orthanc did not start")

    def ask(self, path: str, body: Any = None, *, content: bytes | None = None) -> Any:
        data = content if content is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data=data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Receiver, Archive]]:
    _, receiver = listen(tmp_path / "node")
    (tmp_path / "orthanc").mkdir()
    archive = Archive(tmp_path / "orthanc", receiver.port)
    yield receiver, archive
    archive.close()
    receiver.stop()
    receiver.node.database.close()


def test_orthanc_sends_us_a_study_and_takes_our_results(
    both: tuple[Receiver, Archive], tmp_path: Path
) -> None:
    receiver, archive = both
    for number, dataset in enumerate(slices(3)):
        file = tmp_path / f"{number}.dcm"
        dataset.save_as(file, enforce_file_format=True)
        archive.ask("/instances", content=file.read_bytes())
    (study,) = archive.ask("/studies")
    sent = archive.ask("/modalities/ichnos/store", study)
    assert sent["FailedInstancesCount"] == 0
    assert counts(receiver.node) == (1, 3)

    result = tmp_path / "result.dcm"
    (dataset,) = slices(1, study="1.2.840.66")
    dataset.save_as(result, enforce_file_format=True)
    there = Destination(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=archive.dicom)
    deliver_files([result], there, "ICHNOS", "1.2.3")
    assert len(archive.ask("/studies")) == 2


def test_orthanc_commits_to_storage_and_the_delivery_is_stored(
    both: tuple[Receiver, Archive], tmp_path: Path
) -> None:
    receiver, archive = both
    node = receiver.node
    result = tmp_path / "result.dcm"
    (dataset,) = slices(1, study="1.2.840.67")
    dataset.save_as(result, enforce_file_format=True)
    there = Destination(
        name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=archive.dicom, commitment=True
    )
    settings = node.settings.model_copy(update={"sending": SendingSettings(destinations=(there,))})
    readings = node.settings.home / "readings" / "1"
    readings.mkdir(parents=True)
    (readings / "segmentation.dcm").write_bytes(result.read_bytes())
    with node.database.transaction() as session:
        studies.register_image(session, store_image(node.settings.home, result), now=0.0, source="CT1")
        study = session.get_one(StudyRow, 1)
        study.reading = "readings/1"
        studies.deliver(session, study, "archive", now=0.0, attempts_allowed=1)
    assert Sender(Node(settings, node.database)).step()
    for _ in range(100):
        with node.database.snapshot() as session:
            row = session.get_one(DeliveryRow, 1)
        if row.state == "stored":
            break
        time.sleep(0.1)
    assert (row.state, row.error) == ("stored", "")


@pytest.mark.skipif(not DICOMWEB.is_file(), reason="Orthanc has no DICOMweb (Debian: orthanc-dicomweb)")
def test_partner_exams_are_found_and_retrieved_over_dicomweb(
    both: tuple[Receiver, Archive], tmp_path: Path
) -> None:
    receiver, archive = both
    for dataset in (*slices(1, study="1.2.840.70"), *slices(3, study="1.2.840.71")):
        if dataset.StudyInstanceUID == "1.2.840.71":
            dataset.StudyDate = "20260102"
        file = tmp_path / "image.dcm"
        dataset.save_as(file, enforce_file_format=True)
        archive.ask("/instances", content=file.read_bytes())
    web = ArchiveSettings(web=f"http://127.0.0.1:{archive.http}/dicom-web")
    there = studies_of_patient(web, "P1", "ICHNOS")
    assert [(one.uid, one.date, one.modalities, one.images) for one in there] == [
        ("1.2.840.71", "20260102", "CT", 3),
        ("1.2.840.70", "20260101", "CT", 1),
    ]
    assert images_of_study(web, "1.2.840.71", "ICHNOS") == 3
    assert images_of_study(web, "1.2.3", "ICHNOS") is None

    later = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
    update = {"archive": web, "partners": PartnerSettings(search=True)}
    node = Node(receiver.node.settings.model_copy(update=update), receiver.node.database, clock=lambda: later)
    (baseline,) = slices(1, study="1.2.840.70")
    keep_retrieved(node, baseline)
    with node.database.transaction() as session:
        session.get_one(StudyRow, 1).state = "ready"
    assert PartnerSearch(node).step()
    assert counts(node) == (2, 4)
    with node.database.snapshot() as session:
        assert session.get_one(StudyRow, 2).uid == "1.2.840.71"
    keep_retrieved(node, baseline)  # what is here already changes nothing
    assert counts(node) == (2, 4)


def test_a_dicomweb_that_does_not_answer_is_named() -> None:
    closed = ArchiveSettings(web=f"http://ann:secret@127.0.0.1:{free_port()}/dicom-web")
    kept: list[Dataset] = []
    for ask in (studies_of_patient, images_of_study):
        with pytest.raises(ArchiveProblem, match=r"at http://127\.0\.0\.1.* does not answer as it should"):
            ask(closed, "1.2.3", "ICHNOS")
    with pytest.raises(ArchiveProblem, match="does not answer as it should"):
        fetch_study(closed, "1.2.3", "ICHNOS", kept.append)
    assert kept == []
