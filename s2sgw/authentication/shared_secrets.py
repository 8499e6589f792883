"""The secrets that are shared with peers (R26): each file read when its peer comes, and again when it has changed."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from pathlib import Path

from twisted.logger import Logger

from s2sgw.config.secret_file import read_secret
from s2sgw.net.connection import StreamConnection
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.verdict import Verdict
from s2sgw.stream.events import Permission
from s2sgw.stream.scram_secret import SharedSecret, StreamSecret
from s2sgw.xmpp.jid import Domain


class SharedSecrets:
    """The secret of each peer whose policy names a file."""

    log = Logger()

    def __init__(self, peers: PeerPolicies) -> None:
        self._peers = peers
        self._known: dict[Path, tuple[tuple[int, int], SharedSecret]] = {}

    def granted(self, permission: Permission, verdict: Verdict, peer: Domain, connection: StreamConnection) -> Permission:
        """`permission` with the peer's secret, where the verdict lets it prove itself so; `mutual` where by nothing else."""
        if not verdict.secret:
            return permission
        shared, mutual = self.of(peer), verdict.proven_by == "secret"
        if shared is None or connection.secured is None:
            return replace(permission, mutual=mutual)
        secret = StreamSecret(shared, partial(secrets.token_urlsafe, 24), connection.secured.exporter)
        return replace(permission, secret=secret, mutual=mutual)

    def suffices(self, verdict: Verdict, peer: Domain) -> bool:
        """Whether a stream that a secret has proven may stay, by the policy of now."""
        return verdict.secret and self.of(peer) is not None

    def of(self, peer: Domain) -> SharedSecret | None:
        """The peer's secret; None: it has none, or it cannot be read."""
        path = self._peers.policy(peer).secret_file
        if path is None:
            return None
        try:
            return self._read(path)
        except (OSError, ValueError) as error:
            self.log.error(event="a secret cannot be read", peer=str(peer), detail=str(error))
            return None

    def _read(self, path: Path) -> SharedSecret:
        facts = path.stat()
        stamp = (facts.st_mtime_ns, facts.st_size)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = (stamp, SharedSecret(read_secret(path), secrets.token_bytes(16)))
        return known[1]
