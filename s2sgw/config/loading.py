"""Read a TOML file into a `Config`, or report all errors in it.

Each section is validated on its own, so that an error in one does not hide those in another. A check that needs several sections
is made if all of them are valid. The files that a section names are checked also if other keys of the section are wrong.
"""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from s2sgw.config.cross_checks import disagreements, errors_in_parts
from s2sgw.config.errors import Complaint, ConfigError, KeyPath, TOMLSource, suggest, translate
from s2sgw.config.sections import (
    DNS,
    TLS,
    Admin,
    Backend,
    Cluster,
    Config,
    Console,
    Gateway,
    GatewayLimits,
    Listener,
    Log,
    Policy,
    Queue,
)
from s2sgw.config.syntax_errors import syntax_complaint
from s2sgw.policy.model import FeaturesObject, LimitsObject, PeerObject, RatesObject
from s2sgw.policy.peer_pieces import Piece, cut
from s2sgw.policy.values import PeerName, parse_nameserver, parse_peer_name
from s2sgw.storage.regular_file import open_regular

#: section -> its type. A missing section counts as empty.
SECTIONS: dict[str, Any] = {
    "gateway": Gateway,
    "listen": tuple[Listener, ...],
    "tls": TLS,
    "dns": DNS,
    "backend": tuple[Backend, ...],
    "queue": Queue,
    "limits": GatewayLimits,
    "console": Console,
    "admin": Admin,
    "log": Log,
    "cluster": Cluster,
    "peers": dict[PeerName, PeerObject],
    "policy": Policy,
}
#: Sections of peers that are compared with the next one.
RECENT = 1024
#: sections that may have several tables
REPEATED = ("listen", "backend")

_MODELS: dict[tuple[str, int], type[BaseModel]] = {
    ("gateway", 1): Gateway, ("listen", 2): Listener, ("tls", 1): TLS, ("dns", 1): DNS, ("backend", 2): Backend,
    ("queue", 1): Queue, ("limits", 1): GatewayLimits, ("console", 1): Console, ("admin", 1): Admin, ("log", 1): Log,
    ("cluster", 1): Cluster, ("policy", 1): Policy, ("peers", 2): PeerObject,
}  # fmt: skip
#: the tables within a peer object
_INNER: dict[object, type[BaseModel]] = {
    "limits": LimitsObject, "features": FeaturesObject, "stanzas_per_second": RatesObject,
}  # fmt: skip


#: The largest configuration file. A hundred thousand peers take some ten.
MOST_BYTES = 64 << 20


def load(path: str | Path, *, system_nameservers: Sequence[str] = ()) -> Config:
    """Return the configuration in the file at `path`. Raises `ConfigError` with all errors.

    `system_nameservers` are the addresses in /etc/resolv.conf. The files that the configuration names are not read. Only their
    existence and rights are checked.
    """
    path = Path(path).absolute()
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(path, [f"cannot be read: {reason}"]) from None
    if len(data) > MOST_BYTES:
        raise ConfigError(path, [f"has more than {MOST_BYTES >> 20} MiB"])
    return parse(text, path, system_nameservers=system_nameservers)


def parse(text: str, path: Path, *, system_nameservers: Sequence[str] = ()) -> Config:
    """Return the configuration in `text`, which is from the file at `path`. Raises `ConfigError`.

    Relative paths start at the folder of `path`.
    """
    tree, sections = _read(text, path)
    single = {name for name in REPEATED if isinstance(tree.get(name), dict)}
    for name in single:
        tree[name] = [tree[name]]
    complaints = _unknown_sections(tree)
    curtailed: dict[str, Any] = {}
    gone: list[KeyPath] = []
    for name in SECTIONS:
        if name not in sections:
            complaints += _validate(name, tree, path.parent, sections, curtailed, gone)
    nameservers = _system(system_nameservers)
    complaints += disagreements(sections, tree, nameservers)
    found = errors_in_parts({**curtailed, **sections}, tree)
    complaints += _untold((Complaint(_as_written(each.path, gone), each.text) for each in found), complaints)
    if complaints:
        unwrapped = [_unwrap(each, single) for each in complaints]
        usable = {**curtailed, **sections}
        tls, gateway = usable.get("tls"), usable.get("gateway")
        folder = tls.certificates if isinstance(tls, TLS) and os.path.isdir(tls.certificates) else None
        domains = gateway.domains if isinstance(gateway, Gateway) else ()
        source = TOMLSource(text)
        told = [source.tell(each) for each in sorted(unwrapped, key=source.order)]
        raise ConfigError(path, told, folder, domains)
    return Config.model_construct(
        path=path, system_nameservers=nameservers, backends=sections.pop("backend"), **sections,
    )  # fmt: skip


def _read(text: str, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sections as written, and those that are valid already: the peers, if there is no error in them."""
    rest, pieces = cut(text)
    if rest != text:
        with suppress(ValueError):
            return _read_pieces(rest, pieces, path.parent)
    try:
        return _read_pieces(text, (), path.parent)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, [syntax_complaint(text, str(error))]) from None
    except ValueError:
        return tomllib.loads(text), {}  # errors in the peers are found table by table


def _read_pieces(rest: str, pieces: Iterable[Piece], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the same for a file that was cut. Raises `ValueError` if a piece is invalid, or there is an error in the peers."""
    tree = tomllib.loads(rest)
    objects = _PeerObjects(folder)
    found = objects.of(tree.get("peers", {}))
    for piece in pieces:
        objects.add_piece(piece)
    return {**tree, "peers": found}, {"peers": found}


def _unknown_sections(tree: dict[str, Any]) -> list[Complaint]:
    unknown = [name for name in tree if name not in SECTIONS]
    return [Complaint((name,), f"there is no such section; {suggest(name, SECTIONS)}") for name in unknown]


def _validate(
    name: str, tree: dict[str, Any], folder: Path, sections: dict[str, Any], curtailed: dict[str, Any], gone: list[KeyPath]
) -> list[Complaint]:
    """Put the section into `sections` if it is valid. Otherwise put its part without errors into `curtailed`.

    What that part lacks is added to `gone`.
    """
    written: Any = tree.get(name, [{}] if name in REPEATED else {})
    validate = partial(TypeAdapter(SECTIONS[name]).validate_python, context={"folder": folder})
    try:
        sections[name] = validate(written)
    except ValidationError as error:
        found = error.errors(include_url=False)
        left, lacking = _without(written, [each["loc"] for each in found])
        with suppress(ValidationError):
            curtailed[name] = validate(left)
            gone += ((name, *each) for each in lacking)
        return [_complaint(name, each) for each in found]
    return []


def _complaint(name: str, error: Mapping[str, Any]) -> Complaint:
    """Return a finding of pydantic in a section as an error."""
    path = _path(name, error["loc"])
    if name == "peers" and error["type"] == "extra_forbidden" and len(path) == 3 and isinstance(error["input"], dict):
        labels = _unquoted_labels(str(path[1]), str(path[2]), error["input"])
        if labels:
            return Complaint(("peers", *labels), f'write [peers."{".".join(labels)}"]: a domain needs quotes here')
    return Complaint(path, translate(error, _known(name, error["loc"])))


def _unquoted_labels(first: str, second: str, table: dict[str, Any]) -> list[str]:
    """Return the labels of the domain that [peers.first.second. …] seems to name; nothing if it is no domain."""
    labels = [first, second]
    while len(table) == 1 and isinstance(inner := next(iter(table.values())), dict) and next(iter(table)) not in _INNER:
        labels.append(next(iter(table)))
        table = inner
    with suppress(ValueError):
        parse_peer_name(".".join(labels))
        return labels
    return []


class _PeerObjects:
    """Makes the peer objects, of which there may be very many. Its methods raise `ValueError` if anything is wrong.

    Equal sections are read once. Equal tables are validated once, and share one object.
    """

    def __init__(self, folder: Path) -> None:
        self._found: dict[str, PeerObject] = {}
        self._validate = partial(TypeAdapter(PeerObject).validate_python, context={"folder": folder})
        self._same: dict[str, PeerObject] = {}
        self._recent: dict[str, PeerObject] = {}

    def of(self, tables: Any) -> dict[str, PeerObject]:
        """Add the objects of these tables, and return all objects by name, with those that are added later.

        Each table leaves `tables`, so that not all are in memory twice.
        """
        if not isinstance(tables, dict):
            raise ValueError("no table")
        for name in list(tables):
            # a copy: a name that was made among the tables would keep a part of their memory from being used again
            self._add(name.encode().decode(), self._object(tables.pop(name)))
        return self._found

    def add_piece(self, piece: Piece) -> None:
        """Add the objects of a section."""
        known = self._recent.get(piece.body)
        if known is None:
            tree = tomllib.loads(piece.document)
            if not piece.name:
                self.of(tree["peers"])
                return
            if len(self._recent) >= RECENT:
                self._recent.clear()
            known = self._recent[piece.body] = self._object(tree["peers"][piece.name])
        self._add(piece.name, known)

    def _object(self, table: Any) -> PeerObject:
        text = repr(table)
        if text not in self._same:
            self._same[text] = self._validate(table).compact()
        return self._same[text]

    def _add(self, written: str, found: PeerObject) -> None:
        name = parse_peer_name(written)
        if name in self._found:
            raise ValueError("this peer has two sections")
        self._found[name] = found


def _without(written: Any, locations: Sequence[tuple[int | str, ...]]) -> tuple[Any, list[KeyPath]]:
    """Return a copy of the section without these keys, and the places that were removed."""
    left = copy.deepcopy(written)
    gone = [location[: _drop(left, location)] for location in reversed(dict.fromkeys(locations))]
    return left, [each for each in gone if each]


def _drop(tree: Any, location: tuple[int | str, ...]) -> int:
    """Remove the value at `location`, or the nearest table around it. Return the length of its path; 0: there was nothing."""
    if not location or not isinstance(tree, dict | list):
        return 0
    try:
        inner = tree[location[0]]  # type: ignore[index]
    except (LookupError, TypeError):
        return 0
    below = _drop(inner, location[1:])
    if not below:
        del tree[location[0]]  # type: ignore[arg-type]
    return below + 1


def _as_written(path: KeyPath, gone: Sequence[KeyPath]) -> KeyPath:
    """Return the path of a key in the file. `path` counts the items of lists without those that are `gone`."""
    found = list(path)
    for place, part in enumerate(path):
        if isinstance(part, int):
            missing = [each[-1] for each in gone if len(each) == place + 1 and list(each[:-1]) == found[:place]]
            for index in sorted(each for each in missing if isinstance(each, int)):
                found[place] += found[place] >= index  # type: ignore[operator]
    return tuple(found)


def _untold(more: Iterable[Complaint], told: Sequence[Complaint]) -> list[Complaint]:
    """Return the errors about keys that have no other error."""
    keys = {complaint.path for complaint in told}
    return [each for each in more if not any(each.path[:length] in keys for length in range(1, len(each.path) + 1))]


def _path(name: str, location: tuple[int | str, ...]) -> KeyPath:
    return (name, *(part for part in location if part != "[key]"))


def _known(name: str, location: tuple[int | str, ...]) -> list[str]:
    model = _MODELS.get((name, len(location))) or _INNER.get(location[-2] if len(location) > 1 else None)
    return list(model.model_fields) if model else []


def _unwrap(complaint: Complaint, single: set[str]) -> Complaint:
    """Return the error without the index of a section that was written as one table."""
    path, text = complaint
    for name in single:
        text = text.replace(f"{name}[0]", name)
        if path[:2] == (name, 0):
            path = (name, *path[2:])
    return Complaint(path, text)


def _system(addresses: Sequence[str]) -> tuple[str, ...]:
    """Return those of the system's name servers that are addresses."""
    servers = []
    for each in addresses:
        with suppress(ValueError):
            servers.append(parse_nameserver(each))
    return tuple(servers)
