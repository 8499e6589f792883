"""`probe` and `check live` in the running gateway, for the console and the API. The command runs its own.

Both open connections at a user's request, so only a few may run at once and start in a minute. No user can use the gateway to
scan other hosts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from s2sgw.admin.server import Arguments, Verb, VerbError
from s2sgw.admin.verbs import domain_argument
from s2sgw.reporting.daily_report import ServedDomains
from s2sgw.runtime.live_check import LiveCheck
from s2sgw.runtime.probe import Probe
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.token_bucket import TokenBucket

#: Probes and checks under way at once; how many can begin in a burst; seconds until one more can.
AT_ONCE = 4
BURST = 10
EACH_SECONDS = 6.0


class LiveVerbs:
    """Answers the two verbs. `probe(local, peer)` and `check()` return one to run; `served` has the local domains.

    `now` returns seconds that never run backwards.
    """

    def __init__(
        self, probe: Callable[[Domain, Domain], Probe], check: Callable[[], LiveCheck], served: ServedDomains,
        now: Callable[[], float],
    ) -> None:
        self._probe = probe
        self._check = check
        self._served = served
        self._now = now
        self._running = 0
        self._bucket = TokenBucket(1 / EACH_SECONDS, now(), BURST)

    def verbs(self) -> dict[str, Verb]:
        """Return the registry for `AdminService`."""
        return {"probe": self.probe, "check live": self.check}

    async def probe(self, arguments: Arguments) -> dict[str, Any]:
        """Return the report of a probe of `domain`."""
        peer, inbound = domain_argument(arguments, "domain"), arguments.get("inbound", False)
        if not isinstance(inbound, bool):
            raise VerbError("inbound must be true or false", "usage")
        local = domain_argument(arguments, "local") if arguments.get("local") is not None else self._served.domains[0]
        if local not in self._served.domains:
            raise VerbError(f"{local} is not a local domain", "usage")
        self._begin()
        try:
            report = await self._probe(local, peer).run(inbound)
        finally:
            self._running -= 1
        return report.row()

    async def check(self, arguments: Arguments) -> dict[str, Any]:
        """Return the facts of a live check."""
        self._begin()
        try:
            facts = await self._check().run()
        finally:
            self._running -= 1
        return {"ok": all(fact.ok is not False for fact in facts), "live": [fact.row() for fact in facts]}

    def _begin(self) -> None:
        if self._running >= AT_ONCE:
            raise VerbError(f"{AT_ONCE} probes are under way; try again in a moment")
        if not self._bucket.take(self._now()):
            raise VerbError(f"too many probes: one can begin every {EACH_SECONDS:.0f} seconds")
        self._running += 1
