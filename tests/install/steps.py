"""Steps in a page of the documentation: the commands of a section, and the words that a reader should see after them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

#: A sentence that says what one should see. A full stop or a colon within code does not end it.
_SEEN = re.compile(r"You should see ((?:`[^`]*`|[^`])*?)(?:[.:] |\.$|:$|\n\n|$)", re.DOTALL)
_WORDS = re.compile(r"`([^`]+)`")


@dataclass
class Step:
    """One block of commands, the words that a reader should see after it, and its bold heading."""

    heading: str
    commands: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)


def section(page: str, title: str) -> str:
    """Return the text of the section of second level whose title begins with `title`. Raise `LookupError` if there is none."""
    for part in re.split(r"(?m)^## ", page)[1:]:
        if part.startswith(title):
            return part.partition("\n")[2]
    raise LookupError(f"there is no section {title!r}")


def steps(text: str) -> list[Step]:
    """Return the blocks of commands (indented by four spaces) of a section, in order."""
    found: list[Step] = []
    heading = ""
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if paragraph.startswith("    "):
            found.append(Step(heading, [line.strip() for line in paragraph.splitlines()]))
            continue
        if bold := re.match(r"\*\*(.+?)\*\*", paragraph):
            heading = bold[1].strip(" .,")
        if found:
            for words in _SEEN.findall(paragraph + "\n\n"):
                found[-1].seen += _WORDS.findall(words)
    return found
