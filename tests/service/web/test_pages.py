"""The pages of readers: live parts, priors beside each other, the archive, refusals as pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from ichnos.service.node import Node
from ichnos.service.settings import ArchiveSettings
from ichnos.service.store import events, studies
from ichnos.service.store.tables import EventRow, StudyRow, TaskRow
from ichnos.service.web import views
from service.web.visits import a_node, add_study, signed_in

EARLIER = "1.2.840.99.1"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = a_node(tmp_path / "node")
    yield opened
    opened.database.close()


def newest(node: Node, study_id: int) -> int:
    with node.database.snapshot() as session:
        return views.last_event(session, study_id)


def test_the_live_part_comes_only_after_an_event_and_the_page_only_after_a_reading(node: Node) -> None:
    study = add_study(node)
    ann = signed_in(node, "researcher")
    ann.submit(f"/studies/{study}/acknowledge")
    event = newest(node, study)
    assert ann.get(f"/studies/{study}/live?event={event}&read=0").status_code == 204
    changed = ann.get(f"/studies/{study}/live?event=0&read=0")
    assert "acknowledged by a researcher" in changed.text
    assert "<html" not in changed.text
    assert f'name="event" value="{event}"' in changed.text
    with node.database.transaction() as session:
        session.get_one(StudyRow, study).read_at = 5.0
    assert ann.get(f"/studies/{study}/live?event=0&read=0").headers["hx-refresh"] == "true"
    assert ann.get("/studies/99/live?event=0&read=0").status_code == 204


def test_priors_stand_beside_each_other_measure_by_measure(node: Node) -> None:
    old = add_study(node, "1.1", study_date="20260101", summary={"ich_volume": 4.0, "side": "left"})
    new = add_study(node, "1.2", study_date="20260102", summary={"ich_volume": 19.26})
    add_study(node, "1.3", patient_id="P2", summary={"ich_volume": 99.0})
    ann = signed_in(node, "reader")
    page = ann.get(f"/studies/{new}").text
    assert "19.3 mL" in page
    assert "99.0 mL" not in page  # another patient
    beside = ann.get(f"/studies/{new}/beside/{old}").text
    assert beside.index("4.0 mL") < beside.index("19.3 mL")  # in the order of time
    assert ann.get(f"/studies/{new}/beside/3").status_code == 404
    assert ann.get(f"/studies/99/beside/{old}").status_code == 404


def test_nothing_vanishes_behind_what_was_acknowledged(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "WORKLIST_ROWS", 3)
    for k in range(3):
        add_study(node, f"1.{k}", patient_name=f"SEEN{k}", urgency=9.0 - k, acknowledged_at=1.0)
    add_study(node, "1.7", patient_name="SMALL", urgency=2.1)
    add_study(node, "1.8", "failed", patient_name="FAILED")
    ann = signed_in(node, "reader")
    first, second = ann.get("/").text, ann.get("/?offset=3").text
    assert first.index("SMALL") < first.index("FAILED") < first.index("SEEN0")
    assert "1 to 3 of 5 studies" in first
    assert "2 more on other pages" in first
    assert 'href="/?state=&amp;open_only=false&amp;offset=3">Next page' in first
    assert "Page before" not in first
    assert second.index("SEEN1") < second.index("SEEN2")
    assert "SMALL" not in second
    assert 'hx-get="/worklist?state=&amp;open_only=false&amp;offset=3"' in second
    assert 'offset=0">Page before' in second
    assert "Next page" not in second
    assert "First page" in ann.get("/worklist?offset=900").text
    assert "other pages" not in ann.get("/?open_only=true").text


def test_a_study_says_that_it_came_again_with_other_bytes(node: Node) -> None:
    study = add_study(node, images=1)
    ann = signed_in(node, "reader")
    assert "came again" not in ann.get(f"/studies/{study}").text
    for details, said in (
        ({}, "1 image came"),
        ({studies.PATIENT_DIFFERS: True}, "and with another PatientID"),
    ):
        with node.database.transaction() as session:
            events.append_event(session, studies.CONFLICT, at=1.0, actor="r", study_id=study, details=details)
        assert said in ann.get(f"/studies/{study}").text
    assert "2 images came again" in ann.get(f"/studies/{study}/live?event=0&read=0").text


def test_studies_without_a_patient_id_have_no_priors(node: Node) -> None:
    add_study(node, "1.1", patient_id="")
    study = add_study(node, "1.2", patient_id="")
    with node.database.snapshot() as session:
        details = views.details_of(session, study)
    assert details is not None
    assert details.priors == ()


def test_reading_again_names_the_model_and_refuses_an_unknown_one(node: Node) -> None:
    study = add_study(node)
    ann = signed_in(node, "researcher")
    unknown = ann.post(f"/studies/{study}/read", data={"csrf": ann.csrf, "model": "nothing"})
    assert (unknown.status_code, "There is no model called nothing" in unknown.text) == (400, True)
    folder = node.settings.home / "models" / "other"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{}")
    assert ann.submit(f"/studies/{study}/read", model="other") == 303
    with node.database.snapshot() as session:
        assert session.get_one(TaskRow, 1).payload == {"model": "other"}
        assert session.get_one(EventRow, 1).details["model"] == "other"
    assert ann.submit(f"/studies/{study}/read", model="") == 409  # it is queued by now


def test_readers_see_no_button_that_they_may_not_press(node: Node) -> None:
    study = add_study(node)
    page = signed_in(node, "reader").get(f"/studies/{study}").text
    assert "Acknowledge" in page
    assert "Read again" not in page


def test_what_goes_wrong_is_a_page_for_people_and_json_for_programs(node: Node) -> None:
    ann = signed_in(node, "researcher")
    page = ann.get("/studies/99")
    assert (page.status_code, page.headers["content-type"].split(";")[0]) == (404, "text/html")
    assert "There is no such study." in page.text
    assert ann.get("/api/v1/studies/99").json() == {"detail": "there is no such study"}


def test_every_answer_carries_the_security_headers(node: Node) -> None:
    ann = signed_in(node, "reader")
    for path in ("/", "/sign-in", "/api/v1/studies", "/static/node.css", "/healthz", "/nowhere", "/users"):
        headers = ann.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"


def test_names_of_patients_appear_in_no_address(node: Node) -> None:
    study = add_study(node)
    for path in ("/", f"/studies/{study}"):
        page = signed_in(node, "admin", f"root{len(path)}").get(path).text
        addresses = [part.split('"')[0] for part in page.replace("action=", "href=").split('href="')[1:]]
        assert addresses
        assert not any("DOE" in address or "P1" in address for address in addresses)


@pytest.fixture
def archive() -> Iterator[ArchiveSettings]:
    """An archive with one earlier study, which it moves by saying so."""
    entity = AE(ae_title="ARCHIVE")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelMove)

    def find(event: object) -> Iterator[tuple[int, Dataset | None]]:
        wanted = event.identifier  # type: ignore[attr-defined]
        if wanted.get("PatientID") in ("P1", None):
            match = Dataset()
            match.StudyInstanceUID, match.StudyDate = EARLIER, "20250303"
            match.ModalitiesInStudy, match.StudyDescription = ["CT", "SR"], "Head"
            match.NumberOfStudyRelatedInstances = 30
            yield 0xFF00, match

    def move(event: object) -> Iterator[object]:
        yield None, None  # the destination is not known here

    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find), (evt.EVT_C_MOVE, move)]
    )
    yield ArchiveSettings(ae_title="ARCHIVE", host="127.0.0.1", port=server.socket.getsockname()[1])
    server.shutdown()


def test_the_archive_is_asked_for_other_studies_of_the_patient(
    tmp_path: Path, archive: ArchiveSettings
) -> None:
    node = a_node(tmp_path / "node", archive=archive)
    study, stranger = add_study(node), add_study(node, "1.9", patient_id="P9")
    ann = signed_in(node, "researcher")
    listed = ann.get(f"/studies/{study}/archive").text
    assert all(text in listed for text in ("20250303", "CT, SR", "Head", "30", "Fetch"))
    assert "no other study" in ann.get(f"/studies/{stranger}/archive").text
    assert "Fetch</button>" not in signed_in(node, "reader").get(f"/studies/{study}/archive").text
    refused = ann.post(f"/studies/{study}/fetch", data={"csrf": ann.csrf, "uid": EARLIER})
    assert (refused.status_code, "did not send the study" in refused.text) == (400, True)
    assert ann.submit(f"/studies/{study}/fetch", uid="1.2.3") == 404  # not of this patient
    node.database.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_archive_that_is_silent_is_said_to_be(tmp_path: Path) -> None:
    node = a_node(tmp_path / "node", archive=ArchiveSettings(ae_title="GONE", host="127.0.0.1", port=9))
    study = add_study(node)
    page = signed_in(node, "reader").get(f"/studies/{study}/archive")
    assert (page.status_code, "does not answer" in page.text) == (200, True)
    node.database.close()


def test_without_an_archive_none_is_asked(node: Node) -> None:
    study = add_study(node)
    ann = signed_in(node, "researcher")
    assert "In the archive" not in ann.get(f"/studies/{study}").text
    assert ann.get(f"/studies/{study}/archive").status_code == 404
