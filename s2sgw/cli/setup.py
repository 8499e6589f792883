"""The text of `s2sgw setup SERVER`: the settings that put an existing server behind this gateway, made from its configuration.

Each text is written in the comments of the file that it is for, so that the server can include it unchanged.
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

#: Bytes a second that the server accepts from the gateway. The gateway brings the stanzas of all peers on few connections.
_PROSODY_RATE = "50mb/s"


class SetupError(Exception):
    """There are no settings to print. The text says why."""


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """The backend leg from the server's side.

    `view` is the server's resolver, `address` its own s2s port, `authority` the file with the CA that it must trust.
    """

    domains: tuple[Domain, ...]
    address: HostPort
    listener: HostPort
    view: HostPort | None
    target: str
    tls: Literal["required", "optional", "never"]
    authority: Path
    onions: bool = False  # the configuration names peers under .onion
    proxied: bool = False  # connections from the gateway begin with a PROXY protocol header

    @property
    def names(self) -> str:
        return ", ".join(domain.text for domain in self.domains)

    @property
    def resolver(self) -> HostPort:
        """Return the DNS view. Raises `SetupError` if there is none."""
        if self.view is None:
            raise SetupError('backend.dns_view is not set, so the server cannot find the gateway. Example: "127.53.0.1:53"')
        return self.view


def setup_text(server: str, config: Config, local: Domain | None = None, authority: Path | None = None) -> str:
    """Return the settings for `server` (one of `SERVERS`), for the backend that serves `local`, or for the only backend.

    `authority` is the file with the certificate of the CA that the server must trust, by default `authority_file`. The caller
    must make sure that the file exists. Raises `SetupError`.
    """
    if server not in SERVERS:
        raise SetupError(f'"{server}" is not supported. Supported: {", ".join(SERVERS)}')
    backend = _backend(config, local)
    if backend.kind == "jabberd2-router":
        if server != "jabberd2":
            raise SetupError('the backend has kind "jabberd2-router", so there are lines for jabberd2 only')
        return _jabberd2_router(backend, ", ".join(domain.text for domain in config.domains_of(backend)))
    return SERVERS[server](_settings(config, local, authority))


def inetrc_text(config: Config, local: Domain | None = None) -> str:
    """Return the file inetrc of ejabberd, which names the DNS view. Raises `SetupError`."""
    view = _settings(config, local, None).resolver
    return (
        "% inetrc, beside ejabberd.yml: ejabberd behind s2sgw. Every peer resolves to the gateway.\n"
        + "".join(f"{line}\n" for line in _inetrc(view))
    )


def authority_file(config: Config) -> Path:
    """Return the file with the certificate of the private CA, which the server trusts instead of all others."""
    return config.identity_folder / CERTIFICATE_FILE


def _settings(config: Config, local: Domain | None, authority: Path | None) -> BackendSettings:
    backend = _backend(config, local)
    host, port = tcp_place(backend.listen) or ("", 0)
    if not port:
        raise SetupError(f"backend.listen = {json.dumps(backend.listen)} is not a TCP port, so the server cannot connect to it")
    address = HostPort("127.0.0.1", backend.address.port) if backend.address.host == "localhost" else backend.address
    return BackendSettings(
        config.domains_of(backend), address, HostPort(host or "127.0.0.1", port), backend.dns_view, backend.target,
        backend.tls, authority or authority_file(config), any(name.rpartition(".")[2] == "onion" for name in config.peers),
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
    # libunbound answers itself that nothing exists under .onion
    onions = '; options = { ["local-zone:"] = "onion. transparent" }' if leg.onions else ""
    return f"""\
-- Prosody behind s2sgw, for {leg.names}.
-- Save this as a file of its own, /etc/prosody/conf.d/s2sgw.cfg.lua in Debian. prosody.cfg.lua includes it at its end:
--     Include "conf.d/*.cfg.lua"
-- Its values then replace those above. In the global section of prosody.cfg.lua itself, delete the old lines of these
-- options first: s2s_interfaces, s2s_ports, s2s_direct_tls_ports, unbound, ssl, s2s_secure_auth, s2s_require_encryption, limits.
-- The last line of an option wins.
-- Required: the package lua-unbound, and "dialback", "limits" and "tls" in modules_enabled (Debian has the three there).

-- s2sgw connects to this address for all peers. Peers connect to s2sgw.
s2s_interfaces = {{ {_quoted(leg.address.host)} }}
s2s_ports = {{ {leg.address.port} }}

-- Every peer resolves to s2sgw. Do not configure a trust anchor for DNSSEC here.
unbound = {{ resolvconf = false; hoststxt = false; forward = {view}{onions} }}

-- s2sgw shows a certificate of its private CA for each peer. This CA replaces the public ones: it must be the only one.
-- A VirtualHost with its own ssl table needs the cafile there too. The user of Prosody must be able to read the file.
ssl = {{ cafile = {_quoted(str(leg.authority))} }}
s2s_secure_auth = {_lua(secure)}
s2s_require_encryption = {_lua(leg.tls == "required")}

-- Few connections carry the stanzas of all peers. (The limit for clients is Debian's.)
limits = {{ c2s = {{ rate = "10kb/s" }}; s2sin = {{ rate = "{_PROSODY_RATE}"; burst = "2s" }} }}
"""


def _ejabberd(leg: BackendSettings) -> str:
    starttls = {"required": "required", "optional": "optional", "never": "false"}[leg.tls]
    inetrc = "".join(f"#    {line}\n" for line in _inetrc(leg.resolver))
    proxied = "\n    use_proxy_protocol: true" if leg.proxied else ""
    return f"""\
# ejabberd behind s2sgw, for {leg.names}.
# 1. Save this as a file of its own, /etc/ejabberd/s2sgw.yml in Debian, and add one line to ejabberd.yml:
#        include_config_file: /etc/ejabberd/s2sgw.yml
#    Remove from ejabberd.yml: every listener with the module ejabberd_s2s_in, and the lines of ca_file (or s2s_cafile),
#    s2s_use_starttls and s2s_max_retry_delay.

listen:
  -
    port: {leg.address.port}
    ip: {_quoted(leg.address.host)}
    module: ejabberd_s2s_in{proxied}
# s2sgw shows a certificate of its private CA for each peer. This CA replaces the public ones.
# The user of ejabberd must be able to read the file.
ca_file: {_quoted(str(leg.authority))}
s2s_use_starttls: {starttls}
# Without this line ejabberd answers for a peer that failed once for up to 300 seconds without trying again.
s2s_max_retry_delay: 1

# 2. The file inetrc beside ejabberd.yml (`s2sgw setup ejabberd --inetrc` prints it). Every peer resolves to s2sgw.
#
{inetrc}{_target_note(leg)}"""


def _inetrc(view: HostPort) -> tuple[str, ...]:
    nameserver = f"{{nameserver,{_erlang_address(view.host)},{view.port}}}."
    return '{resolv_conf,""}.', '{lookup,["file","dns"]}.', '{host,{127,0,0,1},["localhost"]}.', nameserver


def _target_note(leg: BackendSettings) -> str:
    """Return a warning if ejabberd may not find the target: it asks the view for SRV records only."""
    if leg.target == "localhost." or Domain.parse(leg.target).is_address:
        return ""
    return f'\n# ejabberd resolves the target {leg.target} by the system, not by the view: better target = "localhost."\n'


def _jabberd2(leg: BackendSettings) -> str:
    if leg.tls == "required":
        wants = "It needs a certificate, because backend.tls is \"required\": <pemfile/> below."
    else:
        wants = "Without <pemfile/> it does not use TLS; its stream headers then have no version. s2sgw supports this."
    view = leg.resolver
    return f"""\
<!-- jabberd2 behind s2sgw, for {_commented(leg.names)}.
     1. The environment of the process jabberd2-s2s. Every peer resolves to s2sgw.

         NAMESERVERS={view.host}
         RES_OPTIONS=port:{view.port}

     2. jabberd2 accepts no stanza of more than 65,535 bytes, and does not announce that limit. s2sgw knows it, and bounces a
        larger stanza with the reason. If you change <stanzasize/> in s2s.xml, set stanza_bytes in the section of this backend.
        s2sgw also bounces stanzas with names of namespaces that jabberd2 would write without escaping them.

     3. Replace <local/> in s2s.xml by these lines. jabberd2 authenticates by dialback only, in both directions.
        {wants} -->
<local>
  <ip>{escape(leg.address.host)}</ip>
  <port>{leg.address.port}</port>
  <!-- <pemfile>/etc/jabberd2/server.pem</pemfile> -->
</local>
<!-- Alternative: do not run jabberd2-s2s, and let s2sgw take its place at the router. Set kind = "jabberd2-router" and
     secret_file in the section of this backend; then this command prints the lines for that. The router accepts stanzas of
     any size. -->
"""


def _jabberd2_router(backend: Backend, names: str) -> str:
    return f"""\
<!-- jabberd2 behind s2sgw through its router, for {_commented(names)}.
     s2sgw replaces jabberd2's own s2s: do not start jabberd2-s2s. The router listens at {backend.address}
     (<ip/> and <port/> in router.xml). It should listen on loopback only.

     1. In router-users.xml, within <users/>; the secret is the text of the file
        {_commented(str(backend.secret_file))} -->
<user>
  <name>{escape(backend.user)}</name>
  <secret>THE SECRET</secret>
</user>
<!-- 2. In router.xml, within <aci/>: this user may be the default route. -->
<acl type='default-route'>
  <user>{escape(backend.user)}</user>
</acl>{_bind_line(backend.user)}
<!-- 3. Change the secret of the stock user "jabberd" too: it is public. -->
"""


def _bind_line(user: str) -> str:
    """Return the permission that a user needs to bind a name other than its own."""
    return "" if user == NAME else f"\n<acl type='bind'>\n  <user>{escape(user)}</user>\n</acl>"


def _commented(text: str) -> str:
    """Return `text` in a form that a comment can contain."""
    return escape(text.replace("--", "- -"))


def _openfire(leg: BackendSettings) -> str:
    return f"""\
# Openfire behind s2sgw, for {leg.names}. Tested with Openfire 5.1.1 and a build of 5.2.0.
#
# 1. Services are domains of their own. List each one that peers may reach in gateway.domains, and in your certificate:
#    conference.DOMAIN, and pubsub., search. and proxy.DOMAIN if you offer them.
#
# 2. Trust. Without this nothing passes, in either direction. In Openfire's folder; the first line keeps the old store, so that
#    the CA of s2sgw is the only one ("changeit" is Openfire's default password):
#        mv resources/security/truststore resources/security/truststore.before-s2sgw
#        keytool -importcert -noprompt -alias s2sgw -file {leg.authority} \\
#            -keystore resources/security/truststore -storetype JKS -storepass changeit
#
# 3. The firewall. Openfire listens for peers on all interfaces, unless <network><interface> in conf/openfire.xml binds all its
#    ports to one address. Close port {leg.address.port} to everybody but this machine, or peers can connect past s2sgw.
#    With nftables, write this line into /etc/nftables.conf, directly below "type filter hook input ..." in the chain "input":
#        tcp dport {leg.address.port} iifname != lo drop
#    This command loads the file, now and at each start of the machine:
#        systemctl enable nftables && systemctl reload-or-restart nftables
#
# 4. These system properties (Server > Server Manager > System Properties). Then restart Openfire: it reads the first at its
#    start. No DNS view is needed.

# Every peer resolves to s2sgw, for streams and for dialback.
dnsutil.dnsOverride = {{*,{leg.listener}}}
# s2sgw connects to this port for all peers. Peers connect to s2sgw.
xmpp.server.socket.port = {leg.address.port}
# Without this Openfire accepts direct TLS from peers on port 5270, past s2sgw.
xmpp.server.socket.ssl.active = false
# Leave xmpp.server.dialback.enabled as it is (true), unless Openfire has a certificate of a public CA.
"""


#: server -> the function that makes its lines
SERVERS: dict[str, Callable[[BackendSettings], str]] = {
    "prosody": _prosody, "ejabberd": _ejabberd, "jabberd2": _jabberd2, "openfire": _openfire,
}  # fmt: skip


def _quoted(text: str) -> str:
    """Return a string for Lua or YAML, which both accept JSON's form of plain text."""
    return json.dumps(text, ensure_ascii=False)


def _lua(value: bool) -> str:
    return "true" if value else "false"


def _erlang_address(host: str) -> str:
    """Return {127,0,0,1}, or eight numbers for IPv6."""
    address = ipaddress.ip_address(host)
    step = 1 if address.version == 4 else 2
    parts = [int.from_bytes(address.packed[at:at + step], "big") for at in range(0, len(address.packed), step)]
    return "{" + ",".join(map(str, parts)) + "}"
