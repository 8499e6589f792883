"""Tables for a terminal. No word is cut: a column that does not fit is left out, the least important one first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from unicodedata import combining, east_asian_width

from s2sgw.reporting.printable import printable

JSONRow = dict[str, Any]
#: The space between two columns.
_GAP = "  "
#: Characters of a line outside a table.
_LONGEST_LINE = 4000
_BOLD, _NORMAL = "\x1b[1m", "\x1b[0m"


class Screen(NamedTuple):
    """The place where a table is shown: its width in characters (None: no limit), and whether it can show bold text."""

    width: int | None
    bold: bool


def plain(value: object) -> object:
    """Return `value` unchanged, or a dash if it is empty."""
    return "-" if value in (None, "", []) else value


class Column(NamedTuple):
    """A column: its head, the key of its value in a row ("": the whole row), how the value is formatted, and its rank.

    Columns of rank 0 are always shown. Of the others, those with the highest rank are left out first.
    """

    head: str
    key: str
    text: Callable[[Any], object] = plain
    rank: int = 0
    right: bool = False

    def cell(self, row: JSONRow) -> str:
        """Return the text of this column in `row`, escaped."""
        return printable(str(self.text(row.get(self.key) if self.key else row)))


def number(head: str, key: str, text: Callable[[Any], object] = plain, rank: int = 0) -> Column:
    """Return a column that is aligned to the right."""
    return Column(head, key, text, rank, right=True)


def table(columns: Sequence[Column], rows: Iterable[JSONRow], screen: Screen) -> str:
    """Return a table. If even the columns of rank 0 do not fit, each row is a list of its values."""
    listed = list(rows)
    cells = [[column.cell(row) for column in columns] for row in listed]
    widths = [max(width_of(text) for text in (column.head, *(row[at] for row in cells))) for at, column in enumerate(columns)]
    shown = _fitting(columns, cells, widths, screen.width)
    if screen.width is not None and _total(widths, shown) > screen.width:
        return _as_lists(columns, cells)
    lines = [_bold(_line(columns, [column.head for column in columns], widths, shown), screen)]
    lines += [_line(columns, row, widths, shown) for row in cells]
    left_out = [column.head for at, column in enumerate(columns) if at not in shown and any(row[at] != "-" for row in cells)]
    if left_out:
        lines += ["", *_note(left_out, screen.width or 80)]
    return "\n".join(lines)


def width_of(text: str) -> int:
    """Return the number of places that `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[at] for at in shown) + len(_GAP) * (len(shown) - 1)


def _fitting(columns: Sequence[Column], cells: Sequence[Sequence[str]], widths: Sequence[int], width: int | None) -> list[int]:
    """Return the numbers of the columns that are shown. Columns without any value go first."""
    shown = list(range(len(columns)))
    empty = {at for at in shown if all(row[at] == "-" for row in cells)}
    optional = [-at for _, _, at in sorted((at not in empty, -columns[at].rank, -at) for at in shown if columns[at].rank)]
    for at in optional:
        if width is None or _total(widths, shown) <= width:
            break
        shown.remove(at)
    return shown


def _line(columns: Sequence[Column], texts: Sequence[str], widths: Sequence[int], shown: Sequence[int]) -> str:
    padded = (_padded(texts[at], widths[at], columns[at].right) for at in shown)
    return _GAP.join(padded).rstrip()


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def _bold(text: str, screen: Screen) -> str:
    return f"{_BOLD}{text}{_NORMAL}" if screen.bold else text


def _as_lists(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> str:
    """Return the rows one value per line, without the empty values."""
    margin = max(width_of(column.head) for column in columns)
    heads = [_padded(column.head, margin, False) for column in columns]
    return "\n\n".join(
        "\n".join(f"{head}  {text}" for head, text in zip(heads, row, strict=True) if text != "-") for row in cells
    )


def _note(left_out: Sequence[str], width: int) -> list[str]:
    """Return the lines that name the columns which did not fit."""
    return wrapped(f"Not shown on this width: {', '.join(left_out)}. A wider terminal or --json shows them.", width)


def paragraphs(texts: Iterable[str], screen: Screen) -> str:
    """Return the texts as lines, escaped. A line that is too wide is continued below, indented, without cutting a word."""
    shown = (printable(text, _LONGEST_LINE) for text in texts)
    if screen.width is None:
        return "\n".join(shown)
    return "\n".join(line for text in shown for line in wrapped(text, screen.width))


def wrapped(text: str, width: int) -> list[str]:
    """Return `text` in lines of at most `width` places, broken between words. A longer word has a line of its own."""
    words = text.lstrip(" ").split(" ")
    margin = text[: len(text) - len(" ".join(words))]
    first, *rest = words
    lines = [margin + first]
    for word in rest:
        if width_of(lines[-1]) + 1 + width_of(word) <= width:
            lines[-1] += f" {word}"
        elif word:
            lines.append(f"{margin}  {word}")
    return [line.rstrip() for line in lines]


def hanging(head: str, text: str, margin: str, screen: Screen) -> str:
    """Return `text`, escaped already, after `head`. The rest is continued below, after `margin`. No word is cut."""
    if screen.width is None:
        return f"{head}{text}".rstrip()
    lines, empty = [head], True
    for word in text.split():
        place = lines[-1] if empty else f"{lines[-1]} "
        if width_of(place) + width_of(word) <= screen.width or (empty and lines[-1] == margin):
            lines[-1] = place + word
        else:
            lines.append(margin + word)
        empty = False
    return "\n".join(line.rstrip() for line in lines)
