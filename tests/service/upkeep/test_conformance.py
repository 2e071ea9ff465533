"""The conformance statement says what the program does: it is made from the same values."""

from __future__ import annotations

from pathlib import Path

from pydicom.uid import UID

from ichnos.service.receiver import CANNOT_UNDERSTAND, NOT_AUTHORISED, OUT_OF_RESOURCES
from ichnos.service.results.extras import LEAVING
from ichnos.service.settings import NodeSettings, Peer, ReceiverSettings, SyslogSettings
from ichnos.service.upkeep.conformance import conformance_statement
from ichnos.service.web.dicomweb import DICOMWEB


def test_it_names_every_class_route_and_status_of_the_program() -> None:
    text = conformance_statement(NodeSettings())
    for uid in (*LEAVING, "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2"):
        assert f"| {UID(uid).name} | {uid} |" in text
    for route in DICOMWEB.routes:
        assert f"/dicom-web{route.path} |" in text  # type: ignore[attr-defined]
    for status in (OUT_OF_RESOURCES, CANNOT_UNDERSTAND, NOT_AUTHORISED):
        assert f"| {status:04X} |" in text


def test_it_follows_the_settings() -> None:
    assert "loopback only" in conformance_statement(NodeSettings())
    receiver = ReceiverSettings(
        ae_title="STROKE", port=1104, peers=(Peer(ae_title="CT1", address="10.0.0.7"),)
    )
    text = conformance_statement(NodeSettings(receiver=receiver))
    assert "| AE title | STROKE |" in text
    assert "CT1 (10.0.0.7)" in text
    assert ":1104" in text
    assert "no TLS" in text
    secured = receiver.model_copy(
        update={"tls_certificate": Path("a"), "tls_key": Path("b"), "tls_peers": Path("c")}
    )
    assert "client certificates required" in conformance_statement(NodeSettings(receiver=secured))
    assert "not sent" in text
    audited = NodeSettings(audit=SyslogSettings(host="audit.example.org"))
    assert "sent by syslog over TLS (PS3.15 A.6)" in conformance_statement(audited)


def test_its_tables_are_whole() -> None:
    lines = conformance_statement(NodeSettings()).splitlines()
    widths = [line.count("|") for line in lines if line.startswith("|")]
    groups = "\n".join(lines).split("\n\n")
    for group in groups:
        rows = [line for line in group.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, group
    assert len(widths) > 20
