"""The name server of the peers: unbound on loopback, authoritative for `example.`, with the SRV records that a run needs."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.lab import Lab, LabError, Process

#: Names with one address each, to be the targets of SRV records.
HOSTS = {"four.example": "127.0.0.1", "six.example": "::1"}
UNBOUND = "/usr/sbin/unbound"
_CONFIG = """\
server:
    do-daemonize: no
    username: ""
    chroot: ""
    directory: "{folder}"
    pidfile: "{folder}/unbound.pid"
    use-syslog: no
    verbosity: 1
    log-queries: yes
    interface: 127.0.0.1@{port}
    port: {port}
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    module-config: "iterator"
    num-threads: 1
    local-zone: "example." static
    local-data: "example. 60 IN SOA ns.example. admin.example. 1 60 60 60 1"
{records}
remote-control:
    control-enable: no
{broken}
"""

#: A zone whose primary cannot be reached, so that it is never loaded: unbound answers SERVFAIL at once.
_UNLOADED = """\
auth-zone:
    name: "{zone}"
    primary: 127.0.0.1@1
    fallback-enabled: no
    for-upstream: yes
"""


@dataclass
class Nameserver:
    """Records may be added at any time and are used after `reload`. `broken` zones answer SERVFAIL, `silent` ones do not answer."""

    lab: Lab
    port: int
    folder: Path
    process: Process | None = None
    records: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def serve(self, domain: str, port: int, *, host: str = "localhost.", priority: int = 0, direct: int = 0) -> None:
        """Add SRV records of `domain`: `port` for STARTTLS, `direct` for direct TLS (0: none), both at `host`."""
        if port:
            self.records.append(f"_xmpp-server._tcp.{domain}. 5 IN SRV {priority} 0 {port} {host}")
        if direct:
            self.records.append(f"_xmpps-server._tcp.{domain}. 5 IN SRV {priority} 0 {direct} {host}")

    def _write(self) -> Path:
        path = self.folder / "unbound.conf"
        records = "\n".join(f"    local-data: '{record}'" for record in self.records)
        kinds = [(zone, "transparent") for zone in self.broken] + [(zone, "deny") for zone in self.silent]
        zones = "\n".join(f'    local-zone: "{zone}" {kind}' for zone, kind in kinds)
        broken = "\n".join(_UNLOADED.format(zone=zone) for zone in self.broken)
        path.write_text(_CONFIG.format(folder=self.folder, port=self.port, records=f"{records}\n{zones}", broken=broken))
        return path

    def start(self) -> None:
        self.process = self.lab.start("unbound", [UNBOUND, "-d", "-p", "-c", str(self._write())], self.folder)
        self.lab.wait_for_port(self.process, self.port)

    def reload(self) -> None:
        """Use the changed records. The old ones may be cached elsewhere for a TTL of 5 s."""
        self._write()
        if self.process is None:
            raise LabError("the name server was not started")
        self.process.signal(signal.SIGHUP)
        time.sleep(0.3)
        self.lab.wait_for_port(self.process, self.port)


def nameserver(lab: Lab) -> Nameserver:
    """Return a name server that is not started yet."""
    records = ["localhost. 60 IN A 127.0.0.1"]
    records += [f"{name}. 60 IN {'AAAA' if ':' in address else 'A'} {address}" for name, address in HOSTS.items()]
    return Nameserver(lab, lab.port(), lab.directory("unbound"), records=records)
