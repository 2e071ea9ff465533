"""The node's DICOMweb against the field's own client: what went in comes out, bit for bit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from dicomweb_client.api import DICOMwebClient
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from ichnos.service.accounts import auth
from ichnos.service.node import Node, open_node
from ichnos.service.settings import NodeSettings
from ichnos.service.web.app import create_app
from service.test_receiver import one_slice, slices

STUDY = "1.2.840.55"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[DICOMwebClient]:
    node: Node = open_node(NodeSettings(home=tmp_path))
    with node.database.transaction() as session:
        user = auth.add_user(session, "viewer", "correct horse battery", "researcher")
        token = auth.issue_token(session, user, label="viewer", now=node.clock(), days=1)
    server = uvicorn.Server(uvicorn.Config(create_app(node), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    header = {"Authorization": f"Bearer {token}"}
    yield DICOMwebClient(f"http://127.0.0.1:{port}/dicom-web", headers=header)
    server.should_exit = True
    thread.join()
    node.database.close()


def test_instances_go_in_and_come_out_with_the_same_pixels(client: DICOMwebClient) -> None:
    client.store_instances(slices(3, study=STUDY))
    (study,) = client.search_for_studies(search_filters={"PatientID": "P1"})
    assert study["0020000D"]["Value"] == [STUDY]
    assert study["00201208"]["Value"] == [3]
    (series,) = client.search_for_series(STUDY)
    assert series["00201209"]["Value"] == [3]
    series_uid = series["0020000E"]["Value"][0]
    listed = client.search_for_instances(STUDY, series_uid)
    assert {one["00080018"]["Value"][0] for one in listed} == {f"{STUDY}.1.{k}" for k in (1, 2, 3)}
    back = client.retrieve_series(STUDY, series_uid)
    assert sorted(int(one.pixel_array[0, 0]) for one in back) == [0, 1, 2]
    uid = f"{STUDY}.1.2"
    (frame,) = client.retrieve_instance_frames(
        STUDY, series_uid, uid, [1], media_types=("application/octet-stream",)
    )
    assert np.array_equal(np.frombuffer(frame, np.int16), np.full(16, 1, np.int16))
    metadata = client.retrieve_instance_metadata(STUDY, series_uid, uid)
    assert metadata["00100010"]["Value"][0]["Alphabetic"] == "DOE^JANE"
    assert "7FE00010" not in metadata


def uids(rows: list[dict[str, dict[str, list[str]]]], tag: str) -> list[str]:
    return [row[tag]["Value"][0] for row in rows]


def test_lists_are_given_page_by_page(client: DICOMwebClient) -> None:
    first, second = slices(3, study="1.2.1"), one_slice("1.2.1", 3)
    second.SeriesInstanceUID = "1.2.1.8"
    client.store_instances([*first, second, one_slice("1.2.3", 0), one_slice("1.2.2", 0)])
    ask = client.search_for_studies
    assert uids(ask(limit=2), "0020000D") == ["1.2.1", "1.2.2"]
    assert uids(ask(limit=2, offset=2), "0020000D") == ["1.2.3"]
    assert ask(limit=2, offset=4) == []
    assert len(ask(limit=2, get_remaining=True)) == 3
    assert uids(client.search_for_series("1.2.1", limit=1, offset=1), "0020000E") == ["1.2.1.8"]
    some = client.search_for_instances("1.2.1", "1.2.1.1", limit=5, offset=1)
    assert uids(some, "00080018") == ["1.2.1.1.2", "1.2.1.1.3"]
    assert len(client.search_for_instances("1.2.1", "1.2.1.1")) == 3


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")  # pydicom names what is malformed
def test_a_malformed_header_or_a_damaged_file_hides_no_other_study(
    client: DICOMwebClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = one_slice("1.2.1", 0)
    for keyword, kind, value in (
        ("SeriesNumber", "IS", b"DOE "),
        ("ImagePositionPatient", "DS", b"-123.4567890123456\\0\\0 "),  # more digits than the standard has
    ):
        odd[Tag(keyword)] = RawDataElement(Tag(keyword), kind, len(value), value, 0, False, True)
    client.store_instances([odd])
    (file,) = (tmp_path / "images").rglob("*.dcm")
    client.store_instances([one_slice("1.2.2", 0), one_slice("1.2.3", 0)])
    assert uids(client.search_for_studies(), "0020000D") == ["1.2.1", "1.2.2", "1.2.3"]
    (metadata,) = client.retrieve_study_metadata("1.2.1")
    assert "00200011" not in metadata
    assert metadata["00200032"]["Value"][0] == pytest.approx(-123.4567890123456)
    file.with_suffix(".json").unlink()
    file.write_bytes(b"damaged")
    listed = client.search_for_studies()
    assert uids(listed, "0020000D") == ["1.2.1", "1.2.2", "1.2.3"]
    assert "00100020" not in listed[0]
    assert uids(client.search_for_series("1.2.1"), "0020000E") == ["1.2.1.1"]
    own = [record.getMessage() for record in caplog.records if record.name.startswith("ichnos")]
    assert "00200011 is left out" in own[0]
    assert "cannot be read (InvalidDicomError)" in own[-1]
    assert not any("DOE" in line for line in own)


def test_nothing_is_shown_to_a_stranger(client: DICOMwebClient) -> None:
    stranger = DICOMwebClient(client.base_url)
    with pytest.raises(OSError, match="401"):
        stranger.search_for_studies()
