"""Domains that were given up, by a reload or by a start with another configuration, while the gateway has stanzas of them.

Stanzas of their users go on to peers until their hold time is over. Stanzas to them are delivered for some seconds, then bounced.
`<state>/domains.json` names all domains of which the spool may have stanzas, so all of this holds over a restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.composition.backends import RECONFIGURED, Backends
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.config import Config
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.net.slices import SlicedWork, Slices
from s2sgw.net.threads import Threads
from s2sgw.runtime.domain_file import FILE, DomainFile
from s2sgw.s2s.connecting import InitiatedStream
from s2sgw.s2s.initiated_streams import InitiatedStreams
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain

#: Seconds in which stanzas that wait for the server of a domain that was given up are still delivered.
WIND_DOWN_SECONDS = 5.0
#: Seconds for which a domain is remembered at least: stanzas that were read before may wait for a look-up, or for a rate.
REMEMBERED_SECONDS = 120.0
#: Seconds between two looks at what is left.
LOOK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class FormerDomainServices:
    """The services of the gateway that this uses."""

    reactor: Any
    running: RunningConfiguration
    slices: Slices
    threads: Threads
    queues: DeliveryQueues
    backends: Backends
    initiated: InitiatedStreams


class FormerDomains:
    """Winds down the domains that are given up, and forgets each when nothing of it is left.

    `running.former_domains` lists them. The constructor adds those of earlier runs, by `file`.
    """

    log = Logger("s2sgw")

    def __init__(self, file: DomainFile, services: FormerDomainServices) -> None:
        self._file = file
        self._services = services
        self._running = running = services.running
        #: each domain that was given up, and since when
        self._since: dict[Domain, float] = {}
        running.note_former(file.domains)
        self._note_new()
        #: domains of earlier runs, whose waiting stanzas are bounced once the spool is read: also those that an operator holds
        self._earlier = dict(self._since)
        self._local = set(running.local_domains)
        self._unwritten = False
        try:
            file.write(self._domains)
        except OSError as error:
            self._not_written(error)

    @property
    def _domains(self) -> set[Domain]:
        return self._running.local_domains | self._running.former_domains

    def _note_new(self) -> list[Domain]:
        """Note the domains that were given up since the last call, and return them. Forget those that were taken back."""
        former, now = self._running.former_domains, self._services.reactor.seconds()
        new = sorted(former - self._since.keys(), key=str)
        self._since = {domain: self._since.get(domain, now) for domain in sorted(former, key=str)}
        for domain in new:
            self.log.info(event="domain given up", local=str(domain), detail="its stanzas are delivered or bounced")
        return new

    # --- a reload ---

    async def prepare(self, config: Config) -> str:
        """Add the domains of `config` to the file. Return why `config` cannot be applied, or ""."""
        new = frozenset(config.gateway.domains)
        wanted = new | self._domains
        if wanted <= self._file.domains:
            return ""
        self._unwritten = True  # if the reload is refused after all, `turn` takes its new domains out again
        try:
            await self._services.threads.run(self._file.write, wanted)
        except OSError as error:
            if not self._running.local_domains <= new:
                return f"gateway.domains: {error.filename or FILE} cannot be written: {error.strerror or error}"
        return ""

    def adopt(self, config: Config) -> None:
        """Wind down what `config`, which is in force, gives up."""
        self._unwritten = self._unwritten or self._file.domains != self._domains
        new = {domain: self._since[domain] for domain in self._note_new()}
        self._turn_queues()
        if new:
            self._services.reactor.callLater(WIND_DOWN_SECONDS, self._end, new)

    def _turn_queues(self) -> None:
        """Give the queues between two local domains another next hop if one of these is a peer now, or is one no more."""
        changed, self._local = self._local ^ self._running.local_domains, set(self._running.local_domains)
        for domain in changed:
            for queue in self._services.queues.towards(domain):
                if queue.direction != self._services.queues.direction(queue.pair):
                    self._services.queues.change_next_hop(queue)

    def _end(self, domains: dict[Domain, float]) -> None:
        """Bounce what waits for the servers of these domains, unless the gateway stops: the next start does that."""
        if self._services.queues.quiesced:
            return
        given_up = [domain for domain, since in domains.items() if self._since.get(domain) == since]
        for domain in given_up:
            self._services.backends.end_former(domain)
        self._services.slices.run(self._give_up(given_up)).addErrback(self._failed)

    def _give_up(self, domains: list[Domain]) -> SlicedWork[None]:
        for domain in domains:
            for queue in self._services.queues.towards(domain):
                if queue.direction == "inbound" and domain in self._since and not self._services.queues.quiesced:
                    queue.give_up(Cause.HOST_UNKNOWN)
                yield None

    def _failed(self, failure: Failure) -> None:
        self.log.failure("stanzas to a domain that was given up could not be bounced", failure)

    # --- the end ---

    async def turn(self) -> None:
        """Forget the domains of which nothing is left, and write the file if that is due."""
        earlier, self._earlier = self._earlier, {}
        if earlier:
            self._end(earlier)
        before = self._services.reactor.seconds() - REMEMBERED_SECONDS
        old = {domain: since for domain, since in self._since.items() if since <= before}
        if old:
            left = await self._services.slices.run(self._in_custody(frozenset(old)))
            for domain, since in old.items():
                if domain not in left and self._since.get(domain) == since:
                    self._forget(domain)
        if self._unwritten:
            self._unwritten = False
            try:
                await self._services.threads.run(self._file.write, frozenset(self._domains))
            except OSError as error:
                self._not_written(error)
            if self._file.domains != self._domains:  # a reload came meanwhile
                self._unwritten = True

    def _in_custody(self, domains: frozenset[Domain]) -> SlicedWork[set[Domain]]:
        """Return those of `domains` of which some queue has stanzas. To a domain that is served now, they are peers."""
        left: set[Domain] = set()
        for queue in self._services.queues:
            sender, recipient = queue.pair
            if len(queue.pair_queue) and not (self._running.is_local(sender) or self._running.is_local(recipient)):
                left |= domains.intersection((sender, recipient))
            yield None
        return left

    def _forget(self, domain: Domain) -> None:
        del self._since[domain]
        self._running.former_domains.discard(domain)
        self._services.backends.forget_former(domain)
        for stream in self._services.initiated:
            if isinstance(stream, InitiatedStream) and stream.leg == "federation" and stream.pair.sender == domain:
                stream.retire(RECONFIGURED)
        self._unwritten = True
        self.log.info(event="domain ended", local=str(domain), detail="no stanza from it or to it is left")

    def _not_written(self, error: OSError) -> None:
        """Log that the file could not be written. `turn` tries again."""
        self._unwritten = True
        self.log.error(event="domains not written", detail=str(error))
