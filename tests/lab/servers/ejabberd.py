"""ejabberd as Debian ships it, behind the gateway or outside, started without its control script and without epmd."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.lab.lab import LabError
from tests.lab.nameserver import HOSTS
from tests.lab.servers.server import PASSWORD, Server, Site

_ERLANG_ARGUMENTS = ("+K", "true", "-noinput", "-noshell")
_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
_INETRC = """\
{{resolv_conf,""}}.
{{lookup,["file","dns"]}}.
{{host,{{127,0,0,1}},["localhost"]}}.
{{nameserver,{{127,0,0,1}},{dns}}}.
"""
_CONFIG = """\
loglevel: {level}
log_rotate_count: 0
hosts: {domains}
certfiles: ["{both}"]
{lines}
auth_method: internal
auth_password_format: plain
registration_timeout: infinity
acl: {{local: {{user_regexp: ""}}}}
access_rules: {{local: {{allow: local}}, c2s: {{allow: all}}}}
shaper: {{}}
shaper_rules: {{max_user_sessions: 10}}
modules:
  mod_caps: {{}}
  mod_carboncopy: {{}}
  mod_disco: {{}}
  mod_last: {{}}
  mod_offline: {{}}
  mod_ping: {{}}
  mod_register: {{ip_access: all, password_strength: 0}}
  mod_roster: {{}}
  mod_s2s_dialback: {{}}
  mod_time: {{}}
  mod_vcard: {{search: false}}
  mod_version: {{}}
"""
_OUTSIDE = """\
s2s_use_starttls: {starttls}
s2s_max_retry_delay: 1
ca_file: "{anchors}"
listen:
"""
_PEERS = """\
  - {{port: {port}, ip: "{address}", module: ejabberd_s2s_in, max_stanza_size: 524288, shaper: none, tls: {direct}}}
"""
_CLIENTS = """\
  - {{port: {port}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144, shaper: none}}
"""
_COMPONENT = """\
  - port: {port}
    ip: "127.0.0.1"
    module: ejabberd_service
    access: all
    shaper: none
    check_from: false
    hosts: {{"{name}": {{password: "{password}"}}}}
"""


def start(site: Site, *, component: str = "", enter: Callable[..., list[str]] | None = None) -> Server:
    """Start it and wait until it listens.

    `component` names an XEP-0114 component (its secret is PASSWORD). `enter` turns the command into one that runs another
    release (`debian13.inside`).
    """
    folder = site.lab.directory(f"ejabberd-{site.domain}")
    ports = [site.lab.port(), site.s2s_port or site.lab.port(), site.lab.port(), site.lab.port()]
    (folder / "inetrc").write_text(_inetrc(site))
    (folder / "ejabberd.yml").write_text(_config(site, ports, component))
    (folder / "spool").mkdir()
    command = _command(folder) if site.lines else _with_hosts(folder, _command(folder))
    if enter is not None:
        command = enter(["/usr/bin/erl", *_ERLANG_ARGUMENTS, *_spool(folder)], Path("/etc/hosts") if site.lines else _hosts(folder))
    process = site.lab.start("ejabberd", command, folder, _environment(folder))
    for port, address in ((ports[0], "127.0.0.1"), *((ports[1], address) for address in site.s2s_addresses)):
        site.lab.wait_for_port(process, port, 90.0, address)
    return Server("ejabberd", site.domain, ports[0], ports[1], [process], folder / "ejabberd.log", ports[2], ports[3])


def _config(site: Site, ports: list[int], component: str) -> str:
    """Return the lines of `s2sgw setup`, or lines of the lab for a server outside, with listeners for clients and the component."""
    listeners = _CLIENTS.format(port=ports[0])
    if component:
        listeners += _COMPONENT.format(port=ports[2], name=component, password=PASSWORD)
    lines = site.lines or _outside(site, ports)
    lines = lines.replace("listen:\n", f"listen:\n{listeners}", 1)
    level = "info" if site.verbose else "warning"  # it drops log lines if it logs faster than it writes
    domains = json.dumps(list(site.domains))
    return _CONFIG.format(level=level, domains=domains, both=site.certificate.combined(), lines=lines)


def _outside(site: Site, ports: list[int]) -> str:
    """Return listeners for STARTTLS and for direct TLS at each address."""
    lines = _OUTSIDE.format(starttls="required" if site.encrypted else "optional", anchors=site.anchors)
    for port, direct in ((ports[1], "false"), (ports[3], "true")):
        lines += "".join(_PEERS.format(port=port, address=address, direct=direct) for address in site.s2s_addresses)
    return lines


def _inetrc(site: Site) -> str:
    """Return the file inetrc, from the comments in the lines of `s2sgw setup`, or the lab's own."""
    printed = re.findall(r"^#\s+(\{.*\}\.)$", site.lines, re.MULTILINE)
    return "\n".join(printed) + "\n" if printed else _INETRC.format(dns=site.dns)


def _command(folder: Path) -> list[str]:
    erl = shutil.which("erl")
    if erl is None:
        raise LabError("erl (Erlang) is not installed")
    return [erl, *_ERLANG_ARGUMENTS, *_spool(folder)]


def _spool(folder: Path) -> list[str]:
    return ["-mnesia", "dir", f'"{folder}/spool"', "-s", "ejabberd"]


def _with_hosts(folder: Path, command: list[str]) -> list[str]:
    """Return `command` with an /etc/hosts of its own: ejabberd asks DNS only for SRV, and libc for the address of the target."""
    hosts = _hosts(folder)
    apart = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    script = f'mount --make-rprivate / && mount --bind "{hosts}" /etc/hosts && exec "$@"'
    return [*apart, "sh", "-c", script, "sh", *command]


def _hosts(folder: Path) -> Path:
    """Write the /etc/hosts for a server outside."""
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in HOSTS.items()))
    return hosts


def _environment(folder: Path) -> dict[str, str]:
    return {
        "EJABBERD_CONFIG_PATH": str(folder / "ejabberd.yml"), "EJABBERD_LOG_PATH": str(folder / "ejabberd.log"),
        "EJABBERD_PID_PATH": str(folder / "ejabberd.pid"), "ERL_INETRC": str(folder / "inetrc"),
        "ERL_LIBS": str(_LIBRARIES), "ERL_CRASH_DUMP_BYTES": "0", "HOME": str(folder),
    }
