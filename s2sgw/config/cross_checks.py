"""Checks that need several keys of the configuration, and checks of the files that it names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from s2sgw.config.errors import Complaint, KeyPath, key_text, suggest
from s2sgw.config.secret_file import read_secret
from s2sgw.config.sections import DNS, TLS, Admin, Backend, Cluster, Console, Gateway, Listener, Policy, Queue
from s2sgw.net.endpoint_strings import EVERY_ADDRESS, EndpointString
from s2sgw.policy.model import PeerObject, objects_with
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.values import parse_peer_name
from s2sgw.xmpp.host_port import HostPort, is_address, is_loopback
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.mechanisms import LEGACY

Complaints = Iterator[Complaint]
#: Keys that have no effect with a router instead of the server's own s2s.
_OF_S2S = {"listen", "dns_view", "dns_view_clients", "forward", "target", "tls", "proxy_protocol", "resume"}


def disagreements(
    sections: Mapping[str, Any], tree: Mapping[str, Any], system_nameservers: Sequence[str]
) -> list[Complaint]:
    """Return the errors that need more than one key. A check is made only if all of its sections are valid."""
    return _complaints(CHECKS, {**sections, "system": system_nameservers, "tree": tree})


def errors_in_parts(sections: Mapping[str, Any], tree: Mapping[str, Any]) -> list[Complaint]:
    """Return the errors that are seen also without some keys of a section: unusable files, names that are written twice."""
    return _complaints(CHECKS_OF_PARTS, {**sections, "tree": tree})


def _complaints(checks: Iterable[tuple[Any, ...]], known: Mapping[str, Any]) -> list[Complaint]:
    return [
        complaint
        for check, *needs in checks
        if all(name in known for name in needs)
        for complaint in check(*(known[name] for name in needs))
    ]


# --- domains and backends --------------------------------------------------------------------------------------------


def repeated_domains(gateway: Gateway) -> Complaints:
    for index, domain in enumerate(gateway.domains):
        if domain in gateway.domains[:index]:
            yield Complaint(("gateway", "domains", index), f'"{domain}" is listed twice')


def backend_domains(gateway: Gateway, backends: tuple[Backend, ...]) -> Complaints:
    """Yield local domains without exactly one backend, and domains of backends that are not local."""
    claimed: dict[object, int] = {}
    for index, backend in enumerate(backends):
        if not backend.domains and len(backends) > 1:
            yield Complaint(("backend", index, "domains"), "is missing: with several backends, each one must list its domains")
        for place, domain in enumerate(backend.domains):
            path = ("backend", index, "domains", place)
            if domain not in gateway.domains:
                suggestion = suggest(domain.text, (each.text for each in gateway.domains))
                yield Complaint(path, f'"{domain}" is not among gateway.domains; {suggestion}')
            elif claimed.setdefault(domain, index) != index:
                yield Complaint(path, f'"{domain}" is served by backend[{claimed[domain]}] already')
    if all(backend.domains for backend in backends):
        for place, domain in enumerate(gateway.domains):
            if domain not in claimed and domain not in gateway.domains[:place]:
                yield Complaint(("gateway", "domains", place), f'no backend serves "{domain}"')


def echo_keys(backends: tuple[Backend, ...]) -> Complaints:
    """Yield keys that have no effect for the built-in echo backend, which connects to nothing."""
    for index, backend in enumerate(backends):
        if backend.kind == "echo":
            for key in sorted(backend.model_fields_set - {"kind", "domains"}):
                yield Complaint(("backend", index, key), 'has no effect for a backend of kind "echo"')


def router_keys(backends: tuple[Backend, ...]) -> Complaints:
    """Yield keys that a jabberd2 router requires, and keys that have no effect for it."""
    for index, backend in enumerate(backends):
        path = ("backend", index)
        if backend.kind != "jabberd2-router":
            if backend.kind == "s2s":
                for key in sorted(backend.model_fields_set & {"user", "secret_file"}):
                    yield Complaint((*path, key), 'has an effect only for a backend of kind "jabberd2-router"')
            continue
        for key in sorted(backend.model_fields_set & _OF_S2S):
            yield Complaint((*path, key), 'has no effect for a backend of kind "jabberd2-router"')
        if backend.acks == "sm":
            yield Complaint((*path, "acks"), 'must be "ping" or "tcp": jabberd2\'s router does not speak XEP-0198')
        if backend.secret_file is None:
            text = "is missing: the file with the user's secret in jabberd2's router-users.xml"
            yield Complaint((*path, "secret_file"), text)
        if not _is_loopback(backend.address.host):
            yield Complaint((*path, "address"), "must be on loopback: the connection to jabberd2's router is not encrypted")


def shared_routers(backends: tuple[Backend, ...]) -> Complaints:
    """Yield routers that are used twice: a router has one default route."""
    taken: dict[HostPort, int] = {}
    for index, backend in enumerate(backends):
        if backend.kind == "jabberd2-router" and taken.setdefault(backend.address, index) != index:
            text = f"is already the router of backend[{taken[backend.address]}]: give all of its domains to one backend"
            yield Complaint(("backend", index, "address"), text)


def view_keys(backends: tuple[Backend, ...]) -> Complaints:
    for index, backend in enumerate(backends):
        if backend.kind == "s2s" and backend.dns_view is None:
            for key in sorted(backend.model_fields_set & {"dns_view_clients", "forward", "target"}):
                yield Complaint(("backend", index, key), "has no effect without dns_view")
        elif backend.dns_view is not None and not backend.dns_view.is_loopback and not backend.dns_view_clients:
            text = 'must be a loopback address such as "127.53.0.1:53", unless dns_view_clients lists who may ask'
            yield Complaint(("backend", index, "dns_view"), text)
        elif backend.dns_view is not None and backend.dns_view.is_loopback and backend.dns_view_clients:
            yield Complaint(("backend", index, "dns_view_clients"), "has no effect with dns_view on a loopback address")


# --- listeners -------------------------------------------------------------------------------------------------------


def shared_listeners(
    listen: tuple[Listener, ...], backends: tuple[Backend, ...], console: Console, cluster: Cluster,
) -> Complaints:
    """Yield listeners on an endpoint that another one uses."""
    taken: list[tuple[KeyPath, str]] = []
    nodes: list[tuple[KeyPath, str]] = [] if cluster.listen is None else [(("cluster", "listen"), cluster.listen)]
    for path, endpoint in _listeners(listen, backends) + _pages(console) + nodes:
        for other, theirs in taken:
            if _collide(endpoint, theirs):
                yield Complaint(path, f"uses the same address and port as {key_text(other)} ({theirs})")
                break
        taken.append((path, endpoint))


def proxies(listen: tuple[Listener, ...]) -> Complaints:
    """Yield listeners with the PROXY protocol whose proxies are not listed. A client could choose its own address there."""
    for index, each in enumerate(listen):
        if each.proxy_protocol and not each.trusted_proxies:
            text = "needs trusted_proxies: the addresses of the proxies that may connect here"
            yield Complaint(("listen", index, "proxy_protocol"), text)
        if each.trusted_proxies and not each.proxy_protocol:
            yield Complaint(("listen", index, "trusted_proxies"), "has no effect without proxy_protocol = true")


def shared_views(backends: tuple[Backend, ...]) -> Complaints:
    taken: dict[HostPort, int] = {}
    for index, backend in enumerate(backends):
        if backend.dns_view and taken.setdefault(backend.dns_view, index) != index:
            yield Complaint(("backend", index, "dns_view"), f"is already used by backend[{taken[backend.dns_view]}]")


def own_listener(listen: tuple[Listener, ...], backends: tuple[Backend, ...]) -> Complaints:
    """Yield backends whose address is the gateway itself."""
    for index, backend in enumerate(backends):
        if backend.kind != "echo":
            for path, endpoint in _listeners(listen, backends):
                if _leads_to(backend.address, endpoint):
                    yield Complaint(("backend", index, "address"), f"is an address of the gateway itself ({key_text(path)})")


def _listeners(listen: tuple[Listener, ...], backends: tuple[Backend, ...]) -> list[tuple[KeyPath, str]]:
    outer: list[tuple[KeyPath, str]] = [(("listen", index, "endpoint"), each.endpoint) for index, each in enumerate(listen)]
    inner = [(("backend", index, "listen"), each.listen) for index, each in enumerate(backends) if each.kind == "s2s"]
    return [*outer, *inner]


def _pages(console: Console) -> list[tuple[KeyPath, str]]:
    return [] if console.listen is None else [(("console", "listen"), console.listen)]


def console_access(console: Console) -> Complaints:
    """Without TLS passwords and sessions stay on this machine; roles are of users."""
    if console.listen is not None and console.certificate is None and not _stays_here(console.listen):
        text = "may be reached from other machines, and then needs console.certificate: "
        yield Complaint(("console", "listen"), text + 'set it, or listen on loopback ("tcp:8269:interface=127.0.0.1")')
    for name in console.roles:
        if name not in console.users:
            suggestion = suggest(name, console.users)
            yield Complaint(("console", "roles", name), f"is no name among console.users; {suggestion}")


def _stays_here(endpoint: str) -> bool:
    place = EndpointString.parse(endpoint)
    return place.kind == "unix" or (place.port is not None and _is_loopback(place.interface))


def console_files(console: Console) -> Complaints:
    if console.certificate is not None:
        for path in certificate_files(console.certificate):
            yield from _readable(("console", "certificate"), path)


def _collide(one: str, other: str) -> bool:
    ours, theirs = EndpointString.parse(one), EndpointString.parse(other)
    if ours.port is None or theirs.port is None:
        return one == other
    if ours.port != theirs.port or not ours.port or not ours.families & theirs.families:
        return False
    return ours.interface == theirs.interface or ours.interface in EVERY_ADDRESS or theirs.interface in EVERY_ADDRESS


def _leads_to(address: HostPort, endpoint: str) -> bool:
    place = tcp_place(endpoint)
    if place is None or place[1] != address.port:
        return False
    return place[0] == address.host or (place[0] in EVERY_ADDRESS and _is_loopback(address.host))


def tcp_place(endpoint: str) -> tuple[str, int] | None:
    """Return the interface ("" for all) and the port of a TCP endpoint string; None for another kind."""
    found = EndpointString.parse(endpoint)
    return None if found.port is None else (found.interface, found.port)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or is_loopback(host)


# --- name servers ----------------------------------------------------------------------------------------------------


def view_asked(dns: DNS, backends: tuple[Backend, ...], system: Sequence[str]) -> Complaints:
    """Yield name servers that are a DNS view of the gateway itself."""
    for index, view in enumerate(_views(backends)):
        for place, server in enumerate(dns.servers):
            if server == view:
                yield Complaint(("dns", "servers", place), f"is backend[{index}].dns_view: the gateway would query itself")
        if not dns.servers and view in system:
            yield Complaint(
                ("backend", index, "dns_view"),
                f"{view} is also the system's name server, so the gateway would query itself: "
                "set dns.servers to other name servers, or use the view only for your server",
            )


def view_forwarding(backends: tuple[Backend, ...]) -> Complaints:
    views = _views(backends)
    for index, backend in enumerate(backends):
        for place, server in enumerate(backend.forward):
            if server in views:
                yield Complaint(("backend", index, "forward", place), "is a dns_view of the gateway: it would query itself")


def _views(backends: tuple[Backend, ...]) -> list[str | None]:
    return [str(each.dns_view) if each.dns_view else None for each in backends]


# --- peers -----------------------------------------------------------------------------------------------------------


def local_peers(gateway: Gateway, peers: Mapping[str, PeerObject]) -> Complaints:
    for domain in gateway.domains:
        if domain.ascii in peers:
            yield Complaint(("peers", domain.ascii), "is one of gateway.domains; a local domain is not a peer")


def repeated_peers(peers: Mapping[str, PeerObject], tree: Mapping[str, Any]) -> Complaints:
    yield from _same_names(("peers",), tree.get("peers", {}), len(peers))


def repeated_answers(dns: DNS, tree: Mapping[str, Any]) -> Complaints:
    yield from _same_names(("dns", "static"), tree.get("dns", {}).get("static", {}), len(dns.static))


def _same_names(path: KeyPath, written: object, distinct: int) -> Complaints:
    first: dict[str, str] = {}
    for name in written if isinstance(written, Mapping) and len(written) != distinct else ():
        with suppress(ValueError):
            spelling = first.setdefault(parse_peer_name(name), name)
            if spelling != name:
                yield Complaint((*path, name), f'is the same domain as "{spelling}"')


#: The maximum number of peers with a zero handshake: each connection there is compared with each of them.
AGREED_PEERS = 64


def zero_handshakes(listen: tuple[Listener, ...], peers: Mapping[str, PeerObject]) -> Complaints:
    """Check what both servers must have agreed upon where nothing is negotiated (XEP-0361)."""
    policies = PeerPolicies(peers)
    for index, each in enumerate(listen):
        if each.zero_handshake and each.tls != "direct":
            yield Complaint(("listen", index, "zero_handshake"), 'needs tls = "direct": TLS and a pinned key are the proof')
    agreed = [name for name, peer in objects_with(peers, "zero_handshake") if peer.zero_handshake]
    for name in agreed:
        key = ("peers", name, "zero_handshake")
        if name == "default" or name.startswith("*."):
            yield Complaint(key, "is agreed with single peers, which an object names")
            continue
        policy = policies.policy(Domain.parse(name))
        if policy.route is None:
            yield Complaint(key, "needs route: where the peer takes streams without handshake")
        if policy.proofs != ("pin",) or not policy.pins:
            yield Complaint(key, 'needs pins, and proofs = ["pin"]: a pinned key is the proof')
        if policy.dialback != "never":
            yield Complaint(key, 'needs dialback = "never": nothing is negotiated')
    if len(agreed) > AGREED_PEERS:
        yield Complaint(("peers",), f"zero_handshake is agreed with at most {AGREED_PEERS} peers")


def unread_pins(peers: Mapping[str, PeerObject]) -> Complaints:
    policies = PeerPolicies(peers)
    for name, peer in objects_with(peers, "pins"):
        if peer.pins and "pin" not in policies.value(name, "proofs"):
            yield Complaint(("peers", name, "pins"), 'have no effect: "pin" is not in proofs')


# --- cluster ---------------------------------------------------------------------------------------------------------

#: The keys that a cluster requires.
_OF_CLUSTER = ("node", "engine", "listen", "members", "shared")


def cluster_keys(cluster: Cluster, tree: Mapping[str, Any]) -> Complaints:
    """Yield keys that are missing, and servers that are listed twice."""
    for key in _OF_CLUSTER if "cluster" in tree else ():
        if not getattr(cluster, key):
            yield Complaint(("cluster", key), "is missing")
    for place, server in enumerate(cluster.engine):
        if server in cluster.engine[:place]:
            yield Complaint(("cluster", "engine", place), f"{server} is listed twice")
    if cluster.bridge < cluster.lease:
        yield Complaint(("cluster", "bridge"), "must be at least cluster.lease")


def node_listener(cluster: Cluster) -> Complaints:
    """Check that the listener for nodes is an address of this machine alone, by which other nodes reach it."""
    place = None if cluster.listen is None else tcp_place(cluster.listen)
    if cluster.listen is None:
        return
    path = ("cluster", "listen")
    if place is None or not place[1]:
        yield Complaint(path, 'must be a TCP port on an IP address, such as "tcp:5271:interface=192.0.2.11"')
    elif not is_address(place[0]) or place[0] in EVERY_ADDRESS:
        yield Complaint(path, 'needs the IP address of this node, by which others reach it: "tcp:5271:interface=192.0.2.11"')
    elif _is_loopback(place[0]) and not all(network.is_loopback for network in cluster.members):
        yield Complaint(path, "is on loopback, which nodes on other machines (cluster.members) cannot reach")


#: A port of a cluster that only one process may have, and why.
_OWN_PORTS = "cannot share its port: other processes would get a part of its connections"


def reused_ports(listen: tuple[Listener, ...], backends: tuple[Backend, ...], console: Console, cluster: Cluster) -> Complaints:
    """Yield endpoints with reuseport where another process could not do what this one does."""
    direct = {("listen", index, "endpoint") for index, each in enumerate(listen) if each.tls == "direct"}
    own = _pages(console) + ([] if cluster.listen is None else [(("cluster", "listen"), cluster.listen)])
    for path, endpoint in _listeners(listen, backends) + own:
        if not EndpointString.parse(endpoint).reuses_port:
            continue
        if (path, endpoint) in own:
            yield Complaint(path, _OWN_PORTS)
        elif cluster.node is None:
            text = "reuseport is for nodes of one cluster on one machine. Without [cluster] two gateways on one port would take "
            yield Complaint(path, f"{text}connections from each other: leave it out")
        elif path in direct:
            text = "reuseport is for STARTTLS: a connection that begins with TLS cannot be handed on to the home of its peer. "
            yield Complaint(path, f"{text}Give each node another port for direct TLS")


def cluster_backends(cluster: Cluster, backends: tuple[Backend, ...]) -> Complaints:
    """Yield backends that several nodes cannot share."""
    for index, backend in enumerate(backends):
        if cluster.node is not None and backend.kind == "jabberd2-router":
            text = 'cannot be "jabberd2-router" in a cluster: nodes cannot share its one connection for all peers'
            yield Complaint(("backend", index, "kind"), text)


def cluster_queue(cluster: Cluster, queue: Queue) -> Complaints:
    if cluster.node is not None and not queue.disk:
        yield Complaint(("queue", "disk"), "must not be 0 in a cluster: it is the room for stanzas in the engine")


def cluster_files(cluster: Cluster) -> Complaints:
    if cluster.tls is not None:
        yield from _anchors(("cluster", "tls"), cluster.tls)
    if cluster.credentials is not None:
        yield from _secret(("cluster", "credentials"), cluster.credentials)


#: The files that are the same on all nodes: the secret of dialback keys, and the authority that the servers behind them trust.
SHARED_SECRET, SHARED_AUTHORITY = "secret", ("backend-ca.pem", "backend-ca.key")
_COPY_SHARED = "copy it from the state directory of a gateway that ran without [cluster] (docs/cluster.md, Set it up)"


def shared_files(cluster: Cluster, backends: tuple[Backend, ...]) -> Complaints:
    """Yield files that are missing in the folder that all nodes share. They are never made there."""
    if cluster.shared is None:
        return
    path = ("cluster", "shared")
    unusable = list(_folder(path, cluster.shared))
    yield from unusable
    if unusable:
        return
    needed = [SHARED_SECRET, *(SHARED_AUTHORITY if any(each.kind == "s2s" for each in backends) else ())]
    for name in needed:
        for complaint in _readable(path, cluster.shared / name):
            yield Complaint(path, f"{complaint.text}: {_COPY_SHARED}")


# --- files -----------------------------------------------------------------------------------------------------------


def state_directory(gateway: Gateway) -> Complaints:
    state = gateway.state
    if os.path.exists(state) and not os.path.isdir(state):
        yield Complaint(("gateway", "state"), f"{state} is not a directory")
        return
    nearest = next(each for each in (state, *state.parents) if os.path.exists(each))
    if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK | os.X_OK):
        yield Complaint(("gateway", "state"), f"{state} is not writable: no permission on {nearest}")


def admin_group(gateway: Gateway, admin: Admin) -> Complaints:
    """Yield a group that cannot reach the socket."""
    if admin.group is not None and (admin.socket is None or gateway.state in admin.socket.parents):
        yield Complaint(("admin", "group"), "has no effect: nobody else can enter the state directory; set admin.socket")


#: systemd makes folders here for a service (`RuntimeDirectory=`), before it starts.
_RUN = (Path("/run"), Path("/var/run"))


def socket_folder(gateway: Gateway, admin: Admin) -> Path | None:
    """Return the folder in which the gateway must be able to write for its admin socket.

    None: the socket is below the state directory, or systemd makes the folder.
    """
    if admin.socket is None or gateway.state in admin.socket.parents:
        return None
    folder = admin.socket.parent
    if os.path.exists(folder):
        return folder
    return None if any(run in folder.parents for run in _RUN) else folder.parent  # the gateway makes one folder, no more


def admin_socket(gateway: Gateway, admin: Admin) -> Complaints:
    """Yield a folder in which the gateway cannot make its socket."""
    folder, key = socket_folder(gateway, admin), ("admin", "socket")
    if folder is None:
        return
    if not os.path.isdir(folder):
        yield Complaint(key, f"{folder} is not a directory" if os.path.exists(folder) else f"{folder} does not exist")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Complaint(key, f"the socket cannot be made: no permission on {folder}")


def tls_files(tls: TLS) -> Complaints:
    unusable = list(_folder(("tls", "certificates"), tls.certificates))
    yield from unusable
    if not unusable and not os.access(tls.certificates, os.R_OK | os.X_OK):
        yield Complaint(("tls", "certificates"), f"{tls.certificates} cannot be read")
    yield from _anchors(("tls", "trust_anchors"), tls.trust_anchors)


def peer_files(peers: Mapping[str, PeerObject]) -> Complaints:
    for name, peer in objects_with(peers, "trust_anchors", "crl", "secret_file", "sasl", "certificate"):
        yield from _anchors(("peers", name, "trust_anchors"), peer.trust_anchors)
        if peer.crl is not None:
            yield from _readable(("peers", name, "crl"), peer.crl)
        if peer.secret_file is not None:
            yield from _secret(("peers", name, "secret_file"), peer.secret_file)
            if name == "default":
                text = "cannot be shared with all peers: set it for one peer or for the subdomains of a domain"
                yield Complaint(("peers", name, "secret_file"), text)
        if peer.sasl is not None and LEGACY in peer.sasl:
            yield from _legacy(name, peer)
        if peer.certificate is not None:
            for path in certificate_files(peer.certificate):
                yield from _readable(("peers", name, "certificate"), path)


def _legacy(name: str, peer: PeerObject) -> Complaints:
    if name == "default":
        yield Complaint(("peers", name, "sasl"), f"{LEGACY} is for single peers, and not for all")
    elif peer.secret_file is None:
        yield Complaint(("peers", name, "sasl"), f"{LEGACY} needs secret_file in the same object")


def _secret(key: KeyPath, path: Path) -> Complaints:
    unreadable = list(_readable(key, path))
    yield from unreadable
    if not unreadable:
        try:
            read_secret(path)
        except (OSError, ValueError) as error:
            yield Complaint(key, f"{path} is not a usable secret file: it {error}")


def backend_files(backends: tuple[Backend, ...]) -> Complaints:
    for index, backend in enumerate(backends):
        if backend.secret_file is not None:
            yield from _secret(("backend", index, "secret_file"), backend.secret_file)


def list_files(policy: Policy) -> Complaints:
    for place, source in enumerate(policy.deny_lists):
        if isinstance(source, Path):
            yield from _readable(("policy", "deny_lists", place), source)
        if source in policy.deny_lists[:place]:
            yield Complaint(("policy", "deny_lists", place), f"{source} is listed twice")


def certificate_files(name: Path) -> tuple[Path, Path]:
    """Return the files of the chain and the key: NAME/fullchain.pem and privkey.pem, or NAME.crt and NAME.key."""
    if os.path.isdir(name):
        return name / "fullchain.pem", name / "privkey.pem"
    chain = name if name.suffix == ".crt" else name.with_name(name.name + ".crt")
    return chain, chain.with_suffix(".key")


def _anchors(path: KeyPath, anchors: object) -> Complaints:
    if isinstance(anchors, Path):
        yield from _readable(path, anchors)


def _readable(path: KeyPath, file: Path) -> Complaints:
    found = _found(file)
    if found is None:
        yield Complaint(path, f"{file} does not exist")
    elif isinstance(found, OSError):
        yield Complaint(path, f"{file} cannot be read: {found.strerror}")
    elif not os.access(file, os.R_OK):
        yield Complaint(path, f"{file} cannot be read")


def _folder(path: KeyPath, folder: Path) -> Complaints:
    found = _found(folder)
    if isinstance(found, OSError):
        yield Complaint(path, f"{folder} cannot be read: {found.strerror}")
    elif not os.path.isdir(folder):
        yield Complaint(path, f"{folder} is not a directory")


def _found(file: Path) -> os.stat_result | OSError | None:
    """Return what is there; None: nothing; an error: that cannot be told, because a folder above it may not be entered."""
    try:
        return os.stat(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a NUL in the name is a `ValueError`
        return None
    except OSError as error:
        return error


#: each check, and the sections that it needs
CHECKS: tuple[tuple[Any, ...], ...] = (
    (backend_domains, "gateway", "backend"),
    (echo_keys, "backend"),
    (router_keys, "backend"),
    (shared_routers, "backend"),
    (view_keys, "backend"),
    (shared_listeners, "listen", "backend", "console", "cluster"),
    (console_access, "console"),
    (proxies, "listen"),
    (shared_views, "backend"),
    (own_listener, "listen", "backend"),
    (view_asked, "dns", "backend", "system"),
    (view_forwarding, "backend"),
    (local_peers, "gateway", "peers"),
    (unread_pins, "peers"),
    (zero_handshakes, "listen", "peers"),
    (admin_group, "gateway", "admin"),
    (admin_socket, "gateway", "admin"),
    (cluster_keys, "cluster", "tree"),
    (node_listener, "cluster"),
    (reused_ports, "listen", "backend", "console", "cluster"),
    (cluster_backends, "cluster", "backend"),
    (cluster_queue, "cluster", "queue"),
)
CHECKS_OF_PARTS: tuple[tuple[Any, ...], ...] = (
    (repeated_domains, "gateway"),
    (repeated_peers, "peers", "tree"),
    (repeated_answers, "dns", "tree"),
    (state_directory, "gateway"),
    (tls_files, "tls"),
    (backend_files, "backend"),
    (console_files, "console"),
    (peer_files, "peers"),
    (list_files, "policy"),
    (cluster_files, "cluster"),
    (shared_files, "cluster", "backend"),
)
