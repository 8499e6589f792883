"""`make soak MINUTES=…`: mixed traffic and random faults. No stanza may be lost, and nothing may grow (docs/durability.md).

One gateway runs all the time. Between its rests stanzas of all kinds are sent in both directions, while peers go away, the name server fails, the
backend restarts, certificates are renewed, the configuration is reloaded, the disk is slow and the wall clock is set. At each
rest the faults end and the traffic stops. Then every stanza must be accounted for, and the gateway is measured. The seed is
printed first. The exit status is 0 if nothing was lost and nothing grew.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2sgw.admin.client import RequestFailed
from tests.durability.account import PairAccount
from tests.durability.crash import silence_asyncio
from tests.durability.custody_testbed import FORBIDDEN_IN_LOG, INSIDE, CustodyTestbed
from tests.durability.simulated_nameserver import SimulatedNameserver
from tests.durability.simulated_server import SimulatedServer
from tests.durability.xml_stream import XMLStream
from tests.lab.certificates import Names
from tests.lab.lab import Lab

#: A local domain whose server does not use XEP-0198.
PLAIN_INSIDE = "plain.example.net"
#: Domain -> whether its server uses XEP-0198, and whether it sends on streams that the gateway opened (XEP-0288).
PEERS = {
    "managed1.example": (True, False), "managed2.example": (True, False), "plain1.example": (False, False),
    "plain2.example": (False, False), "both.example": (True, True),
}
#: Peers that connect rarely.
VISITORS = 5
#: Stanzas a second of each pair, and the maximum bytes of their text.
RATE, SIZE = 15.0, 4000
#: Minimum seconds of traffic between two rests; and the number of first rests that are a warm-up.
TRAFFIC_SECONDS, WARM_UP = 40.0, 1
#: Seconds between two faults, and of a fault.
PAUSE_SECONDS, FAULT_SECONDS = (0.5, 3.0), (1.0, 6.0)
#: Seconds for all stanzas to be delivered or bounced at a rest. (`hold` is 60 s.)
SETTLE_SECONDS = 100.0
#: Limits of the gateway at a rest, for a run of any length. Memory: some 100 MB, and twice `queue.memory` for data that was queued and freed.
#: Lanes: each pair of domains here, in both directions. "ownerless": streams of the gateway without a server. "other": descriptors without streams.
MOST_BYTES = 256 * 1024 * 1024
MOST = {"lanes": 4 * (len(PEERS) + VISITORS), "ownerless": 3, "other": 40, "timers": 150, "threads": 20, "objects": 60_000}
#: The minimum number of rests in each half of the run for a comparison of the halves: fewer do not tell growth from chance.
HALF = 3
#: The tolerance between the minimum of the second half and the maximum of the first: bytes of memory, and counts.
GROWTH_BYTES = 16 * 1024 * 1024
GROWTH = {"other": 6, "timers": 12, "threads": 2}
OBJECTS_SHARE = 0.05


@dataclass(frozen=True)
class Sample:
    """The gateway at a rest."""

    at: float
    bytes: int
    counts: dict[str, int]

    def text(self) -> str:
        counts = ", ".join(f"{number:,} {name}" for name, number in self.counts.items())
        return f"{self.bytes / 1e6:.1f} MB, {counts}"


class Soak:
    """One run. `exclude`: kinds of faults that do not happen."""

    def __init__(self, lab: Lab, seed: int, exclude: set[str]) -> None:
        self._chance = random.Random(seed)
        self._bed = CustodyTestbed(lab, (INSIDE, PLAIN_INSIDE), queue={"hold": "60s", "iq_hold": "60s"})
        self._nameserver = SimulatedNameserver()
        self._dns_port = lab.port()
        self._bed.use_nameserver(self._dns_port, self._nameserver)
        self._began = time.monotonic()
        self._backends: list[SimulatedServer] = []
        self._peers: list[SimulatedServer] = []
        self._exclude = exclude
        #: locked while the gateway's files are replaced, and until it has read them
        self._files = asyncio.Lock()
        self._visitors: list[SimulatedServer] = []
        self.faults: Counter[str] = Counter()
        self.stanzas: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.problems: list[str] = []

    # --- building ---

    async def start(self) -> None:
        """Start the servers and the gateway."""
        bed = self._bed
        await self._nameserver.listen(self._dns_port)
        self._backends = [bed.local(INSIDE), bed.local(PLAIN_INSIDE, managed=False)]
        self._peers = [bed.peer(name, managed=managed, bidi=bidi) for name, (managed, bidi) in PEERS.items()]
        for backend in self._backends:
            for peer in self._peers:
                for sender, recipient in (backend, peer), (peer, backend):
                    stream = bed.pair(sender, recipient, size=self._chance.randint(50, SIZE), resumes=self._chance.random() < 0.5)
                    stream.traffic.request_share = 0.1
                    stream.connects = not (sender.bidi and sender in self._peers)
        for server in bed.servers.values():
            server.answers_requests = True
        self._visitors = [bed.peer(f"visitor{number}.example") for number in range(VISITORS)]
        for visitor in self._visitors:
            bed.pair(visitor, self._backends[0]).connects = False
        await bed.start()
        await asyncio.gather(*map(self._come_and_go, self._visitors))

    def _traffic(self, on: bool) -> None:
        for stream in self._bed.outgoing:
            regular = stream.account.sender not in {visitor.domain for visitor in self._visitors}
            stream.traffic.rate = RATE * self._chance.uniform(0.3, 1.7) if on and regular else 0.0

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        print(f"{time.monotonic() - self._began:7.1f} s  {text}", flush=True)

    # --- faults ---

    async def disturb(self, seconds: float) -> None:
        """Cause one fault after another for this long, some of them at the same time."""
        kinds: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "peer away": self._peer_away, "streams cut": self._streams_cut, "peer stalls": self._peer_stalls,
            "name server": self._name_server_fails, "backend restarts": self._backend_restarts,
            "certificate renewed": self._certificate_renewed, "reload": self._reload, "slow disk": self._slow_disk,
            "clock": self._clock_set, "visitor": self._visit,
        }
        chosen = [name for name in kinds if name not in self._exclude]
        deadline, running = time.monotonic() + seconds, set[asyncio.Task[None]]()
        while time.monotonic() < deadline:
            name = self._chance.choice(chosen)
            self.faults[name] += 1
            running.add(asyncio.create_task(kinds[name]()))
            await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
        await asyncio.gather(*running)

    def _seconds(self) -> float:
        return self._chance.uniform(*FAULT_SECONDS)

    async def _peer_away(self) -> None:
        peer, seconds = self._chance.choice(self._peers), self._seconds()
        self.say(f"{peer.domain} is away for {seconds:.1f} s")
        peer.go_away()
        await asyncio.sleep(seconds)
        await peer.come_back()

    async def _streams_cut(self) -> None:
        server = self._chance.choice([*self._peers, *self._backends])
        self.say(f"the streams of {server.domain} are cut")
        server.drop_streams()
        for stream in server.outgoing.values():
            if self._chance.random() < 0.5:
                stream.cut()

    async def _peer_stalls(self) -> None:
        server, seconds = self._chance.choice([*self._peers, *self._backends]), self._seconds()
        self.say(f"{server.domain} reads nothing for {seconds:.1f} s")
        server.frozen = True
        await asyncio.sleep(seconds)
        server.frozen = False

    async def _name_server_fails(self) -> None:
        mode, seconds = self._chance.choice(("is silent", "fails")), self._seconds()
        self.say(f"the name server {mode} for {seconds:.1f} s")
        self._nameserver.mode = "is silent" if mode == "is silent" else "fails"
        await asyncio.sleep(seconds)
        self._nameserver.mode = "answers"

    async def _backend_restarts(self) -> None:
        backend, seconds = self._chance.choice(self._backends), self._seconds()
        self.say(f"the server of {backend.domain} restarts, which takes {seconds:.1f} s")
        backend.go_away()
        for stream in backend.outgoing.values():
            stream.connects = False
            stream.cut()
        await asyncio.sleep(seconds)
        for stream in backend.outgoing.values():
            stream.connects = True
        await backend.come_back()

    async def _certificate_renewed(self) -> None:
        if self._chance.random() < 0.5:
            peer = self._chance.choice(self._peers)
            self.say(f"{peer.domain} has a new certificate")
            peer.renew(self._bed.authority.for_domain(peer.domain))
            return
        self.say(f"{INSIDE} has a new certificate")
        made = self._bed.authority.issue(Names(dns=(INSIDE, f"*.{INSIDE}")))
        store = self._bed.gateway.folder / "certs"
        async with self._files:
            for suffix, path in ("key", made.key), ("crt", made.chain):
                _replace(store / f"0.{suffix}", path.read_bytes())
            await self._ask_to_reload()

    async def _reload(self) -> None:
        self.say("the configuration is changed and reloaded")
        config = self._bed.gateway.config
        async with self._files:
            text = config.read_text()
            before, after = ("60s", "61s") if 'hold = "60s"' in text else ("61s", "60s")
            _replace(config, text.replace(f'hold = "{before}"', f'hold = "{after}"').encode())
            await self._ask_to_reload()

    async def _ask_to_reload(self) -> None:
        answer = await self._bed.ask("reload")
        if not answer["ok"]:
            self._problem(f"a reload was refused: {answer}")

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        self.say(f"PROBLEM {text}")

    async def _slow_disk(self) -> None:
        seconds = self._seconds()
        self.say(f"each sync takes 100 ms for {seconds:.1f} s")
        await self._bed.faults(sqlite={"file": "spool.db*", "sync_seconds": 0.1})
        await asyncio.sleep(seconds)
        await self._bed.faults(sqlite={})

    async def _clock_set(self) -> None:
        offset = self._chance.choice((-3600, -60, -1, 1, 60, 3600))
        self.say(f"the wall clock is set to {offset:+} s")
        await self._bed.faults(clock=offset)

    async def _visit(self) -> None:
        """Let a rare peer connect: it sends some stanzas and leaves."""
        visitor = self._chance.choice(self._visitors)
        self.say(f"{visitor.domain} comes")
        await self._come_and_go(visitor)

    async def _come_and_go(self, visitor: SimulatedServer) -> None:
        (stream,) = set(visitor.outgoing.values())
        stream.send(5)
        stream.connects = True
        await asyncio.sleep(self._seconds())
        stream.connects = False
        stream.cut()

    # --- rests ---

    async def rest(self) -> None:
        """End all faults and the traffic, account for everything, and measure."""
        self._traffic(False)
        bed = self._bed
        await bed.faults(sqlite={}, clock=0)
        self._nameserver.mode = "answers"
        await bed.settle(SETTLE_SECONDS, quiet_seconds=75)
        totals = await bed.totals()
        self.say(f"rest: {totals.text()}")
        if totals.bounced:
            self.say(f"      bounced: {self._bounced_text()}")
        for name in ("sent", "delivered", "bounced", "twice"):
            self.stanzas[name] += getattr(totals, name)
        if totals.lost and (believed := (await bed.measure())["believed"]):
            self.say(f"      {believed} servers had not answered a ping within 20 s, and were believed: this may be why stanzas are lost (R41)")
        owing = [stream for stream in bed.outgoing if stream.owes()]
        for number, what in (
            (totals.lost, f"lost: {self._stanzas_text(totals.lost_of)}"), (totals.held, "still held after a rest"),
            (totals.requests_twice, "requests arrived twice"),
            (totals.out_of_order, f"out of order: {self._stanzas_text({each.name: each.overtaken() for each in bed.accounts})}"),
            (len(owing), f"streams wait for acknowledgements: {', '.join(stream.text() for stream in owing)}"),
        ):
            if number:
                self._problem(f"{number} {what}")
        for account in bed.accounts:
            account.close_books()
        await asyncio.sleep(3)
        self.samples.append(await self._sample())
        self.say(f"      {self.samples[-1].text()}")

    def _stanzas_text(self, numbers: dict[str, list[int]]) -> str:
        """Return the first of these stanzas of each pair: when each was sent, in seconds since the start, and how often it was sent again."""
        started = time.time() - (time.monotonic() - self._began)
        accounts = {account.name: account for account in self._bed.accounts}

        def text(account: PairAccount, number: int) -> str:
            words = [f"number {number}", "(IQ)" if number in account.requests else "", f"sent at {account.sent[number] - started:.1f} s"]
            words += [f"and {again} times again" if (again := account.resent[number]) else ""]
            words += ["and bounced"] if number in account.bounced else []
            words += [f"arrived at {at - started:.1f} s" for at in account.arrivals[number]]
            higher = {each: times[0] for each, times in account.arrivals.items() if each > number and times}
            first = min(higher, key=higher.__getitem__, default=None)
            words += [] if first is None else [f"(a later one, number {first}, at {higher[first] - started:.1f} s)"]
            return " ".join(word for word in words if word)

        return "; ".join(f"{name}: {', '.join(text(accounts[name], each) for each in some[:5])}" for name, some in numbers.items() if some)

    def _bounced_text(self) -> str:
        """Return how many stanzas were bounced, by the condition of their first error."""
        conditions = Counter(account.errors.get(number, ["?"])[0] for account in self._bed.accounts for number in account.bounced)
        return ", ".join(f"{number:,} {condition}" for condition, number in conditions.most_common())

    async def _sample(self) -> Sample:
        process = self._bed.runner.process
        inside = await self._bed.measure()
        streams = len(await self._bed.ask("streams", limit=10_000))
        known = set[XMLStream]().union(*(server.streams for server in self._bed.servers.values()))
        counts = {
            "lanes": len(await self._bed.ask("lanes", limit=10_000)), "streams": streams, "ownerless": max(0, streams - len(known)),
            "other": len(list(Path(f"/proc/{process.pid}/fd").iterdir())) - streams, "timers": inside["timers"],
            "threads": inside["threads"], "objects": inside["objects"],
        }
        return Sample(time.monotonic() - self._began, process.resident_bytes(), counts)

    # --- the verdict ---

    def judge(self) -> None:
        """Compare each sample with its limits, and the second half of them with the first, without the warm-up. Check the log."""
        self._judge_limits()
        samples = self.samples[WARM_UP:]
        early, late = samples[: len(samples) // 2], samples[len(samples) // 2 :]
        if len(early) >= HALF:
            self._judge_growth(early, late)
        lines = self._bed.log().splitlines()
        found = Counter(word for line in lines for word in FORBIDDEN_IN_LOG if word in line)
        self.problems += [f"the log has {number} × {word}" for word, number in found.items()]

    def _judge_limits(self) -> None:
        most = max((sample.bytes for sample in self.samples), default=0)
        if most > MOST_BYTES:
            self.problems.append(f"the gateway had {most / 1e6:.1f} MB")
        for name, limit in MOST.items():
            if (number := max((sample.counts[name] for sample in self.samples), default=0)) > limit:
                self.problems.append(f"there were {number:,} {name}, at most {limit:,} are expected")

    def _judge_growth(self, early: list[Sample], late: list[Sample]) -> None:
        before, after = max(sample.bytes for sample in early), min(sample.bytes for sample in late)
        if after - before > GROWTH_BYTES:
            self.problems.append(f"memory grew from {before / 1e6:.1f} to {after / 1e6:.1f} MB")
        for name in (*GROWTH, "objects"):
            before, after = max(sample.counts[name] for sample in early), min(sample.counts[name] for sample in late)
            if after - before > GROWTH.get(name, int(before * OBJECTS_SHARE)):
                self.problems.append(f"{name} grew from {before:,} to {after:,}")

    async def stop(self) -> None:
        """Stop everything normally."""
        await self._bed.stop()
        self.problems += self._bed.problems
        for server in self._bed.servers.values():
            server.stop()
        self._nameserver.close()

    async def _alternate(self, end: float) -> None:
        while time.monotonic() < end - TRAFFIC_SECONDS or len(self.samples) < WARM_UP + 3:
            self._traffic(True)
            await self.disturb(min(TRAFFIC_SECONDS, max(end - time.monotonic(), 10)))
            await self.rest()

    async def run(self, seconds: float) -> int:
        """Alternate traffic and rests for this long; return the exit status."""
        await self.start()
        try:
            await self._alternate(self._began + seconds)
        except (OSError, RequestFailed) as error:
            process = self._bed.runner.process
            state = "runs" if process.alive else f"ended with status {process.status}"
            self._problem(f"the gateway does not answer ({error!r}): it {state}; the end of its log:\n{process.output()[-4000:]}")
        self.judge()
        await self.stop()
        print("faults: " + ", ".join(f"{number} × {name}" for name, number in self.faults.most_common()))
        print("stanzas: " + ", ".join(f"{number:,} {name}" for name, number in self.stanzas.items()))
        print("\n".join(f"FAIL {problem}" for problem in self.problems) or "ok   nothing was lost, nothing grew")
        return 1 if self.problems else 0


def _replace(path: Path, data: bytes) -> None:
    """Replace a file as a whole."""
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(data)
    new.replace(path)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.durability.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--without", default="", help="kinds of faults that do not happen, separated by commas, such as clock,reload")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    silence_asyncio()
    print(f"seed {arguments.seed}", flush=True)
    with Lab(arguments.keep) as lab:
        if arguments.keep:
            print(f"folder {lab.folder}")
        soak = Soak(lab, arguments.seed, {name for name in arguments.without.split(",") if name})
        return asyncio.run(soak.run(arguments.minutes * 60))


if __name__ == "__main__":
    sys.exit(main())
