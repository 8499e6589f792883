"""`python -m tests.support.refusals_page`: write docs/refusals.md from the causes and remedies in `s2sgw/xmpp/ending.py`."""

from __future__ import annotations

from pathlib import Path

from s2sgw.xmpp.ending import ACCOUNTS, Cause, Layer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "refusals.md"

INTRODUCTION = """\
# Why was it refused?

Every refused connection and every bounced stanza has one of the causes on this page. `s2sgw refusals PEER`, the log, the metrics and the errors to users name the same cause.
`s2sgw refusals PEER --letter` writes a letter to the other administrator.

- *The user reads*: the text of the stanza error that the sender of a message gets, if it cannot be delivered.
- *Final*: s2sgw returns the message at once, because a later attempt cannot succeed. Otherwise it tries again, until `hold` is over ([custody](custody.md)).
  A domain is looked up before a message enters a queue. If that fails (layer DNS), and s2sgw has neither a stream to that domain nor other messages for it, the message returns at once.
- *To do*: what mends it, for the administrator of the server that is at fault. In most cases that is the other one.

This page is generated from the code (`python -m tests.support.refusals_page` writes it).
"""

LAYERS = {
    "dns": ("DNS", "The peer's domain could not be looked up, or the answer cannot be used."),
    "tcp": ("TCP", "The connection could not be opened, or was lost."),
    "tls": ("TLS", "The connection could not be encrypted as required."),
    "pkix": ("Certificates", "The certificate does not prove the peer's domain."),
    "auth": ("Authentication", "The two servers could not authenticate each other."),
    "policy": ("Policy", "The configuration of this gateway forbids it, or a limit was reached."),
    "stream": ("Stream", "The XMPP stream was wrong, or ended."),
    "queue": ("Queue", "The stanza could not be delivered in time, or could not be kept."),
    "backend": ("Your own server", "The server behind this gateway is at fault, not the peer."),
}


def page() -> str:
    """Return the whole page."""
    return INTRODUCTION + "".join(_layer(layer) for layer in Layer)


def _layer(layer: Layer) -> str:
    title, text = LAYERS[layer.value]
    return f"\n## {title}\n\n{text}\n" + "".join(_cause(cause) for cause in Cause if ACCOUNTS[cause].layer is layer)


def _cause(cause: Cause) -> str:
    row = ACCOUNTS[cause]
    final = "Yes" if row.final else "No"
    return (
        f"\n### {cause.value}\n\n"
        f"- The user reads: “{_escaped(row.bounce)}” (`{row.condition.value}`)\n- Final: {final}\n- To do: {_escaped(row.remedy)}\n"
    )


def _escaped(text: str) -> str:
    """Return text as Markdown shows it unchanged."""
    for character in ("\\", "`", "*", "_", "<", ">"):
        text = text.replace(character, f"\\{character}")
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
