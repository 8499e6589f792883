"""Tests of the header that one node sends to another."""

from __future__ import annotations

import struct

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.node_header import TYPE, NodeHeaders
from s2sgw.net.proxy_protocol import ProxyHeader, parse, write
from s2sgw.xmpp.host_port import HostPort

FOUR = (HostPort("192.0.2.7", 51234), HostPort("198.51.100.1", 5269))
SIX = (HostPort("2001:db8::7", 51234), HostPort("fe80::1%eth0", 5269))
OURS = NodeHeaders(b"a secret")


def parsed(data: bytes) -> ProxyHeader:
    header = parse(data)
    assert header is not None
    return header


class NodeHeaderTests(SynchronousTestCase):
    def test_read_again(self) -> None:
        """A header of either family is read with its leg by a node with the same secret."""
        for ends in (FOUR, SIX):
            header = parsed(OURS.write(*ends, "backend example.org"))
            self.assertEqual(NodeHeaders(b"a secret").leg(header), "backend example.org")
            assert header.source is not None
            self.assertEqual(header.source.host, ends[0].host)

    def test_other_secret(self) -> None:
        """A header that was written without the secret, or without the extension, has no leg."""
        self.assertIsNone(NodeHeaders(b"another").leg(parsed(OURS.write(*FOUR, "federation"))))
        self.assertIsNone(OURS.leg(parsed(write(*FOUR))))
        self.assertIsNone(OURS.leg(parsed(b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 5269\r\n")))
        self.assertIsNone(OURS.leg(ProxyHeader(16)))

    def test_altered(self) -> None:
        """A change of any byte of the addresses, the proof or the leg is noticed."""
        whole = OURS.write(*FOUR, "federation")
        for at in range(16, len(whole)):
            altered = bytearray(whole)
            altered[at] ^= 1
            self.assertIsNone(OURS.leg(parsed(bytes(altered))), at)

    def test_other_extensions(self) -> None:
        """Extensions of others are skipped, and malformed ones are not read."""
        own = parsed(OURS.write(*FOUR, "federation")).extensions
        self.assertEqual(OURS.leg(parsed(write(*FOUR, b"\x04\x00\x02ab" + own))), "federation")
        for extensions in (b"\x04\x00\x09" + own[:5], own[:-1], struct.pack("!BH", TYPE, 3) + b"abc", own[:2]):
            self.assertIsNone(OURS.leg(parsed(write(*FOUR, extensions))))

    def test_two_families(self) -> None:
        """A connection whose ends are of different families has no header."""
        self.assertEqual(OURS.write(FOUR[0], SIX[1], "federation"), b"")
