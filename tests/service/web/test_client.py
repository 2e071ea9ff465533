"""The Python client against a running node: a study from reception to its results, and what is refused."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ichnos.service.client import NodeClient, NodeRefused
from service.web.living import Living, require_program, until, write_head


@pytest.fixture(scope="module")
def admin(living: Living) -> Iterator[NodeClient]:
    with NodeClient(living.url, living.token("root", "admin", "read", "act", "admin")) as client:
        yield client


# pynetdicom's sockets of the sender's associations are closed by the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_study_from_reception_to_its_results(living: Living, admin: NodeClient, tmp_path: Path) -> None:
    storescu = require_program("storescu", "dcmtk")
    folder = write_head(tmp_path / "ct")
    subprocess.run(
        [storescu, "127.0.0.1", str(living.receiver.port), "+sd", str(folder)],
        check=True,
        capture_output=True,
    )
    row = until(lambda: [one for one in admin.studies() if one["study_date"] == "20260101"], 30)[0]
    study = admin.wait_until_read(row["id"], timeout_s=240, pause_s=0.2)
    assert (study["row"]["state"], study["row"]["patient_id"]) == ("ready", "P7")
    assert study["summary"]["ich_volume"] > 5
    assert admin.reading(row["id"])["status"] != "refused"
    paths = admin.fetch_results(row["id"], tmp_path / "results")
    assert {"reading.json", "report.html"} <= {path.name for path in paths}
    root = tmp_path / "results" / str(row["id"])
    listed = {result["name"]: result["size"] for result in admin.results(row["id"])}
    assert {path.relative_to(root).as_posix(): path.stat().st_size for path in paths} == listed
    admin.acknowledge(row["id"])
    assert row["id"] not in {one["id"] for one in admin.studies(open_only=True)}
    until(lambda: admin.study(row["id"])["deliveries"][0]["state"] == "sent", 60)
    assert {"SEG", "SR"} <= set(living.taken)
    kinds = [event["kind"] for event in admin.events() if event["study_id"] == row["id"]]
    assert kinds[:4] == ["received", "queued", "reading", "ready"]
    last = list(admin.events())[-1]["id"]
    admin.send(row["id"], "PACS")
    assert next(admin.events(after=last))["kind"] == "to send"
    admin.read_again(row["id"])
    assert admin.wait_until_read(row["id"], timeout_s=240, pause_s=0.2)["row"]["state"] == "ready"


def test_destinations_and_models(living: Living, admin: NodeClient) -> None:
    admin.add_destination(name="far", kind="stow", url="https://archive.example/dicom-web")
    admin.switch_destination("far", enabled=False)
    by_name = {one["destination"]["name"]: one["enabled"] for one in admin.destinations()}
    assert by_name["PACS"] is True
    assert by_name["far"] is False
    assert admin.test_destination("PACS") == ""
    admin.remove_destination("far")
    assert len(admin.destinations()) == 1
    for model in admin.models():
        if not model["problem"]:
            admin.choose_model(model["name"])
            assert [m["name"] for m in admin.models() if m["reads"]] == [model["name"]]


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda client: client.study(10**6), "404: there is no such study"),
        (lambda client: client.reading(10**6), "404: there is no such study"),
        (lambda client: client.send(10**6, "nowhere"), "404: there is no such destination"),
        (lambda client: client.studies(limit=0), "422"),
        (lambda client: client.choose_model("nothing"), "400: there is no model called nothing"),
        (lambda client: client.add_destination(name="x"), "422"),
    ],
)
def test_what_cannot_be_is_an_error_with_the_nodes_words(
    admin: NodeClient, act: object, sentence: str
) -> None:
    with pytest.raises(NodeRefused, match=sentence):
        act(admin)  # type: ignore[operator]


def test_scopes_bound_what_a_client_does(living: Living) -> None:
    with NodeClient(living.url, living.token("eye", "admin", "read")) as client:
        client.studies()
        with pytest.raises(NodeRefused, match="lacks the scope admin"):
            client.add_destination(name="far", kind="stow", url="https://archive.example")
        with pytest.raises(NodeRefused, match="lacks the scope act"):
            client.acknowledge(1)
    with NodeClient(living.url, "guessed") as client, pytest.raises(NodeRefused, match="401"):
        client.studies()


def test_a_silent_node_is_said_to_be() -> None:
    with NodeClient("http://127.0.0.1:9", "t") as client, pytest.raises(NodeRefused, match="does not answer"):
        client.studies()
