"""The reference table of the verdict, read from verdict_table.txt, and the product of its inputs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).resolve().parent.parent / "data" / "verdict_table.txt"


class Row(NamedTuple):
    """One row: for each input the values that match, and the outputs."""

    inputs: tuple[frozenset[str], ...]
    outputs: tuple[str, ...]


class Table(NamedTuple):
    """One table: its description, its heads, its rows, and for each input the rows that a value can match."""

    text: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rows: tuple[Row, ...]


@cache
def tables() -> dict[str, Table]:
    """All tables, by name, in the order of the file."""
    blocks = TABLE.read_text("utf-8").split("\n[")[1:]
    return {name: _table(body.splitlines()) for block in blocks for name, _, body in [block.partition("]\n")]}


def _table(lines: list[str]) -> Table:
    comments = [line.lstrip("# ") for line in lines if line.startswith("#")]
    rows = [line.split("->") for line in lines if line and not line.startswith("#")]
    inputs, outputs = comments[-1].split("->")
    read = tuple(Row(tuple(frozenset(cell.split("|")) for cell in left.split()), tuple(right.split())) for left, right in rows)
    return Table(" ".join(comments[:-1]), tuple(inputs.split()), tuple(outputs.split()), read)


def _matches(row: Row, values: tuple[str, ...]) -> bool:
    return len(row.inputs) == len(values) and all(
        "*" in cell or value in cell for cell, value in zip(row.inputs, values, strict=True)
    )


#: the rows that have matched at least once
used: set[tuple[str, int]] = set()


@cache
def look_up(table: str, *values: str) -> tuple[str, ...]:
    """Return the outputs of the one row that `values` match."""
    found = [number for number, row in enumerate(tables()[table].rows) if _matches(row, values)]
    assert len(found) == 1, f"[{table}] {values} matches {len(found)} rows"
    used.add((table, found[0]))
    return tables()[table].rows[found[0]].outputs
