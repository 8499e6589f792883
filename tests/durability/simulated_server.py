"""A simulated server of one domain, on either side of the gateway.

It sends numbered stanzas on its own streams and records arriving ones. Its switches make it behave badly: it can be
away, stop reading, not answer pings, withhold acknowledgements, or acknowledge stanzas that it discards.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import ssl
import time
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.durability.account import Acknowledgement, ArrivalStream, PairAccount
from tests.durability.socket_progress import Connection, SocketMonitor
from tests.durability.xml_stream import CONNECTION_ERRORS, SM, STANZAS, STEP_SECONDS, Offer, XMLStream, XMLStreamError
from tests.lab.certificates import Certificate
from tests.lab.peer import client_context, server_context

_PING = "{urn:xmpp:ping}ping"
_LOST = (*CONNECTION_ERRORS, XMLStreamError)
#: Seconds between two checks for stanzas to send, and between two attempts to connect.
TICK_SECONDS, RETRY_SECONDS = 0.01, 0.05
#: Stanzas that a sender with XEP-0198 leaves unacknowledged, and stanzas that it writes in one tick.
UNACKNOWLEDGED, PER_TICK = 5000, 1000
#: The share of the stanzas of an `OutgoingStream` with a rate that are IQ requests.
REQUEST_SHARE = 0.05
#: The number of answers that wait for a stream.
ANSWERS = 10_000
_TEXT = "nothing is lost "
_streams = itertools.count(1)


@dataclass
class Traffic:
    """The traffic of one pair. `rate`: stanzas a second. `due`: stanzas to send now. `size`: bytes of a body, 0 for a mixture."""

    account: PairAccount
    address: str  # the address that stanzas go to
    rate: float = 0.0
    due: float = 0.0
    size: int = 0
    request_share: float = 0.0
    #: stanzas that look different from the usual ones, by number
    special: dict[int, str] = field(default_factory=dict)

    def stanza(self, number: int) -> str:
        """Return the stanza of this number. It is the same text each time."""
        if number in self.special:
            return self.special[number]
        addresses = f"from='u@{self.account.sender}/r' to='{self.address}' id='n{number}'"
        if number in self.account.requests:
            return f"<iq type='get' {addresses}><query xmlns='urn:example:durability'/></iq>"
        size = self.size or len(_TEXT) * (number % 30)
        body = (_TEXT * (size // len(_TEXT) + 1))[:size]
        return f"<message type='chat' {addresses}><body>{body}</body></message>"


@dataclass(frozen=True)
class _Sent:
    """One unacknowledged stanza. `traffic` None: a stanza outside the account, such as the answer to a ping."""

    traffic: Traffic | None
    number: int
    text: str = ""

    def stanza(self) -> str:
        return self.text if self.traffic is None else self.traffic.stanza(self.number)


class OutgoingStream:
    """The stream of a server to one other domain, through the gateway's listener at `port`. It connects again when it is cut.

    `traffics` beyond the first are pairs that request the same stream by dialback.
    """

    def __init__(
        self, traffics: Sequence[Traffic], port: int, context: ssl.SSLContext, monitor: SocketMonitor | None = None, *,
        resumes: bool = False,
    ) -> None:
        self.traffics = list(traffics)
        self.account = self.traffics[0].account
        self.sending = True
        #: no new connection is opened while this is False
        self.connects = True
        #: there is a stream, or one is being opened
        self.in_use = False
        #: how many streams were authenticated, and how many of them went on with the one before (XEP-0198 §5)
        self.streams = self.resumed = 0
        #: how many stanzas may be unacknowledged
        self.window = UNACKNOWLEDGED
        self.unacknowledged: deque[_Sent] = deque()
        #: the last stream was closed normally by both sides
        self.closed_in_order = False
        self.stream: XMLStream | None = None
        self.port = port
        self.context = context
        #: TLS begins with the connection (XEP-0368)
        self.direct = False
        self._monitor = monitor
        self._resumes = resumes
        self._session = ""  # the id of the stream that may be resumed
        self._handled = 0  # the stanzas that the gateway has acknowledged on the current stream
        self._answers: list[tuple[str, Acknowledgement | None]] = []
        self._written: list[_Sent] = []  # on the current stream, if the sender does not use XEP-0198
        self._cut_off: list[_Sent] = []  # the same of the last stream, if it was not closed normally

    @property
    def traffic(self) -> Traffic:
        return self.traffics[0]

    def send(self, number: int, traffic: Traffic | None = None) -> None:
        """Send this many more stanzas as soon as there is a stream."""
        (traffic or self.traffic).due += number

    def text(self) -> str:
        """Return the state of the stream as text."""
        state = "no stream" if self.stream is None else "a stream"
        waiting = ", ".join(str(sent.number) for sent in list(self.unacknowledged)[:5])
        return (
            f"{self.account.name} ({state}, {len(self.unacknowledged)} unacknowledged, such as {waiting}; "
            f"{sum(int(traffic.due) for traffic in self.traffics)} to send; {self.streams} streams so far, {self.resumed} resumed)"
        )

    def owes(self) -> bool:
        """Return whether a stanza is still to be sent or to be acknowledged."""
        unacknowledged = any(sent.traffic is not None for sent in self.unacknowledged)
        return unacknowledged or (self.sending and any(traffic.due >= 1 for traffic in self.traffics))

    def answer(self, text: str, acknowledgement: Acknowledgement | None = None) -> None:
        """Send a stanza outside the account when there is a stream. `acknowledgement`: record there where it was written."""
        if len(self._answers) < ANSWERS:
            self._answers.append((text, acknowledgement))

    def count_written(self, *, cut_off: bool = False) -> None:
        """Count as acknowledged what a sender without XEP-0198 has written, so that the gateway must not lose it.

        That is data written on streams that are open or were closed normally. `cut_off`: also on the last one, however it ended.
        """
        for sent in [*self._written, *(self._cut_off if cut_off else ())]:
            if sent.traffic is not None:
                sent.traffic.account.acknowledged.add(sent.number)
        self._written.clear()

    def cut(self) -> None:
        """Drop the connection without an error."""
        if self.stream is not None:
            self.stream.abort()

    # --- one stream after another ---

    async def run(self) -> None:
        """Connect and send, repeatedly."""
        while True:
            if self.connects and not self.in_use:
                self.in_use = True
                with contextlib.suppress(*_LOST):
                    await self._connect()
                self.in_use = False
            await asyncio.sleep(RETRY_SECONDS)

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        stream = XMLStream(reader, writer)
        if self._monitor is not None:
            stream.connection = self._monitor.watch(Connection(writer.get_extra_info("sockname")[1], self.port))
        try:
            features = await stream.initiate(self.account.recipient, self.account.sender, self.context, direct=self.direct)
            resumed = await self._manage(stream, features)
            await stream.add_pairs([(each.account.sender, each.account.recipient) for each in self.traffics[1:]])
            await self.use(stream, resumed)
        finally:
            if self._monitor is not None and stream.connection is not None:
                self._monitor.forget(stream.connection)
            stream.close()

    async def _manage(self, stream: XMLStream, features: ET.Element) -> bool:
        """Enable or resume XEP-0198. Return whether the last stream was resumed."""
        if not self.account.managed:
            return False
        if features.find(f"{{{SM}}}sm") is None:
            raise XMLStreamError("XEP-0198 is not offered")
        if self._session:
            stream.send(f"<resume xmlns='{SM}' h='0' previd='{self._session}'/>")
            answer = await stream.expect(f"{{{SM}}}resumed", f"{{{SM}}}failed")
            self._acknowledge(int(answer.get("h", self._handled)))
            if answer.tag.endswith("resumed"):
                return True
        self._session = ""
        resume = " resume='true'" if self._resumes else ""
        stream.send(f"<enable xmlns='{SM}'{resume}/>")
        answer = await stream.expect(f"{{{SM}}}enabled")
        self._session = answer.get("id", "") if answer.get("resume") in ("true", "1") else ""
        return False

    async def use(self, stream: XMLStream, resumed: bool = False, reads: bool = True) -> None:
        """Send on an authenticated stream until it ends. `reads`: this method reads the stream too."""
        self.stream, self.closed_in_order = stream, False
        self.streams += 1
        self.resumed += resumed
        self._send_again(stream, resumed)
        reader = asyncio.create_task(self._read(stream) if reads else asyncio.sleep(float("inf")))
        try:
            await self._write(stream, reader)
        finally:
            reader.cancel()
            self.stream = None
            if self.closed_in_order:
                self.count_written()
            self._written, self._cut_off = [], self._written

    def _send_again(self, stream: XMLStream, resumed: bool) -> None:
        """Send unacknowledged stanzas again: on a resumed stream all of them, on a new stream all except IQ requests."""
        if not resumed:
            self._handled = 0
            kept: deque[_Sent] = deque()
            for sent in self.unacknowledged:
                if sent.traffic is None:
                    continue
                if sent.number in sent.traffic.account.requests:
                    sent.traffic.account.withdrawn.add(sent.number)
                else:
                    kept.append(sent)
            self.unacknowledged = kept
        for sent in self.unacknowledged:
            self._put(stream, sent)
            if sent.traffic is not None:
                sent.traffic.account.resent[sent.number] += 1
        if self.unacknowledged:
            stream.send(f"<r xmlns='{SM}'/>")

    async def _write(self, stream: XMLStream, reader: asyncio.Task[None]) -> None:
        last = time.monotonic()
        while not stream.closed and not reader.done():
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self._send_due(stream, now - last)
            last = now
            await stream.writer.drain()
        if stream.closed:
            stream.send("</stream:stream>")
            self.closed_in_order = True
            with contextlib.suppress(*_LOST):
                async with asyncio.timeout(STEP_SECONDS):
                    while True:
                        self._handle(await stream.read(), stream)

    def _send_due(self, stream: XMLStream, seconds: float) -> None:
        self._send_answers(stream)
        for traffic in self.traffics:
            traffic.due = min(traffic.due + seconds * traffic.rate, max(traffic.due, 1000.0)) if self.sending else traffic.due
        if not self.sending or stream.closed or stream.writer.is_closing() or len(self.unacknowledged) > self.window:
            return
        written = 0
        for traffic in self.traffics:
            number = min(int(traffic.due), PER_TICK)
            traffic.due -= number
            for _ in range(number):
                self._send_new(stream, traffic)
            written += number
        if written and self.account.managed:
            stream.send(f"<r xmlns='{SM}'/>")

    def _send_answers(self, stream: XMLStream) -> None:
        """Send answers to pings. XEP-0198 counts them too."""
        answers, self._answers = self._answers, []
        for text, acknowledgement in answers:
            if self.account.managed:
                self.unacknowledged.append(_Sent(None, -1, text))
            position = stream.send(text)
            if acknowledgement is not None:
                acknowledgement.position = position

    def _send_new(self, stream: XMLStream, traffic: Traffic) -> None:
        account = traffic.account
        number = len(account.sent)
        if random.random() < traffic.request_share:
            account.requests.add(number)
        account.sent.append(time.time())
        sent = _Sent(traffic, number)
        (self.unacknowledged if account.managed else self._written).append(sent)
        self._put(stream, sent)

    def _put(self, stream: XMLStream, sent: _Sent) -> None:
        position = stream.send(sent.stanza())
        if sent.traffic is not None and position is not None:
            sent.traffic.account.positions[sent.number] = position

    # --- incoming elements ---

    async def _read(self, stream: XMLStream) -> None:
        with contextlib.suppress(*_LOST):
            while not stream.closed:
                self._handle(await stream.read(), stream)

    def _handle(self, elements: Sequence[ET.Element], stream: XMLStream) -> None:
        for element in elements:
            self.handle(element, stream)

    def handle(self, element: ET.Element, stream: XMLStream) -> None:
        """Process an `<a/>` or `<r/>` of the gateway."""
        if element.tag == f"{{{SM}}}a":
            self._acknowledge(int(element.get("h", "0")))
        elif element.tag == f"{{{SM}}}r":
            stream.send(f"<a xmlns='{SM}' h='0'/>")

    def _acknowledge(self, h: int) -> None:
        for _ in range(h - self._handled):
            sent = self.unacknowledged.popleft()
            if sent.traffic is not None:
                sent.traffic.account.acknowledged.add(sent.number)
        self._handled = h


class SimulatedServer:
    """The server of `domain`: listens at `port`, and sends through the gateway's listener at `gateway_port`."""

    def __init__(
        self, domain: str, port: int, certificate: Certificate, gateway_port: int, *, managed: bool = True, bidi: bool = False,
        monitor: SocketMonitor | None = None,
    ) -> None:
        self.domain = domain
        self.port = port
        self.managed = managed
        self.bidi = bidi
        #: the accounts of stanzas that others send here, by their domain
        self.incoming: dict[str, PairAccount] = {}
        #: the streams of this server, by the other domain
        self.outgoing: dict[str, OutgoingStream] = {}
        # Behaviour, to be changed at any time:
        self.answers_pings = True
        self.answers_requests = False
        #: connections are closed as soon as they are accepted
        self.refuses = False
        #: nothing more is read or answered
        self.frozen = False
        #: `<r/>` is answered; if not, the gateway gets no acknowledgement
        self.acknowledges = True
        #: stanzas are acknowledged and discarded
        self.discards = False
        #: called with each arriving stanza, its sender's domain and its stream
        self.on_stanza: Callable[[ET.Element, str, XMLStream], None] = lambda element, sender, stream: None
        #: the number of the gateway's pings that were answered
        self.pings = 0
        self.accepted = 0
        self.renew(certificate)
        self._gateway_port = gateway_port
        self._monitor = monitor
        self._open: set[XMLStream] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._listening: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<SimulatedServer {self.domain}>"

    @property
    def streams(self) -> set[XMLStream]:
        """Return the open streams, accepted ones and its own."""
        return {*self._open, *(each.stream for each in self.outgoing.values() if each.stream is not None)}

    @property
    def accepted_streams(self) -> set[XMLStream]:
        """Return the accepted streams that are open."""
        return self._open

    def renew(self, certificate: Certificate) -> None:
        """Use this certificate on new streams."""
        self._server_context = server_context(certificate)
        self.context = client_context(certificate)
        for outgoing in self.outgoing.values():
            outgoing.context = self.context

    async def start(self) -> None:
        """Listen, and begin to send."""
        await self.come_back()
        for outgoing in dict.fromkeys(self.outgoing.values()):
            self.run(outgoing)

    def run(self, outgoing: OutgoingStream) -> None:
        """Let this stream connect and send from now on."""
        self._tasks.append(asyncio.create_task(outgoing.run()))

    def stop(self) -> None:
        """Stop sending and listening."""
        for task in self._tasks:
            task.cancel()
        self.go_away()

    async def come_back(self) -> None:
        """Listen again."""
        if self._listening is None:
            self._listening = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)

    def go_away(self) -> None:
        """Stop listening, and drop the open streams."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self.drop_streams()

    def drop_streams(self) -> None:
        """Drop every accepted stream, with unread data."""
        for stream in list(self._open):
            stream.abort()

    def refuse(self) -> None:
        """Drop every accepted stream and close new connections at once."""
        self.refuses = True
        self.drop_streams()

    def sends_to(self, traffics: Sequence[Traffic], *, running: bool = False, resumes: bool = False) -> OutgoingStream:
        """Add a stream for these pairs. `running`: the server was started before."""
        stream = OutgoingStream(traffics, self._gateway_port, self.context, self._monitor, resumes=resumes)
        for traffic in traffics:
            self.outgoing[traffic.account.recipient] = stream
        if running:
            self.run(stream)
        return stream

    # --- accepted streams ---

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        stream = XMLStream(reader, writer)
        self._open.add(stream)
        try:
            with contextlib.suppress(*_LOST):
                accepted = await stream.receive(self._server_context, Offer(self.managed, self.bidi))
                if accepted is not None:
                    self.accepted += 1
                    await self._serve(stream, accepted.peer, accepted.bidi)
        finally:
            self._open.discard(stream)
            stream.close()

    async def _serve(self, stream: XMLStream, peer: str, bidi: bool) -> None:
        back = self.outgoing.get(peer) if bidi else None
        back = None if back is not None and back.in_use else back
        enabled = asyncio.Event()
        if not self.managed:
            enabled.set()
        sending = asyncio.create_task(self._send_back(back, stream, enabled)) if back is not None else None
        try:
            await self._read(stream, peer, back, enabled)
            if sending is not None:
                await sending
            else:
                stream.send("</stream:stream>")
        finally:
            if sending is not None:
                sending.cancel()

    async def _send_back(self, back: OutgoingStream, stream: XMLStream, enabled: asyncio.Event) -> None:
        """Send on an accepted stream (XEP-0288), once acknowledgements are enabled: earlier stanzas are not counted."""
        back.in_use = True
        try:
            with contextlib.suppress(*_LOST):
                await enabled.wait()
                await back.use(stream, reads=False)
        finally:
            back.in_use = False

    async def _read(self, stream: XMLStream, peer: str, back: OutgoingStream | None, enabled: asyncio.Event) -> None:
        arrivals = ArrivalStream(next(_streams), self._monitor is not None)
        if self._monitor is not None:
            ports = [stream.writer.get_extra_info(name)[1] for name in ("sockname", "peername")]
            stream.connection = self._monitor.watch(Connection(*ports))
            if peer in self.incoming:
                self.incoming[peer].streams[arrivals.number] = arrivals
        try:
            await self._read_elements(stream, peer, back, enabled, arrivals)
        finally:
            arrivals.ended = stream.aborted_at or time.time()
            if self._monitor is not None and stream.connection is not None:
                self._monitor.forget(stream.connection)

    async def _read_elements(
        self, stream: XMLStream, peer: str, back: OutgoingStream | None, enabled: asyncio.Event, arrivals: ArrivalStream,
    ) -> None:
        count, counting = 0, False
        while not stream.closed:
            elements = await stream.read()
            late = self.frozen
            while self.frozen:
                await asyncio.sleep(TICK_SECONDS)
            if stream.aborted or (late and stream.writer.transport.is_closing()):
                return  # it was cut meanwhile: data that was read and not processed is lost. What came with an orderly end is not
            for element in elements:
                if element.tag in STANZAS:
                    count += 1
                    self._arrived(element, peer, arrivals, stream)
                elif element.tag == f"{{{SM}}}enable":
                    count, counting = 0, self.managed
                    stream.send(f"<enabled xmlns='{SM}'/>")
                    enabled.set()
                elif element.tag == f"{{{SM}}}r":
                    if counting and self.acknowledges:
                        acknowledgement = arrivals.acknowledge()
                        acknowledgement.position = stream.send(f"<a xmlns='{SM}' h='{count}'/>")
                elif back is not None:
                    back.handle(element, stream)

    def _arrived(self, element: ET.Element, peer: str, arrivals: ArrivalStream, stream: XMLStream) -> None:
        identifier, kind = element.get("id", ""), element.get("type")
        if element.find(_PING) is not None and identifier.startswith("s2sgw-"):
            if self.answers_pings:
                self.pings += 1
                reply = f"<iq type='result' id='{identifier}' from='{self.domain}' to='{peer}'/>"
                self._reply(peer, reply, arrivals.acknowledge())
            return
        if self.discards:
            return
        self.on_stanza(element, peer, stream)
        if not (identifier.startswith("n") and identifier[1:].isdecimal()):
            return
        number = int(identifier[1:])
        if kind == "error":
            account = self._sent_by(element.get("to", ""), peer)
            if number >= account.first:
                account.bounced.add(number)
            account.errors.setdefault(number, []).append(_condition(element))
        elif kind == "result":
            self._sent_by(element.get("to", ""), peer).answered[number] += 1
        elif peer in self.incoming:
            self.incoming[peer].arrive(number, arrivals.number)
            if self.answers_requests and kind in ("get", "set"):
                addresses = f"from='{element.get('to')}' to='{element.get('from')}'"
                self._reply(peer, f"<iq type='result' id='{identifier}' {addresses}/>")

    def _sent_by(self, address: str, peer: str) -> PairAccount:
        """Return the account of the stanzas of `address` of this server to `peer`."""
        pair = address.partition("@")[2].partition("/")[0], peer
        accounts = [traffic.account for traffic in self.outgoing[peer].traffics]
        return next((each for each in accounts if (each.sender, each.recipient) == pair), accounts[0])

    def _reply(self, peer: str, text: str, acknowledgement: Acknowledgement | None = None) -> None:
        if peer in self.outgoing:
            self.outgoing[peer].answer(text, acknowledgement)


def _condition(element: ET.Element) -> str:
    """Return the condition of a stanza error."""
    names = [child.tag.partition("}")[2] for error in element if error.tag == "{jabber:server}error" for child in error]
    return next((name for name in names if name != "text"), "")
