"""Tests of changes while the gateway runs, over the components of a real one, and of the errors that a start would report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.reload import ReloadResult
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.composition.gateway import build_gateway
from s2sgw.composition.listeners import NotListening
from s2sgw.config import ConfigError
from s2sgw.console import rendering
from s2sgw.net.https import Fetched, Unfetched
from s2sgw.net.threads import AtOnce, ReactorThreads
from s2sgw.runtime import deny_lists
from s2sgw.runtime.deny_lists import ListUnreadable
from s2sgw.runtime.preflight import check_configuration
from s2sgw.service import read_console
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.certificates import shared_root
from tests.support.fakes import ThreadlessReactor

CONFIG = """\
[gateway]
domains = ["example.org"]
[tls]
certificates = "certs"
trust_anchors = "ca.crt"
[backend]
kind = "echo"
[queue]
disk = 0
"""
PEER = Domain.parse("peer.example")


class FolderCase(SynchronousTestCase):
    """A configuration with all the files that it names."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "certs").mkdir(parents=True)
        (self.folder / "ca.crt").write_bytes(shared_root().pem)
        self.leaf("certs/ours", "example.org")
        self.path = self.folder / "s2sgw.toml"
        self.path.write_text(CONFIG)

    def leaf(self, name: str, domain: str) -> None:
        issued = shared_root().issue(dns=[domain])
        (self.folder / f"{name}.crt").write_bytes(issued.pem_chain)
        key = self.folder / f"{name}.key"
        key.write_bytes(issued.key_pem)
        key.chmod(0o600)

    def also(self, text: str) -> None:
        self.path.write_text(CONFIG + text)

    def complaints(self) -> list[str]:
        with self.assertRaises(ConfigError) as caught:
            check_configuration(self.path)
        return [each.replace(f"{self.folder}/", "") for each in caught.exception.complaints]


class ReconfigurationTests(FolderCase):
    """Tests of a reload over the components of a gateway."""

    def setUp(self) -> None:
        super().setUp()
        self.gateway = build_gateway(check_configuration(self.path).config, ThreadlessReactor())
        self.running = self.gateway.running
        self.receiving = self.gateway.federation.receiving
        self.gateway.reconfiguration.open()
        self.addCleanup(self.gateway.reconfiguration.close)

    def test_certificate_of_a_peer(self) -> None:
        """A peer's own certificate is read at the reload: files that are damaged before its first stream change nothing."""
        self.leaf("special", "example.org")
        self.also('[peers."peer.example"]\ncertificate = "special"\n')
        self.assertTrue(self.reload().ok)
        for file in ("special.crt", "special.key"):
            (self.folder / file).write_bytes(b"half of a file")
        credential = self.running.credential(Domain.parse("example.org"), PEER)
        assert credential is not None
        self.assertEqual("special", credential.name)

    def test_certificate_of_a_peer_at_the_start(self) -> None:
        """The same holds from the start on."""
        self.leaf("special", "example.org")
        self.also('[peers."peer.example"]\ncertificate = "special"\n')
        config = check_configuration(self.path).config
        running = RunningConfiguration(config, self.gateway.reactor, AtOnce())
        (self.folder / "special.crt").unlink()
        credential = running.credential(Domain.parse("example.org"), PEER)
        assert credential is not None
        self.assertEqual("special", credential.name)

    def test_alerts_end(self) -> None:
        """A reload that has read good files ends the alerts about them at once."""
        self.gateway.own_certificates.complaints = ("a fault",)
        self.gateway.secret_watch.faults = {self.folder / "a.secret": "a fault"}
        self.assertTrue(self.reload().ok)
        self.assertEqual(([], []), (self.gateway.own_certificates.alerts(), self.gateway.secret_watch.alerts()))

    def test_alert_of_a_refusal(self) -> None:
        """`status` has an alert after a refused reload until one succeeds, and one for a call in a thread that does not return."""
        def status() -> Any:
            asked = maybeDeferred(self.gateway.verbs["status"], {})
            self.gateway.reactor.pump([0.0] * 3)
            return self.successResultOf(asked)["alerts"]

        self.assertEqual([], status())
        self.also("wrong")
        self.assertFalse(self.reload().ok)
        (alert,) = status()
        self.assertIn("s2sgw.toml", alert)
        self.path.write_text(CONFIG)
        self.assertTrue(self.reload().ok)
        self.patch(AtOnce, "alerts", lambda threads: ["a call does not return"])
        self.patch(ReactorThreads, "alerts", lambda threads: ["a call does not return"])
        self.assertEqual(["a call does not return"], status())

    def reload(self) -> ReloadResult:
        done = self.gateway.reconfiguration.reload.run("the test")
        self.gateway.reactor.advance(0)
        return self.successResultOf(done)

    def cause(self) -> str | None:
        """Return the cause for which a stream of the peer is refused at its header."""
        refusal = self.receiving.refuses_sender(PEER)
        return refusal.ending.cause.value if refusal else None

    def test_close(self) -> None:
        """At the end, denied peers of which other nodes have told are noted, and nothing is left to be called."""
        self.gateway.reconfiguration.denials.take(["denied.example"])
        self.gateway.reconfiguration.close()
        (line,) = (self.running.config.gateway.state / "audit.log").read_text().splitlines()
        self.assertIn("denied.example", line)

    def test_policy(self) -> None:
        """The new policies apply at once wherever policies are used. The old ones are released."""
        old = self.running.config.peers
        self.also('[peers.default]\nhold = "9s"\n')
        self.reload()
        self.assertEqual(({}, True), (old, "default" in self.running.config.peers))
        self.assertIsNone(self.cause())
        self.also('[peers."peer.example"]\nallow = false\nhold = "7s"\n')
        self.assertTrue(self.reload().ok)
        self.assertEqual("not-allowed", self.cause())
        self.assertIs(self.receiving.peers, self.running.policies)
        self.assertEqual(7.0, self.gateway.federation.initiating.peers.policy(PEER).hold)

    def test_tls(self) -> None:
        """The minimum version, the anchors and the certificates are the new ones."""
        before, first = self.running.server_tls(False), self.running.certificates.for_domain(Domain.parse("example.org"))
        self.assertIs(before, self.running.server_tls(False))
        self.assertEqual(1, len(self.running.anchors()))
        (self.folder / "ca.crt").write_bytes(shared_root().pem + shared_root().intermediate().pem)
        self.leaf("certs/ours", "example.org")
        self.path.write_text(CONFIG.replace("[backend]", 'minimum = "1.3"\n[backend]'))
        outcome = self.reload()
        self.assertEqual((["tls.minimum"], ["ours"]), ([row["key"] for row in outcome.changes], outcome.certificates))
        self.assertIsNot(before, self.running.server_tls(False))
        self.assertNotEqual(first, self.running.certificates.for_domain(Domain.parse("example.org")))
        self.assertEqual((2, "1.3"), (len(self.running.anchors()), self.running.policies.policy(PEER).minimum))

    def test_nothing_changes(self) -> None:
        """After a bad file nothing changes, also after a special certificate without its key."""
        self.also('[peers.default]\nallow = false\n[peers."peer.example"]\ncertificate = "special"\n')
        (self.folder / "special.crt").write_bytes(b"x")
        (self.folder / "special.key").write_bytes(b"x")
        outcome = self.reload()
        self.assertFalse(outcome.ok)
        self.assertIn('peers."peer.example".certificate', outcome.complaints[0])
        self.assertIsNone(self.cause())

    def test_domains(self) -> None:
        """A domain that is added is local at once everywhere. Its certificate must be there."""
        rooms = Domain.parse("rooms.example.org")
        self.path.write_text(CONFIG.replace('["example.org"]', '["example.org", "rooms.example.org"]'))
        self.assertFalse(self.reload().ok)
        self.assertFalse(self.running.is_local(rooms))
        self.leaf("certs/rooms", "rooms.example.org")
        self.assertTrue(self.reload().ok)
        self.assertTrue(self.running.is_local(rooms) and self.running.may_be_local("Rooms.example.org"))
        queue = self.gateway.custody.queues.queue(Pair(PEER, rooms))
        self.assertEqual(("inbound", "EchoNextHop"), (queue.direction, type(queue.next_hop).__name__))

    def test_restart_is_told(self) -> None:
        """If only a restart can change a key, the plan and the reload say so."""
        self.path.write_text(CONFIG.replace("disk = 0", 'disk = 0\nmemory = "1MiB"') + '[console]\nlisten = "tcp:8269:interface=127.0.0.1"\n')
        plan = self.successResultOf(Deferred.fromCoroutine(self.gateway.reconfiguration.reload.plan({})))
        told = {row["key"]: row["restart"] for row in plan["changes"]}
        why = "can change only at a restart"
        self.assertEqual((False, "", why), (plan["ok"], told["console.listen"], told["queue.memory"]))
        outcome = self.reload()
        self.assertEqual((False, [f"queue.memory: {why}"]), (outcome.ok, outcome.complaints))

    def test_dns(self) -> None:
        """The name servers and static answers of the new configuration are used from now on. Cached answers are removed."""
        self.also('[dns]\nservers = ["192.0.2.53"]\nprivate_addresses = "allow"\n[dns.static]\n"peer.example" = "127.0.0.1:5299"\n')
        self.assertTrue(self.reload().ok)
        self.assertEqual(["192.0.2.53:53"], [str(server) for server in self.gateway.resolver.servers])
        self.assertTrue(self.gateway.discovery.is_fixed(PEER))
        self.also("")
        self.assertTrue(self.reload().ok)
        self.assertFalse(self.gateway.discovery.is_fixed(PEER))

    def test_listeners(self) -> None:
        """A listener that cannot be opened refuses the whole configuration. Otherwise it is opened first, and the others closed afterwards."""
        class Listeners:
            wrong = [NotListening("listen", "tcp:5300", "Address already in use")]
            calls: list[str] = []

            def prepare(self, config: Any) -> list[NotListening]:
                self.calls.append("prepare " + ", ".join(row.endpoint for row in config.listen))
                return self.wrong

            def abandon(self) -> None:
                self.calls.append("abandon")

            def commit(self, config: Any) -> None:
                self.calls.append("commit " + ", ".join(row.endpoint for row in config.listen))

        self.gateway.reconfiguration.listeners = listeners = Listeners()
        self.also('[[listen]]\nendpoint = "tcp:5300"\n[peers."peer.example"]\nallow = false\n')
        outcome = self.reload()
        self.assertEqual(["listen: cannot listen on tcp:5300: Address already in use"], outcome.complaints)
        self.assertIsNone(self.cause())
        listeners.wrong = []
        self.assertTrue(self.reload().ok)
        self.assertEqual(["prepare tcp:5300", "abandon", "prepare tcp:5300", "commit tcp:5300"], listeners.calls)

    def test_stopping(self) -> None:
        """A reload that is read when the stop begins opens nothing: the stop would not close it."""
        self.gateway.reconfiguration.listeners = listeners = Mock()
        self.also('[[listen]]\nendpoint = "tcp:5300"\n[peers."peer.example"]\nallow = false\n')
        self.gateway.reconfiguration.stopping = True
        self.assertEqual(["the gateway is stopping"], self.reload().complaints)
        listeners.prepare.assert_not_called()
        self.assertIsNone(self.cause())

    def test_console_is_read_ahead(self) -> None:
        """The templates of a console are compiled in the thread that reads the configuration."""
        rendering.environment.cache_clear()
        self.gateway.reconfiguration.read_ahead = read_console
        self.also("")
        self.assertTrue(self.reload().ok)
        self.assertEqual(0, rendering.environment.cache_info().currsize)
        self.also('[console]\nlisten = "tcp:8269:interface=127.0.0.1"\n')
        self.assertTrue(self.reload().ok)
        self.assertEqual(1, rendering.environment.cache_info().currsize)

    def test_listeners_are_shown(self) -> None:
        """`status` shows each listener of the current configuration, also the console's."""
        self.also('[console]\nlisten = "tcp:8269:interface=127.0.0.1"\n')
        self.assertTrue(self.reload().ok)
        self.assertEqual(
            [("federation (starttls)", "tcp:5269"), ("console", "tcp:8269:interface=127.0.0.1")],
            [(row["purpose"], row["endpoint"]) for row in self.gateway.views.listeners()],
        )

    def test_deny_list(self) -> None:
        """A list applies with the reload that adds it. Later changes of its file apply by themselves, and are noted."""
        names = self.folder / "deny.txt"
        names.write_text("peer.example\n")
        self.also('[policy]\ndeny_lists = ["deny.txt"]\nrefresh = "60s"\n')
        self.assertTrue(self.reload().ok)
        self.assertEqual("deny-listed", self.cause())
        names.write_text("other.example\n")
        self.gateway.reactor.advance(60)
        self.assertIsNone(self.cause())
        lines = [json.loads(line) for line in self.gateway.audit.path.read_text().splitlines()]
        self.assertEqual(["reload", "deny list"], [line["action"] for line in lines])
        self.assertEqual((["other.example"], ["peer.example"]), (lines[1]["added"], lines[1]["removed"]))


class ReadinessTests(FolderCase):
    """Tests of the errors that a start would report."""

    def test_good(self) -> None:
        """A good configuration has none."""
        self.assertEqual((), check_configuration(self.path).warnings)

    def test_files_of_peers(self) -> None:
        """The anchors and certificates of single peers, and deny lists, are read before any port is opened."""
        (self.folder / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n")
        (self.folder / "deny.txt").write_text("<html>\n<body>\n")
        self.leaf("good", "example.org")
        self.leaf("half", "example.org")
        os.replace(self.folder / "half.key", self.folder / "half.key.moved")
        (self.folder / "half.key").write_bytes(b"none")
        self.also(
            '[peers."a.example"]\ntrust_anchors = "bad.pem"\ncertificate = "good"\n[peers."b.example"]\ncertificate = "half"\n'
            '[policy]\ndeny_lists = ["deny.txt"]\n'
        )
        found = self.complaints()
        for words in ('peers."a.example".trust_anchors', 'peers."b.example".certificate: half.key', "policy.deny_lists: deny.txt is no list"):
            self.assertEqual(1, sum(words in each for each in found), f"{words}: {found}")


class FetchTests(SynchronousTestCase):
    """Tests of fetching a deny list."""

    def fetched(self, answer: Any) -> Deferred[bytes]:
        self.made: dict[str, Any] = {}

        def https(reactor: Any, resolve: Any, trust_root: Any, **more: Any) -> Any:
            self.made = {**more, "private": resolve.args}
            return SimpleNamespace(get=lambda url: answer)

        self.patch(deny_lists, "HTTPS", https)
        return Deferred.fromCoroutine(deny_lists.WebLists(None, None, None).fetch("https://lists.example/"))  # type: ignore[arg-type]

    def test_page(self) -> None:
        """The list is fetched, within its size limit. The operator's server may have any address."""
        self.assertEqual(b"a.example\n", self.successResultOf(self.fetched(succeed(Fetched(200, None, b"a.example\n")))))
        self.assertEqual((True, 8 * 1024 * 1024, 30.0), (self.made["private"][1], self.made["limit"], self.made["timeout"]))

    def test_no_page(self) -> None:
        """Another status, a redirect and a failure are reported with a text."""
        for answer, words in (
            (succeed(Fetched(404, None, b"")), "the server answered with status 404"),
            (succeed(Fetched(301, "https://x.example/", b"")), "the server answered with status 301, leading to https://x.example/"),
            (fail(Unfetched("no answer in 30 s")), "no answer in 30 s"),
        ):
            self.assertEqual(words, str(self.failureResultOf(self.fetched(answer), ListUnreadable).value))


class BackendTests(SynchronousTestCase):
    """Tests of changes to the connection with the backend while the gateway runs."""

    def test_address(self) -> None:
        """The next stream uses the new address and its TLS settings. The new server's state is still unknown."""
        case = FolderCase()
        case.mktemp = self.mktemp  # type: ignore[method-assign]
        case.setUp()
        one = CONFIG.replace('kind = "echo"', 'address = "127.0.0.1:15269"')
        case.path.write_text(one)
        gateway = build_gateway(check_configuration(case.path).config, ThreadlessReactor())
        gateway.reconfiguration.open()
        self.addCleanup(gateway.reconfiguration.close)
        (leg,) = gateway.backends.legs.values()
        side = leg.initiating
        gateway.backends.health[0].opened("outbound", PEER, "EXTERNAL", None)
        case.path.write_text(one.replace("15269", "15555").replace("[queue]", 'tls = "never"\n[queue]'))
        done = gateway.reconfiguration.reload.run("the test")
        gateway.reactor.advance(0)
        self.assertTrue(self.successResultOf(done).ok)
        self.assertEqual((15555, "never"), (side.server.port, side.server.tls))
        row = gateway.backends.health[0].row()
        self.assertEqual(("127.0.0.1:15555", "unknown"), (row["address"], row["state"]))
