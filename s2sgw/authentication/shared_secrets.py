"""The secrets that are shared with peers (R26). Each file is read when its peer connects, and again when it has changed."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from pathlib import Path

from twisted.logger import Logger

from s2sgw.authentication.trust_files import Stamp, stamp
from s2sgw.config.secret_file import read_secret
from s2sgw.net.connection import StreamConnection
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.verdict import Verdict
from s2sgw.sasl.scram_secret import SharedSecret, StreamSecret
from s2sgw.stream.events import Permission
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.mechanisms import BOUND


class SharedSecrets:
    """The secret of each peer whose policy names a file."""

    log = Logger()

    def __init__(self, peers: PeerPolicies) -> None:
        self._peers = peers
        self._known: dict[Path, tuple[Stamp, SharedSecret]] = {}

    def granted(self, permission: Permission, verdict: Verdict, peer: Domain, connection: StreamConnection) -> Permission:
        """Return `permission` with the mechanisms of the policy, and with the peer's secret if the verdict allows that proof.

        `mutual`: the peer can be proven by the secret alone. The secret is bound to TLS only if a binding mechanism may be used.
        """
        mechanisms = self._peers.policy(peer).sasl
        permission = replace(permission, mechanisms=mechanisms)
        if not verdict.secret:
            return permission
        shared, mutual = self.of(peer), verdict.proven_by == "secret"
        if shared is None or connection.secured is None:
            return replace(permission, mutual=mutual)
        binding = connection.secured.exporter if BOUND.intersection(mechanisms) else None
        return replace(permission, secret=StreamSecret(shared, partial(secrets.token_urlsafe, 24), binding), mutual=mutual)

    def suffices(self, verdict: Verdict, peer: Domain, method: str) -> bool:
        """Return whether a stream that a secret has proven by `method` may stay, by the present policy."""
        return verdict.secret and method in self._peers.policy(peer).sasl and self.of(peer) is not None

    def of(self, peer: Domain) -> SharedSecret | None:
        """Return the peer's secret. None: there is none, or it cannot be read."""
        path = self._peers.policy(peer).secret_file
        if path is None:
            return None
        try:
            return self._read(path)
        except (OSError, ValueError) as error:
            self.log.error(event="a secret cannot be read", peer=str(peer), detail=str(error))
            return None

    def _read(self, path: Path) -> SharedSecret:
        found = stamp(path)
        known = self._known.get(path)
        if known is None or known[0] != found:
            known = self._known[path] = (found, SharedSecret(read_secret(path), secrets.token_bytes(16)))
        return known[1]
