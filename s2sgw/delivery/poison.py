"""Whether a stream ended over the content of a stanza, as far as its end and those before it tell (docs/decisions.md#poison)."""

from __future__ import annotations

from s2sgw.xmpp.ending import Cause, Ending

#: Stream errors that speak of what was sent, not of the state of the other side.
OF_CONTENT = frozenset({
    "not-well-formed", "bad-format", "invalid-xml", "restricted-xml", "unsupported-stanza-type", "improper-addressing",
    "policy-violation", "undefined-condition",
})  # fmt: skip
#: What is said of an end that names no condition.
UNSAID = "closed without an error, twice"
#: What is said of a stanza over which the other side fell silent.
STIFLED = "answered no more, twice"


def speaks_of_content(ending: Ending) -> bool:
    """Whether the other side says that it was a stanza of ours."""
    return ending.by == "them" and ending.condition in OF_CONTENT


class PoisonDetector:
    """The ends of one lane's streams, one after another.

    An end without a stream error accuses too, but it may be the network's or anybody's. So the stanzas in doubt go one at
    a time where the stream was young, or the same ones were in doubt at the end before; and one is found guilty only where
    it was alone in doubt at two ends that follow each other.

    One that falls silent with a large stanza in flight may have met a limit that it told nobody of. Guilty is who was alone in
    doubt then, and in doubt when it fell silent before.
    """

    __slots__ = ("_alone", "_doubted", "_stifled", "certain")

    def __init__(self) -> None:
        #: the last accusation is beyond doubt where there was but one stanza
        self.certain = False
        #: the position that was alone in doubt at the last end without an error
        self._alone: int | None = None
        #: the positions in doubt then
        self._doubted = range(0)
        #: the positions in doubt when the other side had fallen silent, if that was the last end
        self._stifled = range(0)

    @property
    def stifled(self) -> bool:
        """At the last end the other side had fallen silent over something large."""
        return bool(self._stifled)

    def accuses(
        self, ending: Ending, doubtful: range, young: bool, asking: bool, ambiguous: bool = False, large: bool = False,
    ) -> str:
        """Over what the stream ended, if it was over one of the `doubtful` positions: a condition of RFC 6120 §4.9.3, `UNSAID`
        or `STIFLED`; "": it was not. Where there is but one of them, and that is `certain`, it is that.

        `asking`: an extension had been asked for and not been answered, so a stream error may be about that. `ambiguous`: stanzas
        of other lanes were in doubt too, so that none of these was alone. `large`: so is one of the `doubtful`.
        """
        alone, doubted, stifled = self._alone, self._doubted, self._stifled
        self._alone, self._doubted, self._stifled = None, range(0), range(0)
        self.certain = not ambiguous
        if large and ending.by == "them" and ending.cause is Cause.UNRESPONSIVE:
            self._stifled = doubtful
            self.certain = not ambiguous and doubtful.start in stifled
            return STIFLED
        if speaks_of_content(ending):
            return "" if asking else str(ending.condition)
        if ending.by == "us" or ending.condition is not None or not doubtful:
            return ""
        self._doubted = doubtful
        if len(doubtful) == 1 and not ambiguous:
            self._alone = doubtful.start
            return UNSAID if alone == doubtful.start else ""
        return UNSAID if young or doubtful.start in doubted else ""
