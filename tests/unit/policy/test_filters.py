"""Tests of filters: kinds, payload namespaces and size, from what the framer read."""

from __future__ import annotations

import itertools

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.policy.filters import Filter
from s2sgw.policy.model import ALL_KINDS, PeerPolicy
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.stanza import Kind, Stanza

JINGLE, MUC = "urn:xmpp:jingle:1", "http://jabber.org/protocol/muc"


def stanza(kind: Kind = "message", payloads: tuple[str, ...] = ("jabber:server}body",), size: int = 100) -> Stanza:
    return Stanza(kind, b"x" * size, "a@ours.example", "b@peer.example", payloads=payloads)


def made(**keys: object) -> Filter:
    found = Filter.of(PeerPolicy(**keys))  # type: ignore[arg-type]
    assert found is not None
    return found


class FilterTests(SynchronousTestCase):
    """Tests of which stanzas pass."""

    def test_nothing_configured(self) -> None:
        """Without configured filters there is no filter object, so that no stanza is checked."""
        self.assertIsNone(Filter.of(PeerPolicy()))
        self.assertIsNone(Filter.of(PeerPolicy(kinds=("iq", "message", "presence"))))

    def test_kinds(self) -> None:
        """For every choice of kinds those pass and the others do not."""
        for number in (1, 2):
            for kinds in itertools.combinations(ALL_KINDS, number):
                for kind in ALL_KINDS:
                    ending = made(kinds=kinds).refusal(stanza(kind))
                    self.assertEqual(None if kind in kinds else Cause.FILTERED, ending and ending.cause)

    def test_namespaces(self) -> None:
        """One payload in a denied namespace is sufficient, whatever its name. A longer namespace with the same beginning is another one."""
        denying = made(deny_namespaces=(JINGLE, MUC))
        for payloads, passes in (
            ((), True), (("jabber:server}body",), True), ((f"{JINGLE}}}jingle",), False), (("jabber:server}body", f"{MUC}}}x"), False),
            ((f"{MUC}#user}}x",), True), (("jingle",), True), ((f"x}}{JINGLE}",), True),
        ):
            ending = denying.refusal(stanza(payloads=payloads))
            self.assertEqual(passes, ending is None, payloads)
        ending = denying.refusal(stanza(payloads=(f"{MUC}}}x",)))
        assert ending is not None
        self.assertEqual((Cause.FILTERED, True), (ending.cause, MUC in ending.detail))

    def test_size(self) -> None:
        """A stanza of exactly the limit passes. One byte more does not."""
        limited = made(deny_larger_than=1000)
        self.assertIsNone(limited.refusal(stanza(size=1000)))
        ending = limited.refusal(stanza(size=1001))
        assert ending is not None
        self.assertEqual((Cause.TOO_LARGE, "1001 bytes; the policy for this peer denies more than 1000"), (ending.cause, ending.detail))

    def test_sift(self) -> None:
        """A run is divided in two, each in order. Equal stanzas are told apart by identity."""
        one, two, three = stanza(), stanza("presence"), stanza("iq")
        passed, refused = made(kinds=("message", "iq")).sift([one, two, three, two])
        self.assertEqual([one, three], passed)
        self.assertEqual([two, two], [each for each, _ in refused])

    def test_all_pass(self) -> None:
        """If nothing is refused, the run itself is passed on."""
        run = [stanza(), stanza()]
        passed, refused = made(kinds=("message",)).sift(run)
        self.assertIs(run, passed)
        self.assertEqual([], refused)
