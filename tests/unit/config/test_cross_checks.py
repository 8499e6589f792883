"""Tests of checks that need several keys of the configuration, and of the files that it names."""

from __future__ import annotations

import errno
import io
import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

from s2sgw.config import ConfigError, load, loading
from s2sgw.config.cross_checks import certificate_files, tcp_place
from tests.support.configurations import GATEWAY, ConfigTestCase

PIN = "sha256:" + "ab" * 32


class AgreementTests(ConfigTestCase):
    """Tests of agreement between keys."""

    def test_domains_without_backend(self) -> None:
        """Each local domain must have a backend."""
        self.assertEqual(
            ['line 2: gateway.domains[1]: no backend serves "b.org"'],
            self.complaints('[gateway]\ndomains = ["a.org", "b.org"]\n[backend]\ndomains = ["a.org"]\n'),
        )

    def test_backend_domains(self) -> None:
        """No backend may have a domain that is not local, or another backend's."""
        self.assertEqual(
            [
                'line 4: backend[0].domains[0]: "example.com" is not among gateway.domains; did you mean "example.org"?',
                'line 7: backend[1].domains[0]: "example.org" is served by backend[0] already',
            ],
            self.with_gateway(
                '[[backend]]\ndomains = ["example.com", "example.org"]\n[[backend]]\nkind = "echo"\ndomains = ["example.org"]\n',
            ),
        )

    def test_several_backends_say_their_domains(self) -> None:
        """With several backends each must name its domains."""
        self.assertEqual(
            ["line 5: backend[1].domains: is missing: with several backends, each one must list its domains"],
            self.with_gateway('[[backend]]\ndomains = ["example.org"]\n[[backend]]\nkind = "echo"\n'),
        )

    def test_echo_keys(self) -> None:
        """Keys of a connection have no effect for an echo backend, and are errors."""
        self.assertEqual(
            ['line 5: backend.address: has no effect for a backend of kind "echo"', 'line 6: backend.dns_view: has no effect for a backend of kind "echo"'],
            self.with_gateway('[backend]\nkind = "echo"\naddress = "127.0.0.1:1"\ndns_view = "127.0.0.1"\n'),
        )

    def test_router_keys(self) -> None:
        """jabberd2's router is on loopback, with a secret, without extensions, at its default address. All errors are listed at once."""
        self.assertEqual(
            [
                'line 3: backend.secret_file: is missing: the file with the user\'s secret in jabberd2\'s router-users.xml',
                "line 5: backend.address: must be on loopback: the connection to jabberd2's router is not encrypted",
                'line 6: backend.listen: has no effect for a backend of kind "jabberd2-router"',
                'line 7: backend.tls: has no effect for a backend of kind "jabberd2-router"',
                'line 8: backend.acks: must be "ping" or "tcp": jabberd2\'s router does not speak XEP-0198',
            ],
            sorted(self.with_gateway(
                '[backend]\nkind = "jabberd2-router"\naddress = "192.0.2.1:5347"\nlisten = "tcp:1"\ntls = "never"\nacks = "sm"\n',
            )),
        )

    def test_router_secret(self) -> None:
        """The secret's file must be private. A user is one word."""
        file = Path(self.mktemp()).absolute()
        file.write_text("sesame\n")
        file.chmod(0o644)
        found = self.with_gateway(f'[backend]\nkind = "jabberd2-router"\nsecret_file = "{file}"\nuser = "a b"\n')
        self.assertEqual(2, len(found))
        self.assertIn("is readable or writable by other users", found[0] + found[1])
        file.chmod(0o600)
        backend = self.config(GATEWAY + f'[backend]\nkind = "jabberd2-router"\nsecret_file = "{file}"\n').backends[0]
        self.assertEqual(("127.0.0.1:5347", "s2s"), (str(backend.address), backend.user))

    def test_one_default_route(self) -> None:
        """A router has one default route. The router's keys have no effect elsewhere."""
        file = Path(self.mktemp()).absolute()
        file.write_text("sesame")
        file.chmod(0o600)
        table = f'[[backend]]\nkind = "jabberd2-router"\nsecret_file = "{file}"\ndomains = '
        found = self.complaints(GATEWAY.replace('"]', '", "b.example"]') + table + '["example.org"]\n' + table + '["b.example"]\n')
        self.assertEqual(1, len(found))
        self.assertIn("is already the router of backend[0]", found[0])
        self.assertIn("has an effect only for", self.with_gateway('[backend]\nuser = "x"\n')[0])

    def test_view_keys(self) -> None:
        """The keys of the view need the view."""
        self.assertEqual(
            ["line 4: backend.forward: has no effect without dns_view", "line 5: backend.target: has no effect without dns_view"],
            self.with_gateway('[backend]\nforward = ["192.0.2.1"]\ntarget = "here."\n'),
        )

    def test_view_clients(self) -> None:
        """A DNS view beyond loopback answers listed clients alone, and one on loopback has no others."""
        clients = 'dns_view_clients = ["192.0.2.5"]\n'
        self.assertEqual([], self.with_gateway(f'[backend]\ndns_view = "192.0.2.1"\n{clients}'))
        self.assertEqual(
            ['line 4: backend.dns_view: must be a loopback address such as "127.53.0.1:53", unless dns_view_clients lists who may ask'],
            self.with_gateway('[backend]\ndns_view = "192.0.2.1"\n'),
        )
        self.assertEqual(
            ["line 5: backend.dns_view_clients: has no effect with dns_view on a loopback address"],
            self.with_gateway(f'[backend]\ndns_view = "127.53.0.1"\n{clients}'),
        )
        self.assertEqual(["line 4: backend.dns_view_clients: has no effect without dns_view"], self.with_gateway(f"[backend]\n{clients}"))

    def test_impossible_ports(self) -> None:
        """A port that cannot be opened is reported before any other error."""
        self.assertEqual(
            [
                'line 4: listen[0].endpoint: "tcp:99999": there is no port 99999 (0 to 65535)',
                'line 6: backend.listen: "tcp:-1:interface=127.0.0.1": port must be a number, not "-1"',
                'line 8: console.listen: "tcp:65536": there is no port 65536 (0 to 65535)',
            ],
            self.with_gateway(
                '[[listen]]\nendpoint = "tcp:99999"\n[backend]\nlisten = "tcp:-1:interface=127.0.0.1"\n'
                '[console]\nlisten = "tcp:65536"\n'
            ),
        )

    def test_shared_listeners(self) -> None:
        """No two listeners may have the same endpoint, in any spelling. Another interface or any free port is no conflict."""
        self.assertEqual(
            ["line 6: listen[1].endpoint: uses the same address and port as listen[0].endpoint (tcp:5269)"],
            self.with_gateway('[[listen]]\nendpoint = "tcp:5269"\n[[listen]]\nendpoint = "tcp:port=5269:interface=127.0.0.1"\ntls = "direct"\n'),
        )
        self.assertEqual(
            ["line 6: backend.listen: uses the same address and port as listen.endpoint (tcp:7000:interface=127.0.0.1)"],
            self.with_gateway('[listen]\nendpoint = "tcp:7000:interface=127.0.0.1"\n[backend]\nlisten = "tcp:7000:interface=127.0.0.1"\n'),
        )
        self.assertEqual(
            ["line 6: listen[1].endpoint: uses the same address and port as listen[0].endpoint (unix:/a)"],
            self.with_gateway('[[listen]]\nendpoint = "unix:/a"\n[[listen]]\nendpoint = "unix:/a"\n'),
        )
        for one, other in (
            ("tcp:5269:interface=127.0.0.1", "tcp:5269:interface=127.0.0.2"), ("tcp:0", "tcp:0"), ("tcp:5269", "tcp:5270"),
            ("unix:/a", "tcp:5269"), ("tcp:5269:interface=0.0.0.0", "tcp6:5269"),
        ):
            self.assertEqual([], self.with_gateway(f'[[listen]]\nendpoint = "{one}"\n[[listen]]\nendpoint = "{other}"\n'))

    def test_echo_listens_nowhere(self) -> None:
        """The default listener of an echo backend uses no port."""
        self.assertEqual([], self.with_gateway('[listen]\nendpoint = "tcp:15270"\n[backend]\nkind = "echo"\n'))

    def test_shared_views(self) -> None:
        """Two backends need two views."""
        self.assertEqual(
            ["line 10: backend[1].dns_view: is already used by backend[0]"],
            self.complaints(
                '[gateway]\ndomains = ["a.org", "b.org"]\n[[backend]]\ndomains = ["a.org"]\ndns_view = "127.53.0.1"\n'
                '[[backend]]\ndomains = ["b.org"]\nlisten = "tcp:7000"\naddress = "127.0.0.1:7001"\ndns_view = "127.53.0.1:53"\n',
            ),
        )

    def test_backend_is_not_the_gateway(self) -> None:
        """The server's address must be the server's, not the gateway's own."""
        for address, listen in (
            ("127.0.0.1:5269", "tcp:5269"), ("localhost:5269", "tcp:5269"), ("192.0.2.1:5269", "tcp:5269:interface=192.0.2.1"),
            ("[::1]:5269", "tcp6:5269"),
        ):
            self.assertEqual(
                ["line 6: backend.address: is an address of the gateway itself (listen.endpoint)"],
                self.with_gateway(f'[listen]\nendpoint = "{listen}"\n[backend]\naddress = "{address}"\n'),
            )
        for address, listen in (
            ("192.0.2.1:5269", "tcp:5269"), ("server.example:5269", "tcp:5269"), ("127.0.0.1:5269", "tcp:5269:interface=127.0.0.2"),
            ("127.0.0.1:5269", "unix:/a"),
        ):
            self.assertEqual([], self.with_gateway(f'[listen]\nendpoint = "{listen}"\n[backend]\naddress = "{address}"\n'))

    def test_asking_the_view(self) -> None:
        """The gateway's own resolver must not be the view, whether it is configured or the system's."""
        view = '[backend]\ndns_view = "127.53.0.1"\n'
        self.assertEqual(
            ["line 6: dns.servers[1]: is backend.dns_view: the gateway would query itself"],
            self.with_gateway(view + '[dns]\nservers = ["192.0.2.1", "127.53.0.1:53"]\n'),
        )
        self.assertEqual(
            [
                "line 4: backend.dns_view: 127.53.0.1:53 is also the system's name server, so the gateway would query itself: "
                "set dns.servers to other name servers, or use the view only for your server"
            ],
            self.with_gateway(view, ("192.0.2.1", "127.53.0.1")),
        )
        self.assertEqual([], self.with_gateway(view + '[dns]\nservers = ["192.0.2.1"]\n', ("127.53.0.1",)))
        self.assertEqual([], self.with_gateway(view, ("127.0.0.53",)))

    def test_view_asking_itself(self) -> None:
        """The view must not forward to a view of ours."""
        self.assertEqual(
            ["line 5: backend.forward[0]: is a dns_view of the gateway: it would query itself"],
            self.with_gateway('[backend]\ndns_view = "127.53.0.1"\nforward = ["127.53.0.1", "192.0.2.1"]\n'),
        )

    def test_local_peers(self) -> None:
        """A local domain cannot be a peer. A domain under it can."""
        self.assertEqual(
            ['line 3: peers."example.org": is one of gateway.domains; a local domain is not a peer'],
            self.with_gateway('[peers."example.org"]\nallow = true\n[peers."*.example.org"]\nallow = false\n'),
        )

    def test_one_name_twice(self) -> None:
        """Two spellings of one domain are one domain."""
        self.assertEqual(
            ['line 5: peers."A.example.": is the same domain as "a.example"'],
            self.with_gateway("[peers]\n\"a.example\" = {}\n\"A.example.\" = {}\n"),
        )
        self.assertEqual(
            ['line 5: dns.static."A.example": is the same domain as "a.example"'],
            self.with_gateway('[dns.static]\n"a.example" = "x:1"\n"A.example" = "y:1"\n'),
        )

    def test_one_name_twice_beside_faults(self) -> None:
        """A name that is written twice is reported also if something else in its section is wrong."""
        self.assertEqual(
            ['line 4: peers."a.example".allow: must be true or false', 'line 5: peers."A.example.": is the same domain as "a.example"'],
            self.with_gateway("[peers]\n\"a.example\" = {allow = 5}\n\"A.example.\" = {}\n"),
        )
        self.assertEqual(
            [
                'line 2: gateway.domains[0]: "a b" is not a domain name: labels are 1-63 letters, digits and hyphens',
                'line 2: gateway.domains[2]: "b.org" is listed twice',
            ],
            self.complaints('[gateway]\ndomains = ["a b", "b.org", "B.org"]\n'),
        )
        self.assertEqual(
            ["line 4: dns.static: must be a table"], self.with_gateway("[dns]\nstatic = 5\n"),
        )

    def test_very_many_peers(self) -> None:
        """Tables with the same content are one object. Each name counts in its one spelling."""
        peers = "".join(f'[peers."{number}.EXAMPLE"]\nallow = false\nhold = "1m"\n' for number in range(1000))
        peers += '[peers."x.example"]\nallow = false\nhold = "60s"\nlimits = {streams = 3}\n'
        found = self.config(GATEWAY + peers).peers
        self.assertEqual((1001, 2), (len(found), len({id(peer) for peer in found.values()})))
        self.assertEqual({False}, {found[name].allow for name in ("0.example", "999.example", "x.example")})
        self.assertEqual((found["1.example"].hold, {"allow", "hold"}), (found["x.example"].hold, found["1.example"].model_fields_set))

    def test_one_of_very_many(self) -> None:
        """One wrong table among many is reported by its line, and so is one that conflicts with another section."""
        peers = "".join(f'[peers."{number}.example"]\nallow = false\n' for number in range(1000))
        self.assertEqual(
            ['line 2004: peers."x.example".allow: must be true or false'],
            self.with_gateway(peers + '[peers."x.example"]\nallow = "no"\n'),
        )
        self.assertEqual(
            ['line 2003: peers."example.org": is one of gateway.domains; a local domain is not a peer'],
            self.with_gateway(peers + '[peers."example.org"]\n'),
        )

    def test_unread_pins(self) -> None:
        """Pins beside proofs that do not include them would have no effect."""
        pins = f'[peers."a.example"]\npins = ["{PIN}"]\n'
        self.assertEqual(
            ['line 4: peers."a.example".pins: have no effect: "pin" is not in proofs'],
            self.with_gateway(pins + 'proofs = ["pkix"]\n'),
        )
        self.assertEqual([], self.with_gateway(pins + 'proofs = ["pkix", "pin"]\n'))
        self.assertEqual([], self.with_gateway(pins))

    def test_inherited_proofs_leave_pins_out(self) -> None:
        """Pins beside inherited proofs that do not include them would have no effect either."""
        self.assertEqual(
            ['line 6: peers."a.example".pins: have no effect: "pin" is not in proofs'],
            self.with_gateway(f'[peers.default]\nproofs = ["pkix"]\n[peers."a.example"]\npins = ["{PIN}"]\n'),
        )

    def test_tcp_place(self) -> None:
        """The address of a TCP endpoint is found."""
        self.assertEqual(("::1", 5269), tcp_place("tcp6:5269:interface=\\:\\:1"))
        self.assertEqual(("", 5269), tcp_place("tcp:port=5269"))
        self.assertIsNone(tcp_place("systemd:domain=INET:index=0"))


class ClusterTests(ConfigTestCase):
    """Tests of `[cluster]`."""

    WHOLE = (
        '[cluster]\nnode = "a"\nengine = ["nats://192.0.2.21"]\nlisten = "tcp:5271:interface=192.0.2.11"\n'
        'members = ["192.0.2.0/28"]\nshared = "shared"\n'
    )

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "shared").mkdir()
        for name in ("secret", "backend-ca.pem", "backend-ca.key"):
            (self.folder / "shared" / name).touch()

    def test_whole(self) -> None:
        """A port is added to a server of the engine."""
        self.assertEqual(("nats://192.0.2.21:4222",), self.config(GATEWAY + self.WHOLE).cluster.engine)

    def test_alone(self) -> None:
        """Without the section the gateway is alone, and needs no shared files."""
        self.assertIsNone(self.config().cluster.node)

    def test_missing_file(self) -> None:
        """A file that is missing in the folder is made by a gateway without the section. Secret and authority are not made there."""
        (self.folder / "shared" / "secret").unlink()
        (found,) = self.with_gateway(self.WHOLE)
        self.assertIn("shared/secret", found)
        self.assertIn("copy it from the state directory of a gateway that ran without [cluster]", found)

    def test_missing_keys(self) -> None:
        """An empty section lacks every required key."""
        found = self.with_gateway("[cluster]\n")
        self.assertEqual({f"line 3: cluster.{key}: is missing" for key in ("node", "engine", "listen", "members", "shared")}, set(found))

    def test_listener(self) -> None:
        """Others must reach the listener, and the address must be of one machine: no name, not all addresses, no free port."""
        for endpoint, words in (
            ("tcp:5271", "needs the IP address"), ("tcp:5271:interface=0.0.0.0", "needs the IP address"),
            ("tcp:5271:interface=node-a", "needs the IP address"), ("tcp6:5271:interface=\\\\:\\\\:", "needs the IP address"),
            ("tcp:0:interface=192.0.2.11", "must be a TCP port"), ("unix:/run/x", "must be a TCP port"),
            ("tcp:5271:interface=127.0.0.1", "is on loopback"),
        ):
            (found,) = self.with_gateway(self.WHOLE.replace("tcp:5271:interface=192.0.2.11", endpoint))
            self.assertIn(f"cluster.listen: {words}", found, endpoint)

    def test_shared_ports(self) -> None:
        """Nodes may share the ports for STARTTLS and for the server behind them, and no other port."""
        shared = 'endpoint = "tcp:5269:reuseport=yes"\n'
        self.assertEqual([], self.with_gateway(f"[[listen]]\n{shared}{self.WHOLE}"))
        inner = '[backend]\nlisten = "tcp:15271:interface=127.0.0.1:reuseport=yes"\n'
        self.assertEqual([], self.with_gateway(inner + self.WHOLE))
        self.assertIn("backend.listen: reuseport is for nodes of one cluster", self.with_gateway(inner)[0])
        (found,) = self.with_gateway(f"[[listen]]\n{shared}")
        self.assertIn("listen[0].endpoint: reuseport is for nodes of one cluster on one machine. Without [cluster] two gateways", found)
        (found,) = self.with_gateway(f'[[listen]]\n{shared}tls = "direct"\n{self.WHOLE}')
        self.assertIn("listen[0].endpoint: reuseport is for STARTTLS", found)
        (found,) = self.with_gateway(self.WHOLE.replace("192.0.2.11", "192.0.2.11:reuseport=yes"))
        self.assertIn("cluster.listen: cannot share its port", found)
        (found,) = self.with_gateway(f'[console]\nlisten = "tcp:8269:interface=127.0.0.1:reuseport=yes"\n{self.WHOLE}')
        self.assertIn("console.listen: cannot share its port", found)

    def test_loopback(self) -> None:
        """Nodes of one machine can use its loopback addresses."""
        text = self.WHOLE.replace("192.0.2.11", "127.0.0.2").replace("192.0.2.0/28", "127.0.0.0/8")
        self.assertEqual([], self.with_gateway(text))

    def test_backends(self) -> None:
        """Nodes cannot share jabberd2's router."""
        (self.folder / "router.secret").write_text("pencil\n")
        (self.folder / "router.secret").chmod(0o600)
        (found,) = self.with_gateway('[backend]\nkind = "jabberd2-router"\nsecret_file = "router.secret"\n' + self.WHOLE)
        self.assertIn('backend.kind: cannot be "jabberd2-router" in a cluster', found)

    def test_queue(self) -> None:
        """A cluster has a spool."""
        (found,) = self.with_gateway("[queue]\ndisk = 0\n" + self.WHOLE)
        self.assertIn("queue.disk: must not be 0 in a cluster", found)

    def test_values(self) -> None:
        """Names, servers and times out of bounds are refused, each in words."""
        for old, new, words in (
            ('"a"', '"a.b"', "letters, digits"), ("nats://192.0.2.21", "nats://user:x@192.0.2.21", "without a user"),
            ("nats://192.0.2.21", "http://192.0.2.21", "must be a URL"), ('shared"\n', 'shared"\nlease = "1s"\n', '"2s" to "30s"'),
            ('shared"\n', 'shared"\nbridge = "5m"\n', 'up to "2m"'), ('shared"\n', 'shared"\nbridge = "2s"\n', "at least cluster.lease"),
            ('"nats://192.0.2.21"', '"nats://192.0.2.21", "nats://192.0.2.21:4222"', "listed twice"),
        ):
            (found,) = self.with_gateway(self.WHOLE.replace(old, new))
            self.assertIn(words, found)

    def test_files(self) -> None:
        """The shared files must be there; the authority only for a server that needs it."""
        for name in ("secret", "backend-ca.key"):
            (self.folder / "shared" / name).unlink()
        found = self.with_gateway(self.WHOLE)
        self.assertEqual(["shared/secret", "shared/backend-ca.key"], [each.split()[3] for each in found])
        self.assertEqual(1, len(self.with_gateway('[backend]\nkind = "echo"\n' + self.WHOLE)))
        self.assertIn("nowhere is not a directory", self.with_gateway(self.WHOLE.replace('"shared"', '"nowhere"'))[0])

    def test_shared_port(self) -> None:
        """The listener for nodes has a port of its own."""
        self.assertIn("same address and port as listen[0]", self.with_gateway(self.WHOLE.replace("5271", "5269"))[0])


class FileTests(ConfigTestCase):
    """Tests of the files that a configuration names."""

    def test_missing(self) -> None:
        """Missing files are reported, each with its key."""
        (self.folder / "certs").rmdir()
        (self.folder / "half.crt").touch()
        self.assertEqual(
            [
                "line 4: tls.trust_anchors: ca.pem does not exist",
                'line 6: peers."a.example".certificate: half.key does not exist',
                'line 7: peers."a.example".trust_anchors: other.pem does not exist',
                "tls.certificates: certs is not a directory",
            ],
            sorted(
                re.sub(r"^line 3: tls.cert", "tls.cert", each)
                for each in self.with_gateway('[tls]\ntrust_anchors = "ca.pem"\n[peers."a.example"]\ncertificate = "half.crt"\ntrust_anchors = "other.pem"\n')
            ),
        )

    def test_unreadable(self) -> None:
        """Unreadable files are reported too."""
        (self.folder / "ca.pem").touch()
        with mock.patch.object(os, "access", lambda path, mode: Path(path).name not in ("ca.pem", "certs")):
            self.assertEqual(
                ["line 3: tls.certificates: certs cannot be read", "line 4: tls.trust_anchors: ca.pem cannot be read"],
                self.with_gateway('[tls]\ntrust_anchors = "ca.pem"\n'),
            )

    def test_closed_folder(self) -> None:
        """A file in a folder that may not be entered is reported, and so are all other errors."""
        see = os.stat

        def stat(path: str | os.PathLike[str] | int, **options: Any) -> os.stat_result:
            if "/closed/" in str(path):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return see(path, **options)

        text = """[tls]
certificates = "closed/certs"
trust_anchors = "closed/ca.pem"
[peers."a.example"]
secret_file = "closed/secret"
certificate = "closed/name"
hold = "x"
"""
        with mock.patch.object(os, "stat", stat):
            self.assertEqual(
                [
                    "line 4: tls.certificates: closed/certs cannot be read: Permission denied",
                    "line 5: tls.trust_anchors: closed/ca.pem cannot be read: Permission denied",
                    'line 7: peers."a.example".secret_file: closed/secret cannot be read: Permission denied',
                    'line 8: peers."a.example".certificate: closed/name.crt cannot be read: Permission denied',
                    'line 8: peers."a.example".certificate: closed/name.key cannot be read: Permission denied',
                    'line 9: peers."a.example".hold: must be a duration such as "10m" (units: ms, s, m, h, d)',
                ],
                self.with_gateway(text),
            )
            (self.folder / "closed").mkdir()
            self.assertEqual([], self.with_gateway('state = "closed/state"\n'))

    def test_in_lists_beside_faults(self) -> None:
        """An item of a list that is wrong does not hide the fault of the next one."""
        self.assertEqual(
            [
                'line 4: policy.deny_lists[0]: must be a file or an https URL such as "https://lists.example/deny.txt", not "http://x.example/a"',
                "line 4: policy.deny_lists[2]: missing.txt does not exist",
                'line 4: policy.deny_lists[3]: must be a file or an https URL such as "https://lists.example/deny.txt", not "http://x.example/b"',
                "line 4: policy.deny_lists[4]: gone.txt does not exist",
            ],
            self.with_gateway(
                '[policy]\ndeny_lists = ["http://x.example/a", "certs", "missing.txt", "http://x.example/b", "gone.txt"]\n',
            ),
        )

    def test_state(self) -> None:
        """The state must be a directory, or one that can be made."""
        (self.folder / "file").touch()
        self.assertEqual(
            ["line 3: gateway.state: file is not a directory"], self.with_gateway('state = "file"\n'),
        )
        (complaint,) = self.with_gateway('state = "file/state"\n')
        self.assertEqual("line 3: gateway.state: file/state is not writable: no permission on file", complaint)
        with mock.patch.object(os, "access", return_value=False):
            self.assertIn("line 1: gateway.state: state is not writable", " ".join(self.with_gateway("")))
        (self.folder / "state").mkdir()
        self.assertEqual([], self.with_gateway(""))

    def test_admin_socket(self) -> None:
        """The folder of the admin socket can be written, or made in one that can. One that systemd makes is not looked at."""
        (self.folder / "file").touch()
        (self.folder / "open").mkdir()
        for place, said in (
            ("file/a.sock", "file is not a directory"), ("one/two/a.sock", "one does not exist"), ("open/a.sock", None), ("new/a.sock", None),
            ("/run/s2sgw-of-no-test/node/a.sock", None), ("state/deep/a.sock", None),
        ):
            found = self.with_gateway(f'[admin]\nsocket = "{place}"\n')
            self.assertEqual([] if said is None else [f"line 4: admin.socket: {said}"], found)

        def access(path: str, *_: object) -> bool:
            return not str(path).endswith("open")

        with mock.patch.object(os, "access", access):
            (complaint,) = self.with_gateway('[admin]\nsocket = "open/a.sock"\n')
        self.assertEqual("line 4: admin.socket: the socket cannot be made: no permission on open", complaint)

    def test_certificate_files(self) -> None:
        """Both forms of a certificate with its key are found."""
        (self.folder / "name").mkdir()
        self.assertEqual((self.folder / "name/fullchain.pem", self.folder / "name/privkey.pem"), certificate_files(self.folder / "name"))
        self.assertEqual((Path("a.b.crt"), Path("a.b.key")), certificate_files(Path("a.b")))
        self.assertEqual((Path("a.crt"), Path("a.key")), certificate_files(Path("a.crt")))

    def test_load(self) -> None:
        """A file is read at its place, and relative paths become absolute."""
        path = self.folder / "s2sgw.toml"
        path.write_text(GATEWAY, "utf-8")
        self.assertEqual(path, load(os.path.relpath(path)).path)
        self.assertEqual(("192.0.2.1:53",), load(path, system_nameservers=["192.0.2.1"]).nameservers)

    def test_no_regular_file(self) -> None:
        """A FIFO, a device or a folder is not read. A file that is too large is read no further."""
        fifo = Path(self.mktemp())
        os.mkfifo(fifo)
        for path in (fifo, Path("/dev/zero"), fifo.parent):
            caught = self.assertRaises(ConfigError, load, path)
            self.assertEqual(["cannot be read: is no regular file"], caught.complaints)
        large = Path(self.mktemp())
        with large.open("wb") as file:
            file.truncate(loading.MOST_BYTES + 1)
        self.assertEqual(["has more than 64 MiB"], self.assertRaises(ConfigError, load, large).complaints)
        asked: list[int] = []

        class Endless(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                asked.append(size or 0)
                return b""

        self.patch(loading, "open_regular", lambda path: Endless())
        self.assertRaises(ConfigError, load, large)
        self.assertEqual([loading.MOST_BYTES + 1], asked)

    def test_unreadable_configuration(self) -> None:
        """A configuration file that cannot be read is an error like any other."""
        path = self.folder / "s2sgw.toml"
        with self.assertRaises(ConfigError) as caught:
            load(path)
        self.assertEqual(["cannot be read: No such file or directory"], caught.exception.complaints)
        path.write_bytes(b"\xff")
        with self.assertRaises(ConfigError) as caught:
            load(path)
        self.assertEqual(["cannot be read: is not UTF-8"], caught.exception.complaints)
