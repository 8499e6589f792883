"""Simulated peers that connect to a gateway: each has a domain in DNS, a certificate, and blocking conversations."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.lab.certificates import Authority, Certificate, Names
from tests.lab.lab import Lab
from tests.lab.peer import Stream, authenticated
from tests.lab.scenario import SCENARIO_SECONDS, Stage, check, step
from tests.lab.world import INSIDE, World, world

#: Domains of guests that DNS has; nothing listens at their port.
KNOWN = (
    "friend", "other", "xaddr", "srvid", "dns", "sub.wild", "wild", "commonname", "untrusted", "mismatch", "expired",
    "selfish", "before", "after", "client-only", "server-only", "email-only",
)
#: A domain whose zone is answered with SERVFAIL, and one whose questions are not answered.
BROKEN, SILENT = "broken.example", "silent.example"
NOWHERE = "nowhere.example"
_NOTHING_LISTENS = 1
#: Seconds after which a stanza that must not arrive would have arrived.
QUIET = 0.4
_numbers = itertools.count(1)


@dataclass
class Door:
    """A gateway with a real server behind it, used from a thread."""

    made: World
    loop: asyncio.AbstractEventLoop
    stranger: Authority  # an authority that no server trusts
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return self.made.gateway.port

    @property
    def juliet(self) -> str:
        return self.made.ends.left.jid

    def certificate(self, domain: str, names: Names | None = None) -> Certificate:
        """Return a trusted certificate with `names`, by default with the domain as its only dNSName."""
        return self.made.authority.issue(names or Names(dns=(domain,)))

    def enter(self, domain: str, certificate: Certificate | None = None) -> Stream:
        """Return an authenticated stream of `domain`."""
        return authenticated(self.port, INSIDE, domain, certificate or self.certificate(domain))

    def message(self, domain: str, text: str) -> str:
        """Return a message stanza from a user of `domain` to juliet."""
        return (
            f"<message from='tybalt@{domain}/raw' to='{self.juliet}' type='chat' id='raw{next(_numbers)}'>"
            f"<body>{text}</body></message>"
        )

    def delivered(self, text: str, seconds: float = 10.0) -> None:
        """Wait until juliet gets a message with this body."""
        waiting = self.made.ends.left.wait_message(text, seconds)
        asyncio.run_coroutine_threadsafe(waiting, self.loop).result(seconds + 2)

    def greets(self, domain: str, certificate: Certificate | None = None) -> None:
        """Authenticate by EXTERNAL, send a message that arrives, and close the stream normally."""
        stream = self.enter(domain, certificate)
        text = f"greetings {next(_numbers)} from {domain}"
        stream.send(self.message(domain, text))
        self.delivered(text)
        stream.send("</stream:stream>")
        stream.end()
        check(stream.closed, "the closing tag was not answered")
        step(f"{domain}: {text!r} arrived, stream closed normally")

    def nothing_arrived(self, *words: str) -> None:
        """Check that the existing server has received none of `words`."""
        time.sleep(QUIET)
        seen = [word for word in words if word in self.made.behind.logged()]
        check(not seen, f"reached the backend: {seen}")


@asynccontextmanager
async def door(lab: Lab) -> AsyncIterator[Door]:
    """Start one Prosody behind the gateway and one outside, with the guests' names in DNS."""
    def names(made: World) -> None:
        for name in KNOWN:
            made.dns.serve(f"{name}.example", _NOTHING_LISTENS)
        made.dns.broken.append(f"{BROKEN}.")
        made.dns.silent.append(f"{SILENT}.")
        made.dns.reload()
    async with world(lab, "prosody", "prosody", {"queue": {"hold": "3s", "iq_hold": "3s"}}) as made:
        await asyncio.to_thread(names, made)
        yield Door(made, asyncio.get_running_loop(), Authority(lab.directory("stranger"), "a stranger's CA"))


def visit(stage: Stage, title: str, seconds: float = SCENARIO_SECONDS) -> Callable[[Callable[[Door], None]], None]:
    """Decorate a blocking scenario of a `Door`, to be run in a thread."""
    def add(run: Callable[[Door], None]) -> None:
        def started(at: Door) -> Awaitable[None]:
            return asyncio.to_thread(run, at)
        stage.scenario(title, seconds)(started)
    return add
