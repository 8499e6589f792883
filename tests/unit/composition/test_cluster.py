"""Tests of the parts of a node that come from the configuration: settings, sizes, and the way to the engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.homes import ClusterHomes
from s2sgw.cluster.members import LeaseOver
from s2sgw.cluster.nats_connection import Login
from s2sgw.cluster.shared_settings import LONGEST_SILENCE, SharedSettings
from s2sgw.composition.cluster import (
    MembershipNotices,
    _login,
    _tls,
    largest_stanza,
    listener_place,
    shard_bytes,
    shared_settings,
)
from s2sgw.config import Config, parse
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import shared_root


class ClusterCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        for name in ("certs", "shared"):
            (self.folder / name).mkdir(parents=True)
        for name in ("secret", "backend-ca.pem", "backend-ca.key"):
            (self.folder / "shared" / name).write_text(name)
        (self.folder / "ca.pem").write_bytes(shared_root().pem)
        credentials = self.folder / "credentials"
        credentials.write_text("s2sgw:se:cret\n")
        credentials.chmod(0o600)

    def config(self, domains: str = '"a.example", "b.example"', cluster: str = "", more: str = "") -> Config:
        return parse(
            f'[gateway]\ndomains = [{domains}]\n[cluster]\nnode = "a"\nengine = ["nats://192.0.2.21"]\n'
            f'listen = "tcp:5271:interface=192.0.2.11"\nmembers = ["192.0.2.0/28"]\nshared = "shared"\n{cluster}\n{more}',
            self.folder / "s2sgw.toml",
        )


class SettingsTests(ClusterCase):
    def test_same(self) -> None:
        """Settings are the same whatever the order and the spelling."""
        one = shared_settings(self.config(), b"secret")
        self.assertEqual([], one.differing(shared_settings(self.config('"B.example.", "a.example"', 'lease = "3s"'), b"secret")))

    def test_differing(self) -> None:
        """Each setting that nodes must share tells when it differs."""
        one = shared_settings(self.config(), b"secret")
        for other, names in (
            (shared_settings(self.config('"a.example"'), b"secret"), ["gateway.domains"]),
            (shared_settings(self.config(cluster='lease = "4s"'), b"secret"), ["cluster.lease"]),
            (shared_settings(self.config(cluster='bridge = "20s"'), b"secret"), ["cluster.bridge"]),
            (shared_settings(self.config(more='[queue]\ndisk = "1GiB"\n'), b"secret"), ["queue.disk"]),
            (shared_settings(self.config(more='[backend]\nkind = "echo"\n'), b"secret"), []),
            (shared_settings(self.config(), b"other"), ["the file secret in cluster.shared"]),
        ):
            self.assertEqual(names, one.differing(other))
        (self.folder / "shared" / "backend-ca.pem").write_text("another authority")
        self.assertEqual(["the file backend-ca.pem in cluster.shared"], one.differing(shared_settings(self.config(), b"secret")))

    def test_silence(self) -> None:
        """A session is over after the lease, the bridge and a margin. No configuration has more than the longest."""
        self.assertAlmostEqual(18.3, shared_settings(self.config(), b"secret").silence)
        longest = shared_settings(self.config(cluster='lease = "30s"\nbridge = "2m"'), b"secret")
        self.assertEqual(LONGEST_SILENCE, longest.silence)
        self.assertEqual(longest, SharedSettings.decode(longest.encode()))

    def test_secret(self) -> None:
        """The record holds no secret, and no plain hash of one."""
        found = shared_settings(self.config(), b"\x01" * 32).encode()
        self.assertNotIn(b"\\u0001", found)
        self.assertNotIn(b"72cd6e8422c407fb6d098690f1130b7ded7ec2f7f5e1d30bd9d521f015363793", found)


class NoticesTests(SynchronousTestCase):
    def test_homes_first(self) -> None:
        """The homes are told first, so peers are dropped before anything else happens; also of a peer that has another home."""
        told: list[str] = []
        notices = MembershipNotices(observers=[lambda notice: told.append("observer")])
        notices.lost(Domain.parse("peer.example"))
        notices.homes = cast(ClusterHomes, SimpleNamespace(
            noticed=lambda notice: told.append("homes"), lost=lambda peer: told.append(f"lost {peer}"),
        ))
        notices.noticed(LeaseOver())
        notices.lost(Domain.parse("peer.example"))
        self.assertEqual(["homes", "observer", "lost peer.example"], told)

    def test_dropping(self) -> None:
        """Nothing may be written while peers of a session that has ended are dropped."""
        notices = MembershipNotices()
        self.assertFalse(notices.dropping)
        for dropping in (True, False):
            notices.homes = cast(ClusterHomes, SimpleNamespace(dropping=dropping))
            self.assertEqual(dropping, notices.dropping)


class EngineTests(ClusterCase):
    def test_sizes(self) -> None:
        """The largest stanza of any peer must fit; all streams together have more room than the spool."""
        self.assertEqual(524_288, largest_stanza(self.config()))
        more = '[peers."x.example"]\nlimits = { stanza_bytes = 1000000 }\n[peers."y.example"]\nhold = "1m"\n'
        self.assertEqual(1_000_000, largest_stanza(self.config(more=more)))
        self.assertEqual(1_250_000, shard_bytes(8_000_000))

    def test_listener(self) -> None:
        """The address of the listener is the one that other nodes are told."""
        self.assertEqual(HostPort("192.0.2.11", 5271), listener_place("tcp:5271:interface=192.0.2.11"))
        self.assertEqual("[2001:db8::1]:5271", str(listener_place("tcp6:5271:interface=2001\\:db8\\:\\:1")))

    def test_login(self) -> None:
        """The user ends at the first colon, and the password is not shown."""
        found = _login(self.config(cluster='credentials = "credentials"').cluster)
        self.assertEqual(Login("s2sgw", "se:cret"), found)
        self.assertNotIn("cret", repr(found))
        self.assertIsNone(_login(self.config().cluster))
        (self.folder / "credentials").write_text("s2sgw")
        self.assertRaises(ValueError, _login, self.config(cluster='credentials = "credentials"').cluster)

    def test_tls(self) -> None:
        """The server's certificate is checked, by the authorities of the file or the system, with its name."""
        self.assertIsNone(_tls(self.config().cluster))
        for value in ("ca.pem", "system"):
            context = _tls(self.config(cluster=f'tls = "{value}"').cluster)
            assert context is not None
            self.assertTrue(context.check_hostname)
        self.assertEqual(1, len(_tls(self.config(cluster='tls = "ca.pem"').cluster).get_ca_certs()))  # type: ignore[union-attr]


class AloneTests(SynchronousTestCase):
    def test_nothing_imported(self) -> None:
        """A gateway without [cluster] imports nothing of a cluster, nor the client of the engine."""
        text = (
            "import sys, s2sgw.service, s2sgw.composition.gateway\n"
            "print([name for name in sys.modules if name.partition('.')[0] == 'nats' or name.startswith('s2sgw.cluster')\n"
            "or name in ('s2sgw.composition.cluster', 's2sgw.composition.node_life')])"
        )
        found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=60)
        self.assertEqual("[]\n", found.stdout)
