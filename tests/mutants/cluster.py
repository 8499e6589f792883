"""`python -m tests.mutants.cluster [NAME …]`: break a rule of the membership or of homes, and see that the simulation notices.

Each mutation runs in a process of its own, through the scenarios of `tests.support.cluster_simulation` with several chances, and then
through storms and walks. The exit status is 1 where the simulation does not notice one.
"""

from __future__ import annotations

import argparse
import importlib
import random
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from s2sgw import cluster
from tests.support import cluster_simulation as simulation

PROJECT = Path(__file__).resolve().parent.parent.parent
#: Chances of each scenario, and storms and walks behind them.
CHANCES, WALKS = 20, 60


class RuleMutation(NamedTuple):
    """One mutation: a text of `s2sgw/cluster/<module>.py`, and what takes its place."""

    name: str
    module: str
    old: str
    new: str


RULES = (
    RuleMutation("the lease counts from the answer", "members", "sequence, record.beat, call.sent", "sequence, record.beat, now"),
    RuleMutation("a silent node is not waited for", "members", "other.heard + self._times.lease + self._times.margin", "other.heard"),
    RuleMutation("one echo is enough for the bridge", "members", "echoed = min(self._echoed", "echoed = max(self._echoed"),
    RuleMutation("a young session declares others dead", "members", "self._may_bury_at = now + times.bridge + times.lease", "self._may_bury_at = now"),
    RuleMutation(
        "pulses are echoed while a node is declared dead", "members",
        "other.pulse and other.record.alive and not other.being_declared_dead", "other.pulse and other.record.alive",
    ),
    RuleMutation("the bridge has no end", "members", "min(self._bridged_from + times.bridge, echoed + times.lease)", "echoed + times.lease"),
    RuleMutation("the bridge needs no list of nodes of its time", "members", "= call.sent, frozenset(required)", "= self._acknowledged + 99, frozenset(required)"),
    RuleMutation("a list without the heartbeat is taken", "members", "            self._members_again = call\n            return\n", "            pass\n"),
    RuleMutation("a refused listener is enough, whatever was heard", "members", "if other.unheard and proof and", "if proof and"),
    RuleMutation("who does not refuse is never declared dead", "members", "elif other.unheard and not proof:", "elif False:"),
    RuleMutation("a dead node need not echo, whatever it has done", "members", "        return now < self._echoed.get(identity, -inf) + self._times.lease", "        return True"),
    RuleMutation("heartbeats are not heard", "members", "        if record.alive:\n            self._heard(other, now)\n", ""),
    RuleMutation("the lease is a flag that a timer clears", "members", "return now < self._until", "return self._session is not None and self._over_since is None"),
    RuleMutation("a session is over that began later than what is known", "members", "if other is None or other.sequence < session.birth:", "if other is None:"),
    RuleMutation("a record is written whatever is there", "members", "WriteRecord(dead, other.sequence, now)", "WriteRecord(dead, None, now)"),
    RuleMutation("a silent home is free", "home_table", 'if state in ("over", "own"):', 'if state in ("over", "own", "silent"):'),
    RuleMutation("an unknown home is free", "home_table", 'if state in ("over", "own"):', 'if state in ("over", "own", "unknown"):'),
    RuleMutation("homes outlast their session", "home_table", "peers, self._peers = self._peers, {}", "peers = dict(self._peers)"),
    RuleMutation("a claim of an old session is taken", "home_table", "if peer is None or peer.call is not call:\n            return None", "if peer is None:\n            return None"),
    RuleMutation("a peer is owned until its release is written", "home_table", "= peer.fence.sequence, None, False", "= peer.fence.sequence, peer.fence, False"),
    RuleMutation("nobody looks for the peers of the dead", "home_table", "if peers is None:", "peers = {}\n        if peers is None:"),
)  # fmt: skip


def mutate(rule: RuleMutation) -> None:
    """Put the mutated module in the place of the real one, in this process."""
    path = PROJECT / "s2sgw" / "cluster" / f"{rule.module}.py"
    source = path.read_text(encoding="utf-8")
    if source.count(rule.old) != 1:
        raise SystemExit(f"{rule.name}: the text occurs {source.count(rule.old)} times")
    name = f"s2sgw.cluster.{rule.module}"
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    setattr(cluster, rule.module, module)
    exec(compile(source.replace(rule.old, rule.new), str(path), "exec"), module.__dict__)
    for other in ("members", "home_table"):
        if other != rule.module:
            importlib.reload(importlib.import_module(f"s2sgw.cluster.{other}"))
    importlib.reload(simulation)


def runs() -> Iterator[tuple[str, simulation.Simulation]]:
    """Yield the runs, with their names."""
    for chance in range(CHANCES):
        for name, disturbances in simulation.SCENARIOS.items():
            yield f"{name}, chance {chance}", simulation.Simulation(3, disturbances, chance)
    for number in range(WALKS):
        yield f"storm {number}", simulation.Simulation(3, simulation.storm_of(random.Random(number)), number)
        yield f"walk {number}", simulation.Simulation(3, simulation.disturbances_of(random.Random(number)), number)


def noticed() -> str:
    """Return where the simulation noticed the mutation, or ""."""
    for name, run in runs():
        try:
            run.run()
        except simulation.Violation as violation:
            return f"{name}: {violation}"
    return ""


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[rule.name for rule in RULES], metavar="NAME")
    parser.add_argument("--here", action="store_true", help="one mutation, in this process")
    arguments = parser.parse_args()
    rules = {rule.name: rule for rule in RULES}
    if arguments.here:
        mutate(rules[arguments.names[0]])
        where = noticed()
        print(where)
        return 0 if where else 1
    missed = 0
    for name in arguments.names:
        began = time.monotonic()
        command = [sys.executable, "-m", "tests.mutants.cluster", "--here", name]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        missed += done.returncode != 0
        print(f"{'noticed' if done.returncode == 0 else 'MISSED '}  {name} ({time.monotonic() - began:.0f} s)  {done.stdout.strip()}{done.stderr[-500:]}", flush=True)
    print(f"{len(arguments.names) - missed} passed, {missed} failed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
