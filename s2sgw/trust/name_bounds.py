"""The names in a subjectAltName and in name constraints, found one after the other, within bounds on their number."""

from __future__ import annotations

from collections.abc import Iterator

import s2sgw.trust.der as der

#: A certificate with more names, or with more bytes of them, is treated as one without names. The largest of public CAs have some
#: hundred.
MAX_NAMES = 1000
MAX_NAME_BYTES = 32768

_PERMITTED, _EXCLUDED = 0xA0, 0xA1


class TooManyNames(ValueError):
    """More than `MAX_NAMES` names, or more than `MAX_NAME_BYTES` of them."""


def alternative_names(value: bytes) -> Iterator[der.Span]:
    """Yield the place of each GeneralName in the value of a subjectAltName, until its end or a `ValueError`.

    Raises `TooManyNames` before the first if the number of bytes is too large, or after `MAX_NAMES` names.
    """
    yield from _bounded(value, _outer(value))


def subtrees(value: bytes) -> Iterator[tuple[bool, der.Span]]:
    """Yield each subtree in the value of a nameConstraints extension: whether it is excluded, and its place."""
    before = 0
    for kind in der.spans(value, *_outer(value)):
        for found in _bounded(value, (kind.content, kind.end), before):
            before += 1
            if kind.tag in (_PERMITTED, _EXCLUDED):
                yield kind.tag == _EXCLUDED, found


def _outer(value: bytes) -> tuple[int, int]:
    """Return where the contents of `value`, which is one sequence, begin and end."""
    outer = der.span(value)
    if outer.end != len(value) or outer.tag != der.SEQUENCE:
        raise ValueError("the names are no sequence")
    return outer.content, outer.end


def _bounded(value: bytes, limits: tuple[int, int], before: int = 0) -> Iterator[der.Span]:
    if len(value) > MAX_NAME_BYTES:
        raise TooManyNames(f"there are too many names, more than {MAX_NAME_BYTES} bytes")
    for number, found in enumerate(der.spans(value, *limits), before + 1):
        if number > MAX_NAMES:
            raise TooManyNames(f"there are too many names, more than {MAX_NAMES}")
        yield found


def count_names(value: bytes | None) -> int:
    """Return how many names a subjectAltName has, as far as it can be parsed. Raises `TooManyNames`."""
    return 0 if value is None else _count(alternative_names(value))


def count_subtrees(value: bytes | None) -> int:
    """Return how many subtrees name constraints have, as far as they can be parsed. Raises `TooManyNames`."""
    return 0 if value is None else _count(subtrees(value))


def _count(found: Iterator[object]) -> int:
    number = 0
    try:
        for number, _ in enumerate(found, 1):  # noqa: B007  the last number is the answer
            pass
    except TooManyNames:
        raise
    except ValueError:  # malformed names are reported elsewhere
        pass
    return number
