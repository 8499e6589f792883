"""Whether the gateway could start: the configuration and the certificates that it names, all complaints at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from s2sgw.config import Config, ConfigError, load
from s2sgw.gateway.state import read_anchors
from s2sgw.net.certificates import CertificateDirectory
from s2sgw.net.nameserver import system_servers


@dataclass(frozen=True, slots=True)
class Readiness:
    """A configuration that can be started, its certificates, and what the operator should know of them all the same."""

    config: Config
    certificates: CertificateDirectory
    warnings: tuple[str, ...]


def inspect(path: Path) -> Readiness:
    """Read all that a start would read, and open nothing; raises `ConfigError` with every complaint."""
    config = load(path, system_nameservers=system_servers())
    certificates = CertificateDirectory(config.tls.certificates)
    complaints = [f"tls.certificates: {text}" for text in certificates.complaints]
    if not complaints:
        complaints = [f"tls.certificates: {text}" for text in certificates.unserved(config.gateway.domains)]
    complaints += [f"tls.trust_anchors: {text}" for text in read_anchors(str(config.tls.trust_anchors)).complaints]
    if complaints:
        raise ConfigError(config.path, complaints)
    return Readiness(config, certificates, certificates.warnings)
