"""The detector of poison: stanzas whose content ends streams, judged by how streams end (docs/decisions.md#poison)."""

from __future__ import annotations

from s2sgw.xmpp.ending import Cause, Ending

#: Stream errors about the content that was sent, not about the state of the other side.
OF_CONTENT = frozenset({
    "not-well-formed", "bad-format", "invalid-xml", "restricted-xml", "unsupported-stanza-type", "improper-addressing",
    "policy-violation", "undefined-condition",
})  # fmt: skip
#: The word for an end without a condition.
CLOSED_TWICE = "closed without an error, twice"
#: The word for a stanza after which the other side fell silent.
STALLED_TWICE = "answered no more, twice"


def speaks_of_content(ending: Ending) -> bool:
    """Return whether the other side's error names a stanza of ours as the reason."""
    return ending.by == "them" and ending.condition in OF_CONTENT


class PoisonDetector:
    """Judges the ends of the streams of one queue, one after another.

    An end without a stream error is suspicious too, but it may be due to the network or to something else. So the stanzas in
    doubt go one at a time if the stream was young, or if the same ones were in doubt at the end before. A stanza is poison only
    if it was the only one in doubt at two ends in a row.

    A server that falls silent with a large stanza in flight may have a limit that it does not announce. A stanza is poison if it
    was the only one in doubt then, and in doubt when the server fell silent before. Any other silence is no evidence against a
    stanza.
    """

    __slots__ = ("_alone", "_in_doubt", "_stalled", "certain")

    def __init__(self) -> None:
        #: whether the last suspicion is certain, because only one stanza was in doubt
        self.certain = False
        #: the position that was the only one in doubt at the last end without an error
        self._alone: int | None = None
        #: the positions in doubt then
        self._in_doubt = range(0)
        #: the positions in doubt when the other side had fallen silent, if that was the last end
        self._stalled = range(0)

    @property
    def stalled(self) -> bool:
        """Whether at the last end the other side had fallen silent with a large stanza in flight."""
        return bool(self._stalled)

    def suspicion(
        self, ending: Ending, in_doubt: range, young: bool, asking: bool, ambiguous: bool = False, large: bool = False,
    ) -> str:
        """Return the word for what ended the stream, if one of the positions `in_doubt` did: a condition of RFC 6120 §4.9.3,
        `CLOSED_TWICE` or `STALLED_TWICE`; "": none did. If only one position is in doubt, and that is `certain`, it is that one.

        `asking`: a request for an extension was unanswered, so a stream error may be about that. `ambiguous`: stanzas of other
        queues were in doubt too, so none of these was the only one. `large`: one of those in doubt is.
        """
        alone, before, stalled = self._alone, self._in_doubt, self._stalled
        self._alone, self._in_doubt, self._stalled = None, range(0), range(0)
        self.certain = not ambiguous
        if large and ending.by == "them" and ending.cause is Cause.UNRESPONSIVE:
            self._stalled = in_doubt
            self.certain = not ambiguous and in_doubt.start in stalled
            return STALLED_TWICE
        if speaks_of_content(ending):
            return "" if asking else str(ending.condition)
        if ending.by == "us" or ending.condition is not None or ending.cause is Cause.UNRESPONSIVE or not in_doubt:
            return ""
        self._in_doubt = in_doubt
        if len(in_doubt) == 1 and not ambiguous:
            self._alone = in_doubt.start
            return CLOSED_TWICE if alone == in_doubt.start else ""
        return CLOSED_TWICE if young or in_doubt.start in before else ""
