"""The evening of the README: Prosody runs for example.org, and s2sgw is put in front of it, by the steps as they stand there."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.install.steps import Step, section, steps
from tests.lab.certificates import Authority, Certificate, Names
from tests.lab.gateway import PROJECT
from tests.lab.scenario import check, step
from tests.lab.scratch_machine import ScratchMachine
from tests.lab.servers.server import PASSWORD

CLONE = "/root/s2sgw"
DOMAIN, ROOMS, FAR = "example.org", "rooms.example.org", "far.example"
#: Public addresses, so that the gateway's rules for private ones stay as they are shipped. They exist on this loopback only.
HERE, THERE = "44.0.0.1", "44.0.0.2"
_CLIENTS, _FAR_CLIENTS, _FAR_PEERS = "5222", "5322", "5299"
#: Commands that the test does not type, and why.
SKIPPED = {"make deb": "made by `make readme` before the test starts"}
_DNS = f"""\
server:
    do-daemonize: no
    username: ""
    chroot: ""
    pidfile: ""
    interface: 127.0.0.1
    do-not-query-localhost: no
    module-config: "iterator"
    local-zone: "." static
    local-data: "_xmpp-server._tcp.{DOMAIN}. 5 IN SRV 0 0 5269 xmpp.{DOMAIN}."
    local-data: "_xmpp-server._tcp.{ROOMS}. 5 IN SRV 0 0 5269 xmpp.{DOMAIN}."
    local-data: "xmpp.{DOMAIN}. 5 IN A {HERE}"
    local-data: "_xmpp-server._tcp.{FAR}. 5 IN SRV 0 0 {_FAR_PEERS} xmpp.{FAR}."
    local-data: "xmpp.{FAR}. 5 IN A {THERE}"
remote-control:
    control-enable: no
"""
#: What the operator has in /etc/prosody/conf.d already.
_OURS = f"""\
VirtualHost "{DOMAIN}"
    c2s_require_encryption = false
    allow_unencrypted_plain_auth = true
Component "{ROOMS}" "muc"
"""
_THEIRS = f"""\
run_as_root = true
daemonize = false
pidfile = "/root/far/prosody.pid"
data_path = "/root/far/data"
log = {{ info = "/root/far/prosody.log" }}
interfaces = {{ "{THERE}", "127.0.0.1" }}
c2s_ports = {{ {_FAR_CLIENTS} }}
s2s_ports = {{ {_FAR_PEERS} }}
modules_enabled = {{ "disco"; "roster"; "saslauth"; "tls"; "dialback"; "ping"; "posix" }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
s2s_require_encryption = true
s2s_secure_auth = true
authentication = "internal_plain"
certificates = "/root/far"
VirtualHost "{FAR}"
"""
#: apt-get without a network: what the machine has is installed, a file is installed by dpkg.
_APT_GET = """\
#!/bin/bash
set -eu
[ "$1" = install ]
shift
for one in "$@"; do
  case $one in
    */*) dpkg --install "$one" ;;
    *) dpkg-query --show --showformat='${Package} is there\\n' "$one" ;;
  esac
done
"""


class Evening:
    """One machine, and the steps of the README, in their order."""

    def __init__(self, machine: ScratchMachine) -> None:
        self._machine = machine
        page = (PROJECT / "README.md").read_text("utf-8")
        self._steps = steps(section(page, "Install it as a service"))

    def scenarios(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the scenarios; each stands on those before it."""
        yield "a Prosody for example.org federates without the gateway", self._before
        headings = list(dict.fromkeys(each.heading for each in self._steps))
        for heading in headings:
            if heading.startswith("5."):
                yield "messages and rooms pass through the gateway, both ways by certificate", self._through
            yield f"README: {heading}", partial(self._type, heading)
        yield "messages pass without the gateway again", self._talk
        yield "the package is removed and purged: nothing is left", self._purge

    def logs(self) -> str:
        """Return what the programs in the machine have logged."""
        return self._machine.run(
            "journalctl --no-pager --quiet -u s2sgw -u prosody -u lab-dns -u lab-far | tail -60; tail -20 /root/far/prosody.log", check=False,
        )

    def _before(self) -> None:
        machine = self._machine
        machine.run(f"ip address add {HERE}/32 dev lo; ip address add {THERE}/32 dev lo")
        machine.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
        machine.write("/root/unbound.conf", _DNS)
        machine.write("/usr/local/sbin/apt-get", _APT_GET, 0o755)
        machine.run("systemd-run --quiet --unit=lab-dns unbound -d -c /root/unbound.conf")
        with tempfile.TemporaryDirectory() as folder:
            self._certificates(Path(folder))
        machine.write("/root/far/prosody.cfg.lua", _THEIRS)
        machine.write("/etc/prosody/conf.d/example.org.cfg.lua", _OURS)
        machine.run(
            f"prosodyctl register juliet {DOMAIN} {PASSWORD}; "
            f"prosodyctl --config /root/far/prosody.cfg.lua register romeo {FAR} {PASSWORD}; "
            "systemd-run --quiet --unit=lab-far prosody --config /root/far/prosody.cfg.lua -F; systemctl start prosody"
        )
        self._clone()
        self._talk()

    def _certificates(self, folder: Path) -> None:
        authority = Authority(folder)
        machine = self._machine
        machine.write("/usr/local/share/ca-certificates/lab.crt", authority.file.read_text())
        machine.run("update-ca-certificates")
        ours, theirs = authority.issue(Names(dns=(DOMAIN, ROOMS))), authority.issue(Names(dns=(FAR,)))
        self._put(ours, f"/etc/letsencrypt/live/{DOMAIN}/fullchain.pem", f"/etc/letsencrypt/live/{DOMAIN}/privkey.pem")
        self._put(ours, f"/etc/prosody/certs/{DOMAIN}.crt", f"/etc/prosody/certs/{DOMAIN}.key")
        self._put(theirs, f"/root/far/{FAR}.crt", f"/root/far/{FAR}.key")
        machine.run(f"chown prosody: /etc/prosody/certs/{DOMAIN}.key")

    def _put(self, certificate: Certificate, chain: str, key: str) -> None:
        self._machine.write(chain, certificate.chain.read_text())
        self._machine.write(key, certificate.key.read_text(), 0o600)

    def _clone(self) -> None:
        """Put the package where `make deb` leaves it in the operator's clone."""
        for package in (PROJECT / "dist").glob("*.deb"):
            place = f"{CLONE}/dist/{package.name}"
            self._machine.run(f"mkdir -p {CLONE}/dist; base64 -d > {place}", text=base64.b64encode(package.read_bytes()).decode())

    def _type(self, heading: str) -> None:
        for each in self._steps:
            if each.heading == heading:
                self._type_block(each)

    def _type_block(self, block: Step) -> None:
        shown = ""
        for command in block.commands:
            if command in SKIPPED:
                continue
            step(f"# {command}")
            shown += self._machine.run(command, cwd=CLONE)
        # as the reader of a page sees it: without line breaks and runs of spaces
        flat = re.sub(r"\s+", " ", shown)
        for words in block.seen:
            check(words in flat, f"{words!r} is not in what {block.commands} print:\n{shown}")

    def _talk(self) -> None:
        for port in (_CLIENTS, _FAR_CLIENTS):
            self._machine.wait(f"exec 3<>/dev/tcp/127.0.0.1/{port}")
        self._machine.talk("tests.install.talk", _FAR_CLIENTS, f"romeo@{FAR}/evening", _CLIENTS, f"juliet@{DOMAIN}/evening")

    def _through(self) -> None:
        listening = self._machine.run("ss --listening --tcp --numeric --processes --no-header")
        check(re.search(r"0\.0\.0\.0:5269 .*systemd", listening), f"systemd does not hold port 5269:\n{listening}")
        check(re.search(r"127\.0\.0\.1:15269 .*lua", listening), f"Prosody is not at 127.0.0.1:15269:\n{listening}")
        self._talk()
        streams = self._machine.run("s2sgw streams --json")
        check(streams.count('"EXTERNAL"') >= 2, f"not proven by certificate:\n{streams}")
        check(FAR in self._machine.run("s2sgw peers"), f"{FAR} is no peer")
        user = self._machine.run("ps -o user= -p $(systemctl show --property MainPID --value s2sgw)").strip()
        check(user == "s2sgw", f"the gateway runs as {user!r}")
        self._machine.run("systemctl reload s2sgw; systemctl restart s2sgw")
        self._talk()

    def _purge(self) -> None:
        out = self._machine.run("dpkg --remove s2sgw; test -e /var/lib/s2sgw/spool.db; dpkg --purge s2sgw")
        left = self._machine.run(
            "find /opt/s2sgw /var/lib/s2sgw /run/s2sgw /usr/bin/s2sgw /usr/lib/systemd/system/s2sgw* /etc/systemd/system -name '*s2sgw*' "
            "2>/dev/null || true; getent passwd s2sgw || true; ls /etc/s2sgw 2>/dev/null || true"
        )
        check(left.split() == ["certs"], f"left: {left}\n{out}")

