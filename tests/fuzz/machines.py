"""Fuzz targets: DNS, PROXY headers, the admin socket and the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rrset
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from s2sgw.admin.protocol import ANSWER_BYTES
from s2sgw.admin.server import AdminFactory, VerbError, parse_request
from s2sgw.backend.dns_view import DNSView
from s2sgw.config import ConfigError
from s2sgw.config.loading import parse as parse_configuration
from s2sgw.net.dns_answer import Answer, Status
from s2sgw.net.dns_transport import TwistedBackend
from s2sgw.net.proxy_protocol import EXTENSION_BYTES, MalformedHeader
from s2sgw.net.proxy_protocol import parse as parse_proxy
from s2sgw.net.resolver import RECORDS, Resolver
from tests.fuzz.source import Source
from tests.support.admin import operator

GATEWAY = b'[gateway]\ndomains = ["example.org"]\n'
QUESTIONS = tuple(
    dns.message.make_query(name, kind, use_edns=edns).to_wire()
    for name, kind, edns in (
        ("_xmpp-server._tcp.peer.example.", "SRV", 0), ("_xmpps-server._tcp.example.org.", "SRV", -1), ("peer.example.", "A", 0),
        ("localhost.", "AAAA", -1), ("x.onion.", "SRV", 0), (".", "NS", 0), ("1.0.0.127.in-addr.arpa.", "PTR", 0),
    )
)
PROXIES = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 5269\r\n", b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 5269\r\n", b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\x13\x88\x14\x95", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24" + bytes(36),
)
REQUESTS = (
    b'{"verb": "peers", "args": {}}', b'{"verb": "echo", "args": {"a": [1, null, "\\u00fc"]}}', b'{"verb": 1}', b"[]", b'{"verb": "fail"}', b"[" * 100,
    b'{"verb": "echo", "args": {"n": 1e400}}', b'{"verb": "echo", "args": {"n": NaN}}', b'{"verb": "late", "args": {}}', b"\r", b"\xff",
)
SECTIONS = tuple(map(str.encode, (
    "[peers.default]\n", "[peers.\"*.example\"]\n", "proofs = [\"pkix\", \"dane\"]\n", "dialback = \"never\"\n", "hold = \"5m\"\n", "limits = { streams = 3 }\n",
    "[queue]\n", "memory = \"64MiB\"\n", "[limits]\n", "unproven = \"25%\"\n", "[dns]\n", "servers = [\"127.0.0.1:5300\"]\n", "[policy]\n", "deny = [\"bad.example\"]\n",
    "[tls]\n", "minimum = \"1.3\"\n", "crl = \"x\"\n", "x = 1\n", "filters = [{ kind = \"message\" }]\n", "pins = [\"sha256:00\"]\n", "= ", "[[", "\"", "\n", "#", "\\",
    "[peers.\"faß.example\"]\n", "[[listen]]\nendpoint = \"tcp:5269\"\n", "true", "1979-05-27T07:32:00Z", "{", "}", "[", "]", ",", "99999999999999999999",
)))


class Alone(Clock):
    """A reactor without a network."""

    def __getattr__(self, name: str) -> Any:
        raise OSError(f"no {name} here")


def dns_view(data: bytes) -> None:
    """A damaged question gets an answer with its number, or none."""
    source = Source(data)
    wire = source.mutated(source.choose(QUESTIONS)) if source.flag() else source.rest()
    view = DNSView(Alone(), lambda name: name == "example.org", 15270)
    answers: list[bytes] = []
    view.respond(wire, datagram=source.flag()).addCallback(answers.append)
    view.stop()
    for answer in answers:
        assert answer[:2] in (b"", wire[:2])
        if answer:
            assert dns.message.from_wire(answer).flags & dns.flags.QR


class _Server(Clock):
    """A reactor with one name server, which answers each question with `answer`, only by UDP."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self._answer = answer

    def listenUDP(self, port: int, protocol: Any, interface: str = "") -> Any:
        return _Port(protocol, self._answer)

    def connectTCP(self, *arguments: Any, **options: Any) -> Any:
        raise OSError("no TCP here")


class _Port:
    def __init__(self, protocol: Any, answer: Any) -> None:
        self._protocol = protocol
        self._answer = answer
        protocol.transport = self
        protocol.startProtocol()

    def connect(self, host: str, port: int) -> None:
        self._place = (host, port)

    def write(self, question: bytes) -> None:
        for datagram in self._answer(question):
            self._protocol.datagramReceived(datagram, self._place)

    def stopListening(self) -> None:
        self._protocol.transport = None


def dns_answer(data: bytes) -> None:
    """A damaged answer is an answer to the question, or a failure after a while. Its records are few and of the requested type."""
    source = Source(data)
    kind = source.choose(("SRV", "A", "AAAA", "TLSA"))

    def answer(question: bytes) -> list[bytes]:
        message = dns.message.make_response(dns.message.from_wire(question), recursion_available=True)
        name = message.question[0].name.to_text()
        rows = {"SRV": f"1 1 5269 {name}", "A": "192.0.2.1", "AAAA": "2001:db8::1", "TLSA": "3 1 1 " + "00" * 32}
        message.answer += [dns.rrset.from_text(name, 60, "IN", kind, rows[kind])]
        if source.flag():
            message.flags |= dns.flags.AD
        return [source.mutated(message.to_wire()) for _ in range(1 + source.byte() % 3)]

    reactor = _Server(answer)
    resolver = Resolver(reactor, ["127.0.0.53"])
    found: list[Answer] = []
    resolver.query("peer.example", kind).addCallback(found.append)
    for _ in range(40):
        reactor.advance(1)
    assert len(found) == 1, "a look-up without an end"
    assert isinstance(found[0].status, Status)
    assert len(found[0].records) <= RECORDS
    assert TwistedBackend(reactor).datagram_connection_required()


def proxy(data: bytes) -> None:
    """A PROXY header is read when it is complete, refused, or awaited up to a limit. Bytes after it change nothing."""
    source = Source(data)
    header = source.mutated(source.choose(PROXIES)) if source.flag() else source.rest()
    try:
        found = parse_proxy(header)
    except MalformedHeader:
        return
    if found is None:
        assert len(header) < EXTENSION_BYTES + 16
    else:
        assert parse_proxy(header[: found.size]) == found == parse_proxy(header + b"more")


def admin(data: bytes) -> None:
    """Each line on the admin socket gets one line, in order, with any content."""
    source = Source(data)
    verbs = {"peers": lambda arguments: [], "echo": lambda arguments: arguments, "fail": _fail, "late": _late}
    clock, transport = Clock(), StringTransport()
    protocol = AdminFactory(verbs, clock, identify=operator).buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    assert protocol is not None
    protocol.makeConnection(transport)
    lines = 0
    while source.more and lines < 8:
        line = source.mutated(source.choose(REQUESTS)) if source.flag() else source.take(200)
        lines += line.count(b"\n") + 1
        protocol.dataReceived(line + b"\n")
    clock.pump([0.01] * 20)
    written = transport.value()
    assert written.count(b"\n") <= lines
    assert len(written) <= lines * (ANSWER_BYTES + 1)
    try:
        parse_request(data)
    except VerbError:
        return


def _fail(arguments: object) -> object:
    raise VerbError("no")


async def _late(arguments: object) -> object:
    return None


def configuration(data: bytes) -> None:
    """A configuration file is valid, or is refused with its errors."""
    source = Source(data)
    text = GATEWAY
    while source.more:
        text += source.choose(SECTIONS) if source.flag() else source.take(8)
    if source.flag():
        text = source.mutated(text)
    try:
        parse_configuration(text.decode("utf-8", "replace"), Path("/nowhere/s2sgw.toml"))
    except ConfigError as error:
        assert error.complaints
