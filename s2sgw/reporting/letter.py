"""A refusal as a letter to the administrator of the peer: what happened, what we saw, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from textwrap import wrap

from s2sgw.xmpp.ending import Cause, Ending, Layer

_WIDTH = 78
_INDENT = " " * 12
_CLOSED_BY = {
    "us": "Our server closed the connection.", "them": "Your server closed the connection.",
    "network": "The connection failed between the two servers.",
}
#: The bounce text speaks to a third person. The letter speaks to the administrator of the remote server.
_ADDRESSED = (
    ("The remote server and this one", "Your server and ours"), ("The remote server", "Your server"),
    ("the remote server", "your server"), ("The remote domain", "Your domain"), ("the remote domain", "your domain"),
)


def letter(
    direction: str, peer: str, local: str, address: str, at: float, ending: Ending, reasons: tuple[str, ...] = (), times: int = 1,
) -> str:
    """Return the text, ready to send; `at` is in seconds since the epoch. It contains text of the peer as it was received."""
    return "\n".join(_lines(direction, peer, local, address, at, ending, reasons, times))


def no_letter(peer: str, remedy: str) -> str:
    """Return why there is no letter: our own server, or a stanza of it, was refused."""
    elsewhere = f"not at {peer}" if peer else "not at a peer"
    return f"There is no letter to write: this happened between the gateway and your own server, {elsewhere}. {remedy}"


def _lines(
    direction: str, peer: str, local: str, address: str, at: float, ending: Ending, reasons: tuple[str, ...], times: int,
) -> Iterator[str]:
    yield f"To the administrator of {peer or 'the XMPP server at ' + (address or 'an unknown address')}"
    if local:
        yield f"From the administrator of {local}"
    yield ""
    ours, yours = local or "our server", f"your server at {address}" if address else "your server"
    way = f"from {yours} to {ours}" if direction == "inbound" else f"from {ours} to {yours}"
    often = f" (and {times - 1} times before)" if times > 1 else ""
    moment = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    yield from wrap(f"An XMPP server-to-server stream {way} failed on {moment}{often}.", _WIDTH)
    yield ""
    why = f"{_addressed(ending.account.bounce)} ({ending.layer}: {ending.cause})"
    yield from wrap(f"Why:        {why}", _WIDTH, subsequent_indent=_INDENT)
    yield from wrap(f"What to do: {ending.remedy}", _WIDTH, subsequent_indent=_INDENT)
    condition = [f"The stream error was <{ending.condition}/>."] if ending.condition else []
    closed = [_CLOSED_BY[ending.by]] if _was_connected(ending) else []
    if closed or condition:
        yield " ".join([*closed, *condition])
    seen = reasons or ((ending.detail,) if ending.detail else ())
    if seen:
        yield ""
        yield "What we saw:"
    for each in seen:
        yield from wrap(each, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    yield ""
    yield "This report was written by s2sgw, the XMPP federation gateway in front of our server."


def _addressed(text: str) -> str:
    for remote, yours in _ADDRESSED:
        text = text.replace(remote, yours)
    return text


def _was_connected(ending: Ending) -> bool:
    """Return whether there was a connection that a server could close."""
    return ending.layer is not Layer.DNS and (ending.layer is not Layer.TCP or ending.cause is Cause.CONNECTION_LOST)
