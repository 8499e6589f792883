"""The sections of the configuration as models that do not change: every key, its type and its default.

Durations are in seconds, sizes in bytes, paths are absolute.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, model_validator

from s2sgw.config.password_hash import PasswordHash
from s2sgw.net.endpoint_strings import EndpointString
from s2sgw.policy.model import PeerObject, PeerPolicy
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.values import (
    AnchorsKey,
    Count,
    DomainKey,
    DomainName,
    Duration,
    FilePath,
    Flag,
    Hostname,
    HostPortKey,
    IPAddressKey,
    ListSource,
    Nameserver,
    NetworkKey,
    PeerName,
    Resume,
    RouteKey,
    Section,
    Share,
    Size,
    TLSVersion,
    ViewAddress,
    parse_duration,
    parse_host_port,
)
from s2sgw.spool.spool_file import Durability
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain

#: The name of the admin socket in the state directory.
ADMIN_SOCKET = "admin.sock"
#: Bytes of the peer database.
LEAST_PEER_RECORDS = 4 * 1024 * 1024
#: Seconds between two refreshes of a deny list.
LEAST_REFRESH = 60.0
#: The shortest and the longest time for a negotiation, in seconds.
LEAST_NEGOTIATION, MOST_NEGOTIATION = 5.0, 300.0


def parse_endpoint(value: object) -> str:
    """Check an endpoint string (`net.endpoint_strings`)."""
    if not isinstance(value, str):
        raise ValueError('must be an endpoint string such as "tcp:5269"')
    EndpointString.parse(value)
    return value


ListenEndpoint = Annotated[str, PlainValidator(parse_endpoint)]


class Gateway(Section):
    """`[gateway]`: the state directory and the local domains."""

    state: FilePath = Field(default=Path("state"), validate_default=True)
    domains: tuple[DomainName, ...] = Field(min_length=1)
    source_addresses: tuple[IPAddressKey, ...] = ()


class Listener(Section):
    """One `[[listen]]`: an endpoint for peers, with STARTTLS or direct TLS (XEP-0368)."""

    endpoint: ListenEndpoint = "tcp:5269"
    tls: Literal["starttls", "direct"] = "starttls"
    zero_handshake: Flag = False
    proxy_protocol: Flag = False
    trusted_proxies: tuple[NetworkKey, ...] = ()


class TLS(Section):
    """`[tls]`: our certificates, the trust anchors, and the lowest TLS version."""

    certificates: FilePath = Field(default=Path("certs"), validate_default=True)
    trust_anchors: AnchorsKey = "system"
    minimum: TLSVersion = "1.2"


class DNS(Section):
    """`[dns]`: the name servers, whether their AD flag is trusted, and static answers."""

    servers: tuple[Nameserver, ...] = ()
    trust_ad: Flag = False
    private_addresses: Literal["refuse", "allow"] = "refuse"
    #: "host:port" by A-labels
    static: dict[DomainKey, RouteKey] = {}


def parse_user(value: object) -> str:
    """Parse the name of a user of jabberd2's router."""
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]{1,64}", value) or "@" in value:
        raise ValueError('must be a name of printable ASCII without "@", such as "s2s"')
    return value


UserName = Annotated[str, PlainValidator(parse_user)]
#: Where jabberd2's router listens.
ROUTER_PORT = 5347


class Backend(Section):
    """One `[backend]`: the existing server, or the built-in echo backend.

    `domains` empty: all local domains, which requires that there is only one backend.
    """

    kind: Literal["s2s", "echo", "jabberd2-router"] = "s2s"
    domains: tuple[DomainName, ...] = ()
    address: HostPortKey = HostPort("127.0.0.1", 15269)
    #: with jabberd2's router: the name of our user, and the file with its secret
    user: UserName = "s2s"
    secret_file: FilePath | None = None
    listen: ListenEndpoint = "tcp:15270:interface=127.0.0.1"
    dns_view: ViewAddress | None = None
    #: who may ask the DNS view beside this machine
    dns_view_clients: tuple[NetworkKey, ...] = ()
    forward: tuple[Nameserver, ...] = ()
    target: Hostname = "localhost."
    tls: Literal["required", "optional", "never"] = "required"
    acks: Literal["auto", "sm", "ping", "tcp"] = "auto"
    #: the largest stanza that the server accepts; 0: as announced
    stanza_bytes: Annotated[Size, Field(ge=0)] = 0
    #: seconds for which a lost stream can be resumed
    resume: Resume = 120.0
    #: whether the server gets the peer's address by the PROXY protocol
    proxy_protocol: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _router_address(cls, written: Any) -> Any:
        """Set the default address for the kind of backend."""
        if isinstance(written, dict) and written.get("kind") == "jabberd2-router":
            return {"address": f"127.0.0.1:{ROUTER_PORT}", **written}
        return written


class Queue(Section):
    """`[queue]`: how long stanzas wait, how much may wait in memory and on disk, and when stanzas are written to disk.

    `disk` 0: never.
    """

    hold: Duration = 600.0
    iq_hold: Duration = 30.0
    window: Duration = 0.02
    memory: Size = 64 * 1024 * 1024
    disk: Size = 4 * 1024 * 1024 * 1024
    #: the part of `memory` and of `disk` for the stanzas from and to the peers of one registered domain
    share: Share = 0.25
    durability: Durability = "power-loss"
    #: the most streams that we open at once
    streams: Annotated[Count, Field(ge=1)] = 4000
    #: lanes that are loaded at a time after a start
    restore: Annotated[Count, Field(ge=1)] = 128


def parse_negotiation(value: object) -> float:
    """Parse how long a negotiation may take."""
    seconds = parse_duration(value)
    if not LEAST_NEGOTIATION <= seconds <= MOST_NEGOTIATION:
        raise ValueError('must be a duration from "5s" to "5m"')
    return seconds


NegotiationTime = Annotated[float, PlainValidator(parse_negotiation)]


class GatewayLimits(Section):
    """`[limits]`: limits that all peers share, in particular peers that have not authenticated."""

    #: accepted connections, in total and from one address; `unproven` is a share of them. 0: no limit
    connections: Annotated[Count, Field(ge=1)] = 20_000
    connections_per_address: Annotated[Count, Field(ge=0)] = 200
    unproven: Share = 0.25
    unproven_per_site: Annotated[Count, Field(ge=0)] = 100
    unproven_per_name: Annotated[Count, Field(ge=0)] = 50
    #: seconds from the connection to the authentication of a domain
    negotiation: NegotiationTime = 30.0
    #: DNS look-ups at once, half of them for unknown peers; look-ups per second for unknown peers at one address
    lookups: Annotated[Count, Field(ge=16)] = 256
    lookups_per_second: Annotated[Count, Field(ge=1)] = 100
    #: handshakes that we start at once: to backends, to peers, and to verify dialback keys, each this number
    handshakes: Annotated[Count, Field(ge=1)] = 256
    #: on one stream: `<db:result/>` per second (five times as many at once), and domains that it may send from
    claims_per_second: Annotated[Count, Field(ge=1)] = 10
    domains_per_stream: Annotated[Count, Field(ge=1)] = 64
    #: dialback keys that are verified at once, half of them for unknown peers
    verifications: Annotated[Count, Field(ge=16)] = 64
    #: POSH documents that are fetched at once, half of them for unknown peers
    posh_fetches: Annotated[Count, Field(ge=16)] = 32
    #: bytes of `peers.sqlite`
    peer_records: Annotated[Size, Field(ge=LEAST_PEER_RECORDS)] = 64 * 1024 * 1024
    #: 0: no limit
    log_lines_per_second: Annotated[Count, Field(ge=0)] = 100


def parse_console_user(value: object) -> str:
    """Check the name of a user of the console."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", value):
        raise ValueError('must be a name of letters, digits and ". _ @ -", such as "alice"')
    return value


def parse_password_hash(value: object) -> PasswordHash:
    """Parse the hash of a password."""
    return value if isinstance(value, PasswordHash) else PasswordHash.parse(value)


ConsoleUser = Annotated[str, PlainValidator(parse_console_user)]
ConsoleRole = Literal["read-only", "operator"]


class Console(Section):
    """`[console]`: the endpoint of the pages, the HTTP interface and /metrics. Without `listen` they are not served.

    `certificate`: NAME of NAME.crt and NAME.key, or of a folder. Without it only loopback is allowed. `hosts`: further
    names under which browsers reach it. A user without a role is read-only.
    """

    listen: ListenEndpoint | None = None
    certificate: FilePath | None = None
    hosts: tuple[Hostname, ...] = ()
    users: dict[ConsoleUser, Annotated[PasswordHash, PlainValidator(parse_password_hash)]] = {}
    roles: dict[ConsoleUser, ConsoleRole] = {}


def parse_group(value: object) -> str:
    """Parse the name of a group of users."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", value):
        raise ValueError('must be the name of a group, such as "s2sgw"')
    return value


GroupName = Annotated[str, PlainValidator(parse_group)]


class Admin(Section):
    """`[admin]`: the admin socket."""

    #: None: `admin.sock` in the state directory
    socket: FilePath | None = None
    #: the group of users that may read, and change nothing
    group: GroupName | None = None


#: The port of a NATS server.
ENGINE_PORT = 4222
#: The shortest and the longest lease and bridge, in seconds. A shorter lease ends while a heartbeat is a little late.
LEAST_LEASE, MOST_LEASE, MOST_BRIDGE = 2.0, 30.0, 120.0


def parse_node(value: object) -> str:
    """Parse the name of a node."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}", value):
        raise ValueError('must be a name of letters, digits and "-", such as "a"')
    return value


def parse_engine_server(value: object) -> str:
    """Return the URL of a server of the engine, with its port. It has no password: `credentials` has."""
    scheme, separator, place = value.partition("://") if isinstance(value, str) else ("", "", "")
    if scheme != "nats" or not separator or "@" in place:
        raise ValueError('must be a URL such as "nats://192.0.2.21:4222", without a user')
    return f"nats://{parse_host_port(place.removesuffix('/'), ENGINE_PORT)}"


def parse_lease(value: object) -> float:
    """Parse how long a node may write after a heartbeat."""
    seconds = parse_duration(value)
    if not LEAST_LEASE <= seconds <= MOST_LEASE:
        raise ValueError('must be a duration from "2s" to "30s"')
    return seconds


def parse_bridge(value: object) -> float:
    """Parse how long a node may write without the engine."""
    seconds = parse_duration(value)
    if seconds > MOST_BRIDGE:
        raise ValueError('must be a duration of up to "2m"')
    return seconds


NodeName = Annotated[str, PlainValidator(parse_node)]
EngineServer = Annotated[str, PlainValidator(parse_engine_server)]


class Cluster(Section):
    """`[cluster]`: several gateways that serve the same domains (docs/cluster.md). Without `node` this one is alone.

    `engine`: the servers of the shared store. `tls`: the authorities of their certificates; None: no TLS. `credentials`: a file
    with "user:password". `listen`: where other nodes connect, from the networks of `members`. `shared`: the folder of the files
    that are the same on all nodes. `new_homes`: the home records that this node makes in a day for new sub-domains of one
    registered domain.
    """

    node: NodeName | None = None
    engine: tuple[EngineServer, ...] = ()
    tls: AnchorsKey | None = None
    credentials: FilePath | None = None
    listen: ListenEndpoint | None = None
    members: tuple[NetworkKey, ...] = ()
    lease: Annotated[float, PlainValidator(parse_lease)] = 3.0
    bridge: Annotated[float, PlainValidator(parse_bridge)] = 15.0
    shared: FilePath | None = None
    new_homes: Annotated[Count, Field(ge=1)] = 1000


class Policy(Section):
    """`[policy]`: the peers that are allowed at all, in addition to the sections of peers."""

    deny_lists: tuple[ListSource, ...] = ()
    refresh: Annotated[Duration, Field(ge=LEAST_REFRESH)] = 3600.0
    allow_only_listed: Flag = False


class Log(Section):
    """`[log]`."""

    format: Literal["text", "json"] = "text"
    level: Literal["info", "debug", "warn", "error", "critical"] = "info"


class Config(Section):
    """The whole, valid configuration. `load` makes it."""

    path: Path
    gateway: Gateway
    listen: tuple[Listener, ...] = (Listener(),)
    tls: TLS
    dns: DNS = DNS()
    backends: tuple[Backend, ...] = Field(default=(Backend(),), alias="backend")
    queue: Queue = Queue()
    limits: GatewayLimits = GatewayLimits()
    console: Console = Console()
    admin: Admin = Admin()
    log: Log = Log()
    cluster: Cluster = Cluster()
    #: the sections of peers as written, by "default", A-labels, or "*." and A-labels
    peers: dict[PeerName, PeerObject] = {}
    policy: Policy = Policy()
    #: the system's name servers, which are used if `dns.servers` is empty
    system_nameservers: tuple[Nameserver, ...] = ()

    @property
    def admin_socket(self) -> Path:
        """Return the path of the admin socket."""
        return self.admin.socket or self.gateway.state / ADMIN_SOCKET

    @property
    def identity_folder(self) -> Path:
        """Return the folder of the secret and the authority of the gateway: of all nodes of a cluster, or of this one alone."""
        return self.cluster.shared or self.gateway.state

    @property
    def nameservers(self) -> tuple[str, ...]:
        """Return the name servers that the gateway queries."""
        return self.dns.servers or self.system_nameservers

    @cached_property
    def policies(self) -> PeerPolicies:
        """Return the policies of all peers. `[peers.default]` inherits from `[tls]` and `[queue]`."""
        base = PeerPolicy(minimum=self.tls.minimum, trust_anchors=self.tls.trust_anchors, hold=self.queue.hold)
        return PeerPolicies(self.peers, base, self.policy.allow_only_listed)

    def domains_of(self, backend: Backend) -> tuple[Domain, ...]:
        """Return the local domains that `backend` serves."""
        return backend.domains or self.gateway.domains

    def backend_for(self, local: Domain) -> Backend | None:
        """Return the backend that serves `local`; None: it is not a local domain."""
        return next((each for each in self.backends if local in self.domains_of(each)), None)
