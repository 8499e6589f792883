"""All fuzz targets: the function that runs on an input, and first inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import differential, machines, streams, trust

CASES = Path(__file__).parent / "cases"


class Target(NamedTuple):
    """A function that raises an error only for a finding. `seeds` are inputs that reach much code."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]] = list


def _numbers() -> list[bytes]:
    """Return inputs that make the first decisions differently."""
    return [bytes((first, second)) + bytes(range(64)) for first in range(4) for second in range(8)]


TARGETS = {
    "framer": Target(streams.framer, _numbers),
    "plain": Target(streams.plain, _numbers),
    "differential": Target(differential.differential, _numbers),
    "receiving": Target(streams.receiving, streams.receiving_seeds),
    "initiating": Target(streams.initiating, streams.initiating_seeds),
    "address": Target(trust.address, lambda: [text.encode() for text in ("a.example", "bücher.example", "faß.example", "xn--fa-hia.example", "[::1]")]),
    "identity": Target(trust.identity, lambda: [*_numbers(), *(b"\0" + each for each in trust.certificates())]),
    "chain": Target(trust.chain, _numbers),
    "revocation": Target(trust.revocation, lambda: [*_numbers(), *(b"\0" + each for each in trust.lists())]),
    "posh": Target(trust.posh, _numbers),
    "dns_view": Target(machines.dns_view, lambda: [*_numbers(), *(b"\0" + each for each in machines.QUESTIONS)]),
    "dns_answer": Target(machines.dns_answer, _numbers),
    "proxy": Target(machines.proxy, lambda: [*_numbers(), *(b"\0" + each for each in machines.PROXIES)]),
    "admin": Target(machines.admin, _numbers),
    "configuration": Target(machines.configuration, _numbers),
}


def cases(name: str) -> list[bytes]:
    """Return the earlier findings of a target, which must not happen again."""
    return [path.read_bytes() for path in sorted((CASES / name).glob("*"))]
