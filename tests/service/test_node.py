"""One study through the whole node: received, settled, read, delivered, seen in the browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from fastapi.testclient import TestClient
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from sqlalchemy import select

from ichnos.api import Engine
from ichnos.errors import InputRefused
from ichnos.reading import Reading, refused
from ichnos.service.accounts import auth
from ichnos.service.assembler import assemble
from ichnos.service.node import Node, open_node
from ichnos.service.remote.archive import echo
from ichnos.service.sender import NotDelivered, Sender, deliver_files
from ichnos.service.settings import (
    Destination,
    NodeSettings,
    ReadingSettings,
    ReceiverSettings,
    SendingSettings,
)
from ichnos.service.store import studies
from ichnos.service.store.images import store_image
from ichnos.service.store.tables import DeliveryRow, StudyRow
from ichnos.service.web.app import create_app
from ichnos.service.worker import Worker, load_model_ahead, study_reader
from service.test_receiver import one_slice

PASSWORD = "correct horse battery"


class Clock:
    """A clock that tests move."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    settings = NodeSettings(home=tmp_path / "node", receiver=ReceiverSettings(port=0))
    opened = open_node(settings)
    made = Node(settings, opened.database, clock=Clock())
    yield made
    made.database.close()


def receive(node: Node, folder: Path, count: int = 3) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        file = folder / f"{number}.dcm"
        one_slice("1.2.840.7", number).save_as(file, enforce_file_format=True)
        image = store_image(node.settings.home, file)
        with node.database.transaction() as session:
            studies.register_image(session, image, now=node.clock(), source="CT1")


def a_reading(folder: Path, name: str) -> Reading:
    assert len(list(folder.glob("*.dcm"))) == 3
    return refused(name, "this is no head")


def settle(node: Node, after_s: float = 20.0) -> None:
    node.clock.now += after_s  # type: ignore[attr-defined]
    assert assemble(node)


def state(node: Node) -> tuple[str, str]:
    with node.database.snapshot() as session:
        row = session.execute(select(StudyRow)).scalar_one()
        return row.state, row.reason


def test_a_study_is_read_once_and_a_refusal_has_its_reason(node: Node, tmp_path: Path) -> None:
    receive(node, tmp_path / "in")
    worker = Worker(node, a_reading)
    assert not worker.step()  # it is not complete yet
    settle(node)
    assert worker.step()
    assert not worker.step()
    assert state(node) == ("refused", "this is no head")
    assert (node.settings.home / "readings" / "1-1-1" / "reading.json").is_file()
    assert not list((node.settings.home / "work").iterdir())


def test_a_failing_reader_is_tried_again_and_then_named(node: Node, tmp_path: Path) -> None:
    receive(node, tmp_path / "in")
    settle(node)

    def broken(folder: Path, name: str) -> Reading:
        raise RuntimeError("out of luck")

    worker = Worker(node, broken)
    for _ in range(node.settings.reading.attempts):
        assert worker.step()
        node.clock.now += 3600  # type: ignore[attr-defined]
    assert state(node) == ("failed", "RuntimeError: out of luck")


def test_the_networks_are_loaded_before_a_study_comes_and_a_bad_model_is_logged(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded: list[Engine] = []
    monkeypatch.setattr(Engine, "predictor", lambda engine: loaded.append(engine))
    reading = ReadingSettings(model="chosen", threads=1)
    node = replace(node, settings=node.settings.model_copy(update={"reading": reading}))
    load_model_ahead(node)
    (engine,) = loaded
    assert (engine.model, engine.threads) == ("chosen", 1)
    assert not caplog.records
    with suppress(AttributeError):  # a study is read with the same engine, so nothing is loaded twice
        study_reader(node)(node.settings.home / "nothing", "name")
    assert loaded == [engine, engine]
    monkeypatch.undo()
    load_model_ahead(node)  # there is no folder of this name
    assert "the model could not be loaded" in caplog.text


def test_a_loop_goes_on_after_a_step_that_failed(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ichnos.service.node._AFTER_ERROR_S", 0.0)
    done: list[str] = []

    def step(_: Node) -> bool:
        done.append("step")
        if len(done) == 1:
            raise ValueError("invalid literal: 'DOE^JANE'")
        node.stopping.set()
        return True

    node.repeat(step, pause_s=0.0)
    assert done == ["step", "step"]
    (line,) = caplog.messages
    assert line.startswith("ValueError at test_node.py:")
    assert "DOE" not in caplog.text


def test_a_killed_worker_loses_nothing(node: Node, tmp_path: Path) -> None:
    receive(node, tmp_path / "in")
    settle(node)

    class Killed(BaseException):
        pass

    def dies(folder: Path, name: str) -> Reading:
        raise Killed

    with pytest.raises(Killed):
        Worker(node, dies).step()
    assert state(node)[0] == "reading"
    node.clock.now += node.settings.reading.lease_s + 1  # type: ignore[attr-defined]
    assemble(node)
    assert Worker(node, a_reading).step()
    assert state(node)[0] == "refused"


# pynetdicom leaves the socket of a refused connection to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_results_reach_a_destination_and_a_silent_one_is_tried_again(node: Node, tmp_path: Path) -> None:
    taken: list[str] = []
    entity = AE(ae_title="PACS")
    entity.add_supported_context(CTImageStorage)

    def keep(event: object) -> int:
        taken.append(str(event.dataset.SOPInstanceUID))  # type: ignore[attr-defined]
        return 0

    handlers = [(evt.EVT_C_STORE, keep)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
    port = server.socket.getsockname()[1]
    file = tmp_path / "result.dcm"
    one_slice("1.2.840.8", 0).save_as(file, enforce_file_format=True)
    there = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=port)
    deliver_files([file], there, "ICHNOS", "1.2.3")
    assert taken == ["1.2.840.8.1.1"]
    server.shutdown()
    with pytest.raises(InputRefused, match="no DICOM results"):
        deliver_files([], there, "ICHNOS", "1.2.3")

    settings = node.settings.model_copy(
        update={"sending": SendingSettings(destinations=(there,), attempts=2)}
    )
    sending = Node(settings, node.database, clock=node.clock)
    receive(node, tmp_path / "in")
    with node.database.transaction() as session:
        study = session.execute(select(StudyRow)).scalar_one()
        study.state, study.reading = "ready", "readings/1"
        folder = node.settings.home / "readings" / "1"
        folder.mkdir(parents=True)
        os.link(file, folder / "segmentation.dcm")
        studies.deliver(session, study, "PACS", now=node.clock(), attempts_allowed=2)
    sender = Sender(sending)
    for expected in ("waiting", "dead"):
        assert sender.step()
        node.clock.now += 3600  # type: ignore[attr-defined]
        with node.database.snapshot() as session:
            row = session.execute(select(DeliveryRow)).scalar_one()
        assert row.state == expected
        assert "does not answer" in row.error


class Refusing(BaseHTTPRequestHandler):
    """A web archive that takes nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_no_password_of_a_destination_is_in_an_error(tmp_path: Path) -> None:
    file = tmp_path / "result.dcm"
    one_slice("1.2.840.8", 0).save_as(file, enforce_file_format=True)
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        answering = f"http://ann:geheim@127.0.0.1:{server.server_port}/dicom-web"
        for url, why in ((answering, "status 503"), ("http://ann:geheim@[/web", "ValueError")):
            there = Destination(name="research", kind="stow", url=url)
            with pytest.raises(NotDelivered) as refusal:
                deliver_files([file], there, "ICHNOS", "1.2.3")
            assert str(refusal.value) == f"research did not take the results: {why}"
        server.shutdown()
    silent = Destination(name="research", kind="stow", url="http://ann:geheim@127.0.0.1:9/dicom-web")
    with pytest.raises(NotDelivered, match=r"^research did not take the results: ConnectionError$"):
        deliver_files([file], silent, "ICHNOS", "1.2.3")
    for url in (silent.url, "http://ann:geheim@[/web"):
        assert "geheim" not in echo(silent.model_copy(update={"url": url}), "ICHNOS")


def test_pages_need_a_sign_in_and_forms_their_token(node: Node, tmp_path: Path) -> None:
    receive(node, tmp_path / "in")
    settle(node)
    Worker(node, a_reading).step()
    with node.database.transaction() as session:
        auth.add_user(session, "ann", PASSWORD, "reader")
    with TestClient(create_app(node), follow_redirects=False) as browser:
        assert browser.get("/").headers["location"] == "/sign-in"
        assert browser.get("/api/v1/studies").status_code == 401
        assert browser.post("/sign-in", data={"name": "ann", "password": "wrong"}).status_code == 401
        assert browser.post("/sign-in", data={"name": "ann", "password": PASSWORD}).status_code == 303
        page = browser.get("/")
        assert "DOE JANE" in page.text
        assert "this is no head" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert browser.get("/studies/1").status_code == 200
        assert browser.get("/studies/99").status_code == 404
        assert browser.post("/studies/1/acknowledge").status_code == 403
        csrf = page.text.split('name="csrf" value="')[1].split('"')[0]
        assert browser.post("/studies/1/acknowledge", data={"csrf": csrf}).status_code == 303
        assert browser.get("/api/v1/studies").json()[0]["acknowledged_by"] == "ann"
        assert browser.post("/studies/1/read", data={"csrf": csrf}).status_code == 403  # a reader may not
        assert browser.get("/readyz").json()["database"] is True
        metrics = browser.get("/metrics").text
        assert 'ichnos_studies{state="refused"} 1.0' in metrics
        assert "DOE" not in metrics


def test_wrong_passwords_are_slowed_down(node: Node) -> None:
    with node.database.transaction() as session:
        auth.add_user(session, "ann", PASSWORD, "reader")
    with TestClient(create_app(node), follow_redirects=False) as browser:
        codes = [
            browser.post("/sign-in", data={"name": "ann", "password": "wrong"}).status_code for _ in range(9)
        ]
        assert codes == [401] * 8 + [429]


def test_a_token_opens_the_api_until_it_is_over(node: Node) -> None:
    clock = node.clock
    with node.database.transaction() as session:
        user = auth.add_user(session, "robot", PASSWORD, "researcher")
        token = auth.issue_token(session, user, label="export", now=clock(), days=1)
    with TestClient(create_app(node)) as client:
        header = {"Authorization": f"Bearer {token}"}
        assert client.get("/api/v1/studies", headers=header).json() == []
        clock.now += 2 * 86400  # type: ignore[attr-defined]
        assert client.get("/api/v1/studies", headers=header).status_code == 401
