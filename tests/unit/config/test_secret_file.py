"""Tests of the file with the secret that is shared with a peer."""

from __future__ import annotations

import os
from unittest import mock

from s2sgw.config import ConfigError, parse
from s2sgw.config.secret_file import LARGEST, read_secret
from s2sgw.runtime.preflight import _policy_warnings
from tests.support.secret_files import SecretTestCase


class FileTests(SecretTestCase):
    """Tests of a secret as the text of a file."""

    def test_read(self) -> None:
        """The secret is read without the line break at its end."""
        self.assertEqual(read_secret(self.path), "correct horse")

    def test_none(self) -> None:
        """A file that is empty, too long, not text, or has forbidden characters is refused."""
        for data in (b"\n", b"x" * (LARGEST + 1), b"\xff", b"a\x00b"):
            self.path.write_bytes(data)
            with self.assertRaises(ValueError):
                read_secret(self.path)

    def test_mode(self) -> None:
        """R26: the file must be private."""
        for mode in (0o640, 0o604, 0o620, 0o601):
            self.path.chmod(mode)
            with self.assertRaises(ValueError) as failed:
                read_secret(self.path)
            self.assertIn("0600", str(failed.exception))
        self.path.chmod(0o400)
        self.assertEqual(read_secret(self.path), "correct horse")

    def test_fifo(self) -> None:
        """A FIFO, which may have no writer, is refused at once."""
        self.path.unlink()
        os.mkfifo(self.path, 0o600)
        opening = mock.Mock(side_effect=os.open)
        with mock.patch.object(os, "open", opening):
            self.assertIn("regular", str(self.assertRaises(ValueError, read_secret, self.path)))
        self.assertTrue(opening.call_args.args[1] & os.O_NONBLOCK)

    def test_not_with_all(self) -> None:
        """The default peer cannot have a secret."""
        text = f'[gateway]\ndomains = ["example.org"]\n[peers.default]\nsecret_file = "{self.path.name}"\n'
        with self.assertRaises(ConfigError) as failed:
            parse(text, self.path.absolute().parent / "s2sgw.toml")
        self.assertIn("cannot be shared with all peers", str(failed.exception))

    def test_legacy(self) -> None:
        """R26: DIGEST-MD5 comes last, is permitted only for a peer object with a secret of its own, and `check` warns of it."""
        path = self.path.absolute().parent / "s2sgw.toml"
        secret = f'secret_file = "{self.path.name}"\n'
        for name, keys, complaint in (
            ("default", 'sasl = ["DIGEST-MD5"]\n', "is for single peers"), ("peer.example", 'sasl = ["DIGEST-MD5"]\n', "needs secret_file"),
            ("peer.example", secret + 'sasl = ["DIGEST-MD5", "EXTERNAL"]\n', "as the last"),
            ("peer.example", 'sasl = ["EXTERNAL", "EXTERNAL"]\n', "names a mechanism twice"),
            ("peer.example", 'sasl = ["PLAIN"]\n', "PLAIN"),
        ):
            with self.assertRaises(ConfigError) as failed:
                parse(f'[gateway]\ndomains = ["example.org"]\n[peers."{name}"]\n{keys}', path)
            self.assertIn(complaint, str(failed.exception))
        (path.parent / "certs").mkdir(exist_ok=True)
        config = parse(f'[gateway]\ndomains = ["example.org"]\n[peers."peer.example"]\n{secret}sasl = ["EXTERNAL", "DIGEST-MD5"]\n', path)
        [warning] = _policy_warnings(config)
        self.assertIn('"peer.example".sasl: DIGEST-MD5 is historic and weak', warning)

    def test_configured(self) -> None:
        """A file that cannot be used is reported at the start."""
        text = f'[gateway]\ndomains = ["example.org"]\n[peers."peer.example"]\nsecret_file = "{self.path.name}"\n'
        self.path.write_bytes(b"")
        with self.assertRaises(ConfigError) as failed:
            parse(text, self.path.absolute().parent / "s2sgw.toml")
        self.assertIn("is not a usable secret file: it is empty", str(failed.exception))
