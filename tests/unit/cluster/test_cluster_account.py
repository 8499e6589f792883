"""The account of `tests.durability.cluster` sees what it must see."""

from __future__ import annotations

import random
import socket
import xml.etree.ElementTree as ET
from typing import Any
from unittest import mock

import dns.message
import dns.rcode
from twisted.trial.unittest import SynchronousTestCase

from tests.durability.account import PairAccount
from tests.durability.cluster_account import BRIDGE_LIMIT, LIMITS, Round, judge, measure_silence, silences
from tests.durability.cluster_faults import ClusterFaults
from tests.durability.cluster_prosody import NodesNameserver
from tests.durability.cluster_testbed import SecondArrivals, SecondTraffic, is_listening, large_stanzas
from tests.durability.simulated_server import OutgoingStream, Traffic


def account(managed: bool, arrived: str, sent: int = 6) -> PairAccount:
    """Return an account of stanzas that were sent one a second from 100 on. `arrived`: their digits, one arrival a second."""
    made = PairAccount("peer.example", "inside.example", managed, sent=[100.0 + number for number in range(sent)])
    for moment, number in enumerate(map(int, arrived)):
        made.arrive(number, 1)
        made.arrivals[number][-1] = 100.0 + moment
    return made


class ClusterAccountTests(SynchronousTestCase):
    """Losses, order, repeats and silence."""

    def test_all_is_well(self) -> None:
        """Stanzas that arrive once and in order are no error."""
        self.assertEqual(list(judge(account(True, "012345"), []).errors()), [])

    def test_lost(self) -> None:
        """A sender with XEP-0198 loses nothing, whatever the fault."""
        fault = Round("kill", "a kill", 100.0, 106.0)
        self.assertEqual(judge(account(True, "01245"), [fault]).lost, [3])

    def test_excused(self) -> None:
        """A sender without it may lose what it wrote about the time of a fault, if the gateway has not taken it, and nothing else."""
        early, late = Round("kill", "a kill", 103.5, 103.6), Round("kill", "a kill", 200.0, 201.0)
        self.assertEqual(judge(account(False, "01245"), [early]).excused, [3])
        self.assertEqual(judge(account(False, "01245"), [late]).lost, [3])
        self.assertEqual(judge(account(False, "01245"), [Round("server", "", 103.5, 103.6, loses=False)]).lost, [3])
        self.assertEqual(judge(account(False, "01245"), [], {3}).excused, [3])
        self.assertEqual(judge(account(True, "01245"), [], {3}).lost, [3])
        taken = account(False, "01245")
        taken.acknowledged.add(3)
        self.assertEqual(judge(taken, [early]).lost, [3])

    def test_errors(self) -> None:
        """An order that changed, an IQ request that came twice and a repeat on one stream are seen. A bounce is none of them."""
        self.assertIn("1 out of order", "".join(judge(account(True, "013245"), []).errors()))
        twice = account(True, "0123345")
        twice.requests.add(3)
        self.assertEqual(len(list(judge(twice, []).errors())), 2)
        bounced = account(True, "01245")
        bounced.bounced.add(3)
        self.assertEqual(list(judge(bounced, []).errors()), [])

    def test_real_server(self) -> None:
        """Any later fault excuses what a real server may have written late. Its order is not judged, and without a fault nothing is lost."""
        late, early = Round("kill", "", 200.0, 201.0), Round("kill", "", 50.0, 51.0)
        made = account(False, "10245")
        made.orderly = False
        self.assertEqual((judge(made, [late]).excused, list(judge(made, [late]).errors())), ([3], []))
        self.assertEqual((judge(made, [early]).lost, judge(made, []).lost), ([3], [3]))

    def test_silence(self) -> None:
        """The longest time without an arrival counts from the fault on, to the end of the round, and has a limit for some kinds."""
        found = Round("kill", "a kill", 102.5, 103.0)
        quiet, busy = account(True, "012"), account(True, "012345")
        measure_silence(found, [busy, quiet], 106.0)
        self.assertEqual((found.silence, found.silent), (4.0, quiet.name))
        self.assertEqual(silences([found]), [])
        measure_silence(found, [busy, quiet], 103.0 + LIMITS["kill"])
        self.assertEqual(len(silences([found])), 1)

    def test_silence_in_the_bridge(self) -> None:
        """Without a majority of the engine, a pair must not be silent while the nodes have the bridge. Later it may."""
        self.assertEqual(silences([Round("minority", "", 100.0, silence=80.0, bridged=BRIDGE_LIMIT)]), [])
        self.assertEqual(len(silences([Round("minority", "", 100.0, bridged=BRIDGE_LIMIT + 1)])), 1)

    def test_refused(self) -> None:
        """A stanza that was refused because there was no room is seen; another error, or an earlier stanza, is not."""
        made = account(True, "0")
        made.errors.update({2: ["resource-constraint"], 5: ["gone"]})
        self.assertEqual((made.refused_since(2), made.refused_since(3)), (True, False))


class ClusterFaultsTests(SynchronousTestCase):
    """The order of the faults."""

    def plan(self, seed: int, rounds: int, *only: str) -> list[str]:
        testbed: Any = mock.Mock()
        return ClusterFaults(testbed, random.Random(seed)).plan(only, rounds)

    def test_plan(self) -> None:
        """Each kind comes once before one comes again; only those that are asked for come."""
        faults = ClusterFaults(mock.Mock(), random.Random(1))
        kinds = sorted(faults.kinds)
        self.assertEqual(sorted(self.plan(1, len(kinds))), kinds)
        self.assertEqual(sorted(self.plan(1, 2 * len(kinds))), sorted(kinds * 2))
        self.assertEqual(set(self.plan(1, 5, "kill", "cut")), {"kill", "cut"})

    def test_in_order(self) -> None:
        """The kinds may follow each other as they are named."""
        faults = ClusterFaults(mock.Mock(), random.Random(1))
        self.assertEqual(["alone", "minority", "alone"], faults.plan(["alone", "minority"], 3, in_order=True))

    def test_seeds(self) -> None:
        """Other seeds have other kinds, and the same seed has the same."""
        self.assertEqual(self.plan(3, 6), self.plan(3, 6))
        self.assertLess(10, len({kind for seed in range(8) for kind in self.plan(seed, 3)}))

    def test_old_sessions(self) -> None:
        """Faults after which a node is declared dead by waiting come last, so that no time is spent on waiting first."""
        faults = ClusterFaults(mock.Mock(), random.Random(1))
        for seed in range(8):
            old = [faults.kinds[kind].old for kind in self.plan(seed, len(faults.kinds))]
            self.assertEqual(old, sorted(old))


class ListeningTests(SynchronousTestCase):
    """Whether a port has a listener."""

    def test_port(self) -> None:
        """A port is seen while it has a listener, and not before or after."""
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            self.assertFalse(is_listening(port))
            one.listen()
            self.assertTrue(is_listening(port))
        self.assertFalse(is_listening(port))


class SecondStreamTests(SynchronousTestCase):
    """The stanzas of second streams are told from the others."""

    def test_arrivals(self) -> None:
        """They have ids of their own. Arrivals count for the pair, errors for the pair of the sender; other stanzas are not counted."""
        made = account(True, "", sent=3)
        made.requests.add(1)
        traffic, plain = SecondTraffic(made, "u@inside.example/r"), Traffic(made, "u@inside.example/r")
        self.assertEqual([ET.fromstring(traffic.stanza(number)).get("id") for number in range(2)], ["m0", "m1"])
        arrivals, stream = SecondArrivals(), mock.Mock()
        arrivals.accounts[made.sender, made.recipient] = made
        arrivals.note(made.recipient, ET.fromstring(traffic.stanza(0)), made.sender, stream)
        arrivals.note(made.recipient, ET.fromstring(plain.stanza(1)), made.sender, stream)
        arrivals.note(made.recipient, ET.fromstring(traffic.stanza(0)), "other.example", stream)
        self.assertEqual((made.arrived, made.arrived_on), ([0], [0]))
        error = ET.fromstring(f"<message type='error' from='u@{made.recipient}/r' to='u@{made.sender}/r' id='m2'/>")
        arrivals.note(made.sender, error, made.recipient, stream)
        self.assertEqual(made.bounced, {2})

    def test_name_server(self) -> None:
        """The server of a Prosody behind the nodes finds every domain at all of them."""
        served = NodesNameserver()
        served.nodes = (5001, 5002)
        query = dns.message.make_query("_xmpp-server._tcp.any.example", "SRV")
        answer = dns.message.from_wire(served._answer(query).to_wire())
        self.assertEqual(sorted(each.port for each in answer.answer[0]), [5001, 5002])
        other = served._answer(dns.message.make_query("_xmpps-server._tcp.any.example", "SRV"))
        self.assertEqual((other.rcode(), list(other.answer)), (dns.rcode.NXDOMAIN, []))

    def test_large_stanzas(self) -> None:
        """They take the next numbers of a stream, and have the size that is asked for."""
        made = account(True, "", sent=3)
        stream = OutgoingStream([Traffic(made, "u@peer.example/r")], 1, mock.Mock())
        found = large_stanzas(stream, 2, 100)
        self.assertEqual([ET.fromstring(text).get("id") for text in found.values()], ["n3", "n4"])
        self.assertEqual((sorted(found), len(ET.fromstring(found[4])[0].text or "")), ([3, 4], 100))
