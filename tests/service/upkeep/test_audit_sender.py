"""Audit messages reach a real syslog server, each event once and in order, whatever is killed on the way."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError

from builders.stored_node import open_stored, read_all, receive
from ichnos.service import run
from ichnos.service.node import Node
from ichnos.service.remote.syslog import send_messages, syslog_line
from ichnos.service.settings import NodeSettings, SyslogSettings, missing_files
from ichnos.service.store import events
from ichnos.service.upkeep import audit_sender
from ichnos.service.upkeep.audit_sender import AuditSender
from ichnos.service.upkeep.audit_trail import AuditMessage, messages_after
from service.test_receiver import slices
from service.web.living import require_program, until

REPOSITORY = SyslogSettings(host="audit.example.org")


@dataclass
class Repository:
    """Takes messages, fails as often as it is told to, and may be killed after it took a batch."""

    failures: int = 0
    kills: int = 0
    taken: list[int] = field(default_factory=list)

    def __call__(self, messages: Sequence[AuditMessage], _settings: SyslogSettings) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionRefusedError("nobody listens")
        self.taken += [message.event for message in messages]
        if self.kills:
            self.kills -= 1
            raise KeyboardInterrupt  # what a killed process does not note


@dataclass
class Clock:
    """Shows what the test sets."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def a_node(home: Path, audit: SyslogSettings = REPOSITORY, count: int = 12) -> Node:
    """Open a node whose event table holds `count` events."""
    opened = open_stored(home, audit=audit)
    with opened.database.transaction() as session:
        for k in range(count):
            events.append_event(session, "signed in", at=float(k), actor=f"reader {k}")
    return opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(audit_sender, "BATCH", 5)
    opened = replace(a_node(tmp_path), clock=clock)
    yield opened
    opened.database.close()


def test_every_event_is_sent_once_in_order_and_later_ones_follow(node: Node) -> None:
    there = Repository()
    sender = AuditSender(node, there)
    assert [sender.step() for _ in range(4)] == [True, True, True, False]
    with node.database.transaction() as session:
        events.append_event(session, "signed out", at=99.0, actor="reader 1")
    another = AuditSender(node, there)  # as after a restart
    assert another.step()
    assert there.taken == list(range(1, 14))


def test_a_kill_loses_nothing_and_repeats_one_batch_at_most(node: Node, clock: Clock) -> None:
    there = Repository(kills=1)
    with pytest.raises(KeyboardInterrupt):
        AuditSender(node, there).step()
    after = AuditSender(node, there)
    assert not after.step()  # the batch may still be on its way
    clock.now += 120.0  # its lease runs out
    while after.step():
        pass
    assert there.taken == [*range(1, 6), *range(1, 13)]


def test_of_two_senders_one_sends(node: Node) -> None:
    first = AuditSender(node, Repository())
    second = AuditSender(node, there := Repository())
    assert first._claim(node.clock())
    assert not second.step()
    assert there.taken == []


def test_a_server_that_is_away_is_asked_again_with_growing_waits(node: Node, clock: Clock) -> None:
    sender = AuditSender(node, there := Repository(failures=2))
    waits = []
    for _ in range(2):
        assert not sender.step()
        waits.append(sender.next_at - clock.now)
        assert not sender.step()  # too early: nobody is asked
        clock.now = sender.next_at
    assert waits == [2.0, 4.0]
    while sender.step():
        pass
    assert there.taken == list(range(1, 13))


def test_without_a_repository_nothing_is_read_or_sent(tmp_path: Path) -> None:
    opened = a_node(tmp_path, SyslogSettings())
    assert not AuditSender(opened, there := Repository()).step()
    assert there.taken == []
    opened.database.close()


def test_the_sending_loop_of_a_node_sends_them(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Repository()

    def step(self: AuditSender) -> bool:
        done = sent(replace(self, send=there))
        if not done:
            node.stopping.set()
        return done

    sent = AuditSender.step
    monkeypatch.setattr(AuditSender, "step", step)
    run._BODIES["sender"](node)
    assert there.taken == list(range(1, 13))


def test_study_and_patient_are_named_only_where_the_settings_ask_for_it(tmp_path: Path) -> None:
    opened = open_stored(tmp_path)
    receive(opened, slices(2, study="1.2.840.99"))
    read_all(opened)
    with opened.database.snapshot() as session:
        plain, named = (
            "".join(m.xml for m in messages_after(session, 0, limit=9, source="ICHNOS", identified=wanted))
            for wanted in (False, True)
        )
    assert "1.2.840.99" not in plain
    assert "1.2.840.99" in named
    opened.database.close()


def test_a_line_is_what_the_standards_ask_for() -> None:
    line = syslog_line(AuditMessage(7, at=1.5, failed=True, xml="<AuditMessage>ß</AuditMessage>"), "ward")
    header, text = line.split(b"\xef\xbb\xbf")
    assert re.fullmatch(
        rb'<84>1 1970-01-01T00:00:01\.500\+00:00 ward ichnos \d+ DICOM\+RFC3881 \[meta sequenceId="7"\] ',
        header,
    )
    assert text.decode() == "<AuditMessage>ß</AuditMessage>"


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="needs both"):
        SyslogSettings(host="audit", certificate=tmp_path / "node.pem")
    lost = NodeSettings(audit=SyslogSettings(host="audit", authorities=tmp_path / "none.pem"))
    assert missing_files(lost) == [f"audit.authorities: {tmp_path / 'none.pem'} does not exist"]


# ---- a server that nobody here wrote

_CONFIGURATION = """
global(workDirectory="{folder}" DefaultNetstreamDriver="ossl"
       DefaultNetstreamDriverCAFile="{folder}/server.pem"
       DefaultNetstreamDriverCertFile="{folder}/server.pem"
       DefaultNetstreamDriverKeyFile="{folder}/server.key")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
input(type="imtcp" address="127.0.0.1" port="{port}")
module(load="imudp")
input(type="imudp" address="127.0.0.1" port="{port}")
template(name="parts" type="string" string="%pri% %app-name% %msgid% %structured-data% %msg%\\n")
action(type="omfile" file="{folder}/taken" template="parts")
"""


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[SyslogSettings]:
    """Run rsyslog with a certificate of its own; it listens on one port by TLS and UDP."""
    program, openssl = (
        require_program("rsyslogd", "rsyslog rsyslog-openssl"),
        require_program("openssl", "openssl"),
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subject = ["-subj", "/CN=repository", "-addext", "subjectAltName=IP:127.0.0.1"]
    keys = ["-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.pem", "-days", "2"]
    subprocess.run([openssl, "req", "-x509", *keys, *subject], cwd=tmp_path, check=True, capture_output=True)
    file = tmp_path / "rsyslog.conf"
    file.write_text(_CONFIGURATION.format(folder=tmp_path, port=port))
    running = subprocess.Popen([program, "-n", "-f", str(file), "-i", str(tmp_path / "pid")])
    until(lambda: _listens(port), 20)
    yield SyslogSettings(host="127.0.0.1", port=port, authorities=tmp_path / "server.pem")
    running.terminate()
    running.wait(timeout=20)


def _listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def taken_lines(settings: SyslogSettings, count: int) -> list[str]:
    """Return what the server wrote once there are so many lines."""
    assert settings.authorities is not None
    file = settings.authorities.parent / "taken"

    def lines() -> list[str]:
        written = file.read_text().splitlines() if file.is_file() else []
        return [line for line in written if "ichnos" in line]

    until(lambda: len(lines()) >= count, 20)
    return lines()


def test_a_syslog_server_takes_every_event_once_over_tls(repository: SyslogSettings, tmp_path: Path) -> None:
    opened = a_node(tmp_path / "home", repository, count=250)
    sender = AuditSender(opened)
    assert [sender.step() for _ in range(4)] == [True, True, True, False]
    lines = taken_lines(repository, 250)
    assert [int(re.findall(r'sequenceId="(\d+)"', line)[0]) for line in lines] == list(range(1, 251))
    assert {line.split(" ")[0] for line in lines} == {"85"}
    assert {line.split(" ")[2] for line in lines} == {"DICOM+RFC3881"}
    last = ElementTree.fromstring(lines[-1][lines[-1].index("<AuditMessage") :])
    assert last.find("ActiveParticipant[@UserID='reader 249']") is not None
    opened.database.close()


def test_a_syslog_server_takes_datagrams(repository: SyslogSettings, tmp_path: Path) -> None:
    datagrams = repository.model_copy(update={"transport": "udp"})
    opened = a_node(tmp_path / "home", datagrams, count=3)
    assert AuditSender(opened).step()
    assert len(taken_lines(repository, 3)) == 3
    opened.database.close()


def test_a_server_with_another_certificate_gets_nothing(repository: SyslogSettings) -> None:
    message = AuditMessage(1, at=0.0, failed=False, xml="<AuditMessage />")
    with pytest.raises(ssl.SSLCertVerificationError):
        send_messages([message], repository.model_copy(update={"authorities": None}))
