"""`python -m tests.support.policy_page`: write docs/policy.md from the reference table of the verdict."""

from __future__ import annotations

from pathlib import Path

from tests.support.verdict_reference import Row, Table, tables

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policy.md"

INTRODUCTION = """\
# How s2sgw decides about a peer

This page is generated from `tests/data/verdict_table.txt` (`python -m tests.support.policy_page` writes it). The code is tested against that table with
every combination of its inputs. `s2sgw explain PEER` shows the result for one peer.

Read the page from the top. Each table turns some of the inputs into one word. The last two tables combine the words. `*` is any value, `|` separates
alternatives. Every combination of inputs is in exactly one row.

The words:

- **evidence**: the result of the proofs. *untried*: none was tried. *valid*: PKIX proves the peer. *self-signed*: the only problem is that the certificate is
  self-signed. *misnamed*: an unknown issuer, and another name. *expired*: self-signed and expired. *pinned*: a pin or an approved key matches. *other-pin*: it does
  not match. *first-used*: the key was remembered at its first use. *dane*, *posh*: proven by that method, with an unknown issuer. *dane-expired*: the same with an
  expired certificate. *other-dane*: TLSA records do not match, on an inbound stream. *vetoed*: the same on an outbound stream, with other proofs that succeed.
- **proofs**: `all` is the default, `dns` stands for `["dane", "posh"]`, `nothing` for `[]`.
- **key**: what we know of the presented key. *unknown*. *known*: approved, or remembered at its first use. *changed*: other keys are remembered. *revoked* by the
  operator. *absent*: the peer presented no key, but we remember one.
- **remembered**: whether PKIX, DANE or POSH proved the peer within `remember_proof`, and what `lost_proof` says then.
- **state**: *unresolved*: the peer's domain does not resolve (for any DNS cause; the table shows one). *not-allowed*: `allow = false`.
"""


def page() -> str:
    """Return the whole page."""
    return INTRODUCTION + "".join(_section(name, table) for name, table in tables().items())


def _section(name: str, table: Table) -> str:
    heads = [*table.inputs, *(f"→ {output}" for output in table.outputs)]
    lines = [_line(heads), _line(["---"] * len(heads)), *map(_row, table.rows)]
    return f"\n## {name.capitalize()}\n\n{table.text}\n\n" + "\n".join(lines) + "\n"


def _row(row: Row) -> str:
    inputs = ["\\*" if "*" in cell else " \\| ".join(sorted(cell)) for cell in row.inputs]
    return _line([*inputs, *(f"**{output}**" if output not in "-=" else output for output in row.outputs)])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
