"""The gateway's identity towards peers, and its ways to reach them: shared by the two halves of the federation leg."""

from __future__ import annotations

import secrets
from collections.abc import Set
from typing import Protocol

from s2sgw.net.certificates import Credential
from s2sgw.net.dialing import Dialler
from s2sgw.net.requester import Requester
from s2sgw.net.tls import ServerTLS
from s2sgw.stream.events import DialbackNeeded, DialbackOutcome
from s2sgw.xmpp.jid import Domain


class Identity(Protocol):
    """The local domains and their certificates. A reload may change both."""

    @property
    def local_domains(self) -> Set[Domain]:
        """Return the domains that are served here."""

    def is_local(self, domain: Domain) -> bool:
        """Return whether the gateway serves `domain`."""

    def is_own(self, domain: Domain) -> bool:
        """Return whether the gateway serves `domain`, or gave it up and still has stanzas that its users sent."""

    def may_be_local(self, text: str) -> bool:
        """Return whether a text may spell a local domain (`xmpp.jid.spelling`)."""

    def credential(self, local: Domain, peer: Domain) -> Credential | None:
        """Return the certificate that is shown to `peer` for `local`; None: there is none."""

    def server_tls(self, direct: bool) -> ServerTLS:
        """Return the function that opens TLS on an accepted connection. `direct`: TLS from the first byte (XEP-0368)."""


class PeerRoutes(Protocol):
    """The way to connect to each peer: directly, or through a proxy."""

    def dialler(self, peer: Domain) -> Dialler:
        """Return the dialler for `peer`."""

    def dials_names(self, peer: Domain) -> bool:
        """Return whether a proxy is given the names of the hosts that the DNS gives for `peer`, instead of addresses."""


class AckPreferences(Protocol):
    """The memory of how servers acknowledge (XEP-0198)."""

    def use_stream_management(self, domain: Domain) -> bool:
        """Return whether the server of `domain` is to be asked for acknowledgements."""

    def use_resumption(self, domain: Domain) -> bool:
        """Return whether the server of `domain` is to be asked to resume streams."""


class KeyVerifier(Protocol):
    """Asks the authoritative server of a domain whether a dialback key is its own (XEP-0220 §2.2)."""

    async def verify(self, question: DialbackNeeded, requester: Requester | None = None) -> DialbackOutcome:
        """Return the server's answer. `requester` is charged for the look-up; None: the gateway itself."""


def new_stream_id() -> str:
    """Return a stream id that cannot be guessed (RFC 6120 §4.7.3)."""
    return secrets.token_hex(16)
