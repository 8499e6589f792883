"""The account of `make crash` sees which stanzas came twice without having been in doubt, and which losses are faults."""

from __future__ import annotations

from math import inf
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from tests.durability.account import ArrivalStream, PairAccount, SentPosition
from tests.durability.crash_account import SETTLE_SECONDS, GatewayRuns, PairResult, judge
from tests.durability.simulated_server import SimulatedServer
from tests.durability.socket_progress import Connection
from tests.durability.xml_stream import XMLStream

#: A moment shortly before and after the limit.
LITTLE = 0.005


def reached(moment: float | None, position: int = 100) -> SentPosition:
    """Return a position that the gateway's kernel had from `moment` on. None: it never got so far."""
    connection = Connection(1, 2)
    connection.arrived.note(0.0, position - 1)
    if moment is not None:
        connection.arrived.note(moment, position)
    return SentPosition(connection, position)


class RepeatTests(SynchronousTestCase):
    """Stanza 0 arrives at 10.0 on one stream, and again at 14.0 on another. The gateway is killed at 12.0 unless a test says otherwise."""

    def setUp(self) -> None:
        self.account = PairAccount("inside.example", "peer.example", managed=True, sent=[9.9])
        self.runs = GatewayRuns([(12.0, "both")])
        self.first = ArrivalStream(1, opened=9.0, ended=12.001)
        self.account.streams = {1: self.first, 2: ArrivalStream(2, opened=13.0)}
        for stream, moment in (1, 10.0), (2, 14.0):
            self.arrive(stream, moment)

    def arrive(self, stream: int, moment: float) -> None:
        self.account.arrive(0, stream)
        self.account.arrivals[0][-1] = moment

    def acknowledge(self, asked: float, position: SentPosition | None) -> None:
        acknowledgement = self.first.acknowledge()
        acknowledgement.asked, acknowledgement.position = asked, position

    def needless(self) -> list[int]:
        return [repeat.number for repeat in judge(self.account, self.runs).needless_repeats]

    def test_not_acknowledged(self) -> None:
        """Without an acknowledgement the stanza was in doubt, however long before the kill it had arrived."""
        self.assertEqual(self.needless(), [])
        self.acknowledge(10.1, None)
        self.assertEqual(self.needless(), [])
        self.first.acknowledgements.clear()
        self.acknowledge(10.1, reached(None))
        self.assertEqual(self.needless(), [])

    def test_acknowledged(self) -> None:
        """The gateway has `SETTLE_SECONDS` for the removal, from the arrival of the acknowledgement on."""
        self.acknowledge(10.1, reached(12.0 - SETTLE_SECONDS + LITTLE))
        self.assertEqual(self.needless(), [])
        self.first.acknowledgements.clear()
        self.acknowledge(10.1, reached(12.0 - SETTLE_SECONDS - LITTLE))
        self.assertEqual(self.needless(), [0])
        (fault, worst) = judge(self.account, self.runs).faults()
        self.assertEqual(fault, "inside.example -> peer.example: 1 arrived twice that had been acknowledged more than 0.06 s before")
        self.assertEqual(worst, "    number 0: acknowledged 65 ms before an end of kind both, 0 of them without a processor")

    def test_which_acknowledgement(self) -> None:
        """One that was asked for before the stanza arrived says nothing about it. The first one after it counts."""
        self.acknowledge(9.99, reached(10.0))
        self.assertEqual(self.needless(), [])
        self.acknowledge(11.9, reached(11.99))
        self.assertEqual(self.needless(), [])
        self.acknowledge(11.95, reached(11.0))
        self.assertEqual(self.needless(), [])
        self.first.acknowledgements[1].position = reached(11.0)
        self.assertEqual(self.needless(), [0])

    def test_after_the_kill(self) -> None:
        """A reply that reached the next run of the gateway is too late."""
        self.acknowledge(10.1, reached(13.5))
        self.assertEqual(self.needless(), [])

    def test_dropped_by_the_server(self) -> None:
        """A stream that its server drops puts stanzas in doubt, too, long before the kill."""
        self.acknowledge(10.01, reached(10.02))
        self.first.ended = 10.05
        self.assertEqual(self.needless(), [])
        self.first.ended = 10.02 + SETTLE_SECONDS + LITTLE
        self.assertEqual(self.needless(), [0])
        self.assertIn("65 ms before the end of its stream", judge(self.account, self.runs).faults()[-1])

    def test_without_a_processor(self) -> None:
        """Time in which the gateway waited for a processor does not count."""
        self.acknowledge(10.1, reached(11.8))
        self.assertEqual(self.needless(), [0])
        self.runs.waited.note(11.0, 1.0)
        self.runs.waited.note(11.9, 1.18)
        self.assertEqual(self.needless(), [])

    def test_stream_that_is_open(self) -> None:
        """Nothing puts a stanza in doubt while its stream and the gateway live."""
        self.runs.ends.clear()
        self.first.ended = inf
        self.assertEqual(self.needless(), [0])
        self.assertEqual(judge(self.account, self.runs).faults()[-1], "    number 0: its stream has not ended")

    def test_sent_again(self) -> None:
        """A repeat of the sender's own excuses one repeat, and no more."""
        self.acknowledge(10.1, reached(10.2))
        self.account.resent[0] = 1
        self.assertEqual(self.needless(), [])
        second = self.account.streams[2]
        second.acknowledge().asked = 14.1
        second.acknowledgements[0].position = reached(14.2)
        self.runs.ends.append((16.0, "both"))
        self.account.streams[3] = ArrivalStream(3, opened=17.0)
        self.arrive(3, 18.0)
        self.assertEqual(self.needless(), [0])
        self.account.resent[0] = 2
        self.assertEqual(self.needless(), [])

    def test_no_acknowledgements(self) -> None:
        """A server that acknowledges nothing leaves all in doubt."""
        self.acknowledge(10.1, reached(10.2))
        self.account.acknowledging = False
        self.assertEqual(self.needless(), [])


class LossTests(SynchronousTestCase):
    """Stanza 0 is read at 10.0, and never arrives. The gateway is killed or stopped after that."""

    def result(self, end: float, *, stop: bool = False, managed: bool = False, read: bool = True) -> PairResult:
        account = PairAccount("peer.example", "inside.example", managed, sent=[9.9])
        connection = Connection(1, 2, opened=9.0)
        if read:
            connection.read.note(10.0, 100)
        account.positions[0] = SentPosition(connection, 100)
        return judge(account, GatewayRuns([(end, "stop" if stop else "inbound")]))

    def test_excused(self) -> None:
        """Lost may be what was not read, or read within the window before a kill, if the sender does not use XEP-0198."""
        self.assertEqual(self.result(11.0, read=False).unexcused, [])
        self.assertEqual(self.result(10.055).unexcused, [])

    def test_faults(self) -> None:
        """Every other loss is a fault."""
        for result in self.result(10.065), self.result(10.01, stop=True), self.result(10.01, managed=True):
            self.assertEqual([loss.number for loss in result.unexcused], [0])


class PositionTests(SynchronousTestCase):
    """The record of an acknowledgement."""

    def stream(self) -> XMLStream:
        transport = mock.Mock()
        stream = XMLStream(mock.Mock(), mock.Mock(transport=transport))
        stream.writer.write = lambda data: transport.write(data)  # type: ignore[method-assign]
        return stream

    def test_written(self) -> None:
        """The position is the end of what was written; there is none on a connection that is lost or not monitored."""
        stream = self.stream()
        self.assertIsNone(stream.send("1234"))
        stream.connection = Connection(1, 2)
        self.assertEqual(stream.send("56"), SentPosition(stream.connection, 6))
        stream.writer.write = lambda data: None  # type: ignore[method-assign]
        self.assertIsNone(stream.send("78"))

    def test_reply_to_a_ping(self) -> None:
        """The reply's position is on the server's own stream. It is recorded when the reply is written."""
        account = PairAccount("peer.example", "inside.example", managed=False)
        with mock.patch.object(SimulatedServer, "renew"):
            server = SimulatedServer("peer.example", 1, mock.Mock(), 2, managed=False)
        server.context = mock.Mock()
        outgoing = server.sends_to([mock.Mock(account=account)])
        arrivals = ArrivalStream(1)
        ping = mock.Mock(**{"get.side_effect": {"id": "s2sgw-1"}.get})
        server._arrived(ping, "inside.example", arrivals, self.stream())
        (acknowledgement,) = arrivals.acknowledgements
        self.assertIsNone(acknowledgement.position)
        stream = self.stream()
        stream.connection = Connection(3, 4)
        outgoing._send_answers(stream)
        self.assertEqual(acknowledgement.position, SentPosition(stream.connection, stream.written))
