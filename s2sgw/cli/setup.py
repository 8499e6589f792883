"""What `s2sgw setup SERVER` prints: the lines that put an existing server behind this gateway, made from its configuration.

Each text is in the comments of the file that it goes into, so that it can be pasted, or included, as it is.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

from s2sgw.backend.private_ca import CERTIFICATE_FILE
from s2sgw.config.cross_checks import tcp_place
from s2sgw.config.sections import Backend, Config
from s2sgw.stream.jabberd2_router import NAME
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain

#: bytes a second that the server is to take from the gateway, who speaks for all peers on few connections
_PROSODY_RATE = "50mb/s"


class SetupError(Exception):
    """Why there are no lines to print, in words for the operator."""


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """The backend leg as the server must know it. `view` is where it resolves names, `address` its own s2s port."""

    domains: tuple[Domain, ...]
    address: HostPort
    listener: HostPort
    view: HostPort | None
    target: str
    tls: Literal["required", "optional", "never"]
    authority: Path
    onions: bool = False  # there are peers under .onion
    proxied: bool = False  # connections from the gateway begin with a header of the PROXY protocol

    @property
    def names(self) -> str:
        return ", ".join(domain.text for domain in self.domains)

    @property
    def resolver(self) -> HostPort:
        """The DNS view; raises `SetupError` where there is none."""
        if self.view is None:
            raise SetupError('backend.dns_view is not set: without it (say, "127.53.0.1:53") the server finds no gateway')
        return self.view


def setup_text(server: str, config: Config, local: Domain | None = None) -> str:
    """The lines for `server` (one of `SERVERS`), for the backend that serves `local`, or the only one there is.

    Raises `SetupError`. The authority's certificate, to which the lines point, is `authority_file(config)`; whoever prints
    them sees to it that it is there.
    """
    if server not in SERVERS:
        raise SetupError(f'there are no lines for "{server}"; there are for {", ".join(SERVERS)}')
    backend = _backend(config, local)
    if backend.kind == "jabberd2-router":
        if server != "jabberd2":
            raise SetupError('the backend is of kind "jabberd2-router": there are lines for jabberd2 alone')
        return _jabberd2_router(backend, ", ".join(domain.text for domain in config.domains_of(backend)))
    return SERVERS[server](leg(config, backend))


def authority_file(config: Config) -> Path:
    """Where the certificate of the private authority is kept, which the server trusts in place of all others."""
    return config.gateway.state / CERTIFICATE_FILE


def leg(config: Config, backend: Backend) -> BackendSettings:
    """The backend leg of `backend`."""
    host, port = tcp_place(backend.listen) or ("", 0)
    if not port:
        raise SetupError(f"backend.listen = {json.dumps(backend.listen)} is no TCP port that a server could be sent to")
    address = HostPort("127.0.0.1", backend.address.port) if backend.address.host == "localhost" else backend.address
    return BackendSettings(
        config.domains_of(backend), address, HostPort(host or "127.0.0.1", port), backend.dns_view, backend.target,
        backend.tls, authority_file(config), any(name.rpartition(".")[2] == "onion" for name in config.peers),
        backend.proxy_protocol,
    )  # fmt: skip


def _backend(config: Config, local: Domain | None) -> Backend:
    if local is not None:
        found = [each for each in config.backends if local in config.domains_of(each)]
    else:
        found = [each for each in config.backends if each.kind != "echo"]
    if len(found) > 1:
        raise SetupError("there are several backends: say which by one of its domains")
    if local is not None and not found:
        raise SetupError(f"no backend serves {local}: there is no server to set up")
    if not found or found[0].kind == "echo":
        raise SetupError(f"nothing but the embedded echo serves {local or 'anything'}: there is no server to set up")
    return found[0]


def _prosody(leg: BackendSettings) -> str:
    secure = leg.tls != "never"
    view = _quoted(f"{leg.resolver.host}@{leg.resolver.port}")
    # libunbound itself denies that there is anything under .onion
    onions = '; options = { ["local-zone:"] = "onion. transparent" }' if leg.onions else ""
    return f"""\
-- Prosody behind s2sgw, for {leg.names}.
-- These lines go into the global section of prosody.cfg.lua, before the first VirtualHost.
-- Needed too: the package lua-unbound, and "dialback" and "tls" in modules_enabled (Debian has them there).

-- The gateway brings in the streams of all peers at this address; peers connect to the gateway.
s2s_interfaces = {{ {_quoted(leg.address.host)} }}
s2s_ports = {{ {leg.address.port} }}

-- Every peer resolves to the gateway. No trust anchor for DNSSEC may be configured beside this.
unbound = {{ resolvconf = false; hoststxt = false; forward = {view}{onions} }}

-- The gateway is every peer, by certificates of its own authority. This replaces the public ones: it must stay the only one.
-- A VirtualHost with an ssl table of its own needs the cafile there. The gateway's state directory is closed to others:
-- where Prosody runs as a user of its own, copy the file, and name the copy.
ssl = {{ cafile = {_quoted(str(leg.authority))} }}
s2s_secure_auth = {_lua(secure)}
s2s_require_encryption = {_lua(leg.tls == "required")}

-- Few connections carry everybody's stanzas. (The limit for clients is Debian's own.)
limits = {{ c2s = {{ rate = "10kb/s" }}; s2sin = {{ rate = "{_PROSODY_RATE}"; burst = "2s" }} }}
"""


def _ejabberd(leg: BackendSettings) -> str:
    starttls = {"required": "required", "optional": "optional", "never": "false"}[leg.tls]
    view = leg.resolver
    proxied = "\n    use_proxy_protocol: true" if leg.proxied else ""
    return f"""\
# ejabberd behind s2sgw, for {leg.names}.
# 1. These lines go into ejabberd.yml; the listener replaces the one of ejabberd_s2s_in that is there.

listen:
  -
    port: {leg.address.port}
    ip: {_quoted(leg.address.host)}
    module: ejabberd_s2s_in{proxied}
# The gateway is every peer, by certificates of its own authority. This replaces the public ones.
# The gateway's state directory is closed to others: where ejabberd runs as a user of its own, copy the file, and name the copy.
ca_file: {_quoted(str(leg.authority))}
s2s_use_starttls: {starttls}
# Without it ejabberd answers a peer that failed once for up to 300 seconds without trying again.
s2s_max_retry_delay: 1

# 2. These lines are the file inetrc beside ejabberd.yml (ERL_INETRC names it): every peer resolves to the gateway.
#
#    {{resolv_conf,""}}.
#    {{lookup,["file","dns"]}}.
#    {{host,{{127,0,0,1}},["localhost"]}}.
#    {{nameserver,{_erlang_address(view.host)},{view.port}}}.
{_target_note(leg)}"""


def _target_note(leg: BackendSettings) -> str:
    """ejabberd asks the view for SRV only; the target's address it asks of libc."""
    if leg.target == "localhost." or Domain.parse(leg.target).is_address:
        return ""
    return f'\n# ejabberd resolves the target {leg.target} by the system, not by the view: better target = "localhost."\n'


def _jabberd2(leg: BackendSettings) -> str:
    if leg.tls == "required":
        wants = "It must have a certificate for TLS, which backend.tls = \"required\" asks for: <pemfile/> below."
    else:
        wants = "Without <pemfile/> it speaks no TLS and a header without version, which the gateway understands."
    view = leg.resolver
    return f"""\
<!-- jabberd2 behind s2sgw, for {_commented(leg.names)}.
     1. The environment of the process jabberd2-s2s: every peer resolves to the gateway.

         NAMESERVERS={view.host}
         RES_OPTIONS=port:{view.port}

     2. jabberd2 takes no stanza of more than 65,535 bytes, and says so nowhere: the gateway knows, and bounces a larger one with
        the reason. Where you change <stanzasize/> in s2s.xml, say so by stanza_bytes in the section of this backend. Names of
        namespaces that jabberd2 would write so that they break its streams, or forge something, come back likewise.

     3. These lines go into s2s.xml. jabberd2 proves itself, and has peers prove themselves, by dialback alone.
        {wants} -->
<local>
  <ip>{escape(leg.address.host)}</ip>
  <port>{leg.address.port}</port>
  <!-- <pemfile>/etc/jabberd2/server.pem</pemfile> -->
</local>
<!-- Or leave jabberd2's s2s away, and let the gateway take its place at the router: kind = "jabberd2-router" in the section of
     this backend, with secret_file; then this command prints the lines for that. It takes stanzas of any size, and holds back
     those on which jabberd2 would break. -->
"""


def _jabberd2_router(backend: Backend, names: str) -> str:
    return f"""\
<!-- jabberd2 behind s2sgw by its router, for {_commented(names)}.
     The gateway is what jabberd2's own s2s would be: do not start jabberd2-s2s. The router listens at {backend.address}
     (<ip/> and <port/> in router.xml), and should do so on loopback alone.

     1. In router-users.xml, within <users/>; the secret is the text of the file
        {_commented(str(backend.secret_file))} -->
<user>
  <name>{escape(backend.user)}</name>
  <secret>THE SECRET</secret>
</user>
<!-- 2. In router.xml, within <aci/>: the user may be the default route. -->
<acl type='default-route'>
  <user>{escape(backend.user)}</user>
</acl>{_bind_line(backend.user)}
<!-- 3. Change the secret of the stock user "jabberd" while you are there: everybody knows it. -->
"""


def _bind_line(user: str) -> str:
    """A user that is called otherwise than what it binds must be allowed to bind that."""
    return "" if user == NAME else f"\n<acl type='bind'>\n  <user>{escape(user)}</user>\n</acl>"


def _commented(text: str) -> str:
    """As a comment can hold it."""
    return escape(text.replace("--", "- -"))


def _openfire(leg: BackendSettings) -> str:
    return f"""\
# Openfire behind s2sgw, for {leg.names}.
#
# UNVERIFIED: read in Openfire's source (4.1.0 and later), never run. Please tell us how it went.
#
# These are system properties (Server > Server Manager > System Properties). Every peer resolves to the gateway:
dnsutil.dnsOverride = {{*,{leg.listener}}}
# The gateway brings in the streams of all peers at this address:
xmpp.server.socket.port = {leg.address.port}
# The gateway is every peer, by certificates of its own authority: put {leg.authority}
# into the trust store for server connections (Server > TLS/SSL Certificates), in place of the others.
"""


#: server -> what makes its lines
SERVERS: dict[str, Callable[[BackendSettings], str]] = {
    "prosody": _prosody, "ejabberd": _ejabberd, "jabberd2": _jabberd2, "openfire": _openfire,
}  # fmt: skip


def _quoted(text: str) -> str:
    """A string for Lua or YAML, both of which take JSON's spelling of plain text."""
    return json.dumps(text, ensure_ascii=False)


def _lua(value: bool) -> str:
    return "true" if value else "false"


def _erlang_address(host: str) -> str:
    """{127,0,0,1}, or eight numbers for IPv6."""
    address = ipaddress.ip_address(host)
    step = 1 if address.version == 4 else 2
    parts = [int.from_bytes(address.packed[at:at + step], "big") for at in range(0, len(address.packed), step)]
    return "{" + ",".join(map(str, parts)) + "}"
