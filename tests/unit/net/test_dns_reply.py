"""Tests of responses: they are read as dnspython reads them, and no bytes do any harm."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dns_reply import CHAIN, Reply, read_reply

ID = 4711
NAME = dns.name.from_text("_xmpp-server._tcp.A.example")
SRV = dns.rdatatype.SRV
NAMES = ("_xmpp-server._tcp.a.example.", "b.example.", "C.b.example.", "d.else.", "example.", ".")
DATA = {
    "SRV": st.sampled_from(["0 0 5269 x.example.", "1 5 5270 A.example."]),
    "CNAME": st.sampled_from(NAMES[:4]),
    "A": st.sampled_from(["192.0.2.1", "192.0.2.2"]),
    "NS": st.just("ns.example."),
    "SOA": st.sampled_from(["ns.example. h.example. 1 2 3 4 30", "ns.else. h.else. 1 2 3 4 900"]),
}
records = st.sampled_from(sorted(DATA)).flatmap(lambda kind: st.tuples(st.sampled_from(NAMES), st.integers(0, 4000), st.just(kind), DATA[kind]))


def query() -> dns.message.QueryMessage:
    return dns.message.make_query(NAME, SRV, use_edns=0, id=ID)


def response(answer: list[Any] = [], authority: list[Any] = [], rcode: str = "NOERROR", flags: int = 0) -> bytes:  # noqa: B006
    """Return a response with these records: (owner, TTL, type, data)."""
    message = dns.message.make_response(query(), our_payload=1232)
    message.set_rcode(dns.rcode.from_text(rcode))
    message.flags |= flags
    for section, rows in ((message.answer, answer), (message.authority, authority)):
        section += [dns.rrset.from_text(owner, ttl, "IN", kind, data) for owner, ttl, kind, data in rows]
    return message.to_wire(max_size=65535)


def read(wire: bytes, id: int = ID, name: dns.name.Name = NAME, rdtype: int = SRV) -> Reply | None:
    return read_reply(wire, id, name.to_wire().lower(), rdtype)  # type: ignore[union-attr]


class ReplyTests(SynchronousTestCase):
    """Tests of the responses of name servers."""

    @given(st.lists(records, max_size=6), st.lists(records, max_size=3), st.sampled_from(["NOERROR", "NXDOMAIN"]), st.booleans())
    def test_as_dnspython(self, answer: list[Any], authority: list[Any], rcode: str, secure: bool) -> None:
        """Records, TTL and canonical name of a well-formed response are those that dnspython finds. Both refuse the same."""
        wire = response(answer, authority, rcode, dns.flags.AD if secure else 0)
        message = dns.message.from_wire(wire)
        assert isinstance(message, dns.message.QueryMessage)
        reply = read(wire)
        assert reply is not None
        self.assertEqual((message.rcode(), secure, False), (reply.rcode, reply.authentic, reply.truncated))
        try:
            theirs = message.resolve_chaining()
        except dns.exception.DNSException:
            self.assertRaises(ValueError, reply.chain, NAME, 64)
            return
        chain = reply.chain(NAME, 64)
        self.assertEqual((tuple(theirs.answer or ()), theirs.canonical_name), (chain.records, chain.canonical))
        if theirs.answer is not None or any(row[2] == "SOA" for row in authority):
            self.assertEqual(theirs.minimum_ttl, chain.ttl)
        self.assertLessEqual(len(reply.chain(NAME, 1).records), 1)

    @given(st.lists(records, max_size=6), st.lists(records, max_size=3), st.data())
    def test_damaged(self, answer: list[Any], authority: list[Any], data: st.DataObject) -> None:
        """A response with changed, missing or further bytes is read, or refused with the one error."""
        wire = bytearray(response(answer, authority))
        for at in data.draw(st.lists(st.integers(2, len(wire) - 1), max_size=4)):
            wire[at] = data.draw(st.sampled_from([0, 1, 12, 63, 64, 0xC0, 0xC1, 0xFF]))
        cut = data.draw(st.integers(0, len(wire)))
        for each in (bytes(wire), bytes(wire[:cut]), bytes(wire) + b"\0"):
            try:
                reply = read(each)
                if reply is not None:
                    reply.chain(NAME, 64)
            except ValueError:
                pass

    def test_another_query(self) -> None:
        """Only a response with the id, name, type and class of the query is one to it. The case of letters does not matter."""
        wire = response()
        self.assertIsNotNone(read(wire))
        self.assertIsNotNone(read(wire.replace(b"example", b"eXAMPLE")))
        self.assertIsNone(read(wire, id=ID + 1))
        self.assertIsNone(read(wire, name=dns.name.from_text("b.example")))
        self.assertIsNone(read(wire, rdtype=dns.rdatatype.A))
        end = 12 + len(NAME.to_wire() or b"") + 4
        self.assertIsNone(read(wire[: end - 1] + b"\3" + wire[end:]))  # class CH
        self.assertIsNone(read(query().to_wire()))
        self.assertIsNone(read(wire[:2] + bytes([wire[2] | 0x08]) + wire[3:]))  # another opcode
        self.assertIsNone(read(wire[:4] + b"\0\2" + wire[6:]))
        self.assertIsNone(read(wire[:4] + b"\0\0" + wire[6:]))

    def test_errors(self) -> None:
        """A server's error has its code, with the bits of EDNS, and may lack the question."""
        for rcode in ("SERVFAIL", "BADVERS"):
            reply = read(response(rcode=rcode))
            assert reply is not None
            self.assertEqual(dns.rcode.from_text(rcode), reply.rcode)
        bare = ID.to_bytes(2, "big") + b"\x81\x82" + bytes(8)
        reply = read(bare)
        assert reply is not None
        self.assertEqual(dns.rcode.SERVFAIL, reply.rcode)
        self.assertIsNone(read(bare[:3] + b"\x83" + bytes(8)))

    def test_options(self) -> None:
        """There is one OPT record at most, of the root, in the additional section."""
        wire = response()
        opt = wire[-11:]
        self.assertIsNotNone(read(wire))
        self.assertRaises(ValueError, read, wire[:10] + b"\0\2" + wire[12:] + opt)
        self.assertRaises(ValueError, read, wire[:8] + b"\0\1\0\0" + wire[12:])
        self.assertRaises(ValueError, read, wire[:10] + b"\0\1" + wire[12:-11] + b"\1a" + opt)

    def test_truncated(self) -> None:
        """Of a truncated response nothing more is read."""
        wire = response([(NAMES[0], 60, "SRV", "0 0 1 x.")], flags=dns.flags.TC)
        reply = read(wire[:-20])
        assert reply is not None
        self.assertEqual((True, ()), (reply.truncated, reply.answers))

    def test_hostile_names(self) -> None:
        """A name of endless pointers, of too many, beyond 255 bytes or with unknown labels is refused."""
        head = ID.to_bytes(2, "big") + b"\x81\x80\0\1\0\1\0\0\0\0" + (NAME.to_wire() or b"") + b"\0\x21\0\1"
        rest = b"\0\1\0\1\0\0\0\1\0\0"
        at = len(head)
        self.assertIsNotNone(read(head + b"\xc0\x0c" + rest))
        own, forward, long = bytes([0xC0 | at >> 8, at & 255]), b"\xc0\xff", (b"\x3f" + b"x" * 63) * 4 + b"\0"
        for name in (own, forward, long, b"\x40a\0", b"\x80a\0"):
            self.assertRaises(ValueError, read, head + name + rest)
        for pointers, is_read in ((15, True), (16, False)):
            chain = b"\xc0\x0c" + b"".join((0xC000 | at + 2 * number + 12).to_bytes(2, "big") for number in range(pointers - 1))
            data = b"\xc0\x0c\0\1\0\1\0\0\0\1" + len(chain).to_bytes(2, "big") + chain
            last = (0xC000 | at + 12 + len(chain) - 2).to_bytes(2, "big")
            wire = head.replace(b"\0\1\0\1\0\0", b"\0\1\0\2\0\0", 1) + data + last + rest
            if is_read:
                self.assertIsNotNone(read(wire))
            else:
                self.assertRaises(ValueError, read, wire)

    def test_long_chain(self) -> None:
        """A chain of aliases is bounded."""
        for length, is_read in ((CHAIN - 1, True), (CHAIN, False)):
            names = [NAMES[0], *(f"n{number}.example." for number in range(1, length + 1))]
            rows = [(owner, 60, "CNAME", target) for owner, target in pairwise(names)]
            reply = read(response([*rows, (names[-1], 60, "SRV", "0 0 1 x.")]))
            assert reply is not None
            if is_read:
                self.assertEqual(1, len(reply.chain(NAME, 64).records))
            else:
                self.assertRaises(ValueError, reply.chain, NAME, 64)
