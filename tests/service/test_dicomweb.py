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

from ichnos.service.accounts import auth
from ichnos.service.node import Node, open_node
from ichnos.service.settings import NodeSettings
from ichnos.service.web.app import create_app
from service.test_receiver import slices

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


def test_nothing_is_shown_to_a_stranger(client: DICOMwebClient) -> None:
    stranger = DICOMwebClient(client.base_url)
    with pytest.raises(OSError, match="401"):
        stranger.search_for_studies()
