"""Whether the gateway could start: the configuration and the certificates that it names, all complaints at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from s2sgw.authentication.trust_files import read_anchors, read_revocations
from s2sgw.config import Config, ConfigError, load
from s2sgw.config.cross_checks import certificate_files
from s2sgw.config.errors import key_text
from s2sgw.net.certificates import CertificateDirectory, UnusableCertificate, read
from s2sgw.net.dns_upstream import system_servers
from s2sgw.policy.model import PeerObject
from s2sgw.runtime import deny_lists as denial


@dataclass(frozen=True, slots=True)
class CheckedConfiguration:
    """A configuration that can be started, its certificates, and what the operator should know of them all the same."""

    config: Config
    certificates: CertificateDirectory
    warnings: tuple[str, ...]


def check_configuration(path: Path) -> CheckedConfiguration:
    """Read all that a start would read, and open nothing; raises `ConfigError` with every complaint."""
    try:
        config = load(path, system_nameservers=system_servers())
    except ConfigError as error:
        if error.certificates is None:
            raise
        also = CertificateDirectory(error.certificates).complaints
        raise ConfigError(error.path, [*error.complaints, *(f"tls.certificates: {text}" for text in also)]) from None
    certificates = CertificateDirectory(config.tls.certificates)
    complaints = [f"tls.certificates: {text}" for text in certificates.complaints]
    if not complaints:
        complaints = [f"tls.certificates: {text}" for text in certificates.unserved(config.gateway.domains)]
    complaints += [f"tls.trust_anchors: {text}" for text in read_anchors(str(config.tls.trust_anchors)).complaints]
    for name, peer in config.peers.items():
        complaints += [f"{key_text(('peers', name))}.{text}" for text in _unusable(peer)]
    complaints += [f"policy.deny_lists: {text}" for text in denial.complaints(config.policy.deny_lists)]
    if complaints:
        raise ConfigError(config.path, complaints)
    return CheckedConfiguration(config, certificates, certificates.warnings)


def _unusable(peer: PeerObject) -> Iterator[str]:
    """What is wrong with the files that a peer object names."""
    if isinstance(peer.trust_anchors, Path):
        yield from (f"trust_anchors: {text}" for text in read_anchors(str(peer.trust_anchors)).complaints)
    if peer.crl is not None:
        yield from (f"crl: {text}" for text in read_revocations(peer.crl).complaints)
    if peer.certificate is not None:
        try:
            read(peer.certificate.name, *certificate_files(peer.certificate))
        except UnusableCertificate as problem:
            yield f"certificate: {problem}"
