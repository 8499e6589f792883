"""Tests of SCRAM: the worked examples, every refusal, and both sides connected to each other."""

from __future__ import annotations

import base64
import contextlib
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.sasl.scram import (
    BINDING,
    LEAST_ITERATIONS,
    MOST_ITERATIONS,
    VARIANTS,
    ScramClient,
    ScramRefused,
    ScramServer,
    Variant,
)
from s2sgw.sasl.scram_secret import SharedSecret, StreamSecret
from s2sgw.xmpp.jid import Domain

PEER = Domain.parse("peer.example")
BOUND, BOUND_1, PLAIN, PLAIN_1 = VARIANTS
NAMES: list[str] = [each.name for each in VARIANTS]


def stream_secret(text: str = "correct horse", nonce: str = "ours", binding: bytes | None = b"x" * 32, **given: object) -> StreamSecret:
    secret = SharedSecret(text, b"salt", LEAST_ITERATIONS, **given)
    return StreamSecret(secret, lambda: nonce, binding)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def talk(client: ScramClient, server: ScramServer) -> None:
    """Run a whole exchange; raise the refusal of either side."""
    challenge = server.step(client.start())
    assert challenge is not None
    assert server.step(client.respond(challenge)) is None
    client.finish(server.conclusion)


class ScramTestCase(SynchronousTestCase):
    def refused(self, condition: str, act: object, *arguments: object) -> ScramRefused:
        refused: ScramRefused = self.assertRaises(ScramRefused, act, *arguments)
        self.assertEqual(condition, refused.condition)
        self.assertTrue(str(refused).startswith(condition))
        return refused


class ExampleTests(SynchronousTestCase):
    """Tests of the worked examples in the RFCs."""

    def test_rfc_6120(self) -> None:
        """R26: the example of RFC 6120 §9.1 succeeds: SCRAM-SHA-1 for juliet."""
        secret = SharedSecret("r0m30myr0m30", b"68da3408-4f4f-467f-912e-49f53f43d033", 4096)
        juliet = Domain.parse("juliet")
        client = ScramClient(PLAIN_1, juliet, StreamSecret(secret, lambda: "oMsTAAwAAAAMAAAANP0TAAAAAABPU0AA"), [])
        server = ScramServer(PLAIN_1, juliet, StreamSecret(secret, lambda: "e124695b-69a9-4de6-9c30-b51b3808c59e"))
        self.assertEqual(b"n,,n=juliet,r=oMsTAAwAAAAMAAAANP0TAAAAAABPU0AA", client.start())
        challenge = server.step(client.start())
        nonce = "oMsTAAwAAAAMAAAANP0TAAAAAABPU0AAe124695b-69a9-4de6-9c30-b51b3808c59e"
        salt = "NjhkYTM0MDgtNGY0Zi00NjdmLTkxMmUtNDlmNTNmNDNkMDMz"
        self.assertEqual(f"r={nonce},s={salt},i=4096".encode(), challenge)
        response = client.respond(challenge)
        self.assertEqual(f"c=biws,r={nonce},p=UA57tM/SvpATBkH2FXs0WDXvJYw=".encode(), response)
        self.assertIs(None, server.step(response))
        self.assertEqual(b"v=pNNDFVEQxuXxCoSEiW8GEZ+1RSo=", server.conclusion)
        client.finish(server.conclusion)

    def test_rfc_7677(self) -> None:
        """R26: the example of RFC 7677 §3 succeeds: SCRAM-SHA-256 for user."""
        salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
        user, secret = Domain.parse("user"), SharedSecret("pencil", salt, 4096)
        client = ScramClient(PLAIN, user, StreamSecret(secret, lambda: "rOprNGfwEbeRWgbNEkqO"), [])
        server = ScramServer(PLAIN, user, StreamSecret(secret, lambda: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"))
        response = client.respond(server.step(client.start()))
        self.assertTrue(response.endswith(b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), response)
        self.assertIs(None, server.step(response))
        self.assertEqual(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", server.conclusion)


class MouthToEarTests(ScramTestCase):
    """Tests of two sides that are connected to each other."""

    @settings(max_examples=30, deadline=None)
    @given(
        st.sampled_from(VARIANTS), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40),
        st.text("abc/+=-~!", min_size=1, max_size=40), st.text("xyz/+=-~!", min_size=1, max_size=40),
        st.binary(min_size=1, max_size=64), st.sampled_from(["peer.example", "bücher.example", "xn--bcher-kva.example"]),
    )
    def test_sound(self, variant: Variant, text: str, one: str, other: str, binding: bytes, name: str) -> None:
        """R26: with the same secret and binding every mechanism succeeds, with any text. With another secret or binding none does."""
        domain = Domain.parse(name)
        ours, theirs = stream_secret(text, one, binding), stream_secret(text, other, binding)
        offered = NAMES if variant.bound else []
        theirs = theirs if variant.bound else replace(theirs, binding=None)
        talk(ScramClient(variant, domain, ours, offered), ScramServer(variant, domain, theirs))
        wrong = stream_secret(text + "x", other, theirs.binding)
        self.refused("not-authorized", talk, ScramClient(variant, domain, ours, offered), ScramServer(variant, domain, wrong))
        if variant.bound:
            elsewhere = replace(theirs, binding=binding + b"x")
            self.refused("not-authorized", talk, ScramClient(variant, domain, ours, offered), ScramServer(variant, domain, elsewhere))

    def test_verifier_in_a_challenge(self) -> None:
        """RFC 6120 §6.4.5: the verifier may be sent in a challenge. Then `<success/>` needs none and may have none."""
        for last in (None, b"v=AAAA"):
            client, server = ScramClient(BOUND, PEER, stream_secret(), NAMES), ScramServer(BOUND, PEER, stream_secret())
            server.step(client.respond(server.step(client.start())))
            self.assertEqual(b"", client.respond(server.conclusion))
            if last is None:
                client.finish(last)
            else:
                self.refused("not-authorized", client.finish, last)

    @settings(max_examples=150, deadline=None)
    @given(st.one_of(st.binary(max_size=60), st.text("nypcrasiv=,0123456789AQ/+", max_size=60).map(str.encode)))
    def test_noise(self, noise: bytes) -> None:
        """Any message is answered or refused, and does not authenticate the peer."""
        for begun in (False, True):
            client, server = ScramClient(PLAIN, PEER, stream_secret(), []), ScramServer(PLAIN, PEER, stream_secret(binding=None))
            if begun:
                client.respond(server.step(client.start()))
            for step in (client.respond, client.finish, server.step):
                with contextlib.suppress(ScramRefused):
                    step(noise)
            self.assertIs(None, server.conclusion)
            self.assertRaises(ScramRefused, client.finish, None)


class FlagTests(ScramTestCase):
    """Tests of channel binding, and of its removal by an attacker."""

    def gs2(self, variant: Variant, binding: bytes | None, offered: list[str]) -> bytes:
        return ScramClient(variant, PEER, stream_secret(binding=binding), offered).start().split(b"n=")[0]

    def test_client(self) -> None:
        """R26: the flag is "p" with -PLUS, "y" if we support binding and -PLUS was not offered, otherwise "n"."""
        self.assertEqual(b"p=tls-exporter,,", self.gs2(BOUND, b"x", NAMES))
        self.assertEqual(b"y,,", self.gs2(PLAIN, b"x", ["SCRAM-SHA-256", "SCRAM-SHA-1"]))
        self.assertEqual(b"n,,", self.gs2(PLAIN, b"x", NAMES))
        self.assertEqual(b"n,,", self.gs2(PLAIN, None, NAMES))

    def test_downgrade(self) -> None:
        """R26: "y" is refused if -PLUS was offered, and accepted if not. "n" is accepted."""
        first = b"y,,n=peer.example,r=theirs"
        refused = self.refused("not-authorized", ScramServer(PLAIN, PEER, stream_secret()).step, first)
        self.assertIn("somebody may have changed it", refused.text)
        for begin, binding in ((first, None), (b"n,,n=peer.example,r=theirs", b"x")):
            self.assertTrue(ScramServer(PLAIN, PEER, stream_secret(binding=binding)).step(begin))

    def test_mechanism(self) -> None:
        """RFC 5802 §6: -PLUS is bound, the others are not, and only our types are known."""
        for variant, flag in ((BOUND, "n"), (BOUND, "y"), (BOUND, "p=tls-unique"), (PLAIN, f"p={BINDING}"), (BOUND, "p="), (BOUND, "q")):
            server = ScramServer(variant, PEER, stream_secret())
            self.refused("malformed-request", server.step, f"{flag},,n=peer.example,r=theirs".encode())


class ServerTests(ScramTestCase):
    """Tests of the receiving side."""

    def begun(self, first: bytes = b"n,,n=peer.example,r=theirs") -> ScramServer:
        server = ScramServer(PLAIN, PEER, stream_secret())
        self.assertEqual(b"r=theirsours,s=c2FsdA==,i=4096", server.step(first))
        return server

    def test_no_initial_response(self) -> None:
        """RFC 6120 §6.4.2: without an initial response it is requested."""
        self.assertEqual(b"", ScramServer(PLAIN, PEER, stream_secret()).step(None))

    def test_names(self) -> None:
        """R24, R26: the user is the stream's `from`, and so is the authorization identity, if there is one."""
        for first in (b"n,a=PEER.example,n=peer.example,r=theirs", b"n,,n=peer.example.,r=theirs", b"n,,n=peer.example,r=theirs,x=y"):
            self.begun(first)
        for first, condition in (
            (b"n,a=other.example,n=peer.example,r=t", "invalid-authzid"), (b"n,a=a@peer.example,n=peer.example,r=t", "invalid-authzid"),
            (b"n,,n=other.example,r=t", "not-authorized"), (b"n,,n=peer=2Cexample,r=t", "not-authorized"),
            (b"n,,n=,r=t", "malformed-request"), (b"n,,n=peer.example,r=", "malformed-request"),
            (b"n,,m=x,n=peer.example,r=t", "malformed-request"), (b"n,n=peer.example,r=t", "malformed-request"),
            (b"", "malformed-request"), (b"\xff", "malformed-request"), (b"n,,n=peer.example,r=t\n", "malformed-request"),
            (b"n,,n=peer.example,r=t t", "malformed-request"), ("n,,n=peer.example,r=é".encode(), "malformed-request"),
            (b"n,,n=peer.example,r=" + b"t" * 513, "malformed-request"),
        ):
            self.refused(condition, ScramServer(PLAIN, PEER, stream_secret()).step, first)

    def test_last_message(self) -> None:
        """R26: another nonce, header or proof fails. Base64 must be canonical."""
        proof = encoded(b"p" * 32)
        for last, condition, words in (
            (f"c=biws,r=theirsours,p={proof}", "not-authorized", "proof"),
            (f"c=biws,r=theirsours,p={encoded(b'p')}", "not-authorized", "proof"),
            (f"c=biws,r=theirsour,p={proof}", "not-authorized", "nonce"),
            (f"c=eSws,r=theirsours,p={proof}", "not-authorized", "binding"),
            (f"c=biw,r=theirsours,p={proof}", "incorrect-encoding", "base64"),
            (f"c=bi\nws,r=theirsours,p={proof}", "incorrect-encoding", "base64"),
            ("c=biws,r=theirsours,p=AAB=", "incorrect-encoding", "base64"),
            ("c=biws,r=theirsours,p=é", "incorrect-encoding", "base64"),
            (f"r=theirsours,c=biws,p={proof}", "malformed-request", "RFC 5802"), ("c=biws,r=theirsours", "malformed-request", "RFC 5802"),
        ):
            server = self.begun()
            self.assertIn(words, self.refused(condition, server.step, last.encode()).text)
            self.assertIs(None, server.conclusion)

    def test_nonce_of_another_exchange(self) -> None:
        """R26: a proof that was recorded proves nothing again."""
        client, server = ScramClient(BOUND, PEER, stream_secret(nonce="c"), NAMES), ScramServer(BOUND, PEER, stream_secret(nonce="s"))
        said = client.respond(server.step(client.start()))
        again = ScramServer(BOUND, PEER, stream_secret(nonce="t"))
        again.step(client.start())
        self.refused("not-authorized", again.step, said)


class ClientTests(ScramTestCase):
    """Tests of the initiating side."""

    def client(self) -> ScramClient:
        return ScramClient(PLAIN, PEER, stream_secret(), [])

    def test_challenges(self) -> None:
        """R26: a challenge must have our nonce followed by theirs, a salt, and iterations within limits."""
        for challenge, condition in (
            ("r=ours,s=c2FsdA==,i=4096", "not-authorized"), ("r=otherours,s=c2FsdA==,i=4096", "not-authorized"),
            ("r=ourstheirs,s=c2FsdA==,i=4095", "not-authorized"), (f"r=ourstheirs,s=c2FsdA==,i={MOST_ITERATIONS + 1}", "not-authorized"),
            ("r=ourstheirs,s=c2FsdA=,i=4096", "incorrect-encoding"), ("r=ourstheirs,s=,i=4096", "malformed-request"),
            ("m=x,r=ourstheirs,s=c2FsdA==,i=4096", "malformed-request"), ("r=ourstheirs,s=c2FsdA==,i=04096", "malformed-request"),
            ("r=ourstheirs,s=c2FsdA==", "malformed-request"), ("r=ours\x7f,s=c2FsdA==,i=4096", "malformed-request"), ("", "malformed-request"),
        ):
            self.refused(condition, self.client().respond, challenge.encode())
        self.refused("malformed-request", self.client().respond, None)
        for iterations in (LEAST_ITERATIONS, MOST_ITERATIONS):
            self.assertTrue(self.client().respond(f"r=ourstheirs,s=c2FsdA==,i={iterations},x=y".encode()))

    def test_verifiers(self) -> None:
        """R26: a server that cannot prove the secret is not the requested one, whatever `<success/>` contains."""
        client = self.client()
        self.refused("not-authorized", client.finish, None)
        self.refused("not-authorized", client.finish, b"v=AAAA")
        client.respond(b"r=ourstheirs,s=c2FsdA==,i=4096")
        for last, condition in (
            (None, "not-authorized"), (b"", "not-authorized"), (b"v=AAAA", "not-authorized"), (b"v=A", "incorrect-encoding"),
            (b"e=invalid-proof", "not-authorized"), (b"\xff", "malformed-request"), (b"w=AAAA", "not-authorized"),
        ):
            self.refused(condition, client.finish, last)
        self.assertIn("invalid-proof", self.refused("not-authorized", client.respond, b"e=invalid-proof").text)
