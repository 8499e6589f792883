"""The configuration in force and what is built from it: policies, certificates, TLS, hold times. A reload changes it in place."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorTime

from s2sgw.authentication.trust_files import TrustFiles
from s2sgw.config import Config
from s2sgw.config.cross_checks import certificate_files
from s2sgw.net.certificates import CertificateDirectory, Credential, UnusableCertificate
from s2sgw.net.certificates import read as read_credential
from s2sgw.net.threads import Threads
from s2sgw.net.tls import ServerTLS
from s2sgw.policy.model import PeerPolicy, objects_with
from s2sgw.queue.entries import HoldTimes
from s2sgw.runtime.preflight import CheckedConfiguration
from s2sgw.trust.anchors import Anchors
from s2sgw.xmpp.jid import Domain, Pair, spelling


class RunningConfiguration:
    """Everything that a reload may change: `config` is replaced, `policies`, `certificates` and `trust_files` change in place.

    The constructor reads the certificates. Unusable ones raise nothing: `runtime.preflight` has refused them before.
    Files that have changed are read in `threads`.
    """

    def __init__(self, config: Config, clock: IReactorTime, threads: Threads) -> None:
        self.config = config
        #: the policies in force: the same object, whose contents change
        self.local_domains: set[Domain] = set()
        #: domains that were given up, while something from them or to them may be in custody
        self.former_domains: set[Domain] = set()
        self._spellings: set[str] = set()
        self._serve(config)
        self.policies = config.policies
        self.certificates = CertificateDirectory(config.tls.certificates)
        self.trust_files = TrustFiles(clock, threads)
        for path in {peer.crl for _, peer in objects_with(config.peers, "crl")}:
            self.trust_files.revocations(path)  # a list may take seconds to read, so it is read before the first handshake
        #: the certificates of `[peers."…"] certificate`, by path, and the TLS factories by (least version, direct TLS)
        self.special_certificates: dict[Path, Credential] = {}
        for _, peer in objects_with(config.peers, "certificate"):
            if peer.certificate is not None and peer.certificate not in self.special_certificates:
                with suppress(UnusableCertificate):
                    self._read_special(peer.certificate)
        self._server_tls: dict[tuple[str, bool], ServerTLS] = {}

    def _serve(self, config: Config) -> None:
        self.local_domains.clear()
        self.local_domains.update(config.gateway.domains)
        self._names = {domain.ascii for domain in self.local_domains}
        self.note_former(())

    def adopt(self, ready: CheckedConfiguration) -> list[dict[str, Any]]:
        """Use another configuration from now on. Only keys that `config.diff` lists as reloadable may differ.

        Return the replaced tables, for the caller to empty: freeing very many peers at once would take long.
        """
        old: list[dict[str, Any]] = [self.config.peers, self.policies.adopt(ready.config.policies)]
        given_up = set(self.config.gateway.domains) - set(ready.config.gateway.domains)
        self.config = ready.config
        self._serve(ready.config)
        self.note_former(given_up)
        self.certificates.adopt(ready.certificates)
        self.special_certificates.clear()
        self.special_certificates.update(ready.special_certificates)
        self.trust_files.adopt(ready.anchors, ready.revocations)
        return [table for table in old if table is not self.config.peers]

    def note_former(self, domains: Iterable[Domain]) -> None:
        """Add to the former domains those of `domains` that are not served, and forget those that are served again."""
        self.former_domains |= set(domains)
        self.former_domains -= self.local_domains
        own = self.local_domains | self.former_domains
        self._spellings = {spelling(text) for domain in own for text in (domain.ascii, domain.text)}

    @property
    def domains(self) -> tuple[Domain, ...]:
        """Return the local domains in the order of the configuration."""
        return self.config.gateway.domains

    def may_be_local(self, text: str) -> bool:
        """Return whether a text may spell a domain of ours, without parsing it as a domain."""
        return spelling(text) in self._spellings

    def is_local(self, domain: Domain) -> bool:
        """Return whether the gateway serves `domain`."""
        return domain.ascii in self._names

    def is_own(self, domain: Domain) -> bool:
        """Return whether the gateway serves `domain`, or served it and still has stanzas of it."""
        return self.is_local(domain) or domain in self.former_domains

    def is_inbound(self, pair: Pair) -> bool:
        """Return whether stanzas of `pair` go to a domain of ours. A domain that was given up is a peer to those served now."""
        if self.is_local(pair.recipient):
            return True
        return pair.recipient in self.former_domains and not self.is_own(pair.sender)

    def anchors(self) -> Anchors:
        """Return the trust anchors of `[tls] trust_anchors`."""
        return self.trust_files.anchors(PeerPolicy(trust_anchors=self.config.tls.trust_anchors))

    @property
    def private_addresses(self) -> bool:
        """Whether addresses that are not public may be used (`[dns] private_addresses`)."""
        return self.config.dns.private_addresses == "allow"

    def credential(self, local: Domain, peer: Domain) -> Credential | None:
        """Return the certificate that is shown to `peer` for the local domain `local`; None: there is none."""
        path = self.policies.policy(peer).certificate
        if path is None:
            return self.certificates.for_domain(local)
        return self.special_certificates.get(path) or self._read_special(path)

    def _read_special(self, path: Path) -> Credential:
        self.special_certificates[path] = read_credential(path.name, *certificate_files(path))
        return self.special_certificates[path]

    def server_tls(self, direct: bool) -> ServerTLS:
        """Return the TLS opener of a STARTTLS or direct TLS listener, with the minimum version in force."""
        minimum = self.config.tls.minimum
        if (minimum, direct) not in self._server_tls:
            self._server_tls[minimum, direct] = ServerTLS(self.certificates.for_domain, minimum, direct=direct)
        return self._server_tls[minimum, direct]

    def hold_times(self, pair: Pair) -> HoldTimes:
        """Return how long stanzas of `pair` may wait: by the policy of its peer, and `[queue] iq_hold`."""
        return HoldTimes(self.policies.policy(self.peer_of(pair)).hold, self.config.queue.iq_hold)

    def peer_of(self, pair: Pair) -> Domain:
        """Return the domain of `pair` that is not served here."""
        return pair.sender if self.is_inbound(pair) else pair.recipient
