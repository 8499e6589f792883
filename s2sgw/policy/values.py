"""Values that a configuration has as text: durations, sizes, addresses, names, paths, pins.

Each is parsed once, when the file is read. Invalid text raises `ValueError` in words for the operator. A relative path starts at
the folder that the validation context gives as `folder`.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, PlainValidator, StrictBool, StrictInt, ValidationInfo

from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.element import NAME_LENGTH
from s2sgw.xmpp.host_port import DNS_PORT, S2S_PORT, HostPort, is_address
from s2sgw.xmpp.jid import Domain, InvalidJID

SOCKS_PORT = 1080
HTTP_PROXY_PORT = 3128

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3}
_PROXY = re.compile(r"(socks5|http)://(?:([^/@:]+):([^/@]+)@)?([^/@]+)/?\Z")
_PERCENTAGE = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)\s*%\Z", re.ASCII)
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\Z", re.ASCII)


class Section(BaseModel):
    """A table of the configuration. It is frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def parse_duration(text: object) -> float:
    """Return the seconds of a duration: a number with one of the units ms, s, m, h, d, such as "90s"."""
    return _quantity(text, _DURATION_UNITS, 'a duration such as "10m"')


def format_duration(seconds: float) -> str:
    """Return a duration in the configuration's form, in the largest unit that divides it: "10m", "30d", "20ms"."""
    milliseconds = round(seconds * 1000, 6)
    for unit, length in reversed(_DURATION_UNITS.items()):
        number = milliseconds / (length * 1000)
        if milliseconds and number.is_integer():
            return f"{number:.0f}{unit}"
    return f"{milliseconds:g}ms" if milliseconds else "0s"


def format_size(number: float) -> str | int:
    """Return a size in the configuration's form: in the largest binary unit that divides it, or in bytes."""
    for unit in ("GiB", "MiB", "KiB"):
        if number and not number % _SIZE_UNITS[unit]:
            return f"{number / _SIZE_UNITS[unit]:.0f}{unit}"
    return int(number)


#: The most seconds for which a lost stream is kept.
LONGEST_RESUME = 3600.0


def parse_resume(text: object) -> float:
    """Return the seconds for which a lost stream is kept: a duration of up to an hour."""
    seconds = parse_duration(text)
    if seconds > LONGEST_RESUME:
        raise ValueError('must be a duration of up to "1h"')
    return seconds


def parse_size(value: object) -> int:
    """Return the bytes of a size: a whole number, or a number with a unit, such as "64MiB"."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return int(_quantity(value, _SIZE_UNITS, 'a size such as "64MiB"'))


def parse_share(text: object) -> float:
    """Parse a part of a whole as a percentage, such as "25%", and return it as a fraction. Raises `ValueError`."""
    found = _PERCENTAGE.match(text) if isinstance(text, str) else None
    if found is None or not 0 < float(found[1]) <= 100:
        raise ValueError('must be a percentage above "0%" and up to "100%", such as "25%"')
    return float(found[1]) / 100


def _quantity(text: object, units: dict[str, Any], what: str) -> float:
    found = _QUANTITY.match(text) if isinstance(text, str) else None
    if found is None or found[2] not in units:
        raise ValueError(f"must be {what} (units: {', '.join(units)})")
    return float(found[1]) * float(units[found[2]])


def parse_domain(value: object) -> Domain:
    """Parse a domain name in any form. Raises `ValueError`."""
    if not isinstance(value, str):
        raise ValueError("must be a domain name as a string")
    try:
        return Domain.parse(value)
    except InvalidJID as error:
        reason = str(error).removeprefix("the domainpart is no domain name: ").replace("the domainpart", "it")
        raise ValueError(f'"{value}" is not a domain name: {reason}') from None


def parse_domain_key(value: object) -> str:
    """Return the A-label form of a domain that is the key of a table."""
    return parse_domain(value).ascii


def parse_hostname(value: object) -> str:
    """Return a host name for a DNS record: absolute, in A-labels."""
    return parse_domain(value).ascii + "."


def parse_peer_name(value: object) -> str:
    """Return the name of a peer object: "default", a domain, or "*." and a domain, in A-labels."""
    if value == "default":
        return "default"
    if isinstance(value, str) and value.startswith("*."):
        return "*." + parse_domain(value[2:]).ascii
    return parse_domain(value).ascii


def parse_host_port(value: object, default_port: int | None = None) -> HostPort:
    """Parse "host:port", "address:port" or "[IPv6]:port". The port may be left out if there is a default."""
    if not isinstance(value, str):
        raise ValueError('must be a string "host:port"')
    host, port = _split_port(value)
    number = default_port if port is None else int(port) if port.isascii() and port.isdecimal() else None
    if number is None or not 0 < number < 65536:
        raise ValueError(f'must be "host:port" with a port from 1 to 65535, not "{value}"')
    return HostPort(_checked_host(host), number)


def _split_port(text: str) -> tuple[str, str | None]:
    if is_address(text):
        return text, None
    host, colon, port = text.rpartition(":")
    if text.endswith("]") or not colon:
        host, port = text, ""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return bare, port if colon and not text.endswith("]") else None


def _checked_host(host: str) -> str:
    return str(ipaddress.ip_address(host)) if is_address(host) else parse_domain(host).ascii


def parse_route(value: object) -> str:
    """Return the route to a peer as "host:port". The default port is 5269."""
    return str(parse_host_port(value, S2S_PORT))


def parse_nameserver(value: object) -> str:
    """Return a DNS server as "address:port". The default port is 53."""
    return str(_address_port(value))


def parse_view_address(value: object) -> HostPort:
    """Return the address of the DNS view: of one interface."""
    found = _address_port(value)
    if ipaddress.ip_address(found.host).is_unspecified:
        raise ValueError(f'must be the address of one interface, not "{value}"')
    return found


def _address_port(value: object) -> HostPort:
    found = parse_host_port(value, DNS_PORT)
    if not is_address(found.host):
        raise ValueError(f'must be an IP address with an optional port, not "{value}"')
    return found


class Proxy(NamedTuple):
    """A SOCKS5 or HTTP proxy at an IP address. Without `user` there is no log-in."""

    host: str
    port: int
    user: str = ""
    password: str = ""
    scheme: Literal["socks5", "http"] = "socks5"

    def __str__(self) -> str:
        return f"{self.scheme}://{HostPort(self.host, self.port)}"


def parse_proxy(value: object) -> Proxy | Literal["none"]:
    """Parse "socks5://[user:password@]address:port" (port 1080 if left out), "http://…" (port 3128 if left out), or "none"."""
    if value == "none":
        return "none"
    found = _PROXY.match(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(
            'must be "socks5://address:port", "http://address:port" (user:password@ may precede the address), or "none"'
        )
    scheme, user, password, place = found.groups(default="")
    host, port = parse_host_port(place, SOCKS_PORT if scheme == "socks5" else HTTP_PROXY_PORT)
    if not is_address(host):
        raise ValueError("must have the proxy's IP address, so that nothing is looked up on the way to it")
    if scheme == "http":
        _check_basic(unquote(user), unquote(password))
    return Proxy(host, port, unquote(user), unquote(password), "http" if scheme == "http" else "socks5")


def _check_basic(user: str, password: str) -> None:
    """Refuse a user or password that Basic authentication cannot carry (RFC 7617 §2)."""
    if ":" in user or any(ord(character) < 32 or ord(character) == 127 for character in user + password):
        raise ValueError("the user of an HTTP proxy has no colon, and neither it nor the password has control characters")


def parse_network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """An IP address, or a network as address/bits."""
    try:
        return ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError('must be an IP address, or a network such as "192.0.2.0/24"') from None


def parse_address(value: object) -> str:
    """Return an IP address in its canonical spelling."""
    if not isinstance(value, str) or not is_address(value):
        raise ValueError("must be an IP address")
    return str(ipaddress.ip_address(value))


def parse_path(value: object, info: ValidationInfo) -> Path:
    """Return a path. A relative one starts at the configuration's folder."""
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("must be a path as a string")
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / value


def parse_anchors(value: object, info: ValidationInfo) -> Path | Literal["system"]:
    """Return trust anchors: the system's, a PEM file, or a directory of them (a file of that name is "./system")."""
    return "system" if value == "system" else parse_path(value, info)


def parse_namespace(value: object) -> str:
    """Return the namespace of a payload, which is compared letter by letter, as in XML."""
    if not isinstance(value, str) or not value or "}" in value or len(value) > NAME_LENGTH:
        raise ValueError('must be an XML namespace such as "urn:xmpp:jingle:1"')
    return value


def parse_list_source(value: object, info: ValidationInfo) -> Path | str:
    """Return the source of a list: a file, or an https URL (as text)."""
    if not isinstance(value, str) or "://" not in value:
        return parse_path(value, info)
    try:
        parts = urlsplit(value)
        sound = parts.scheme == "https" and parts.hostname and parts.port != 0 and not parts.username and not parts.password
    except ValueError:
        sound = False
    if not sound or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f'must be a file or an https URL such as "https://lists.example/deny.txt", not "{value}"')
    return value


def parse_pin(value: object) -> str:
    """Return the fingerprint of a key in its canonical spelling."""
    if not isinstance(value, str):
        raise ValueError('must be a string "sha256:…"')
    return str(Fingerprint.parse(value))


Duration = Annotated[float, PlainValidator(parse_duration)]
Resume = Annotated[float, PlainValidator(parse_resume)]
Size = Annotated[int, PlainValidator(parse_size)]
Share = Annotated[float, PlainValidator(parse_share)]
DomainName = Annotated[Domain, PlainValidator(parse_domain)]
DomainKey = Annotated[str, PlainValidator(parse_domain_key)]
Hostname = Annotated[str, PlainValidator(parse_hostname)]
PeerName = Annotated[str, PlainValidator(parse_peer_name)]
HostPortKey = Annotated[HostPort, PlainValidator(parse_host_port)]
IPAddressKey = Annotated[str, PlainValidator(parse_address)]
NetworkKey = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, PlainValidator(parse_network)]
ProxyURL = Annotated[Proxy | Literal["none"], PlainValidator(parse_proxy)]
RouteKey = Annotated[str, PlainValidator(parse_route)]
Nameserver = Annotated[str, PlainValidator(parse_nameserver)]
ViewAddress = Annotated[HostPort, PlainValidator(parse_view_address)]
FilePath = Annotated[Path, PlainValidator(parse_path)]
AnchorsKey = Annotated[Path | Literal["system"], PlainValidator(parse_anchors)]
Pin = Annotated[str, PlainValidator(parse_pin)]
Namespace = Annotated[str, PlainValidator(parse_namespace)]
ListSource = Annotated[Path | str, PlainValidator(parse_list_source)]
Flag = StrictBool
Count = StrictInt
TLSVersion = Literal["1.2", "1.3"]
