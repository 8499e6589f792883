"""Peculiarities of single servers: stock jabberd2 without TLS and its stanza limit, ejabberd 23.01 and the xmppAddr."""

from __future__ import annotations

from typing import Any

from tests.interop.conversation import conversation, talk
from tests.interop.jabberd2_router import unfit
from tests.lab.certificates import Authority, Names
from tests.lab.client import Client
from tests.lab.scenario import Stage, check, expect, step
from tests.lab.world import INSIDE, OUTSIDE, World, world

_LARGE = "L" * 100_000

plain = Stage(
    "jabberd2 as Debian ships it, without TLS, behind the gateway; Prosody outside",
    lambda lab: world(lab, "jabberd2", "prosody", {"backend": {"tls": "never"}}, encrypted=False),
)
conversation(plain, "jabberd2 without TLS | s2sgw | prosody")


@plain.scenario("jabberd2 without TLS: no certificate and no SASL on the backend leg, both on the federation leg")
async def _legs(made: World) -> None:
    rows = made.gateway.asked("streams")
    found = {(row["leg"], bool(row["tls"]), row["method"]) for row in rows}
    expect(found, {("backend", False, "dialback"), ("federation", True, "EXTERNAL")}, "leg, TLS and method of the streams")


@plain.scenario("jabberd2's stanza limit: a larger stanza is bounced with the reason, the others arrive")
async def _capped(made: World) -> None:
    await _takes_no_more(made.ends.right, made.ends.left)


async def _takes_no_more(romeo: Client, juliet: Client) -> None:
    """Send a large stanza to `juliet`, at a jabberd2 whose limit is not configured."""
    await talk(romeo, juliet, "make sure that the stream is up")
    await romeo.message(juliet.jid, "before the large one")
    large = await romeo.message(juliet.jid, _LARGE)
    await romeo.message(juliet.jid, "after the large one")
    await juliet.wait_message("before the large one")
    condition, text = await romeo.wait_error(large)
    step(f"{len(_LARGE):,} bytes: {condition}, {text!r}")
    check(condition in ("policy-violation", "not-acceptable", "resource-constraint"), f"condition {condition!r}")
    check(text, "the bounce has no text")
    await juliet.wait_message("after the large one")
    await talk(romeo, juliet, "still up")
    twice = [one for one in juliet.inbox if "the large one" in (one.findtext("{jabber:client}body") or "")]
    expect(len(twice), 0, "messages that arrived twice")


@plain.scenario("stanzas that jabberd2's own s2s would misread are bounced")
async def _unfit(made: World) -> None:
    await unfit(made.ends.right, made.ends.left)


secured = Stage("jabberd2 with TLS behind the gateway; Prosody outside", lambda lab: world(lab, "jabberd2", "prosody"))
peer = Stage(
    "jabberd2 outside; Prosody behind the gateway",
    lambda lab: world(lab, "prosody", "jabberd2", {"peers": {OUTSIDE: {"dialback": "with-tls"}}}),
)


@secured.scenario("stanzas that jabberd2's own s2s would misread are bounced, with TLS")
async def _unfit_with_tls(made: World) -> None:
    await unfit(made.ends.right, made.ends.left)


@peer.scenario("stanzas that jabberd2's own s2s would misread are bounced, as a peer")
async def _unfit_peer(made: World) -> None:
    await unfit(made.ends.left, made.ends.right)


@secured.scenario("jabberd2's stanza limit, with TLS")
async def _capped_with_tls(made: World) -> None:
    await _takes_no_more(made.ends.right, made.ends.left)


@peer.scenario("jabberd2's stanza limit, as a peer")
async def _capped_peer(made: World) -> None:
    await _takes_no_more(made.ends.left, made.ends.right)


def _other_certificate(authority: Authority) -> dict[str, Any]:
    certificate = authority.issue(Names(dns=(INSIDE,)))
    return {"peers": {OUTSIDE: {"certificate": str(certificate.chain.with_suffix(""))}}}


crashing = Stage(
    "ejabberd outside, which crashes on the xmppAddr in our certificate; it gets another certificate",
    lambda lab: world(lab, "prosody", "ejabberd", _other_certificate),
)
conversation(crashing, "prosody | s2sgw, certificate chosen per peer | ejabberd")
