"""A refusal as a letter to the administrator of the other server: what happened, what was seen, and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from textwrap import wrap

from s2sgw.xmpp.ending import Ending

_WIDTH = 78
_ENDED_BY = {"us": "Our server ended it.", "them": "Your server ended it.", "network": "Neither server meant to end it."}


def letter(
    direction: str, peer: str, local: str, address: str, at: float, ending: Ending, reasons: tuple[str, ...] = (), times: int = 1,
) -> str:
    """The text, ready to be sent; `at` is seconds since the epoch. What the peer said in it is as it was said."""
    return "\n".join(_lines(direction, peer, local, address, at, ending, reasons, times))


def _lines(
    direction: str, peer: str, local: str, address: str, at: float, ending: Ending, reasons: tuple[str, ...], times: int,
) -> Iterator[str]:
    yield f"To the administrator of {peer or 'the XMPP server at ' + (address or 'an unknown address')}"
    yield ""
    where = f" at {address}" if address else ""
    ours, yours = local or "ours", f"your server{where}"
    way = f"from {yours} to {ours}" if direction == "inbound" else f"from {ours} to {yours}"
    often = f" (and {times - 1} times before)" if times > 1 else ""
    moment = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    yield from wrap(f"An XMPP server-to-server stream {way} could not be used on {moment}{often}.", _WIDTH)
    yield ""
    yield from wrap(f"Why:        {ending.account.bounce} ({ending.layer}: {ending.cause})", _WIDTH, subsequent_indent=" " * 12)
    yield from wrap(f"What to do: {ending.remedy}", _WIDTH, subsequent_indent=" " * 12)
    said = f" The stream error was <{ending.condition}/>." if ending.condition else ""
    yield f"{_ENDED_BY[ending.by]}{said}"
    seen = reasons or ((ending.detail,) if ending.detail else ())
    if seen:
        yield ""
        yield "What we saw:"
    for each in seen:
        yield from wrap(each, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
