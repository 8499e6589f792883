"""The pairs of domains that are proven on a stream. Every stanza must belong to one of them (R29)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from s2sgw.stream.events import Method
from s2sgw.xmpp.errors import RemoteFault, StreamCondition
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair, domain_of
from s2sgw.xmpp.stanza import Stanza

#: The most (from, to) of stanzas that are remembered in their spelling, and their characters: an address may have thousands.
#: Beyond either all are forgotten.
ROUTES, ROUTE_CHARACTERS = 1024, 131_072


class ProvenPairs:
    """The pairs that a stream may carry. A pair is never removed, so a remembered route stays valid."""

    __slots__ = ("_characters", "_methods", "routes")

    def __init__(self) -> None:
        self._methods: dict[Pair, Method] = {}
        #: (from, to) of stanzas that have passed -> their proven pair: one look-up for each stanza
        self.routes: dict[tuple[str, str], Pair] = {}
        self._characters = 0  # of these addresses

    def __contains__(self, pair: Pair) -> bool:
        return pair in self._methods

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def prove(self, pair: Pair, method: Method) -> None:
        """Accept stanzas of `pair` from now on."""
        self._methods[pair] = method

    def admit(self, stanza: Stanza, serves: Callable[[Domain], bool]) -> Pair:
        """Return the proven pair that `stanza` belongs to. Raises the stream error that R29 and R30 require."""
        pair = Pair(_domain("from", stanza.from_), _domain("to", stanza.to))
        if pair not in self._methods:
            raise self._stranger(pair, serves)
        characters = len(stanza.from_) + len(stanza.to)
        if len(self.routes) >= ROUTES or self._characters + characters > ROUTE_CHARACTERS:
            self.routes.clear()
            self._characters = 0
        self.routes[stanza.from_, stanza.to] = pair
        self._characters += characters
        return pair

    def _stranger(self, pair: Pair, serves: Callable[[Domain], bool]) -> RemoteFault:
        if all(pair.sender != proven.sender for proven in self._methods):
            return RemoteFault(StreamCondition.INVALID_FROM, f"{pair.sender} is not authenticated on this stream")
        if not serves(pair.recipient):
            return RemoteFault(StreamCondition.HOST_UNKNOWN, f"{pair.recipient} is not served here")
        text = f"{pair.sender} is authenticated on this stream, but not for {pair.recipient}"
        return RemoteFault(StreamCondition.INVALID_FROM, text)


def _domain(attribute: str, address: str) -> Domain:
    if not address:
        raise RemoteFault(StreamCondition.IMPROPER_ADDRESSING, f"a stanza without `{attribute}`")
    try:
        return domain_of(address)
    except InvalidJID as error:
        raise error.fault(f"the stanza's `{attribute}` is not a JID") from None
