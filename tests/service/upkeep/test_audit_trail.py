"""Audit messages: one per event, with the parts that PS3.15 A.5 demands; identity only where asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from builders.stored_node import open_stored, read_all, receive
from ichnos.service.node import Node
from ichnos.service.store import events
from ichnos.service.upkeep.audit_trail import audit_messages, code_of
from ichnos.service.upkeep.retention import purge_study
from service.test_receiver import slices


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = open_stored(tmp_path)
    receive(opened, slices(2, study="1.2.840.99"))
    read_all(opened)
    with opened.database.transaction() as session:
        events.append_event(session, "sign-in failed", at=2.0, actor="eve")
    yield opened
    opened.database.close()


def messages(node: Node, *, identified: bool = False, since: float = 0.0) -> list[ElementTree.Element]:
    with node.database.snapshot() as session:
        texts = list(audit_messages(session, source="ICHNOS", identified=identified, since=since))
    return [ElementTree.fromstring(text) for text in texts]


def test_every_event_is_a_message_with_its_required_parts(node: Node) -> None:
    told = messages(node)
    assert len(told) == 4
    for message in told:
        event = message.find("EventIdentification")
        assert event is not None
        assert {"EventActionCode", "EventDateTime", "EventOutcomeIndicator"} <= set(event.attrib)
        assert message.find("EventIdentification/EventID[@codeSystemName='DCM']") is not None
        assert message.find("ActiveParticipant[@UserID][@UserIsRequestor]") is not None
        assert message.find("AuditSourceIdentification[@AuditSourceID='ICHNOS']") is not None


def test_success_and_failure_machines_and_people_are_told_apart(node: Node) -> None:
    first, *_, last = messages(node)
    outcomes = [m.find("EventIdentification").get("EventOutcomeIndicator") for m in (first, last)]  # type: ignore[union-attr]
    people = [m.find("ActiveParticipant").get("UserIsRequestor") for m in (first, last)]  # type: ignore[union-attr]
    assert outcomes == ["0", "4"]
    assert people == ["false", "true"]
    assert last.find("ParticipantObjectIdentification") is None


def test_identity_appears_only_where_it_was_asked_for_and_is_still_known(node: Node) -> None:
    def text(**how: bool) -> str:
        return "".join(ElementTree.tostring(message, encoding="unicode") for message in messages(node, **how))

    assert "1.2.840.99" not in text()
    assert "P1" not in text()
    assert "1.2.840.99" in text(identified=True)
    assert 'ParticipantObjectID="P1"' in text(identified=True)
    assert "DOE" not in text(identified=True)
    purge_study(node, 1, actor="ann")
    assert "1.2.840.99" not in text(identified=True)
    assert "DICOM Study Deleted" in text()


def test_an_export_goes_on_where_the_last_one_stopped(node: Node) -> None:
    assert len(messages(node, since=1.5)) == 1


@pytest.mark.parametrize(
    ("kind", "action"), [("received", "C"), ("acknowledged", "R"), ("purged", "D"), ("queued", "E")]
)
def test_kinds_of_events_have_their_action(kind: str, action: str) -> None:
    assert code_of(kind).action == action
