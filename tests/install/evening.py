"""A scratch machine with a server for example.org. s2sgw is put in front of it by the steps of the documentation.

On its network are a name server and a Prosody for far.example.
"""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.install.steps import Step
from tests.lab.certificates import Authority, Certificate, Names
from tests.lab.gateway import PROJECT
from tests.lab.scenario import check, step
from tests.lab.scratch_machine import ScratchMachine
from tests.lab.servers.server import PASSWORD

CLONE = "/root/s2sgw"
DOMAIN, ROOMS, FAR = "example.org", "rooms.example.org", "far.example"
#: Public addresses, so that the gateway's rules for private ones keep their defaults. They exist only on this loopback.
HERE, THERE = "44.0.0.1", "44.0.0.2"
_CLIENTS, _FAR_CLIENTS, _FAR_PEERS = "5222", "5322", "5299"
#: Commands that the test does not run, and why.
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
#: apt-get without a network: packages of this machine count as installed, and a file is installed by dpkg.
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
    """One machine. Subclasses give its server and the steps."""

    def __init__(self, machine: ScratchMachine) -> None:
        self._machine = machine

    def scenarios(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the scenarios; each needs those before it."""
        raise NotImplementedError

    def _server(self, certificate: Certificate) -> None:
        """Start the server for example.org, with the account juliet, as an operator has it before s2sgw."""
        raise NotImplementedError

    def logs(self) -> str:
        """Return the logs of the programs in the machine."""
        return self._machine.run(
            "journalctl --no-pager --quiet -u s2sgw -u prosody -u ejabberd -u lab-dns -u lab-far | grep -v Mnesia | tail -n 60; "
            "tail -n 20 /root/far/prosody.log", check=False,
        )

    def _before(self) -> None:
        machine = self._machine
        machine.run(f"ip address add {HERE}/32 dev lo; ip address add {THERE}/32 dev lo")
        machine.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
        machine.write("/root/unbound.conf", _DNS)
        machine.write("/usr/local/sbin/apt-get", _APT_GET, 0o755)
        machine.run("systemd-run --quiet --unit=lab-dns unbound -d -c /root/unbound.conf")
        machine.write("/root/far/prosody.cfg.lua", _THEIRS)
        with tempfile.TemporaryDirectory() as folder:
            self._certificates(Authority(Path(folder)))
        machine.run(
            f"prosodyctl --config /root/far/prosody.cfg.lua register romeo {FAR} {PASSWORD}; "
            "systemd-run --quiet --unit=lab-far prosody --config /root/far/prosody.cfg.lua -F"
        )
        for package in (PROJECT / "dist").glob("*.deb"):
            place = f"{CLONE}/dist/{package.name}"
            machine.run(f"mkdir -p {CLONE}/dist; base64 -d > {place}", text=base64.b64encode(package.read_bytes()).decode())
        self._talk()

    def _certificates(self, authority: Authority) -> None:
        machine = self._machine
        machine.write("/usr/local/share/ca-certificates/lab.crt", authority.file.read_text())
        machine.run("update-ca-certificates")
        ours, theirs = authority.issue(Names(dns=(DOMAIN, ROOMS))), authority.issue(Names(dns=(FAR,)))
        self._put(ours, f"/etc/letsencrypt/live/{DOMAIN}/fullchain.pem", f"/etc/letsencrypt/live/{DOMAIN}/privkey.pem")
        self._put(theirs, f"/root/far/{FAR}.crt", f"/root/far/{FAR}.key")
        self._server(ours)

    def _put(self, certificate: Certificate, chain: str, key: str) -> None:
        self._machine.write(chain, certificate.chain.read_text())
        self._machine.write(key, certificate.key.read_text(), 0o600)

    def _type(self, blocks: Sequence[Step]) -> None:
        """Run the commands; check that their output has the words that a reader should see."""
        for block in blocks:
            shown = ""
            for command in block.commands:
                if command not in SKIPPED:
                    step(f"# {command}")
                    shown += self._machine.run(command, cwd=CLONE)
            flat = re.sub(r"\s+", " ", shown)  # as the reader of a page sees it: without line breaks and runs of spaces
            for words in block.seen:
                check(words in flat, f"{words!r} is not in what {block.commands} print:\n{shown}")

    def _talk(self) -> None:
        for port in (_CLIENTS, _FAR_CLIENTS):
            self._machine.wait(f"exec 3<>/dev/tcp/127.0.0.1/{port}")
        self._machine.talk("tests.install.talk", _FAR_CLIENTS, f"romeo@{FAR}/evening", _CLIENTS, f"juliet@{DOMAIN}/evening")

    def _through(self) -> None:
        """Check that messages and rooms pass, by certificate, and that a restart of the service refuses no connection."""
        machine = self._machine
        listening = machine.run("ss --listening --tcp --numeric --processes --no-header")
        for port in ("0.0.0.0:5269", "[::]:5269"):
            check(re.search(re.escape(port) + " .*systemd", listening), f"systemd does not hold {port}:\n{listening}")
        check(re.search(r"(127\.0\.0\.1|\[::ffff:127\.0\.0\.1\]):15269 ", listening), f"the server is not at 127.0.0.1:15269:\n{listening}")
        self._talk()
        streams = machine.run("s2sgw streams --json")
        check(streams.count('"EXTERNAL"') >= 2, f"not proven by certificate:\n{streams}")
        check(FAR in machine.run("s2sgw peers"), f"{FAR} is no peer")
        refusals = machine.run("s2sgw refusals --json")
        check(refusals.strip() == "[]", f"nothing was to be refused:\n{refusals}")
        user = machine.run("ps -o user= -p $(systemctl show --property MainPID --value s2sgw)").strip()
        check(user == "s2sgw", f"the gateway runs as {user!r}")
        machine.run("systemctl reload s2sgw; systemctl restart s2sgw")
        self._talk()

    def _purge(self) -> None:
        out = self._machine.run("dpkg --remove s2sgw; test -e /var/lib/s2sgw/spool.db; dpkg --purge s2sgw")
        left = self._machine.run(
            "find /opt/s2sgw /var/lib/s2sgw /run/s2sgw /usr/bin/s2sgw /usr/lib/systemd/system/s2sgw* /etc/systemd/system -name '*s2sgw*' "
            "2>/dev/null || true; getent passwd s2sgw || true; ls /etc/s2sgw 2>/dev/null || true"
        )
        check(left.split() == ["certs"], f"left: {left}\n{out}")
