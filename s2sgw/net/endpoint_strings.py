"""Endpoints to listen on, as operators write them: `tcp:5269`, `tcp6:5269`, `unix:/run/x`, `systemd:name=s2sgw`,
`systemd:domain=INET6:index=0`.

The spelling is Twisted's (twisted.internet.endpoints), with one parameter more: `tcp:5269:reuseport=yes` shares the port with
other processes (SO_REUSEPORT, socket(7)). The kinds are limited to those that carry a plain stream: Twisted's
`ssl:` and `tls:` would open a listener of another protocol.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType

#: Parameters of each kind. The first may be given without its name.
KINDS = MappingProxyType({
    "tcp": ("port", "interface", "backlog", "reuseport"),
    "tcp4": ("port", "interface", "backlog", "reuseport"),
    "tcp6": ("port", "interface", "backlog", "reuseport"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
})
#: Interfaces that mean every address of their family.
EVERY_ADDRESS = ("", "0.0.0.0", "::")

#: Connections that may wait to be accepted, unless the string says otherwise.
BACKLOG = 4096

#: an IPv6 address whose colons are not escaped, so that each of them begins a parameter
_IPV6 = re.compile(r"interface=\[?[0-9A-Fa-f]*:[0-9A-Fa-f]*:")
_EXAMPLE = 'write "tcp:5269", "tcp:5269:interface=127.0.0.1", "tcp6:5269", "unix:/run/name" or "systemd:name=s2sgw"'


@dataclass(frozen=True, slots=True)
class EndpointString:
    """One endpoint string in parts. `arguments` has the parameters by name, unescaped."""

    kind: str
    arguments: MappingProxyType[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, text: str) -> EndpointString:
        """Parse `text`. Raises `ValueError`, which says what to write instead."""
        if _IPV6.search(text):
            raise ValueError(f'"{text}": write \\\\: for each colon of an IPv6 address, as in "tcp:5269:interface=\\\\:\\\\:1"')
        kind, *parts = _split(text)
        if kind in ("ssl", "tls"):
            port = next((part for part in parts if part.isdecimal()), "5270")
            raise ValueError(f'"{kind}:" is not possible here: for direct TLS write endpoint = "tcp:{port}" and tls = "direct"')
        if kind.isdecimal() and not parts:
            raise ValueError(f'write "tcp:{kind}"')
        if kind not in KINDS:
            raise ValueError(f'"{text}" is not an endpoint: {_EXAMPLE}')
        found = cls(kind, MappingProxyType(dict(_arguments(text, kind, parts))))
        found._check(text)
        return found

    def _check(self, text: str) -> None:
        for name in ("port", "backlog", "index"):
            value = self.arguments.get(name)
            if value is not None and not re.fullmatch(r"[0-9]{1,9}", value):
                raise ValueError(f'"{text}": {name} must be a number, not "{value}"')
        if self.port is not None and self.port > 65535:
            raise ValueError(f'"{text}": there is no port {self.port} (0 to 65535)')
        if self.arguments.get("reuseport", "yes") != "yes" or self.interface == "reuseport":
            raise ValueError(f'"{text}": write reuseport=yes, or leave it out')
        if self.reuses_port and not self.port:
            raise ValueError(f'"{text}": reuseport needs a port, which other processes know')
        if self.kind == "systemd" and ("index" in self.arguments) == ("name" in self.arguments):
            raise ValueError(f'"{text}": write name= or index=, as in "systemd:name=s2sgw" or "systemd:domain=INET6:index=0"')
        if self.socket_name is None and not self.arguments.get(KINDS[self.kind][0]):
            raise ValueError(f'"{text}" has no {KINDS[self.kind][0]}: {_EXAMPLE}')

    @property
    def port(self) -> int | None:
        """Return the TCP port; None: another kind."""
        return int(self.arguments["port"]) if self.kind.startswith("tcp") and "port" in self.arguments else None

    @property
    def interface(self) -> str:
        """Return the address to listen on; "": all."""
        return self.arguments.get("interface", "")

    @property
    def families(self) -> frozenset[int]:
        """Return the IP versions that it listens on; only TCP has any."""
        if self.port is None:
            return frozenset()
        if self.every_family:
            return frozenset((4, 6))
        return frozenset((6 if self.kind == "tcp6" or ":" in self.interface else 4,))

    @property
    def backlog(self) -> int:
        """Return how many connections may wait to be accepted."""
        return int(self.arguments.get("backlog", BACKLOG))

    @property
    def reuses_port(self) -> bool:
        """Return whether other processes of the same user may listen on the same port, if they say so too (SO_REUSEPORT)."""
        return "reuseport" in self.arguments

    @property
    def socket_name(self) -> str | None:
        """Return the `FileDescriptorName=` of sockets from systemd, of any family. None: another kind of endpoint."""
        return self.arguments.get("name") if self.kind == "systemd" and "domain" not in self.arguments else None

    @property
    def every_family(self) -> bool:
        """Return whether it listens on IPv4 and IPv6: a TCP port without an interface."""
        return self.kind == "tcp" and "interface" not in self.arguments


def _split(text: str) -> list[str]:
    return [re.sub(r"\\(.)", r"\1", part) for part in re.split(r"(?<!\\):", text)]


def _arguments(text: str, kind: str, parts: list[str]) -> list[tuple[str, str]]:
    """Return (name, value) for each part. Parts without a name take the parameters in order."""
    free = list(KINDS[kind])
    found: list[tuple[str, str]] = []
    for part in parts:
        name, separator, value = part.partition("=")
        if separator and name in KINDS[kind]:
            found.append((name, value))
        elif separator and re.fullmatch(r"[a-z]+", name):
            raise ValueError(f'"{text}": {kind}: has no parameter {name}; it has {", ".join(KINDS[kind])}')
        elif free:
            found.append((free[0], part))
        else:
            raise ValueError(f'"{text}" has too many parts')
        if found[-1][0] in free:
            free.remove(found[-1][0])
    return found
