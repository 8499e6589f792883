"""Filters: kinds, payload namespaces and size, read off what the framer saw."""

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
    """What passes and what does not."""

    def test_nothing_configured(self) -> None:
        """With no filter configured there is none, so that no stanza need be looked at."""
        self.assertIsNone(Filter.of(PeerPolicy()))
        self.assertIsNone(Filter.of(PeerPolicy(kinds=("iq", "message", "presence"))))

    def test_kinds(self) -> None:
        """Over every choice of kinds: those pass, the others do not."""
        for number in (1, 2):
            for kinds in itertools.combinations(ALL_KINDS, number):
                for kind in ALL_KINDS:
                    ending = made(kinds=kinds).refusal(stanza(kind))
                    self.assertEqual(None if kind in kinds else Cause.FILTERED, ending and ending.cause)

    def test_namespaces(self) -> None:
        """Any payload in a denied namespace is enough, whatever its name; a namespace that only begins alike is another."""
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
        """The limit itself passes, a byte more does not."""
        limited = made(deny_larger_than=1000)
        self.assertIsNone(limited.refusal(stanza(size=1000)))
        ending = limited.refusal(stanza(size=1001))
        assert ending is not None
        self.assertEqual((Cause.TOO_LARGE, "1001 bytes; the policy for this peer denies more than 1000"), (ending.cause, ending.detail))

    def test_sift(self) -> None:
        """A run is parted in two, each in its order; twins are told apart by what they are, not how they look."""
        one, two, three = stanza(), stanza("presence"), stanza("iq")
        passed, refused = made(kinds=("message", "iq")).sift([one, two, three, two])
        self.assertEqual([one, three], passed)
        self.assertEqual([two, two], [each for each, _ in refused])

    def test_all_pass(self) -> None:
        """Where nothing is refused, the run itself goes on."""
        run = [stanza(), stanza()]
        passed, refused = made(kinds=("message",)).sift(run)
        self.assertIs(run, passed)
        self.assertEqual([], refused)
