"""Audit messages on their way to a syslog server: RFC 5424 over TLS (RFC 5425) or UDP (RFC 5426), as DICOM
PS3.15 A.6 and A.7 have it.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from ichnos.service.settings import SyslogSettings
from ichnos.service.upkeep.audit_trail import AuditMessage

TIMEOUT_S = 10.0
_FACILITY = 10  # security and authorization messages, PS3.15 A.6
_NOTICE, _WARNING = 5, 4
_BOM = b"\xef\xbb\xbf"  # says that UTF-8 follows, RFC 5424 6.4


def syslog_line(message: AuditMessage, hostname: str) -> bytes:
    """Return one syslog message; its sequenceId is the number of the event, so that repeats can be told.

    >>> from ichnos.service.upkeep.audit_trail import AuditMessage
    >>> line = syslog_line(AuditMessage(12, at=0.0, failed=False, xml="<AuditMessage />"), "reading-room")
    >>> line.split(b" ")[:3], b'[meta sequenceId="12"]' in line
    ([b'<85>1', b'1970-01-01T00:00:00.000+00:00', b'reading-room'], True)
    """
    priority = 8 * _FACILITY + (_WARNING if message.failed else _NOTICE)
    at = datetime.fromtimestamp(message.at, UTC).isoformat(timespec="milliseconds")
    header = (
        f"<{priority}>1 {at} {hostname} ichnos {os.getpid()} DICOM+RFC3881"
        f' [meta sequenceId="{message.event}"] '
    )
    return header.encode() + _BOM + message.xml.encode()


def send_messages(messages: Sequence[AuditMessage], settings: SyslogSettings) -> None:
    """Send messages in order; OSError where the server did not take them.

    Syslog has no acknowledgement. Over TLS, the connection is ended after every batch and the server's end of
    it awaited: it has then read what was sent. A datagram (UDP) that is lost is lost.
    """
    lines = [syslog_line(message, socket.gethostname() or "-") for message in messages]
    if settings.transport == "udp":
        _send_datagrams(lines, settings)
    else:
        _send_encrypted(lines, settings)


def _send_datagrams(lines: Sequence[bytes], settings: SyslogSettings) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_DGRAM
    )[0]
    with socket.socket(family, kind, protocol) as there:
        there.connect(address)
        for line in lines:
            there.send(line)


def _send_encrypted(lines: Sequence[bytes], settings: SyslogSettings) -> None:
    context = ssl.create_default_context(cafile=settings.authorities)
    if settings.certificate is not None:
        context.load_cert_chain(settings.certificate, settings.key)
    place = (settings.host, settings.port)
    with (
        socket.create_connection(place, timeout=TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=settings.host) as there,
    ):
        there.sendall(b"".join(b"%d %s" % (len(line), line) for line in lines))
        with suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):  # some servers end without a farewell
            there.unwrap()
