"""The check before a start: the configuration and the certificates that it names, with all errors at once."""

from __future__ import annotations

import grp
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

from s2sgw.authentication.trust_files import FileContents, read_anchors, read_revocations
from s2sgw.config import Config, ConfigError, load
from s2sgw.config.cross_checks import SHARED_SECRET, certificate_files
from s2sgw.config.errors import key_text
from s2sgw.net.certificates import CertificateDirectory, Credential, UnusableCertificate, read
from s2sgw.net.dns_upstream import system_servers
from s2sgw.net.endpoint_strings import EndpointString
from s2sgw.policy.model import PeerObject, PeerPolicy, objects_with
from s2sgw.policy.peers import DEFAULT
from s2sgw.runtime import deny_lists as denial
from s2sgw.runtime.own_certificates import WARNING_DAYS, chain_fault, ends_in
from s2sgw.runtime.state_directory import existing_secret
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.revocation import RevocationLists
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.mechanisms import LEGACY

#: The warning time before the expiry of a certificate of ours.
EXPIRY_WARNING = timedelta(days=WARNING_DAYS[0])

#: Servers of the engine: one of them may fail.
ENGINE_SERVERS = 3


@dataclass(frozen=True, slots=True)
class CheckedConfiguration:
    """A configuration that can be started, its certificates, and warnings for the operator."""

    config: Config
    certificates: CertificateDirectory
    warnings: tuple[str, ...]
    #: the revocation lists of the peers, by the path that names them; reading them takes long
    revocations: Mapping[Path, FileContents[RevocationLists]] = field(default_factory=dict)
    #: the files of trust anchors that the configuration names
    anchors: frozenset[Path] = frozenset()
    #: the certificates of `[peers."…"] certificate`, by the path that names them
    special_certificates: Mapping[Path, Credential] = field(default_factory=dict)


def check_configuration(path: Path) -> CheckedConfiguration:
    """Read all that a start would read, and open nothing. Raises `ConfigError` with every error."""
    try:
        config = load(path, system_nameservers=system_servers())
    except ConfigError as error:
        if error.certificates is None:
            raise
        found = CertificateDirectory(error.certificates)
        also = found.complaints or found.unserved(error.domains)
        raise ConfigError(error.path, [*error.complaints, *(f"tls.certificates: {text}" for text in also)]) from None
    certificates = CertificateDirectory(config.tls.certificates)
    complaints = [f"tls.certificates: {text}" for text in certificates.complaints]
    if not complaints:
        complaints = [f"tls.certificates: {text}" for text in certificates.unserved(config.gateway.domains)]
    anchors = read_anchors(str(config.tls.trust_anchors))
    complaints += [f"tls.trust_anchors: {text}" for text in anchors.complaints]
    revocations: dict[Path, FileContents[RevocationLists]] = {}
    special: dict[Path, Credential] = {}
    named: list[object] = [config.tls.trust_anchors]
    for name, peer in objects_with(config.peers, "trust_anchors", "crl", "certificate"):
        complaints += [f"{key_text(('peers', name))}.{text}" for text in _unusable(peer, revocations, special)]
        named.append(peer.trust_anchors)
    complaints += [f"console.certificate: {text}" for text in _unusable_certificate(config.console.certificate)]
    complaints += [f"admin.group: {text}" for text in _missing_group(config.admin.group)]
    complaints += _missing_client(config)
    complaints += [f"policy.deny_lists: {text}" for text in denial.complaints(config.policy.deny_lists)]
    if complaints:
        raise ConfigError(config.path, complaints)
    used = (*certificates.credentials, *special.values())
    warnings = [*certificates.warnings, *_certificate_warnings(used, anchors, datetime.now(UTC))]
    warnings += [*_policy_warnings(config), *_listener_warnings(config, reaches_ipv6()), *_cluster_warnings(config)]
    files = frozenset(each for each in named if isinstance(each, Path))
    return CheckedConfiguration(config, certificates, tuple(warnings), revocations, files, special)


def reaches_ipv6(addresses: Path = Path("/proc/net/if_inet6")) -> bool:
    """Return whether this host has a global IPv6 address, by the kernel's list of `addresses` (Linux)."""
    try:
        rows = addresses.read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    # address, interface, prefix length, scope (00: global), flags, name; fc00::/7 is not reached from outside
    return any(row.split()[3] == "00" and not row.startswith(("fc", "fd")) for row in rows if len(row.split()) > 3)


def _listener_warnings(config: Config, ipv6: bool) -> Iterator[str]:
    places = [EndpointString.parse(each.endpoint) for each in config.listen]
    if ipv6 and all(place.families == {4} for place in places):
        yield (
            "listen: this host has IPv6, and no listener is on it: peers that find an AAAA record of it cannot connect. "
            'Write endpoint = "tcp:5269" for both families'
        )


def _missing_client(config: Config) -> Iterator[str]:
    """Yield that the client of the engine is not installed, and what is wrong with the secret that all nodes share."""
    if config.cluster.node is None:
        return
    if find_spec("nats") is None:
        yield 'cluster: the client of the engine is not installed: pip install "s2sgw[cluster]"'
    assert config.cluster.shared is not None
    try:
        existing_secret(config.cluster.shared / SHARED_SECRET, "copy it from another node")
    except (OSError, ValueError) as error:
        yield f"cluster.shared: {error}"


def _cluster_warnings(config: Config) -> Iterator[str]:
    cluster = config.cluster
    if cluster.node is None:
        return
    if len(cluster.engine) < ENGINE_SERVERS:
        yield f"cluster.engine: with fewer than {ENGINE_SERVERS} servers nothing survives the loss of one"
    if cluster.tls is None and not all(HostPort.parse(each.partition("//")[2], 0).is_loopback for each in cluster.engine):
        yield "cluster.tls: stanzas go to the engine in clear, through the network"
    if (config.gateway.state / "spool.db").exists():
        yield (
            f"{config.gateway.state / 'spool.db'}: a node of a cluster does not read it. To deliver what is in it, "
            "start the gateway without [cluster] first. Then remove it"
        )
    yield "cluster.engine: its servers need `sync_interval: always`. The gateway cannot see this setting"


def _certificate_warnings(certificates: Iterable[Credential], anchors: Anchors, at: datetime) -> Iterator[str]:
    """Yield what peers will object to in our certificates that can be used."""
    for credential in certificates:
        where = f"certificate {credential.name}"
        left = credential.not_after - at
        if timedelta(0) < left <= EXPIRY_WARNING:
            yield f"{where}: {ends_in(left.days)}, on {credential.not_after:%Y-%m-%d %H:%M} UTC"
        fault = chain_fault(credential, anchors)
        if fault:
            yield f"{where}: {fault}"


def _policy_warnings(config: Config) -> Iterator[str]:
    """Yield settings that have no effect, those that leave a peer no way to connect, and those that are weak."""
    if config.policy.allow_only_listed and not set(config.peers) - {DEFAULT}:
        yield "policy.allow_only_listed: no section of [peers] names a peer, so all are refused"
    for name, peer in objects_with(config.peers, "sasl", "tls", "proxy_lookup", "proofs"):
        if peer.sasl is not None and LEGACY in peer.sasl:
            yield (
                f'{key_text(("peers", name, "sasl"))}: {LEGACY} is historic and weak (RFC 6331). '
                "It is used last, and only under TLS. Remove it as soon as the peer supports another mechanism"
            )
        if peer.tls != "optional" and peer.sasl is None and peer.proxy_lookup != "local" and peer.proofs != ():
            continue
        example = "any.invalid" if name == "default" else name.replace("*", "any", 1)  # a peer that the section applies to
        policy = config.policies.policy(Domain.parse(example))
        if policy.allow and not policy.proofs and _proves_nothing_else(policy):
            yield f'{key_text(("peers", name, "proofs"))}: nothing proves a peer here, so all are refused; write allow = false'
        if peer.sasl is not None and policy.allow and "EXTERNAL" not in policy.sasl and policy.secret_file is None:
            left = "no peer here can authenticate" if policy.dialback == "never" else "only dialback is left"
            yield f'{key_text(("peers", name, "sasl"))}: all of these mechanisms need secret_file, and there is none: {left}'
        if peer.proxy_lookup == "local" and policy.proxy == "none":
            yield f'{key_text(("peers", name, "proxy_lookup"))}: has no effect without a proxy'
        if peer.tls == "optional" and policy.encryption != "optional":
            yield f'{key_text(("peers", name, "tls"))}: "optional" has no effect unless dialback is "always"'


def _proves_nothing_else(policy: PeerPolicy) -> bool:
    """Return whether a peer with this policy can prove itself by `proofs` alone."""
    return policy.dialback == "never" and policy.unknown_issuer == "reject" and policy.secret_file is None


def _unusable(
    peer: PeerObject, revocations: dict[Path, FileContents[RevocationLists]], special: dict[Path, Credential],
) -> Iterator[str]:
    """Yield the faults of the files that a peer section names. Revocation lists and certificates that were read are added."""
    if isinstance(peer.trust_anchors, Path):
        yield from (f"trust_anchors: {text}" for text in read_anchors(str(peer.trust_anchors)).complaints)
    if peer.crl is not None:
        try:
            if peer.crl not in revocations:
                revocations[peer.crl] = read_revocations(peer.crl)
            yield from (f"crl: {text}" for text in revocations[peer.crl].value.complaints)
        except OSError as error:
            yield f"crl: {error.filename} cannot be read: {error.strerror}"
    if peer.certificate is not None and peer.certificate not in special:
        try:
            special[peer.certificate] = read(peer.certificate.name, *certificate_files(peer.certificate))
        except UnusableCertificate as problem:
            yield f"certificate: {problem}"


def _missing_group(name: str | None) -> Iterator[str]:
    if name is not None:
        try:
            grp.getgrnam(name)
        except KeyError:
            yield f"there is no group {name}: create it (systemd-sysusers, or `groupadd --system {name}`), or remove the key"


def _unusable_certificate(path: Path | None) -> Iterator[str]:
    """Yield the faults of a certificate and its key, if there is one."""
    if path is not None:
        try:
            read(path.name, *certificate_files(path))
        except UnusableCertificate as problem:
            yield str(problem)
