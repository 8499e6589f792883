"""`python -m benchmarks.report FILE.json`: write the figures of a run into docs/performance.md, and draw docs/performance.svg."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.chart import svg
from benchmarks.relays import TITLES
from benchmarks.results import Results, table
from benchmarks.rows import ROWS
from benchmarks.targets import judged
from tests.lab.gateway import PROJECT

PAGE = PROJECT / "docs" / "performance.md"
PICTURE = PROJECT / "docs" / "performance.svg"
#: The figures are between these lines of the page.
BEGIN, END = "<!-- figures: written by python -m benchmarks.report -->", "<!-- end of the figures -->"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> Iterator[str]:
    """Yield a table in Markdown; the first `words` columns are text."""
    yield f"| {' | '.join(heading)} |"
    yield "|" + "".join("---|" if number < words else "---:|" for number in range(len(heading)))
    yield from (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    yield ""


def _machine(results: Results) -> str:
    facts = results.document["machine"]
    load = f"load average {facts['load_before']} before" + (f" and {facts['load_after']} after" if "load_after" in facts else "")
    minutes = f", {facts['minutes']} minutes" if "minutes" in facts else ""
    quick = " **Small loads, one round: a test run, no figures.**" if facts.get("quick") else ""
    where = f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}"
    return f"{where}, {facts['began']} UTC{minutes}; {load}.{quick}"


def figures(results: Results) -> str:
    """Return the figures of a run in Markdown."""
    heading, *rows = judged(results)
    picture = f"![The most telling figures of this run as bars]({PICTURE.name})"
    text = [_machine(results), "", picture, "", "### Targets", "", *_table(heading, rows, 6)]
    for name, (title, _) in ROWS.items():
        relays = results.rows.get(name)
        if relays:
            text += [f"### {title[0].upper()}{title[1:]}", ""]
            heading, rows = table({key: entry for key, entry in relays.items() if entry["values"]}, TITLES)
            text += _table(heading, rows) if rows else []
            notes = [
                f"- {TITLES.get(relay, relay)}: {' '.join(note.split())}"
                for relay, entry in relays.items() for note in entry["notes"]
            ]
            text += [*notes, ""] if notes else []
    return "\n".join(text)


def written(page: str, results: Results) -> str:
    """Return the page with the figures of this run. Raise ValueError if it has no place for them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{figures(results)}\n{END}{after}"


def main() -> int:
    """Write the page and the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="the output of `python -m benchmarks --json FILE`")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the place for the figures")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="the picture to draw")
    arguments = parser.parse_args()
    try:
        results = Results.read(arguments.file)
        page = written(arguments.page.read_text("utf-8"), results)
    except (OSError, ValueError) as problem:
        print(f"python -m benchmarks.report: {problem}", file=sys.stderr)
        return 1
    arguments.page.write_text(page, "utf-8")
    arguments.picture.write_text(svg(results), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
