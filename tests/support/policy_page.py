"""`python -m tests.support.policy_page`: writes docs/policy.md from the reference table of the verdict."""

from __future__ import annotations

from pathlib import Path

from tests.support.verdict_reference import Row, Table, tables

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policy.md"

INTRODUCTION = """\
# What is decided about a peer

This page is generated from `tests/data/verdict_table.txt`, the reference table against which the code is tested over the full
product of its inputs (`python -m tests.support.policy_page` writes it). `s2sgw explain PEER` shows where one peer stands in it.

Read it from the top: each table turns some of the inputs into one word, and the last one puts the words together. `*` is any
value, `|` stands between several; every combination of inputs is in exactly one row.

What the words mean:

- **evidence**: what the proofs came to. *untried*: none was tried; *valid*: PKIX proves the peer; *self-signed*: PKIX has nothing
  against the certificate but that; *misnamed*: an unknown issuer, and another name; *expired*: self-signed and out of date; *pinned*,
  *other-pin*: a pin or an approved key that is the peer's, or is not; *first-used*: the key that was remembered at its first use;
  *dane*, *posh*: proven so, the issuer being unknown; *dane-expired*: the same with a certificate that is out of date; *other-dane*: TLSA records that do not match, on an inbound stream;
  *vetoed*: the same on an outbound one, where everything else would prove the peer.
- **proofs**: `all` is the default, `dns` stands for `["dane", "posh"]`, `nothing` for `[]`.
- **key**: what the presented key is to us: *unknown*, *known* (approved, or remembered at its first use), *changed* (others are
  remembered), *revoked* by the operator, or *absent*: none was presented though one is remembered.
- **remembered**: whether the peer was proven by PKIX, DANE or POSH within `remember_proof`, and what `lost_proof` says then.
- **state**: *unresolved*: the peer's host name does not resolve (any cause of the DNS; the table shows one); *barred*: `allow = false`.
"""


def page() -> str:
    """The whole page."""
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
