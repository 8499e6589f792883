"""Tests of delay stamps (XEP-0203, R39)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.delay_stamp import stamped
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.namespaces import DELAY
from s2sgw.xmpp.stanza import Kind, Stanza

SENDER = Domain.parse("here.example")


def stamp(data: bytes, kind: Kind = "message", type: str | None = None, payloads: tuple[str, ...] = ()) -> bytes:
    return stamped(Stanza(kind, data, "a@there.example", "b@here.example", type, None, payloads), SENDER, 1.5)


class DelayTests(SynchronousTestCase):
    """R39: the stamp of a stanza that waited gives the time of its arrival, and names the sender's domain."""

    def test_stamp(self) -> None:
        """R39: the stamp is the last child, whatever the content. The rest is unchanged."""
        for content in (b"<body>x</body>", b"", b"<body><![CDATA[</message>]]></body>"):
            delay = Element.parse(stamp(b"<message>" + content + b"</message>")).children[-1]
            self.assertEqual((delay.namespace, delay.attributes), (DELAY, {"from": "here.example", "stamp": "1970-01-01T00:00:01.500Z"}))
            self.assertTrue(stamp(b"<message>" + content + b"</message>").startswith(b"<message>" + content))

    def test_empty(self) -> None:
        """R39: an empty tag is opened for the stamp."""
        presence = Element.parse(stamp(b"<presence id='1'/>", "presence"))
        self.assertEqual((presence.attributes["id"], [child.name for child in presence.children]), ("1", ["delay"]))

    def test_none(self) -> None:
        """R39: IQs, errors, and stanzas that have a stamp already get none."""
        for kind, type, payloads in (("iq", "get", ()), ("message", "error", ()), ("message", None, (f"{DELAY}}}delay",))):
            data = f"<{kind}><x/></{kind}>".encode()
            self.assertEqual(stamp(data, kind, type, payloads), data)  # type: ignore[arg-type]
