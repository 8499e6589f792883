"""The DNS questions and the connections that a stranger causes by a claim (docs/security.md).

A whole gateway is tested. Its look-ups go to a name server in memory, and its connections to addresses that the test has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.composition.gateway import build_gateway
from s2sgw.config import load
from s2sgw.net.requester import DIALS, QUESTIONS
from s2sgw.stream.events import DialbackNeeded, DialbackOutcome, JudgementNeeded, Permission, Refusal, ResolutionNeeded
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.certificates import self_signed, shared_root
from tests.support.dns import FakeReactor, FakeServer
from tests.support.fakes import ThreadlessReactor

CONFIG = """\
[gateway]
domains = ["example.org"]
[tls]
certificates = "certs"
trust_anchors = "ca.crt"
[dns]
servers = ["127.0.0.1"]
private_addresses = "allow"
[backend]
kind = "echo"
[peers.default]
dialback = "with-tls"
"""
LOCAL = Domain.parse("example.org")
#: Targets of a domain that has as many as possible.
MANY = 16


class Network(FakeReactor):
    """A reactor without threads that does not wait for its shutdown."""

    callFromThread = ThreadlessReactor.callFromThread
    getThreadPool = ThreadlessReactor.getThreadPool

    def addSystemEventTrigger(self, *_: Any) -> None: ...


class Connection:
    """The stranger's address and certificate."""

    peer_address = "192.0.2.7:40000"
    tls_version, cipher = "TLSv1.3", "TLS_AES_128_GCM_SHA256"

    def __init__(self, name: str) -> None:
        self.chain = self_signed(dns=[name]).der_chain
        self.closed: Deferred[None] = Deferred()
        self.recorded: tuple[object, ...] = ()

    def when_closed(self) -> Deferred[None]:
        return self.closed


class AmplificationTests(SynchronousTestCase):
    """The cost of a claim, from the header to the verification of its dialback key: at most eight questions and four connections."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        (folder / "certs").mkdir(parents=True)
        (folder / "ca.crt").write_bytes(shared_root().pem)
        own = self_signed(dns=[str(LOCAL)])
        (folder / "certs" / "own.crt").write_bytes(own.pem_chain)
        (folder / "certs" / "own.key").write_bytes(own.key_pem)
        (folder / "certs" / "own.key").chmod(0o600)
        (folder / "s2sgw.toml").write_text(CONFIG)
        self.network = Network()
        self.server = FakeServer(self.network)
        self.receiving = build_gateway(load(folder / "s2sgw.toml"), self.network).federation.receiving

    # --- the claim ---

    def answer(self, asking: Any) -> Any:
        """Wait for the answer to a question of a stream."""
        answer = Deferred.fromCoroutine(asking)
        for _ in range(120):
            if answer.called:
                break
            self.network.pass_time(0.5)
        return self.successResultOf(answer)

    def claim(self, name: str) -> tuple[Refusal | None, Permission, DialbackOutcome]:
        """Claim `name` in a header, present a certificate that proves nothing, and send a dialback key."""
        peer, connection = Domain.parse(name), Connection("other.example")
        refusal = self.answer(self.receiving.resolve(connection, ResolutionNeeded(peer, LOCAL)))  # type: ignore[arg-type]
        question = JudgementNeeded(peer, LOCAL, True)
        permission, _ = self.answer(self.receiving.judge(connection, question))  # type: ignore[arg-type]
        key = DialbackNeeded(Pair(peer, LOCAL), "key", "id")
        outcome = self.answer(self.receiving.verify(connection, key))  # type: ignore[arg-type]
        return refusal, permission, outcome

    def dials(self) -> list[tuple[str, int]]:
        """Return the addresses of connections, except those for DNS questions."""
        return [each.place for each in self.network.connectors if each.place[1] != 53]

    def cost(self, name: str) -> tuple[int, int]:
        """Return the questions and the connections of a claim, and check both limits."""
        self.server.asked.clear()
        self.network.connectors.clear()
        self.claim(name)
        questions, dials = len(self.server.asked), len(self.dials())
        self.assertLessEqual(questions, 8)
        self.assertLessEqual(dials, 4)
        return questions, dials

    # --- the contents of a zone ---

    def targets(self, name: str, number: int, *, service: str = "_xmpp-server", priorities: int = 1, addresses: int = 1) -> None:
        """Give `name` targets, each with addresses of both families."""
        host = "t{}.hosts.example"
        self.server.srv(name, *(f"{at % priorities} 0 5269 {host.format(at)}." for at in range(number)), service=service)
        for at in range(number):
            self.server.add(host.format(at), "A", *(f"192.0.2.{10 * at + each + 1}" for each in range(addresses)))
            self.server.add(host.format(at), "AAAA", *(f"2001:db8::{at:x}:{each:x}" for each in range(1, addresses + 1)))

    def test_the_bounds(self) -> None:
        """The constants are those in the documents."""
        self.assertEqual((QUESTIONS, DIALS), (8, 4))

    def test_plain(self) -> None:
        """A domain without SRV records: both services and both families are looked up, and both addresses are tried."""
        self.server.add("plain.example", "A", "192.0.2.1")
        self.server.add("plain.example", "AAAA", "2001:db8::1")
        self.assertEqual(self.cost("plain.example")[0], 4)
        self.assertIn(("192.0.2.1", 5269), self.dials())

    def test_no_such_domain(self) -> None:
        """A domain that does not exist costs four questions and no connection."""
        self.assertEqual(self.cost("nothing.example"), (4, 0))

    def test_one_target(self) -> None:
        """A domain with one target."""
        self.targets("srv.example", 1)
        self.assertEqual(self.cost("srv.example")[1], 2)

    def test_many_targets(self) -> None:
        """A domain with sixteen targets, with one priority or with separate ones, and with many addresses each."""
        for name, priorities in (("one.example", 1), ("each.example", MANY)):
            self.targets(name, MANY, priorities=priorities, addresses=8)
            self.assertGreater(self.cost(name)[1], 0)

    def test_both_services(self) -> None:
        """A domain with sixteen targets of each service."""
        self.targets("both.example", MANY)
        self.targets("both.example", MANY, service="_xmpps-server")
        self.cost("both.example")

    def test_a_victim_zone(self) -> None:
        """A domain whose sixteen targets are invented names in another zone."""
        self.server.srv("evil.example", *(f"0 0 5269 n{at}.victim.example." for at in range(MANY)))
        questions, dials = self.cost("evil.example")
        self.assertEqual(dials, 0)
        self.assertGreater(questions, 2)

    def test_internationalised(self) -> None:
        """An internationalised domain is looked up by its A-labels, and costs the same."""
        ascii = Domain.parse("bücher.example").ascii
        self.targets(ascii, 3)
        self.assertGreater(self.cost("bücher.example")[1], 0)
        self.assertIn((f"_xmpp-server._tcp.{ascii}", "SRV", "udp"), self.server.asked)

    def test_dane(self) -> None:
        """A domain in a signed zone with sixteen targets, each with TLSA records."""
        self.server.secure = True
        self.targets("dane.example", MANY)
        for at in range(MANY):
            self.server.add(f"_5269._tcp.t{at}.hosts.example", "TLSA", "3 1 1 " + "ab" * 32)
        self.cost("dane.example")
        self.assertTrue(any(kind == "TLSA" for _, kind, _ in self.server.asked))

    def test_aliases(self) -> None:
        """A signed zone whose targets are aliases: TLSA records are looked up under two names each."""
        self.server.secure = True
        self.server.srv("alias.example", *(f"0 0 5269 a{at}.example." for at in range(MANY)))
        for at in range(MANY):
            self.server.add(f"a{at}.example", "CNAME", f"t{at}.hosts.example.")
            self.server.add(f"t{at}.hosts.example", "A", f"192.0.2.{at + 1}")
        self.cost("alias.example")

    def test_dane_and_posh(self) -> None:
        """A signed zone whose domain also has an address, for a POSH document."""
        self.server.secure = True
        self.targets("all.example", MANY)
        self.server.add("all.example", "A", "192.0.2.200")
        self.cost("all.example")

    def test_posh(self) -> None:
        """A domain with an address for its POSH document: that connection is counted with the others."""
        self.targets("posh.example", 1)
        self.server.add("posh.example", "A", "192.0.2.200")
        self.cost("posh.example")
        self.assertIn(("192.0.2.200", 443), self.dials())

    def test_everything(self) -> None:
        """A domain with many targets and very many addresses, whose POSH document may also be at many addresses."""
        self.targets("much.example", MANY, addresses=8)
        self.server.add("much.example", "A", *(f"198.51.100.{at}" for at in range(1, 20)))
        self.server.add("much.example", "AAAA", *(f"2001:db8:1::{at:x}" for at in range(1, 20)))
        self.assertEqual(self.cost("much.example")[1], 4)

    def test_further_pairs(self) -> None:
        """Each further pair of domains that a stream claims may have its key verified too, with at most four more connections."""
        self.targets("srv.example", MANY, addresses=8)
        peer, connection = Domain.parse("srv.example"), Connection("other.example")
        for local in (LOCAL, Domain.parse("rooms.example.org")):
            self.network.connectors.clear()
            self.answer(self.receiving.verify(connection, DialbackNeeded(Pair(peer, local), "key", "id")))  # type: ignore[arg-type]
            self.assertEqual(len(self.dials()), 4)

    def test_spent(self) -> None:
        """If the POSH document has used all connections, the key is not verified, and the answer says why."""
        self.targets("srv.example", MANY)
        peer, connection = Domain.parse("srv.example"), Connection("other.example")
        requester = self.receiving._requester(connection, peer)  # type: ignore[arg-type]
        requester.take_dials(DIALS)
        outcome = self.answer(self.receiving.verify(connection, DialbackNeeded(Pair(peer, LOCAL), "key", "id")))  # type: ignore[arg-type]
        self.assertEqual((outcome.type, outcome.ending.cause, self.dials()), ("error", Cause.TOO_MANY_CLAIMS, []))

    def test_silence(self) -> None:
        """A domain whose name servers do not answer: each question is repeated once, and no other question is asked."""
        for kind in ("_xmpp-server", "_xmpps-server"):
            self.server.mute.add((f"{kind}._tcp.silent.example", "SRV"))
        self.cost("silent.example")

    def test_again(self) -> None:
        """The next claim of the name costs nothing, because the answers are cached."""
        self.targets("srv.example", 1)
        self.cost("srv.example")
        self.assertEqual(self.cost("srv.example")[0], 0)
