"""`python -m tests.install.cluster`: the steps of docs/cluster.md on a scratch machine with systemd, with the Debian package of `make deb`.

Three servers of the engine and two nodes, all on one machine, at the addresses of examples/cluster. It needs root, nats-server and dist/*.deb.
The last line is `N passed, N failed`. It takes about two minutes, and is not a part of CI.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from tests.install.__main__ import played
from tests.lab.gateway import PROJECT
from tests.lab.nats import nats_server
from tests.lab.scenario import check
from tests.lab.scratch_machine import ScratchMachine, missing

EXAMPLES = "/usr/share/doc/s2sgw/examples/cluster"
PACKAGE, PROGRAM = "/root/s2sgw.deb", "/usr/local/bin/nats-server"
#: The last numbers of the addresses: the server behind the nodes, two nodes, and the servers of the engine.
NUMBERS = (5, 11, 12, 21, 22, 23)
#: The units of the servers, and the ports at which they tell their health. The machine has one nats.service, so the others are copies.
SERVERS = {"nats": 8222, "nats2": 9222, "nats3": 9223}


class ClusterWalk:
    """The steps, in order."""

    def __init__(self, machine: ScratchMachine, package: Path, server: Path) -> None:
        self._machine = machine
        for path, file in ((PACKAGE, package), (PROGRAM, server)):
            machine.run(f"base64 -d > {path}; chmod 755 {path}", text=base64.b64encode(file.read_bytes()).decode())
        for number in NUMBERS:
            machine.run(f"ip addr add 192.0.2.{number}/24 dev lo")

    def package(self) -> None:
        """The package has the client of the engine, the unit for nodes and the examples."""
        self._machine.run(f"dpkg -i {PACKAGE}")
        self._machine.run("/opt/s2sgw/bin/python3 -c 'import nats'; systemctl cat s2sgw@a.service")

    def engine(self) -> None:
        """The servers start, find each other by TLS, and are well."""
        self._machine.run(f"sh {EXAMPLES}/secrets.sh secrets 192.0.2.21 192.0.2.22 192.0.2.23; useradd --system nats")
        for number, (unit, port) in enumerate(SERVERS.items(), 1):
            self._machine.run(
                f"mkdir /etc/{unit}; cp secrets/n{number}/* {EXAMPLES}/nats.conf /etc/{unit}; "
                f"cp {EXAMPLES}/nats.service /etc/systemd/system/{unit}.service; "
                f"sed -i 's#/etc/nats/#/etc/{unit}/#g; s#/var/lib/nats#/var/lib/{unit}#; s#127.0.0.1:8222#127.0.0.1:{port}#; "
                f"s#StateDirectory=nats#StateDirectory={unit}#' /etc/{unit}/nats.conf /etc/systemd/system/{unit}.service; "
                f"chown -R nats: /etc/{unit}; (set -a; . /etc/{unit}/nats.env; nats-server -t --config /etc/{unit}/nats.conf)"
            )
        self._machine.run(f"systemctl daemon-reload; systemctl enable --now {' '.join(SERVERS)}")
        self._healthy()

    def shared(self) -> None:
        """A gateway alone makes what nodes share."""
        self._machine.run(
            "cd /etc/s2sgw/certs; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=example.org "
            "-addext subjectAltName=DNS:example.org -keyout example.org.key -out example.org.crt; "
            "chown -R s2sgw: .; systemctl start s2sgw"
        )
        self._machine.run(
            "systemctl stop s2sgw s2sgw.socket s2sgw-direct.socket; mkdir /etc/s2sgw/shared; cp secrets/node/* /etc/s2sgw; "
            "cd /var/lib/s2sgw; cp secret backend-ca.pem backend-ca.key /etc/s2sgw/shared; "
            "chown -R s2sgw: /etc/s2sgw/shared /etc/s2sgw/certs /etc/s2sgw/engine*; chmod -R go= /etc/s2sgw/shared /etc/s2sgw/engine.credentials"
        )

    def nodes(self) -> None:
        """Two nodes start, and share the port for peers."""
        reuse = 's#"tcp:5269"#"tcp:5269:reuseport=yes"#'
        self._machine.run(
            f"sed '{reuse}' {EXAMPLES}/a.toml > /etc/s2sgw/a.toml; sed '{reuse}; s#tcp:8269#tcp:8270#' {EXAMPLES}/b.toml > /etc/s2sgw/b.toml"
        )
        for name in "ab":
            self._machine.run(f"s2sgw check --config /etc/s2sgw/{name}.toml; systemctl enable --now s2sgw@{name}")
        self._member("b", "other      a at 192.0.2.11:5271: alive")
        check(self._machine.run("ss -ltn").count("0.0.0.0:5269 ") == 2, "both nodes must listen on the port")

    def upgrade(self) -> None:
        """The package restarts the nodes, which join again. A server of the engine is restarted."""
        self._machine.run(f"dpkg -i {PACKAGE}")
        for name in "ab":
            self._member(name)
        self._machine.run("systemctl restart nats")
        self._healthy()

    def lost_store(self) -> None:
        """A server without its store gets it from the others."""
        self._machine.run("systemctl stop nats2; rm -r /var/lib/nats2/jetstream; systemctl start nats2")
        self._healthy()
        self._machine.wait("curl -s http://127.0.0.1:9222/jsz | grep '\"streams\": 11,'")

    def killed(self) -> None:
        """systemd starts a node again that was killed."""
        self._machine.run("kill -9 $(systemctl show -P MainPID s2sgw@a)")
        self._member("a", "other      b at 192.0.2.12:5271: alive")

    def no_engine(self) -> None:
        """Without servers a node says so, stops in time, and the other goes on when the servers are back."""
        self._machine.run(f"systemctl stop {' '.join(SERVERS)}")
        self._machine.wait("s2sgw status --config /etc/s2sgw/b.toml | grep 'no connection to the engine'")
        self._machine.run("systemctl stop s2sgw@a; systemctl show -P Result s2sgw@a | grep -x success")
        self._machine.run(f"systemctl start {' '.join(SERVERS)}")
        self._healthy()
        self._member("b")

    def removed(self) -> None:
        """The package stops and disables its nodes before it goes."""
        self._machine.run("dpkg -r s2sgw; ! systemctl is-active s2sgw@b; ! ls /etc/systemd/system/multi-user.target.wants | grep s2sgw")

    def _healthy(self) -> None:
        for port in SERVERS.values():
            self._machine.wait(f"curl -s http://127.0.0.1:{port}/healthz | grep '\"ok\"'")

    def _member(self, name: str, also: str = "") -> None:
        self._machine.wait(f"s2sgw cluster status --config /etc/s2sgw/{name}.toml | grep '{name}, a member'", 120.0)
        if also:
            self._machine.wait(f"s2sgw cluster status --config /etc/s2sgw/{name}.toml | grep '{also}'")


def main() -> int:
    """Play the steps until one fails; return the exit status."""
    packages, server = list((PROJECT / "dist").glob("*.deb")), nats_server()
    lacking = missing() or ("" if server else "nats-server") or ("" if packages else "the package of `make deb`")
    if lacking or server is None:
        print(f"skipped: it needs {lacking}")
        return 0
    outcomes: list[bool] = []
    with tempfile.TemporaryDirectory(prefix="s2sgw-cluster-") as folder, ScratchMachine(Path(folder)) as machine:
        walk = ClusterWalk(machine, packages[0], Path(server))
        for step in (
            walk.package, walk.engine, walk.shared, walk.nodes, walk.upgrade, walk.lost_store, walk.killed, walk.no_engine, walk.removed,
        ):
            outcomes.append(played((step.__doc__ or "").strip(), step))
            if not outcomes[-1]:
                print(machine.run("journalctl --no-pager -u 's2sgw*' -u 'nats*' | tail -n 40", check=False))
                break
    print(f"{sum(outcomes)} passed, {len(outcomes) - sum(outcomes)} failed")
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
