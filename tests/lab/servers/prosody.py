"""Prosody as Debian ships it, behind the gateway or outside."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.lab.servers.server import PASSWORD, Server, Site

PROSODY = "/usr/bin/prosody"
_CONFIG = """\
run_as_root = true
daemonize = false
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
log = {{ {level} = "{folder}/prosody.log" }}
admins = {{ }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {client} }}
s2s_direct_tls_ports = {{ {direct} }}
component_ports = {{ {component} }}
component_interfaces = {{ "127.0.0.1" }}
modules_enabled = {{
    "disco"; "roster"; "saslauth"; "tls"; "carbons"; "dialback"; "pep"; "private"; "smacks"; "vcard4"; "ping"; "time";
    "version"; "posix"; {modules}
}}
modules_disabled = {{ "s2s_unknown" }}
allow_unencrypted_plain_auth = true
c2s_require_encryption = false
authentication = "internal_plain"
certificates = "{folder}/certs"
{lines}

{hosts}
{components}
"""
_OUTSIDE = """\
s2s_require_encryption = {encrypted}
s2s_secure_auth = {secure}
s2s_ports = {{ {s2s} }}
s2s_interfaces = {{ {addresses} }}
s2s_direct_tls_interfaces = {{ {addresses} }}
unbound = {{ resolvconf = false; hoststxt = false; forward = "127.0.0.1@{dns}" }}
ssl = {{ cafile = "{anchors}" }}
"""


def _account(folder: Path, domain: str, user: str) -> None:
    accounts = folder / "data" / domain.replace(".", "%2e").replace("-", "%2d") / "accounts"
    accounts.mkdir(parents=True, exist_ok=True)
    (accounts / f"{user}.dat").write_text(f'return {{ ["password"] = "{PASSWORD}"; }};\n')


def start(
    site: Site, *, bidi: bool = False, component: str = "", enter: Callable[[list[str]], list[str]] = lambda command: command,
) -> Server:
    """Start it and wait until it listens.

    `component` names an XEP-0114 component (its secret is PASSWORD). `enter` turns the command into one that runs another
    release (`debian13.inside`).
    """
    folder = site.lab.directory(f"prosody-{site.domain}")
    ports = [site.lab.port(), site.s2s_port or site.lab.port(), site.lab.port(), site.lab.port()]
    for domain in site.domains:
        for user in site.users:
            _account(folder, domain, user)
    _certificate(folder / "certs", site)
    config = folder / "prosody.cfg.lua"
    config.write_text(_config(site, folder, ports, bidi, component))
    process = site.lab.start("prosody", enter([PROSODY, "--config", str(config), "-F"]), folder)
    site.lab.wait_for_port(process, ports[0])
    for address in site.s2s_addresses:
        site.lab.wait_for_port(process, ports[1], address=address)
    return Server("prosody", site.domain, ports[0], ports[1], [process], folder / "prosody.log", ports[2], ports[3])


def _config(site: Site, folder: Path, ports: list[int], bidi: bool, component: str) -> str:
    client, s2s, component_port, direct = ports
    components = f'Component "{component}"\n    component_secret = "{PASSWORD}"\n' if component else ""
    return _CONFIG.format(
        folder=folder, level="debug" if site.verbose else "warn", client=client, component=component_port, direct=direct,
        hosts="\n".join(f'VirtualHost "{domain}"' for domain in site.domains), components=components,
        modules=('"s2s_bidi";' if bidi else "") + ('"limits";' if site.lines else ""),
        lines=_patient(site.lines) or _OUTSIDE.format(
            dns=site.dns, anchors=site.anchors, s2s=s2s, encrypted=_lua(site.encrypted), secure=_lua(not site.dialback_only),
            addresses="; ".join(f'"{address}"' for address in site.s2s_addresses),
        ),
    )


def _patient(lines: str) -> str:
    """Return the lines of `s2sgw setup` with a higher rate for clients: Debian's rate is too low for 1,000 messages in a row."""
    return lines.replace('c2s = { rate = "10kb/s" }', 'c2s = { rate = "10mb/s" }')


def _certificate(folder: Path, site: Site) -> None:
    """Put the certificate of each host where Prosody looks for it."""
    folder.mkdir()
    for domain in site.domains:
        shutil.copy(site.certificate.chain, folder / f"{domain}.crt")
        shutil.copy(site.certificate.key, folder / f"{domain}.key")


def _lua(truth: bool) -> str:
    return "true" if truth else "false"
