"""A DNS with DNSSEC on loopback: knot serves and signs zones with keys of its own, unbound validates them."""

from __future__ import annotations

import hashlib
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.lab.certificates import Certificate
from tests.lab.lab import Lab, LabError, Process

KNOTD, KEYMGR, UNBOUND = "/usr/sbin/knotd", "/usr/sbin/keymgr", "/usr/sbin/unbound"
SIGNED, PLAIN, BOGUS = "signed.example", "plain.example", "bogus.example"
_SECONDS = 15.0

_KNOT = """\
server:
    listen: 127.0.0.1@{port}
    rundir: {folder}
database:
    storage: {folder}/db
log:
  - target: stderr
    any: info
policy:
  - id: lab
    algorithm: ecdsap256sha256
    single-type-signing: on
template:
  - id: default
    storage: {folder}
    file: "%s.zone"
    zonefile-sync: -1
    zonefile-load: difference-no-serial
    journal-content: all
zone:
  - domain: {signed}.
    dnssec-signing: on
    dnssec-policy: lab
  - domain: {bogus}.
    dnssec-signing: on
    dnssec-policy: lab
  - domain: {plain}.
"""
_UNBOUND = """\
server:
    do-daemonize: no
    username: ""
    chroot: ""
    directory: "{folder}"
    pidfile: "{folder}/unbound.pid"
    use-syslog: no
    verbosity: 1
    interface: 127.0.0.1@{port}
    port: {port}
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    module-config: "validator iterator"
    num-threads: 1
    cache-max-negative-ttl: 1
    {anchors}
remote-control:
    control-enable: no
{stubs}
{dead}
"""


@dataclass
class SignedDNS:
    """Three zones: signed, unsigned, and signed by untrusted keys. `records` are by zone, with names relative to it.

    The answer about a name in `dead` is SERVFAIL.
    """

    lab: Lab
    folder: Path
    port: int
    _authority: int
    records: dict[str, list[str]] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    process: Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def peer(self, zone: str, name: str, port: int, *tlsa: str, host: str | None = None, address: str = "127.0.0.1") -> str:
        """Add a peer NAME.ZONE whose server is at NAME-host.ZONE (or `host`), with these TLSA records; return its domain."""
        target = host or f"{name}-host.{zone}."
        lines = self.records.setdefault(zone, [])
        lines.append(f"_xmpp-server._tcp.{name} SRV 0 0 {port} {target}")
        lines.append(f"{name} A {address}")
        if host is None:
            lines.append(f"{name}-host A 127.0.0.1")
            lines += [f"_{port}._tcp.{name}-host TLSA {record}" for record in tlsa]
        return f"{name}.{zone}"

    def start(self) -> None:
        """Write the zones, sign them, and start both servers."""
        (self.folder / "db").mkdir()
        config = self.folder / "knot.conf"
        config.write_text(_KNOT.format(folder=self.folder, port=self._authority, signed=SIGNED, plain=PLAIN, bogus=BOGUS))
        for zone in (SIGNED, PLAIN, BOGUS):
            self._zone(zone)
        knot = self.lab.start("knot", [KNOTD, "-c", str(config)], self.folder)
        self.lab.wait_for_port(knot, self._authority)
        anchors = f'trust-anchor: "{self._anchor(config, SIGNED)}"\n    trust-anchor: "{_wrong(self._anchor(config, BOGUS))}"'
        stubs = "".join(
            f'stub-zone:\n    name: "{zone}"\n    stub-addr: 127.0.0.1@{self._authority}\n' for zone in (SIGNED, PLAIN, BOGUS)
        )
        dead = "".join(f'forward-zone:\n    name: "{name}"\n    forward-addr: 127.0.0.1@1\n' for name in self.dead)
        unbound = self.folder / "unbound.conf"
        unbound.write_text(_UNBOUND.format(folder=self.folder, port=self.port, anchors=anchors, stubs=stubs, dead=dead))
        self.process = self.lab.start("unbound", [UNBOUND, "-d", "-p", "-c", str(unbound)], self.folder)
        self.lab.wait_for_port(self.process, self.port)

    def _zone(self, zone: str) -> None:
        head = ["$TTL 2", "@ SOA ns admin 1 60 60 60 1", "@ NS ns", "ns A 127.0.0.1"]
        (self.folder / f"{zone}.zone").write_text("\n".join([*head, *self.records.get(zone, [])]) + "\n")

    def _anchor(self, config: Path, zone: str) -> str:
        """Wait for a zone's key; return its DS record."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            command = [KEYMGR, "-c", str(config), f"{zone}.", "ds"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            lines = [line for line in done.stdout.splitlines() if " DS " in line]
            if lines:
                return lines[0]
            time.sleep(0.2)
        raise LabError(f"{zone} was not signed: {done.stdout}{done.stderr}")


def _wrong(anchor: str) -> str:
    """Return the same record with another digest."""
    head, _, digest = anchor.rpartition(" ")
    return f"{head} {digest[:-4]}{'0000' if digest[-4:] != '0000' else '1111'}"


def signed_dns(lab: Lab) -> SignedDNS:
    """Return a DNS that is not started yet."""
    return SignedDNS(lab, lab.directory("dnssec"), lab.port(), lab.port())


def tlsa(certificate: Certificate, usage: int = 3) -> str:
    """Return the TLSA record of a certificate's public key by SHA-256."""
    leaf = x509.load_pem_x509_certificate(certificate.chain.read_bytes())
    key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"{usage} 1 1 {hashlib.sha256(key).hexdigest()}"


def tlsa_of_file(certificate: Path, usage: int = 2) -> str:
    """Return the TLSA record of a whole certificate (such as a CA's) by SHA-256."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return f"{usage} 0 1 {hashlib.sha256(found.public_bytes(Encoding.DER)).hexdigest()}"


OTHER_KEY = f"3 1 1 {'ab' * 32}"
