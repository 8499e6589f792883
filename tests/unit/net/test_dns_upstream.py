"""Tests of the query as it is sent."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.name
from dns.rdatatype import RdataType
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dns_answer import Question
from s2sgw.net.dns_upstream import EDNS_PAYLOAD, Query


class QueryTests(SynchronousTestCase):
    def test_wire(self) -> None:
        """The query equals, byte for byte, dnspython's message for the same question."""
        for name, kind in (("a.example", RdataType.A), ("_xmpp-server._tcp.B.example", RdataType.SRV), (".", RdataType.NS)):
            query = Query(Question(dns.name.from_text(name), kind))
            query.id = 4711
            flags = dns.flags.RD | dns.flags.AD
            same = dns.message.make_query(name, kind, use_edns=0, payload=EDNS_PAYLOAD, flags=flags, id=4711)
            self.assertEqual(query.to_wire(), same.to_wire())

    def test_answers(self) -> None:
        """The answer is told apart from answers to another question or with another id."""
        query = Query(Question(dns.name.from_text("a.example"), RdataType.A))
        query.id = 5
        for name, number, answers in (("a.example", 5, True), ("A.example", 5, True), ("b.example", 5, False), ("a.example", 6, False)):
            response = dns.message.make_response(dns.message.make_query(name, "A", id=number))
            self.assertEqual(query.is_response(response), answers)
