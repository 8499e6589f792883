"""Tests of the fuzz targets (`tests/fuzz`) on earlier findings, on their seeds, and on a few random inputs.

`make fuzz` searches for more. R17, R29, R30, R31: the result is always an answer, a refusal or a value, never another exception.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.framing import Fault, Framer
from tests.fuzz.differential import RULES, compare, rule_of
from tests.fuzz.streams import LIMITS
from tests.fuzz.targets import CASES, TARGETS, Target, cases
from tests.support.examples import EXAMPLES
from tests.support.transcripts import HEAD, header, message


class TargetTests(SynchronousTestCase):
    def test_cases(self) -> None:
        """Inputs that a target failed on once no longer fail."""
        for name, target in TARGETS.items():
            for data in (*cases(name), *target.seeds(), b""):
                target.run(data)

    def test_every_case_has_its_target(self) -> None:
        """Each case belongs to an existing target."""
        self.assertEqual(set(), {path.name for path in CASES.iterdir()} - set(TARGETS))

    def test_random(self) -> None:
        """A few random inputs do not fail."""
        for target in TARGETS.values():
            _random(target)()


def _random(target: Target) -> Callable[[], None]:
    seeds = target.seeds() or [b""]
    mutated = st.builds(lambda seed, at, change: seed[:at] + change + seed[at:], st.sampled_from(seeds), st.integers(0, 200), st.binary(max_size=8))

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(st.binary(max_size=300), mutated))
    def run(data: bytes) -> None:
        target.run(data)

    return run


class DifferentialTests(SynchronousTestCase):
    """Tests of the framer against lxml."""

    #: A stream for each rule that refuses it.
    REFUSED = (
        "<stream xmlns='urn:x'>", HEAD.replace("xmlns='jabber:server'", "xmlns='jabber:client'") + ">",
        "<stream:x xmlns:stream='http://etherx.jabber.org/streams'>", "<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:server'>",
        "{}<p:message xmlns:p='jabber:server'/>", "{}<message xmlns:p='urn:p' p:from='a'/>", "{}text<iq/>", "{}<!-- x -->", "{}<?x y?>",
        "<!DOCTYPE x><x/>", "{}<iq>&x;</iq>", "<?xml version='1.0' encoding='latin1'?>", "\u00ff\u00fe<", "<?xml version='1.1'?><x/>", "x", "{}</x>",
        "{}<message>" + "x" * 5000 + "</message>", "{}<x>" + "x" * 66000, "{}<message " + "x='" + "y" * 9000, HEAD + " x='" + "y" * 9000,
        "{}" + " " * 66000, "{}<iq" + "".join(f" a{n}=''" for n in range(70)) + "/>", "{}<iq>" + "<x/>" * 600 + "</iq>", "{}<iq>" + "<x>" * 40,
        "{}<iq xmlns:p='" + "y" * 1100 + "'><p:x/></iq>", "{}<iq xmlns:p='" + "y" * 1000 + "'>" + "<p:x/>" * 20, HEAD + " xmlns:p='" + "y" * 1100 + "'>",
    )

    def test_rules(self) -> None:
        """R14, R30, R31, R32: every refusal of the framer belongs to a rule of the list, and each rule refuses something."""
        found = set()
        for stream in self.REFUSED:
            data = stream.replace("{}", header(from_="peer.example", to="ours.example")).encode("latin-1")
            events = Framer(LIMITS).feed(data)
            self.assertIsInstance(events[-1], Fault, stream[:80])
            assert isinstance(events[-1], Fault)
            found.add(rule_of(events[-1]))
            compare(data)
        self.assertEqual(set(RULES), found)

    def test_infoset(self) -> None:
        """R30: stanzas with prefixes and languages of their stream are the same in a fresh one."""
        compare((
            HEAD + " xmlns:p='urn:p&amp;&apos;' xml:lang='de' to='ours.example'>" + message()
            + "<message xml:lang='' to='a' from='b'><p:x xmlns:p='urn:q'/><p:x p:y='z'>a&lt;<![CDATA[<b>]]></p:x> c <db:result/></message></stream:stream>"
        ).encode())
