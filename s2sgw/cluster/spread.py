"""The plan by which homes are spread evenly over the nodes (docs/cluster.md). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Moves(NamedTuple):
    """So many homes are to go from one node to another."""

    giver: str
    taker: str
    homes: int


def spread(homes: Mapping[str, int]) -> list[Moves]:
    """Return the fewest moves after which the numbers of homes of any two nodes differ by one at most.

    `homes`: the number of homes of each node that can give and take.
    """
    if not homes:
        return []
    order = sorted(homes, key=lambda node: (-homes[node], node))
    share, more = divmod(sum(homes.values()), len(homes))
    surplus = {node: homes[node] - share - (place < more) for place, node in enumerate(order)}
    takers = [node for node in order if surplus[node] < 0]
    moves: list[Moves] = []
    for giver in order:
        while surplus[giver] > 0:
            taker = takers[-1]
            number = min(surplus[giver], -surplus[taker])
            moves.append(Moves(giver, taker, number))
            surplus[giver] -= number
            surplus[taker] += number
            if not surplus[taker]:
                takers.pop()
    return moves
