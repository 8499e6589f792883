"""The output of `s2sgw setup SERVER`: the settings that put an existing server behind this gateway, made from its configuration.

Each text uses the comment syntax of the server's file, so that an operator can paste or include it unchanged.
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

#: The rate at which the server should accept data from the gateway. The gateway sends for all peers on few connections.
_PROSODY_RATE = "50mb/s"


class SetupError(Exception):
    """There are no lines to print. The text says why, in words for the operator."""


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """The backend leg as the server must configure it. `view` is its resolver, `address` its own s2s port."""

    domains: tuple[Domain, ...]
    address: HostPort
    listener: HostPort
    view: HostPort | None
    target: str
    tls: Literal["required", "optional", "never"]
    authority: Path
    onions: bool = False  # there are peers under .onion
    proxied: bool = False  # connections from the gateway begin with a PROXY protocol header

    @property
    def names(self) -> str:
        """The domains as text."""
        return ", ".join(domain.text for domain in self.domains)

    @property
    def resolver(self) -> HostPort:
        """The DNS view. Raises `SetupError` if there is none."""
        if self.view is None:
            raise SetupError('backend.dns_view is not set, so the server cannot find the gateway. Example: "127.53.0.1:53"')
        return self.view


def setup_text(server: str, config: Config, local: Domain | None = None) -> str:
    """Return the lines for `server` (one of `SERVERS`), for the backend that serves `local`, or for the only backend.

    Raises `SetupError`. The lines refer to the CA certificate in `authority_file(config)`. The caller makes sure that the
    file exists.
    """
    if server not in SERVERS:
        raise SetupError(f'"{server}" is not supported. Supported: {", ".join(SERVERS)}')
    backend = _backend(config, local)
    if backend.kind == "jabberd2-router":
        if server != "jabberd2":
            raise SetupError('the backend has kind "jabberd2-router", so there are lines for jabberd2 only')
        return _jabberd2_router(backend, ", ".join(domain.text for domain in config.domains_of(backend)))
    return SERVERS[server](leg(config, backend))


def authority_file(config: Config) -> Path:
    """Return the path of the private CA's certificate. It is the only CA that the server trusts for s2s."""
    return config.gateway.state / CERTIFICATE_FILE


def leg(config: Config, backend: Backend) -> BackendSettings:
    """Return the settings of the backend leg of `backend`."""
    host, port = tcp_place(backend.listen) or ("", 0)
    if not port:
        raise SetupError(f"backend.listen = {json.dumps(backend.listen)} is not a TCP port, so the server cannot connect to it")
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
        raise SetupError("there are several backends. Select one by one of its domains: --local DOMAIN")
    if local is not None and not found:
        raise SetupError(f"no backend serves {local}")
    if not found or found[0].kind == "echo":
        raise SetupError(f"only the built-in echo backend serves {local or 'the local domains'}; it needs no setup")
    return found[0]


def _prosody(leg: BackendSettings) -> str:
    secure = leg.tls != "never"
    view = _quoted(f"{leg.resolver.host}@{leg.resolver.port}")
    # by default libunbound answers that names under .onion do not exist
    onions = '; options = { ["local-zone:"] = "onion. transparent" }' if leg.onions else ""
    return f"""\
-- Prosody behind s2sgw, for {leg.names}.
-- Put these lines into the global section of prosody.cfg.lua, before the first VirtualHost.
-- Remove the old s2s_secure_auth and limits there.
-- Also required: the package lua-unbound, and "dialback" and "tls" in modules_enabled (Debian's default).

-- Prosody accepts the streams of all peers from the gateway at this address. Peers connect to the gateway.
s2s_interfaces = {{ {_quoted(leg.address.host)} }}
s2s_ports = {{ {leg.address.port} }}

-- This resolver answers with the gateway's address for every peer. Do not configure a DNSSEC trust anchor with it.
unbound = {{ resolvconf = false; hoststxt = false; forward = {view}{onions} }}

-- To Prosody, s2sgw looks like every remote server, with certificates from its own private CA.
-- This must be the only CA that Prosody trusts for s2s. A VirtualHost with its own ssl table needs the cafile there too.
-- Other users cannot read the gateway's state directory. If Prosody runs as another user, copy the file and use the copy's path.
ssl = {{ cafile = {_quoted(str(leg.authority))} }}
s2s_secure_auth = {_lua(secure)}
s2s_require_encryption = {_lua(leg.tls == "required")}

-- A few connections carry the stanzas of all peers. (The limit for clients is Debian's default.)
limits = {{ c2s = {{ rate = "10kb/s" }}; s2sin = {{ rate = "{_PROSODY_RATE}"; burst = "2s" }} }}
"""


def _ejabberd(leg: BackendSettings) -> str:
    starttls = {"required": "required", "optional": "optional", "never": "false"}[leg.tls]
    view = leg.resolver
    proxied = "\n    use_proxy_protocol: true" if leg.proxied else ""
    return f"""\
# ejabberd behind s2sgw, for {leg.names}.
# 1. Put these lines into ejabberd.yml. The listener replaces the existing one with ejabberd_s2s_in.

listen:
  -
    port: {leg.address.port}
    ip: {_quoted(leg.address.host)}
    module: ejabberd_s2s_in{proxied}
# To ejabberd, s2sgw looks like every remote server, with certificates from its own private CA.
# This must be the only CA that ejabberd trusts for s2s. Other users cannot read the gateway's state directory.
# If ejabberd runs as another user, copy the file and use the copy's path.
ca_file: {_quoted(str(leg.authority))}
s2s_use_starttls: {starttls}
# Without this line, ejabberd does not retry a failed peer for up to 300 seconds.
s2s_max_retry_delay: 1

# 2. Put these lines into the file inetrc in the folder of ejabberd.yml (the variable ERL_INETRC contains its path).
#    The resolver answers with the gateway's address for every peer.
#
#    {{resolv_conf,""}}.
#    {{lookup,["file","dns"]}}.
#    {{host,{{127,0,0,1}},["localhost"]}}.
#    {{nameserver,{_erlang_address(view.host)},{view.port}}}.
{_target_note(leg)}"""


def _target_note(leg: BackendSettings) -> str:
    """Return a note on the SRV target. ejabberd asks the view for SRV records only, and libc for the target's address."""
    if leg.target == "localhost." or Domain.parse(leg.target).is_address:
        return ""
    return f'\n# ejabberd resolves the target {leg.target} by the system, not by the view. Better: target = "localhost."\n'


def _jabberd2(leg: BackendSettings) -> str:
    if leg.tls == "required":
        wants = "It must have a certificate, because of backend.tls = \"required\": <pemfile/> below."
    else:
        wants = "Without <pemfile/> it uses no TLS and a stream header without version; the gateway supports that."
    view = leg.resolver
    return f"""\
<!-- jabberd2 behind s2sgw, for {_commented(leg.names)}.
     1. Set these variables for the process jabberd2-s2s. The resolver answers with the gateway's address for every peer.

         NAMESERVERS={view.host}
         RES_OPTIONS=port:{view.port}

     2. jabberd2 accepts no stanza of more than 65,535 bytes and does not announce this limit. The gateway bounces a larger one
        with the reason. If you change <stanzasize/> in s2s.xml, set stanza_bytes in the section of this backend. The gateway
        also bounces stanzas with namespace names that would break jabberd2's streams or forge a stanza.

     3. Put these lines into s2s.xml. jabberd2 authenticates itself, and peers, only by dialback.
        {wants} -->
<local>
  <ip>{escape(leg.address.host)}</ip>
  <port>{leg.address.port}</port>
  <!-- <pemfile>/etc/jabberd2/server.pem</pemfile> -->
</local>
<!-- Alternative: replace jabberd2's s2s by the gateway. Set kind = "jabberd2-router" and secret_file in the section of this
     backend, and run this command again. The gateway then accepts stanzas of any size, and bounces those that would break
     jabberd2. -->
"""


def _jabberd2_router(backend: Backend, names: str) -> str:
    return f"""\
<!-- jabberd2 behind s2sgw through its router, for {_commented(names)}.
     The gateway replaces jabberd2's own s2s: do not start jabberd2-s2s. The router listens at {backend.address}
     (<ip/> and <port/> in router.xml). It should listen on loopback only.

     1. In router-users.xml, within <users/>. The secret is the text of the file
        {_commented(str(backend.secret_file))} -->
<user>
  <name>{escape(backend.user)}</name>
  <secret>THE SECRET</secret>
</user>
<!-- 2. In router.xml, within <aci/>: the user may be the default route. -->
<acl type='default-route'>
  <user>{escape(backend.user)}</user>
</acl>{_bind_line(backend.user)}
<!-- 3. Also change the secret of the default user "jabberd". It is publicly known. -->
"""


def _bind_line(user: str) -> str:
    """Return the rule that lets a user bind a name other than its own."""
    return "" if user == NAME else f"\n<acl type='bind'>\n  <user>{escape(user)}</user>\n</acl>"


def _commented(text: str) -> str:
    """Return `text` escaped for an XML comment."""
    return escape(text.replace("--", "- -"))


def _openfire(leg: BackendSettings) -> str:
    return f"""\
# Openfire behind s2sgw, for {leg.names}.
#
# NOT TESTED: written from Openfire's source (4.1.0 and later). Please report your results.
#
# These are system properties (Server > Server Manager > System Properties). Openfire connects to the gateway for every peer:
dnsutil.dnsOverride = {{*,{leg.listener}}}
# Openfire accepts the streams of all peers from the gateway at this port:
xmpp.server.socket.port = {leg.address.port}
# To Openfire, s2sgw looks like every remote server, with certificates from its own private CA. Put {leg.authority}
# into the trust store for server connections (Server > TLS/SSL Certificates), and remove the other CAs there.
"""


#: server -> the function that returns its lines
SERVERS: dict[str, Callable[[BackendSettings], str]] = {
    "prosody": _prosody, "ejabberd": _ejabberd, "jabberd2": _jabberd2, "openfire": _openfire,
}  # fmt: skip


def _quoted(text: str) -> str:
    """Return a string literal for Lua or YAML. Both accept JSON's form for plain text."""
    return json.dumps(text, ensure_ascii=False)


def _lua(value: bool) -> str:
    return "true" if value else "false"


def _erlang_address(host: str) -> str:
    """Return the address as an Erlang tuple, e.g. {127,0,0,1}, or eight numbers for IPv6."""
    address = ipaddress.ip_address(host)
    step = 1 if address.version == 4 else 2
    parts = [int.from_bytes(address.packed[at:at + step], "big") for at in range(0, len(address.packed), step)]
    return "{" + ",".join(map(str, parts)) + "}"
