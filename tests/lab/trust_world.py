"""A gateway with an echo backend, peers that connect to it and that it connects to, and a name server."""

from __future__ import annotations

import itertools
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.lab.certificates import Authority, Certificate
from tests.lab.gateway import Gateway, gateway
from tests.lab.lab import Lab
from tests.lab.peer import SERVER, STREAMS, Stream, client_context, header, mechanisms, stream_error
from tests.lab.receiver import Receiver
from tests.lab.scenario import check, step

INSIDE = "inside.example"
_numbers = itertools.count(1)


class DNS(Protocol):
    @property
    def address(self) -> str: ...


@dataclass
class Trusting:
    """The gateway with an echo backend; `authority` is trusted, `stranger` is not."""

    lab: Lab
    gateway: Gateway
    authority: Authority
    stranger: Authority
    receivers: dict[str, Receiver] = field(default_factory=dict)
    certificates: dict[str, Certificate] = field(default_factory=dict)

    def configure(self, dns: DNS, changes: Mapping[str, Any] | None = None, anchors: Path | None = None) -> None:
        echo = {"backend": [{"kind": "echo"}], "queue": {"hold": "3s", "iq_hold": "3s"}}
        self.gateway.configure(
            backend="127.0.0.1:1", dns=dns, anchors=anchors or self.authority.file,  # type: ignore[arg-type]
            certificates=[self.authority.for_domain(INSIDE)], changes={**echo, **(changes or {})},
        )

    def start(self) -> None:
        self.gateway.inner = self.gateway.port  # an echo backend has no inner listener
        self.gateway.start()

    def restart(self) -> None:
        self.gateway.stop()
        self.start()

    def listen(self, domain: str, certificate: Certificate) -> Receiver:
        """Start a server of `domain` that accepts everything from the gateway and verifies no certificate."""
        self.certificates[domain] = certificate
        self.receivers[domain] = Receiver(self.lab, domain, certificate)
        return self.receivers[domain]

    # --- inbound ---

    def offered(self, domain: str, certificate: Certificate | None, seconds: float = 15.0) -> tuple[Stream, list[str], str, str]:
        """Negotiate TLS; return the stream, the mechanisms offered, and condition and text of an error."""
        stream = Stream.dial(self.gateway.port)
        stream.send(header(INSIDE, domain))
        features = stream.expect(f"{STREAMS}features", f"{STREAMS}error")
        if features.tag == f"{STREAMS}features":
            stream.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            answer = stream.next(seconds)
            if answer is not None and answer.tag == f"{STREAMS}error":
                return stream, [], *stream_error(answer)
            stream.secure(client_context(certificate), INSIDE)
            stream.send(header(INSIDE, domain))
            features = stream.expect(f"{STREAMS}features", f"{STREAMS}error", seconds=seconds)
        if features.tag == f"{STREAMS}error":
            return stream, [], *stream_error(features)
        return stream, mechanisms(features), "", ""

    def refused(self, domain: str, certificate: Certificate | None, condition: str = "policy-violation") -> str:
        """Connect as the peer, which is refused. Return the text of the error, and the refusal in the gateway's own record.

        The peer is told neither the policy nor stored facts about its name.
        """
        stream, offered, said, text = self.offered(domain, certificate)
        stream.close()
        check(said == condition, f"{domain}: {said or offered} ({text}), expected {condition}")
        step(f"{domain} is refused: {text!r}")
        found = self.gateway.asked("refusals", domain)[-1]
        return " | ".join([text, found["detail"], *found["reasons"]])

    def enter(self, domain: str, certificate: Certificate) -> Stream:
        """Connect as the peer and authenticate by EXTERNAL; return the stream."""
        stream, offered, condition, text = self.offered(domain, certificate)
        check(offered == ["EXTERNAL"], f"{domain}: {condition or offered} {text}, expected EXTERNAL")
        answer = stream.external(domain)
        check(answer.tag.endswith("success"), f"{domain}: {ET.tostring(answer, 'unicode')}")
        stream.open(INSIDE, domain)
        step(f"{domain} is authenticated by EXTERNAL")
        return stream

    # --- outbound, by the echo ---

    def asks(self, domain: str, certificate: Certificate) -> str:
        """Send a message from a user of the peer to the echo; return its text."""
        text = f"number {next(_numbers)}"
        stream = self.enter(domain, certificate)
        addresses = f"from='a@{domain}/x' to='echo@{INSIDE}' id='t{next(_numbers)}'"
        stream.send(f"<message {addresses} type='chat'><body>{text}</body></message>")
        time.sleep(0.2)
        stream.send("</stream:stream>")
        stream.end()
        stream.close()
        return text

    def heard(self, domain: str, text: str, seconds: float = 12.0) -> bool:
        """Return True if the peer's server got the echo."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            bodies = [each.findtext(f"{SERVER}body") or "" for each in self.receivers[domain].stanzas]
            if any(text in body for body in bodies):
                step(f"{domain} got the echo of {text!r}")
                return True
            time.sleep(0.05)
        return False

    def refusal(self, domain: str, direction: str, seconds: float = 12.0) -> dict[str, Any]:
        """Return the last refusal of the peer in that direction, as `s2sgw refusals` shows it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            rows = [row for row in self.gateway.asked("refusals", domain) if row["direction"] == direction]
            if rows:
                step(f"{domain} {direction}: {rows[-1]['layer']}/{rows[-1]['cause']}")
                return dict(rows[-1])
            time.sleep(0.3)
        raise AssertionError(f"no {direction} refusal of {domain} is recorded")


def trusting(lab: Lab) -> Trusting:
    """Return a gateway that is not configured yet."""
    trusted, stranger = Authority(lab.directory("authority")), Authority(lab.directory("stranger"), "nobody's")
    return Trusting(lab, gateway(lab, INSIDE), trusted, stranger)
