"""Tests of values of the configuration: their forms, and the texts of refusals."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.policy.values import Proxy, parse_proxy


class ProxyTests(SynchronousTestCase):
    def test_schemes(self) -> None:
        """SOCKS5 and HTTP proxies are accepted, each with its usual port, and with a user and a password."""
        for text, proxy in (
            ("socks5://127.0.0.1:9050", Proxy("127.0.0.1", 9050)),
            ("socks5://127.0.0.1", Proxy("127.0.0.1", 1080)),
            ("http://192.0.2.1", Proxy("192.0.2.1", 3128, scheme="http")),
            ("http://us%40er:p%3Aw@[2001:db8::1]:8080/", Proxy("2001:db8::1", 8080, "us@er", "p:w", "http")),
        ):
            self.assertEqual(proxy, parse_proxy(text))
        self.assertEqual("none", parse_proxy("none"))

    def test_never_shown_with_its_password(self) -> None:
        """The text of a proxy has neither user nor password."""
        self.assertEqual("http://192.0.2.1:3128", str(parse_proxy("http://user:secret@192.0.2.1")))

    def test_refused(self) -> None:
        """A name without a scheme, another scheme, and characters that Basic authentication cannot carry are refused."""
        for text, words in (
            ("http://proxy.example:3128", "IP address"), ("https://192.0.2.1", "must be"), (7, "must be"),
            ("http://a%3Ab:c@192.0.2.1", "no colon"), ("http://a:b%0Ac@192.0.2.1", "control characters"),
        ):
            self.assertIn(words, str(self.assertRaises(ValueError, parse_proxy, text)))
