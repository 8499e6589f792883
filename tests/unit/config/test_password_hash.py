"""Tests of the password hashes of the console's users."""

from __future__ import annotations

import base64

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import password_hash
from s2sgw.config.password_hash import PasswordHash, PasswordUnusable


class PasswordHashTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(password_hash, "COST", password_hash.LEAST_COST)

    def test_round_trip(self) -> None:
        """A written hash is read back, matches its password and no other."""
        made = PasswordHash.of("correct horse")
        read = PasswordHash.parse(made.text())
        self.assertEqual(made, read)
        self.assertTrue(read.matches("correct horse"))
        self.assertFalse(read.matches("correct horsf") or read.matches("") or read.matches("x" * 100_000))

    def test_salted(self) -> None:
        """The same password gives a different hash each time."""
        self.assertNotEqual(PasswordHash.of("correct horse").text(), PasswordHash.of("correct horse").text())

    def test_bounds(self) -> None:
        """The length of a password has a minimum and a maximum."""
        for password in ("", "seven77", "x" * 1025):
            self.assertRaises(PasswordUnusable, PasswordHash.of, password)

    def test_surrogates(self) -> None:
        """A password with surrogates is refused without an exception of another kind."""
        self.assertFalse(PasswordHash.of("correct horse").matches("\ud800"))

    def test_no_hash(self) -> None:
        """A text that is not a hash is refused with a reason, and so is a hash that would cost too much time or memory at each login."""
        salt, digest = base64.b64encode(b"s" * 16).decode(), base64.b64encode(b"d" * 32).decode()
        PasswordHash.parse(f"scrypt:16384:8:1:{salt}:{digest}")
        for text in (
            "secret", None, 1, "", f"scrypt:16384:8:1:{salt}", f"bcrypt:16384:8:1:{salt}:{digest}", f"scrypt:16385:8:1:{salt}:{digest}",
            f"scrypt:8192:8:1:{salt}:{digest}", f"scrypt:262144:8:1:{salt}:{digest}", f"scrypt:16384:17:1:{salt}:{digest}",
            f"scrypt:16384:8:5:{salt}:{digest}", f"scrypt:131072:16:1:{salt}:{digest}", f"scrypt:16384:8:1:!!:{digest}",
            f"scrypt:16384:8:1:{salt}:{salt}", f"scrypt:16384:8:1::{digest}", f"scrypt:-1:8:1:{salt}:{digest}", f"scrypt:0:8:1:{salt}:{digest}",
        ):  # fmt: skip
            self.assertRaises(ValueError, PasswordHash.parse, text)

    def test_shown(self) -> None:
        """Logs show a word that tells hashes apart, and not the hash."""
        one, other = PasswordHash.of("correct horse"), PasswordHash.of("correct horse")
        self.assertNotEqual(str(one), str(other))
        for shown in (str(one), repr(one)):
            self.assertNotIn(base64.b64encode(one.digest).decode(), shown)
            self.assertNotIn(str(one.digest), shown)
