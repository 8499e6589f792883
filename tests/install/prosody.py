"""Prosody, by the steps of the README."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from tests.install.evening import DOMAIN, ROOMS, Evening
from tests.install.steps import section, steps
from tests.lab.certificates import Certificate
from tests.lab.gateway import PROJECT
from tests.lab.servers.server import PASSWORD

#: The operator's existing file in /etc/prosody/conf.d.
_HOSTS = f"""\
VirtualHost "{DOMAIN}"
    c2s_require_encryption = false
    allow_unencrypted_plain_auth = true
Component "{ROOMS}" "muc"
"""


class ProsodyEvening(Evening):
    """Debian's Prosody, with its own configuration."""

    def scenarios(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the scenarios."""
        yield "a Prosody for example.org federates without the gateway", self._before
        typed = steps(section((PROJECT / "README.md").read_text("utf-8"), "Install it as a service"))
        for heading in dict.fromkeys(each.heading for each in typed):
            if heading.startswith("5."):
                yield "messages and rooms pass through the gateway, in both directions by certificate", self._through
            yield f"README: {heading}", partial(self._type, [each for each in typed if each.heading == heading])
        yield "messages pass without the gateway again", self._talk
        yield "the package is removed and purged: no file is left", self._purge

    def _server(self, certificate: Certificate) -> None:
        self._put(certificate, f"/etc/prosody/certs/{DOMAIN}.crt", f"/etc/prosody/certs/{DOMAIN}.key")
        self._machine.write("/etc/prosody/conf.d/example.org.cfg.lua", _HOSTS)
        self._machine.run(
            f"chown prosody: /etc/prosody/certs/{DOMAIN}.key; prosodyctl register juliet {DOMAIN} {PASSWORD}; systemctl start prosody"
        )
