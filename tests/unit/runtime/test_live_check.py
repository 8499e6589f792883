"""Tests of `s2sgw check --live`: its checks, their failures, and a remedy for each."""

from __future__ import annotations

import shutil
from collections import namedtuple
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.rdata
from dns.rdatatype import RdataType
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.backend.health import BackendIdentity, attributed
from s2sgw.config.sections import Backend
from s2sgw.net.dialing import DialFailed
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.dns_answer import Answer, Status
from s2sgw.runtime import live_check, machine_facts
from s2sgw.runtime.live_check import VIEW_SECONDS, BackendUnderCheck, LiveCheck, LiveFact, LiveServices
from s2sgw.runtime.own_certificates import SELF_SIGNED, CertificateFact
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain

HERE = Domain.parse("here.example")
IDENTITY = BackendIdentity("127.0.0.1:15269", "s2s", ("here.example",), "/state/backend-ca.pem", "127.53.0.1:53")
ENDS = datetime(2027, 1, 1, tzinfo=UTC)
Usage = namedtuple("Usage", "total used free")


class FakeStream:
    """A stream to our own server that behaves as the test says."""

    def __init__(self, ending: Ending | None) -> None:
        self.ready = succeed(ending)
        self.method, self.secured = "EXTERNAL", SimpleNamespace(version="TLSv1.3")
        self.pinged: list[str] = []

    async def connect(self, dialler: Any, address: str) -> None:
        await dialler(address, 15269, None)

    def ping(self, text: str, ident: str) -> Deferred[str]:
        self.pinged.append(text)
        return succeed("")

    def close(self) -> Deferred[None]:
        return succeed(None)


class LiveCheckTests(SynchronousTestCase):
    """Tests of a gateway on 127.0.0.1:5269 with one backend, and a scripted environment."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.records: dict[tuple[str, str], list[str]] = {
            ("_xmpp-server._tcp.here.example", "SRV"): ["0 0 5269 xmpp.here.example."], ("xmpp.here.example.", "A"): ["127.0.0.1"],
        }
        self.failing = False
        self.endpoint = "tcp:5269"
        self.certificates = [CertificateFact("here", ENDS, 60, "", ("here.example",))]
        self.ending: Ending | None = None
        self.refusing: set[str] = set()
        self.running = True
        self.questions = [3, 4]
        self.leg: Any = SimpleNamespace(resolve=self._resolve)
        self.state = Path(self.mktemp())
        self.state.mkdir(mode=0o700)
        self.told: list[LiveFact] = []
        self.streams: list[FakeStream] = []
        self.patch(live_check, "ProbeStream", self._stream)
        self.patch(machine_facts, "clock_is_synchronised", lambda: True)

    async def _resolve(self, pair: object) -> Resolution:
        return Resolution(HERE, (Target("127.0.0.1", 15269, ("127.0.0.1",)),))

    def _stream(self, *_: object) -> FakeStream:
        self.streams.append(FakeStream(self.ending))
        return self.streams[-1]

    def _dial(self, address: str, port: int, build: object) -> Deferred[None]:
        refused = Ending(Cause.CONNECTION_REFUSED, f"{address}:{port}", "them")
        return fail(DialFailed(refused)) if f"{address}:{port}" in self.refusing else succeed(None)

    async def _query(self, name: Any, kind: str) -> Answer:
        rows = self.records.get((str(name), kind), [])
        status = Status.FAILED if self.failing else Status.FOUND if rows else Status.NO_SUCH_NAME
        found = tuple(dns.rdata.from_text("IN", kind, row) for row in rows)
        return Answer(name, RdataType.make(kind), status, found, reason="no answer in time" if self.failing else "")

    async def _status(self) -> dict[str, Any] | None:
        if not self.running:
            return None
        asked = self.questions.pop(0) if len(self.questions) > 1 else self.questions[0]
        row = {"address": "127.0.0.1:15269", "questions": asked, "state": "down", "detail": "your server is away", "remedy": "Start it."}
        return {"version": "9", "backends": [row]}

    async def _backends(self) -> list[BackendUnderCheck]:
        backend = Backend.model_validate({"kind": "s2s", "dns_view": "127.53.0.1:53"})
        return [BackendUnderCheck(backend, HERE, self.leg, self._dial, ["127.0.0.1"], lambda ending: attributed(ending, IDENTITY))]

    def remedy(self, check: str) -> str:
        """Return the last check's remedy for the first fact of a kind."""
        return next(fact.remedy for fact in self.told if fact.check == check)

    def run_check(self) -> dict[str, list[bool | None]]:
        """Return whether each check is good, by name."""
        self.told.clear()
        config: Any = SimpleNamespace(
            path="s2sgw.toml", gateway=SimpleNamespace(domains=[HERE], state=self.state), listen=[SimpleNamespace(endpoint=self.endpoint)],
            limits=SimpleNamespace(connections=100), queue=SimpleNamespace(streams=10, disk=1 << 20),
        )
        services = LiveServices(
            self.clock, config, SimpleNamespace(query=self._query), self._backends, lambda: self.certificates, self._status, self._dial,  # type: ignore[arg-type]
        )
        running = Deferred.fromCoroutine(LiveCheck(services, self.told.append).run())
        self.clock.pump([0.5] * 20)
        facts = self.successResultOf(running)
        self.assertEqual(facts, self.told)
        found: dict[str, list[bool | None]] = {}
        for fact in facts:
            found.setdefault(fact.check, []).append(fact.ok)
            if fact.ok is False:
                self.assertTrue(fact.remedy, fact)
        return found

    def detail(self, name: str) -> str:
        return next(fact.detail for fact in self.told if fact.check == name)

    def test_good(self) -> None:
        """Every check is good. The server asked our name server to answer the ping."""
        found = self.run_check()
        self.assertEqual({True}, {ok for each in found.values() for ok in each})
        self.assertEqual({"gateway", "backend", "dns-view", "dns", "certificate", "clock", "state", "descriptors", "disk"}, set(found))
        self.assertIn("check.s2sgw.example", self.streams[0].pinged[0])

    def test_server(self) -> None:
        """A server that does not trust us, or is down, fails with the remedy for our own administrator."""
        self.ending = Ending(Cause.STREAM_ERROR, "Your server's certificate is not trusted", "them", "policy-violation")
        self.assertEqual([False], self.run_check()["backend"])
        self.assertIn("/state/backend-ca.pem", self.detail("backend"))
        self.refusing = {"127.0.0.1:15269"}
        found = self.run_check()
        self.assertEqual(([False], None), (found["backend"], found.get("dns-view")))

    def test_view(self) -> None:
        """A server that never asked our name server fails. One that asked before may have cached the answer."""
        self.questions = [0]
        self.assertEqual([False], self.run_check()["dns-view"])
        self.questions = [7]
        self.assertEqual([True], self.run_check()["dns-view"])
        self.assertLess(VIEW_SECONDS, 10)
        self.running = False
        self.assertEqual([None], self.run_check()["dns-view"])

    def test_without_the_state(self) -> None:
        """If our authority cannot be read, the running gateway is asked. Otherwise only the port is tried."""
        self.leg = None
        self.assertEqual([False], self.run_check()["backend"])
        self.assertEqual("your server is away", self.detail("backend"))
        self.running = False
        self.assertEqual([None], self.run_check()["backend"])
        self.refusing = {"127.0.0.1:15269"}
        self.assertEqual([False], self.run_check()["backend"])

    def test_dns(self) -> None:
        """Missing records, a failed look-up, a port or a family without a listener, and an address elsewhere fail."""
        kept = dict(self.records)
        self.records.clear()
        self.assertEqual([False], self.run_check()["dns"])
        self.assertIn("Publish SRV records", self.remedy("dns"))
        self.failing = True
        self.assertEqual([False], self.run_check()["dns"])
        self.assertIn("name servers", self.remedy("dns"))
        self.failing = False
        self.records = {**kept, ("_xmpp-server._tcp.here.example", "SRV"): ["0 0 5222 xmpp.here.example."]}
        self.assertEqual([False], self.run_check()["dns"])
        self.records = {**kept, ("xmpp.here.example.", "AAAA"): ["::1"]}
        self.endpoint = "tcp:5269:interface=127.0.0.1"
        self.assertEqual([False, True], self.run_check()["dns"])
        self.records = {**kept, ("xmpp.here.example.", "A"): ["192.0.2.1"]}
        self.assertEqual([None], self.run_check()["dns"])
        self.refusing = {"127.0.0.1:5269"}
        self.records = kept
        self.assertEqual([False], self.run_check()["dns"])

    def test_nothing_answers(self) -> None:
        """If nothing answers at our published address, the gateway is to be started, or the port is wrong if it runs."""
        self.refusing = {"127.0.0.1:5269"}
        for self.running, words in ((False, "Start the gateway"), (True, "SRV record")):
            self.assertEqual([False], self.run_check()["dns"])
            self.assertIn(words, self.remedy("dns"))

    def test_another_program(self) -> None:
        """If our published address answers and no gateway runs, another program has the port. An address elsewhere is not judged."""
        self.running = False
        self.assertEqual([None], self.run_check()["dns"])
        self.assertIn("another program", self.detail("dns"))
        self.assertIn("sport = :5269", self.remedy("dns"))
        self.records["xmpp.here.example.", "A"] = ["192.0.2.1"]
        self.run_check()
        self.assertNotIn("another program", self.detail("dns"))

    def test_without_srv(self) -> None:
        """A domain without SRV records is its own host, on the default port."""
        self.records = {("here.example", "A"): ["127.0.0.1"]}
        self.assertEqual([True], self.run_check()["dns"])

    def test_certificates(self) -> None:
        """A certificate that expires within a week, one without its chain, and a domain without any fail."""
        for facts in (
            [CertificateFact("here", ENDS, 3, "", ("here.example",))], [CertificateFact("here", ENDS, 60, "no issuer", ("here.example",))],
            [CertificateFact("other", ENDS, 60, "", ())],
        ):
            self.certificates = facts
            self.assertEqual([False], self.run_check()["certificate"])

    def test_remedy_of_a_chain(self) -> None:
        """A certificate without its chain needs the intermediate ones; a self-signed one needs to be replaced."""
        for chain, words in (("its issuer is not in the file", "intermediate"), (SELF_SIGNED, "public CA")):
            self.certificates = [CertificateFact("here", ENDS, 60, chain, ("here.example",))]
            self.run_check()
            self.assertIn(words, self.remedy("certificate"))

    def test_machine(self) -> None:
        """A wrong clock, a state directory that others may read, and a full disk fail."""
        self.patch(machine_facts, "clock_is_synchronised", lambda: False)
        self.state.chmod(0o755)
        self.patch(shutil, "disk_usage", lambda folder: Usage(1 << 30, 0, 1 << 20))
        found = self.run_check()
        self.assertEqual(([None], [False], [False]), (found["clock"], found["state"], found["disk"]))
        self.state.rmdir()
        self.assertEqual([None], self.run_check()["state"])
        self.state.write_text("a file")
        self.assertEqual([False], self.run_check()["state"])
