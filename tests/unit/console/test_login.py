"""Tests of the login: attempts by site, passwords checked a few at a time, tokens."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import password_hash
from s2sgw.config.password_hash import PasswordHash
from s2sgw.console import login
from s2sgw.console.login import LoginLimits, OneTimeTokens, Passwords, TokenUser, TooManyAttempts


class LimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.limits = LoginLimits(self.clock.seconds)

    def attempts(self, *addresses: str) -> int:
        """Return how many attempts from these addresses are permitted."""
        through = 0
        for address in addresses:
            try:
                self.limits.attempt(address)
                through += 1
            except TooManyAttempts:
                continue
        return through

    def test_one_site(self) -> None:
        """A site has a few attempts at once, and then one in a while. Another site has its own."""
        self.assertEqual(login.ATTEMPTS, self.attempts(*["192.0.2.1"] * 50))
        error = self.assertRaises(TooManyAttempts, self.limits.attempt, "192.0.2.1")
        self.assertIn("wait 20 seconds", str(error))
        self.assertEqual(login.ATTEMPTS, self.attempts(*["198.51.100.1"] * 50))
        self.clock.advance(login.ATTEMPT_SECONDS)
        self.assertEqual(1, self.attempts(*["192.0.2.1"] * 50))

    def test_an_hour(self) -> None:
        """From one site fewer than two hundred passwords can be guessed per hour."""
        through = 0
        for _ in range(3600):
            through += self.attempts("192.0.2.1", "192.0.2.1")
            self.clock.advance(1)
        self.assertLess(through, 190)

    def test_wide_sites(self) -> None:
        """A site with a whole IPv6 /48, or an IPv4 /24, does not have an attempt per address."""
        self.assertEqual(80, self.attempts(*(f"2001:db8:1:{number:x}::1" for number in range(5000))))
        self.assertEqual(20, self.attempts(*(f"192.0.2.{number % 250}" for number in range(5000))))

    def test_bounded(self) -> None:
        """However many sites there are, the number of counters is bounded."""
        self.attempts(*(f"{a}.{b}.{c}.1" for a in range(1, 5) for b in range(30) for c in range(30)))
        self.assertLessEqual(len(self.limits._free_at), login.SITES)

    def test_success(self) -> None:
        """A successful login returns the attempts."""
        self.attempts(*["192.0.2.1"] * 5)
        self.limits.succeeded("192.0.2.1")
        self.limits.succeeded("192.0.2.9")
        self.assertEqual(1, self.attempts("192.0.2.1"))


class PasswordTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(password_hash, "COST", password_hash.LEAST_COST)
        self.clock = Clock()
        self.users = {"alice": PasswordHash.of("correct horse")}
        #: the checks that run in the thread
        self.running: list[tuple[Any, Deferred[Any]]] = []
        self.passwords = Passwords(lambda: self.users, SimpleNamespace(run=self.in_thread), self.clock.seconds)

    def in_thread(self, call: Any, *arguments: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.running.append((partial(call, *arguments), answer))
        return answer

    def work(self) -> None:
        """Let the thread do its work."""
        while self.running:
            call, answer = self.running.pop(0)
            answer.callback(call())

    def check(self, user: str, password: str) -> bool:
        checked = self.passwords.check(user, password)
        self.work()
        return self.successResultOf(checked)

    def test_checks(self) -> None:
        """Only the right password of a known user is accepted. An unknown user costs a check all the same."""
        self.assertTrue(self.check("alice", "correct horse"))
        self.assertFalse(self.check("alice", "wrong horse") or self.check("ALICE", "correct horse"))
        self.passwords.check("nobody", "correct horse")
        self.assertEqual(1, len(self.running))

    def test_few_at_once(self) -> None:
        """A few checks run, some wait, more are refused. When one ends the next one starts."""
        asked = [self.passwords.check("alice", "correct horse") for _ in range(login.CHECKS + login.WAITING_CHECKS)]
        self.assertEqual(login.CHECKS, len(self.running))
        self.assertRaises(TooManyAttempts, self.passwords.check, "alice", "correct horse")
        self.work()
        self.assertEqual({True}, {self.successResultOf(each) for each in asked})
        self.assertTrue(self.check("alice", "correct horse"))

    def test_cancelled(self) -> None:
        """Clients that disconnect, before or during their check, do not affect the others."""
        asked = [self.passwords.check("alice", "correct horse") for _ in range(login.CHECKS + 4)]
        for each in asked[:-1]:
            each.cancel()
            each.addErrback(lambda failure: None)
        self.work()
        self.assertTrue(self.successResultOf(asked[-1]))
        for _ in range(10):
            self.assertTrue(self.check("alice", "correct horse"))

    def test_thread_breaks(self) -> None:
        """After a check that raises the next one starts."""
        for _ in range(login.CHECKS + 1):
            failed = self.passwords.check("alice", "correct horse")
            self.running.pop()[1].errback(MemoryError())
            self.failureResultOf(failed, MemoryError)
        self.assertTrue(self.check("alice", "correct horse"))

    def test_remembered(self) -> None:
        """A password that was right a moment ago needs no check. A wrong one does, and so does one whose hash has changed, or after some time."""
        asked = self.passwords.check_again("alice", "correct horse")
        self.work()
        self.assertTrue(self.successResultOf(asked) and self.passwords.is_remembered("alice", "correct horse"))
        self.assertTrue(self.successResultOf(self.passwords.check_again("alice", "correct horse")))
        for user, password in (("alice", "wrong"), ("alic", "ecorrect horse"), ("bob", "correct horse")):
            self.assertFalse(self.passwords.is_remembered(user, password))
        old, self.users = self.users, {"alice": PasswordHash.of("another horse")}
        self.assertFalse(self.passwords.is_remembered("alice", "correct horse"))
        self.users = old
        self.clock.advance(login.REMEMBERED_SECONDS)
        self.assertFalse(self.passwords.is_remembered("alice", "correct horse"))


class TokenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.tokens = OneTimeTokens(self.clock.seconds)
        self.user = TokenUser("root", "operator")

    def test_once(self) -> None:
        """A token counts once."""
        token = self.tokens.make(self.user)
        self.assertEqual([self.user, None, None], [self.tokens.take(token), self.tokens.take(token), self.tokens.take("x")])

    def test_old(self) -> None:
        """A token is valid for a few minutes."""
        token = self.tokens.make(self.user)
        self.clock.advance(login.TOKEN_SECONDS)
        self.assertIsNone(self.tokens.take(token))

    def test_bounded(self) -> None:
        """If there are too many tokens, the oldest becomes invalid."""
        tokens = [self.tokens.make(self.user) for _ in range(login.TOKENS + 1)]
        self.assertEqual([None] + [self.user] * login.TOKENS, [self.tokens.take(token) for token in tokens])
