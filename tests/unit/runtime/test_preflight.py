"""Tests of whether the gateway could start, and of warnings for a valid configuration."""

from __future__ import annotations

import errno
import grp
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication import trust_files
from s2sgw.config import ConfigError, load
from s2sgw.net.certificates import CertificateDirectory
from s2sgw.runtime.preflight import _certificate_warnings, _listener_warnings, check_configuration, reaches_ipv6
from s2sgw.storage.regular_file import read_regular
from s2sgw.trust.anchors import Anchors
from tests.support.certificates import AT, Issued, leaf_for, self_signed, shared_issuer, shared_root


class PreflightCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        (self.folder / "certs").mkdir(parents=True)
        self.put("example.org", leaf_for("example.org"))
        (self.folder / "root.pem").write_bytes(shared_root().pem)

    def put(self, name: str, issued: Issued, chain: bytes | None = None) -> None:
        (self.folder / "certs" / f"{name}.crt").write_bytes(issued.pem_chain if chain is None else chain)
        key = self.folder / "certs" / f"{name}.key"
        key.write_bytes(issued.key_pem)
        key.chmod(0o600)

    def written(self, more: str = "") -> Path:
        path = self.folder / "s2sgw.toml"
        text = '[gateway]\ndomains = ["example.org"]\n[tls]\ntrust_anchors = "root.pem"\n[backend]\nkind = "echo"\n'
        path.write_text(text + more)
        return path


class UnprovableTests(PreflightCase):
    def test_nothing_proves(self) -> None:
        """A section in which nothing can prove a peer refuses all, which its author may not know."""
        for more, number in (("", 1), ('dialback = "with-tls"\n', 0), ('unknown_issuer = "ask"\n', 0), ("allow = false\n", 0)):
            warnings = check_configuration(self.written(f'[peers."a.example"]\nproofs = []\n{more}')).warnings
            self.assertEqual(number, sum("nothing proves a peer here" in warning for warning in warnings), more)


class GroupTests(PreflightCase):
    def test_group(self) -> None:
        """A missing group prevents the start, so the check reports it with the remedy."""
        error = self.assertRaises(ConfigError, check_configuration, self.written('[admin]\nsocket = "admin.sock"\ngroup = "no-such-group"\n'))
        (complaint,) = error.complaints
        self.assertIn("admin.group: there is no group no-such-group: create it", complaint)
        known = grp.getgrall()[0].gr_name
        self.assertEqual(known, check_configuration(self.written(f'[admin]\nsocket = "admin.sock"\ngroup = "{known}"\n')).config.admin.group)


class ClosedFileTests(PreflightCase):
    def test_in_a_folder(self) -> None:
        """A file that cannot be read in a folder of anchors or of revocation lists is an error, beside all others."""
        (self.folder / "anchors").mkdir()
        (self.folder / "anchors" / "closed.pem").touch()

        def read(path: Path) -> bytes:
            if path.name == "closed.pem":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return read_regular(path)

        self.patch(trust_files, "read_regular", read)
        path = self.written('[peers."a.example"]\ntrust_anchors = "anchors"\ncrl = "anchors"\n[admin]\nsocket = "a.sock"\ngroup = "no-such-group"\n')
        path.write_text(path.read_text().replace('"root.pem"', '"anchors"'))
        closed = f"{path.parent.absolute()}/anchors/closed.pem cannot be read: Permission denied"
        *files, group = self.assertRaises(ConfigError, check_configuration, path).complaints
        self.assertEqual([
            f"tls.trust_anchors: {closed}", f'peers."a.example".trust_anchors: {closed}', f'peers."a.example".crl: {closed}',
        ], files)
        self.assertIn("admin.group", group)


class ClusterTests(PreflightCase):
    def setUp(self) -> None:
        super().setUp()
        (self.folder / "shared").mkdir()
        self.secret = self.folder / "shared" / "secret"
        self.secret.write_bytes(bytes(range(32)))
        self.secret.chmod(0o600)

    def node(self, engine: str = "nats://192.0.2.21") -> Path:
        return self.written(
            f'[cluster]\nnode = "a"\nengine = ["{engine}"]\nlisten = "tcp:5271:interface=192.0.2.11"\nmembers = ["192.0.2.0/28"]\n'
            'shared = "shared"\n'
        )

    def test_client(self) -> None:
        """Without the client of the engine the gateway cannot start; the remedy is the extra."""
        with mock.patch("s2sgw.runtime.preflight.find_spec", return_value=None):
            (complaint,) = self.assertRaises(ConfigError, check_configuration, self.node()).complaints
            self.assertIn('pip install "s2sgw[cluster]"', complaint)
            check_configuration(self.written())

    def test_shared_secret(self) -> None:
        """A secret that strangers may know is refused."""
        self.secret.chmod(0o644)
        (complaint,) = self.assertRaises(ConfigError, check_configuration, self.node()).complaints
        self.assertIn("cluster.shared: ", complaint)
        self.assertIn("chmod 600", complaint)

    def test_warnings(self) -> None:
        """A single server, a connection in clear, and what cannot be seen are warned of. On loopback nothing is in clear on a network."""
        found = check_configuration(self.node()).warnings
        for words in ("fewer than 3 servers", "in clear, through the network", "sync_interval"):
            self.assertTrue(any(words in each for each in found), words)
        found = check_configuration(self.node("nats://127.0.0.1")).warnings
        self.assertFalse(any("in clear" in each or "spool.db" in each for each in found))

    def test_spool_of_before(self) -> None:
        """The spool of the time before the cluster is not read, so a node that still has one is warned of it."""
        path = self.node()
        state = check_configuration(path).config.gateway.state
        state.mkdir(exist_ok=True)
        (state / "spool.db").touch()
        (found,) = (each for each in check_configuration(path).warnings if "spool.db" in each)
        self.assertIn("does not read it", found)


class ListenerWarningTests(PreflightCase):
    def test_ipv6(self) -> None:
        """On a host with IPv6 a warning is given if all listeners are on IPv4. Both families, IPv6 and systemd give none."""
        for endpoint, warned in (
            ("tcp:5269:interface=0.0.0.0", True), ("tcp4:5269", True), ("tcp:5269", False), ("tcp6:5269", False),
            ("systemd:domain=INET6:index=0", False),
        ):
            config = load(self.written(f'[[listen]]\nendpoint = "{endpoint}"\n'))
            self.assertEqual(warned, bool(list(_listener_warnings(config, True))), endpoint)
            self.assertEqual([], list(_listener_warnings(config, False)))


    def test_addresses_of_the_host(self) -> None:
        """Only global addresses count. Loopback, link-local and unique local ones cannot be reached from outside."""
        for row, found in (
            ("00000000000000000000000000000001 01 80 10 80       lo", False),
            ("fe800000000000000000000000000001 02 40 20 80     eth0", False),
            ("fd000000000000000000000000000001 02 40 00 80     eth0", False),
            ("20010db8000000000000000000000001 02 40 00 80     eth0", True),
        ):
            (self.folder / "if_inet6").write_text(row + "\n")
            self.assertEqual(found, reaches_ipv6(self.folder / "if_inet6"))
        self.assertFalse(reaches_ipv6(self.folder / "missing"))


class CertificateWarningTests(PreflightCase):
    def warnings(self, at: datetime = AT) -> list[str]:
        directory = CertificateDirectory(self.folder / "certs", lambda: AT)
        return list(_certificate_warnings(directory.credentials, Anchors([shared_root().certificate]), at))

    def test_good(self) -> None:
        """A complete chain to an anchor, far from its expiry, gives no warning."""
        self.assertEqual([], self.warnings())

    def test_ends_soon(self) -> None:
        """A certificate that expires within three weeks gives a warning with the day. An expired one is reported elsewhere."""
        self.put("example.org", shared_issuer().issue(dns=["example.org"], not_after=AT + timedelta(days=3, hours=1)))
        self.assertEqual(["certificate example.org: ends in 3 days, on 2026-06-04 13:00 UTC"], self.warnings())
        self.assertEqual([], self.warnings(AT + timedelta(days=4)))

    def test_incomplete_chain(self) -> None:
        """A leaf without its intermediate gives a warning: peers cannot build the chain."""
        leaf = leaf_for("example.org")
        self.put("example.org", leaf, x509.load_pem_x509_certificates(leaf.pem_chain)[0].public_bytes(Encoding.PEM))
        (warning,) = self.warnings()
        self.assertIn("certificate example.org: its issuer 'CN=", warning)
        self.assertIn("add the intermediate certificate", warning)

    def test_self_signed(self) -> None:
        """A self-signed certificate gives a warning."""
        self.put("example.org", self_signed(dns=["example.org"]))
        self.assertEqual(["certificate example.org: is self-signed; most peers will refuse it"], self.warnings())


class PolicyWarningTests(PreflightCase):
    def test_optional_tls(self) -> None:
        """`tls = "optional"` without dialback "always" has no effect and gives a warning, in any object. With it there is none."""
        for section, dialback, warned in (
            ('"friend.example"', "never", True), ('"*.friend.example"', "with-tls", True), ("default", "never", True),
            ('"friend.example"', "always", False), ("default", "always", False),
        ):
            checked = check_configuration(self.written(f'[peers.{section}]\ntls = "optional"\ndialback = "{dialback}"\n'))
            found = [warning for warning in checked.warnings if "has no effect" in warning]
            self.assertEqual(warned, bool(found), section)

    def test_no_way_to_authenticate(self) -> None:
        """`sasl` without EXTERNAL and without a secret gives a warning: such a peer is refused, or has dialback only."""
        text = 'sasl = ["SCRAM-SHA-256"]'
        for section, more, warned in (
            ('"friend.example"', 'dialback = "never"', "no peer here can authenticate"), ("default", 'dialback = "with-tls"', "only dialback is left"),
            ('"friend.example"', "allow = false", ""), ('"friend.example"', 'sasl = ["EXTERNAL", "SCRAM-SHA-256"]', ""),
        ):
            checked = check_configuration(self.written(f"[peers.{section}]\n{more}\n" + ("" if "sasl" in more else text)))
            found = [warning for warning in checked.warnings if "sasl" in warning]
            self.assertEqual([warned] if warned else [], [each.rpartition(": ")[2] for each in found], section)

    def test_nothing_listed(self) -> None:
        """`allow_only_listed` without a section of a peer gives a warning: all peers are refused."""
        for sections, warned in (("", True), ("[peers.default]\nallow = true\n", True), ('[peers."*.friend.example"]\nallow = true\n', False)):
            checked = check_configuration(self.written(f"[policy]\nallow_only_listed = true\n{sections}"))
            self.assertEqual(warned, any("allow_only_listed" in warning for warning in checked.warnings), sections)

    def test_now(self) -> None:
        """The dates of certificates are compared with the clock."""
        self.put("example.org", shared_issuer().issue(dns=["example.org"], not_after=datetime.now(UTC) + timedelta(days=2)))
        self.assertTrue(any("ends in 1 day," in warning for warning in check_configuration(self.written()).warnings))
