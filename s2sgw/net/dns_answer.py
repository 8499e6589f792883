"""The questions to the DNS, and the results of look-ups.

A result distinguishes "does not exist" (NXDOMAIN), "has no such data", "could not be asked" and "our resolver is busy" (R2).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import dns.name
import dns.rdata
from dns.rdatatype import RdataType


class Question:
    """A question: a name and a record type. The case of letters does not matter."""

    __slots__ = ("_hash", "name", "rdtype", "text")

    def __init__(self, name: dns.name.Name, rdtype: RdataType) -> None:
        self.name = name
        self.rdtype = rdtype
        #: the name in lower case, which is faster to compare and hash than the name
        self.text = name.to_text().lower()
        self._hash = hash((self.text, rdtype))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Question) and self.text == other.text and self.rdtype == other.rdtype

    def __hash__(self) -> int:
        return self._hash


class Status(StrEnum):
    """The outcome of a look-up."""

    FOUND = "found"
    NO_DATA = "no-data"
    NO_SUCH_NAME = "no-such-name"
    FAILED = "failed"  # the name servers of the domain did not answer, or answered that they cannot (SERVFAIL)
    BUSY = "busy"  # our own resolver could not be asked, or had no time


@dataclass(frozen=True, slots=True)
class Answer:
    """`records` of the type asked for, behind CNAMEs too (`canonical` is the name at their end).

    `secure`: DNSSEC secured the whole answer, also the absence of records, according to a trusted resolver.
    `ttl`: seconds for which it may be kept, from its arrival. `reason`: why it failed, in words.
    """

    name: dns.name.Name
    rdtype: RdataType
    status: Status
    records: tuple[dns.rdata.Rdata, ...] = ()
    secure: bool = False
    ttl: float = 0.0
    canonical: dns.name.Name = dns.name.root
    reason: str = ""

    @property
    def found(self) -> bool:
        """Return whether there are records."""
        return self.status is Status.FOUND

    @property
    def failed(self) -> bool:
        """Return whether nothing is known, neither records nor their absence."""
        return self.status in (Status.FAILED, Status.BUSY)

    @property
    def busy(self) -> bool:
        """Return whether the failure is our own resolver's."""
        return self.status is Status.BUSY
