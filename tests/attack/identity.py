"""Identity: misuse of certificates, dialback and resumption of others, names with two readings, and information for strangers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.attack.honest import connect
from tests.attack.shared import (
    DENIED,
    GUESTS,
    PINNED,
    SECONDS,
    TRICKS,
    VICTIM,
    Case,
    Cases,
    answer_to,
    begin,
    from_victim,
    guest,
    no_dial,
    played,
    source,
    stage,
)
from tests.attack.world import INSIDE, AttackWorld
from tests.lab.certificates import EMAIL, Authority, Certificate, Names
from tests.lab.peer import SASL, STREAMS, PeerError, client_context, header, mechanisms, stream_error
from tests.lab.scenario import check, expect, step

_SM = "xmlns='urn:xmpp:sm:3'"


# --- certificates ----------------------------------------------------------------------------------------------------


def _tricks(at: AttackWorld) -> dict[str, tuple[str, Certificate]]:
    """Return certificates that prove nothing, each with the domain for which it is presented."""
    issue, stranger = at.authority.issue, Authority(at.lab.directory("stranger"), "s2sgw lab CA")
    domain = f"a.{TRICKS}"
    return {
        "self-signed": (domain, stranger.self_signed(domain)),
        "of an authority of the same name": (domain, stranger.issue(Names(dns=(domain,)))),
        "expired": (domain, issue(Names(dns=(domain,)), days=-1)),
        "a common name": (domain, issue(Names(common=domain))),
        "another name": (domain, issue(Names(dns=(f"b.{TRICKS}",)))),
        "a wildcard over two labels": (f"a.b.{TRICKS}", issue(Names(dns=(f"*.{TRICKS}",)))),
        "a wildcard for its own name": (f"w.{TRICKS}", issue(Names(dns=(f"*.w.{TRICKS}",)))),
        "a wildcard over everything": (domain, issue(Names(dns=("*.example", "*")))),
        "a wildcard in a label": (domain, issue(Names(dns=(f"a*.{TRICKS}",)))),
        "for mail": (domain, issue(Names(dns=(domain,)), usages=(EMAIL,))),
        "for signing time": (domain, issue(Names(dns=(domain,)), usages=(ExtendedKeyUsageOID.TIME_STAMPING,))),
        "a name with a NUL": (domain, issue(Names(dns=(f"{domain}\0.evil.example",)))),
        "a name with a line break": (domain, issue(Names(dns=(f"{domain}\nevil.example",)))),
        "a longer name": (domain, issue(Names(dns=(f"{domain}.evil.example", f"evil{domain}")))),
        "an XMPP address of another": (domain, issue(Names(xmpp=(f"{domain}/x", f"x@{domain}", f"b.{TRICKS}")))),
        "a key of 1,024 bits": (domain, issue(Names(dns=(domain,)), bits=1024)),
        "none": (domain, at.authority.issue(Names())),
    }


def _presented(port: int, address: str, domain: str, certificate: Certificate) -> str:
    """Present a certificate and request EXTERNAL, offered or not; return "proven", or the stream error."""
    with contextlib.closing(begin(port, address, "header", domain, None)) as stream:
        stream.starttls(client_context(certificate), INSIDE)
        stream.send(header(INSIDE, domain))
        element = stream.expect(f"{STREAMS}features", f"{STREAMS}error")
        if element.tag == f"{STREAMS}error":
            return stream_error(element)[0]
        return "proven" if "EXTERNAL" in mechanisms(element) or stream.external(domain).tag == f"{SASL}success" else "offered nothing"


def presented(port: int, rows: list[tuple[str, str, str]], seconds: float) -> None:
    """Present certificates, one after another: domain, chain, key."""
    end = time.monotonic() + seconds
    for number, (domain, chain, key) in enumerate(cycle(rows)):
        if time.monotonic() > end:
            return
        with contextlib.suppress(OSError, PeerError, ET.ParseError):
            _presented(port, f"127.36.{number % 250}.1", domain, Certificate(Path(chain), Path(key)))


@stage.scenario("certificates that prove nothing: other names, wildcards, authorities, dates, usages, weak keys", quick=True)
async def _certificates(at: AttackWorld) -> None:
    tricks = await asyncio.to_thread(_tricks, at)
    rows = [(domain, str(each.chain), str(each.key)) for domain, each in tricks.values()]
    wrong = {}
    async with at.under(presented, SECONDS, rows=rows):
        for name, (domain, certificate) in tricks.items():
            try:
                answer = await asyncio.to_thread(_presented, at.port, source(), domain, certificate)
            except OSError as problem:
                answer = str(problem)
            if answer != "policy-violation" and "KEY_TOO_SMALL" not in answer and "ee key too small" not in answer:
                wrong[name] = answer
        step(f"{len(tricks)} certificates refused")
        expect(wrong, {}, "certificates")


# --- dialback and resumption of others -------------------------------------------------------------------------------

_OTHERS = ("invalid-from", "not-authorized")
_FORGED: Cases = {
    "valid, by the peer itself": Case(
        "tls", lambda _: f"<db:result from='{VICTIM}' to='{INSIDE}' type='valid'/>".encode() + from_victim(), _OTHERS),
    "valid, the other way round": Case(
        "tls", lambda _: f"<db:result from='{INSIDE}' to='{VICTIM}' type='valid'/>".encode() + from_victim(), (*_OTHERS, "host-unknown")),
    "a verification without a request": Case(
        "tls", lambda _: f"<db:verify from='{VICTIM}' to='{INSIDE}' id='x' type='valid'/>".encode() + from_victim(), _OTHERS),
    "the same from a proven peer": Case(
        "proven", lambda _: f"<db:verify from='{VICTIM}' to='{INSIDE}' id='x' type='valid'/>".encode() + from_victim(), _OTHERS),
    "valid, from a proven peer": Case(
        "proven", lambda _: f"<db:result from='{VICTIM}' to='{INSIDE}' type='valid'/>".encode() + from_victim(), _OTHERS),
    "our own domain": Case(
        "tls", lambda _: f"<db:result from='{INSIDE}' to='{INSIDE}'>x</db:result>".encode() + from_victim(INSIDE), _OTHERS),
    "a key for one pair, a message for another": Case(
        "proven", lambda domain: f"<db:result from='{domain}' to='{INSIDE}'>x</db:result>".encode() + from_victim(f"x{domain}"), _OTHERS),
}
_READINGS = ("improper-addressing", "invalid-from")
_TWICE_READ: Cases = {
    name: Case("raw", lambda _, domain=domain: header(INSIDE, domain), _READINGS)  # type: ignore[misc]
    for name, domain in {
        "ß": f"faß.{GUESTS}", "a final sigma": f"βόλος.{GUESTS}", "a zero-width joiner": f"ev\u200dil.{GUESTS}",
        "a zero-width non-joiner": f"ev\u200cil.{GUESTS}",
        "a full stop of another script": f"evil\u3002{GUESTS}x/y", "a name in A-labels that is none": f"xn--\u00df.{GUESTS}",
    }.items()
}
_TWICE_READ = {**_TWICE_READ, "ß in a stanza": Case("proven", lambda domain: from_victim(f"faß.{domain}"), _READINGS)}
CASES: Cases = {**_FORGED, **_TWICE_READ}


@stage.scenario("forged and unsolicited answers of dialback", quick=True)
async def _forged(at: AttackWorld) -> None:
    with no_dial() as dials:
        await played(at, __name__, _FORGED)
        expect(dials(), 0, "stanzas that were accepted")


def keys(port: int, seconds: float) -> None:
    """Ask whether guessed keys belong to streams of the gateway."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with contextlib.suppress(OSError, PeerError, ET.ParseError), contextlib.closing(
            begin(port, f"127.37.{number % 250}.1", "tls", f"k{number}.{GUESTS}", None),
        ) as stream:
            stream.send("".join(_verify(f"{number}-{each}", f"k{number}.{GUESTS}") for each in range(200)))
            stream.end(2.0)
        number += 1


def _verify(id: str, domain: str) -> str:
    return f"<db:verify from='{domain}' to='{INSIDE}' id='{id}'>{'0' * 64}</db:verify>"


@stage.scenario("guessed dialback keys: none is valid, and guessing has no effect on others")
async def _guessed(at: AttackWorld) -> None:
    async with at.under(keys, SECONDS):
        with contextlib.closing(await asyncio.to_thread(begin, at.port, source(), "tls", f"keys.{GUESTS}", None)) as stream:
            stream.send("".join(_verify(str(number), f"keys.{GUESTS}") for number in range(20)))
            answers = set()
            with contextlib.suppress(PeerError):
                for _ in range(20):
                    element = await asyncio.to_thread(stream.next, 3.0)
                    answers.add("the end" if element is None else element.get("type"))
            expect(answers, {"invalid"}, "answers")


def resumptions(port: int, files: tuple[str, str], id: str, seconds: float) -> None:
    """Ask to resume a stream of another peer, and streams that never existed."""
    certificate, end, number = Certificate(Path(files[0]), Path(files[1])), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        with contextlib.suppress(OSError, PeerError, ET.ParseError), contextlib.closing(
            connect(port, f"127.38.{number % 250}.1", INSIDE, f"t{number}.{GUESTS}", certificate, 3.0),
        ) as stream:
            stream.send("".join(f"<resume {_SM} previd='{each}' h='0'/>" for each in (id, f"{id}x", "", "x" * 1000)))
            for _ in range(4):
                stream.next(1.0)


@stage.scenario("the streams of others are not resumed, with their id or without", quick=True)
async def _resumed(at: AttackWorld) -> None:
    certificate = guest(at)
    owner = await asyncio.to_thread(connect, at.port, source(), INSIDE, f"owner.{GUESTS}", certificate)
    owner.send(f"<enable {_SM} resume='true'/>")
    enabled = await asyncio.to_thread(owner.next)
    id = "" if enabled is None else enabled.get("id", "")
    check(len(id) >= 16, f"the id of a stream can be guessed: {id!r}")
    owner.close()
    async with at.under(resumptions, SECONDS, files=(str(certificate.chain), str(certificate.key)), id=id):
        thief = await asyncio.to_thread(connect, at.port, source(), INSIDE, f"thief.{GUESTS}", certificate)
        thief.send(f"<resume {_SM} previd='{id}' h='0'/>")
        answer = await asyncio.to_thread(thief.next)
        expect("the end" if answer is None else answer.tag, "{urn:xmpp:sm:3}failed", "the answer to another peer")
        thief.close()
    owner = await asyncio.to_thread(connect, at.port, source(), INSIDE, f"owner.{GUESTS}", certificate)
    owner.send(f"<resume {_SM} previd='{id}' h='0'/>")
    answer = await asyncio.to_thread(owner.next)
    expect("the end" if answer is None else answer.tag, "{urn:xmpp:sm:3}resumed", "the answer to its owner")
    owner.close()


# --- names -----------------------------------------------------------------------------------------------------------


@stage.scenario("names that one server reads as one domain and another as another", quick=True)
async def _readings(at: AttackWorld) -> None:
    with no_dial() as dials:
        await played(at, __name__, _TWICE_READ)
        expect(dials(), 0, "stanzas that were accepted")


async def _told(at: AttackWorld, domain: str, certificate: Certificate | None) -> tuple[str, str]:
    """Return the answer to a stranger that claims a domain and does not prove it, without the domain's name."""
    def tell() -> tuple[str, str]:
        with contextlib.closing(begin(at.port, source(), "raw", domain, None)) as stream:
            stream.send(header(INSIDE, domain))
            element = stream.expect(f"{STREAMS}features", f"{STREAMS}error")
            if element.tag == f"{STREAMS}features":
                stream.starttls(client_context(certificate), INSIDE)
                stream.send(header(INSIDE, domain))
                element = stream.expect(f"{STREAMS}features", f"{STREAMS}error")
            condition, text = stream_error(element)
            return condition, text.replace(domain, "NAME")
    return await asyncio.to_thread(tell)


@stage.scenario("answers to strangers are the same for domains that are pinned, known and unknown")
async def _same(at: AttackWorld) -> None:
    known = f"known.{TRICKS}"
    (await asyncio.to_thread(connect, at.port, source(), INSIDE, known, at.certificate(known))).close()
    strange = Authority(at.lab.directory("strange"), "nobody").issue(Names(dns=(PINNED, known, f"unknown.{TRICKS}")))
    async with at.holding(2):
        for certificate in (strange, None):
            answers = {name: await _told(at, name, certificate) for name in (PINNED, known, f"unknown.{TRICKS}")}
            step(f"{next(iter(answers.values()))}")
            expect(len(set(answers.values())), 1, f"different answers: {answers}")
        answers = {name: await _told(at, name, strange) for name in (DENIED, f"x.{DENIED}")}
        expect(answers[DENIED][0], "policy-violation", "a barred domain")
        check("allow" not in answers[DENIED][1] and "list" not in answers[DENIED][1], f"it gives the reason: {answers}")


# --- names from strangers ---------------------------------------------------------------------------------------------

_ODD = "\x1b[31mred\x07\r\n2026-01-01T00:00:00+0000 [s2sgw] stream proven peer=victim\u202e\u2028\x9b1m"
#: Characters that a terminal or a reader of lines interprets.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def _escaped(text: str) -> str:
    return "".join(f"&#{ord(each)};" if each not in "\x00\x07\x1b\x08" else "?" for each in text)


def _said(at: AttackWorld) -> Sequence[bytes]:
    odd = _escaped(_ODD)
    stream = "xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback'"
    return [
        f"<stream:stream {stream} from='{odd}.example' to='{INSIDE}' version='1.0'>".encode(),
        f"<stream:stream {stream} from='log.{GUESTS}' to='{odd}' version='1.0'>".encode(),
        f"<stream:stream {stream} from='log.{GUESTS}' to='{INSIDE}' version='{odd}'>".encode(),
        header(INSIDE, f"log.{GUESTS}") + f"<x xmlns='{odd}'/>".encode(),
        header(INSIDE, f"log.{GUESTS}") + f"<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
                                          f"<text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>{odd}</text></stream:error>".encode(),
        _ODD.encode(), b"GET /\x1b[2J HTTP/1.1\r\n\r\n",
    ]


def odd(port: int, said: list[str], seconds: float) -> None:
    """Send these data repeatedly."""
    end = time.monotonic() + seconds
    for number, each in enumerate(cycle(said)):
        if time.monotonic() > end:
            return
        with contextlib.suppress(OSError, PeerError, ET.ParseError), contextlib.closing(
            begin(port, f"127.39.{number % 250}.1", "raw", "", None),
        ) as stream:
            answer_to(stream, each.encode("latin-1"), 0.5)


@stage.scenario("data from strangers breaks no line of the log and does not control a terminal")
async def _log(at: AttackWorld) -> None:
    said = _said(at)
    evil = at.authority.issue(Names(dns=(f"log.{TRICKS}",), common=_ODD[:60]))
    before = len(at.gateway.logged())
    async with at.under(odd, SECONDS, said=[each.decode("latin-1") for each in said]):
        for each in said:
            with contextlib.suppress(PeerError, OSError), contextlib.closing(
                await asyncio.to_thread(begin, at.port, source(), "raw", "", None),
            ) as stream:
                await asyncio.to_thread(answer_to, stream, each, 2.0)
        with contextlib.suppress(PeerError, OSError):
            await asyncio.to_thread(_presented, at.port, source(), f"x.{TRICKS}", evil)
    lines = at.gateway.logged()[before:].split("\n")
    begun = [line for line in lines if line and not re.match(r"\d{4}-\d\d-\d\dT", line)]
    expect(begun[:3], [], "lines without the beginning of a log line")
    expect([line for line in lines if _OBEYED.search(line)][:3], [], "lines with control characters")
    check(not [line for line in lines if "[s2sgw] stream proven peer=victim" in line and line.startswith("2026-01-01")], "a forged line")
    shown = at.gateway.command("refusals", check=False)
    expect([line for line in shown.split("\n") if _OBEYED.search(line)][:3], [], "lines of `s2sgw refusals`")
