"""From a TOML file to a `Config`, or to everything that is wrong with it at once.

Each section is validated by itself, so that a fault in one does not hide those of another; what goes across sections is
checked where the sections that it needs are sound, the files that one names also where only other keys of it are at fault.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from s2sgw.config.cross_checks import disagreements, unusable_files
from s2sgw.config.errors import Complaint, ConfigError, KeyPath, TOMLSource, suggest, translate
from s2sgw.config.sections import DNS, TLS, Backend, Config, Console, Gateway, GatewayLimits, Listener, Log, Policy, Queue
from s2sgw.policy.model import FeaturesObject, LimitsObject, PeerObject, RatesObject
from s2sgw.policy.values import PeerName, parse_nameserver, parse_peer_name

#: section -> its type. A section that is left out counts as an empty one.
SECTIONS: dict[str, Any] = {
    "gateway": Gateway,
    "listen": tuple[Listener, ...],
    "tls": TLS,
    "dns": DNS,
    "backend": tuple[Backend, ...],
    "queue": Queue,
    "limits": GatewayLimits,
    "console": Console,
    "log": Log,
    "peers": dict[PeerName, PeerObject],
    "policy": Policy,
}
#: sections of one table or several, and the one that stands for none
REPEATED = ("listen", "backend")

_MODELS: dict[tuple[str, int], type[BaseModel]] = {
    ("gateway", 1): Gateway, ("listen", 2): Listener, ("tls", 1): TLS, ("dns", 1): DNS, ("backend", 2): Backend,
    ("queue", 1): Queue, ("limits", 1): GatewayLimits, ("console", 1): Console, ("log", 1): Log, ("policy", 1): Policy,
    ("peers", 2): PeerObject,
}  # fmt: skip
#: the tables within a peer object
_INNER: dict[object, type[BaseModel]] = {
    "limits": LimitsObject, "features": FeaturesObject, "stanzas_per_second": RatesObject,
}  # fmt: skip


def load(path: str | Path, *, system_nameservers: Sequence[str] = ()) -> Config:
    """The configuration in the file at `path`; raises `ConfigError` with all complaints.

    `system_nameservers` are the addresses of the system's own resolvers (what /etc/resolv.conf lists). Looks whether the
    files it names can be read, and reads none of them.
    """
    path = Path(path).absolute()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(path, [f"cannot be read: {reason}"]) from None
    return parse(text, path, system_nameservers=system_nameservers)


def parse(text: str, path: Path, *, system_nameservers: Sequence[str] = ()) -> Config:
    """The configuration that `text` spells, `path` being the file it is from (relative paths start at its folder)."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, [f"is not valid TOML: {error}"]) from None
    single = {name for name in REPEATED if isinstance(tree.get(name), dict)}
    for name in single:
        tree[name] = [tree[name]]
    complaints = _unknown_sections(tree)
    sections: dict[str, Any] = {}
    curtailed: dict[str, Any] = {}
    for name in SECTIONS:
        if name == "peers":
            with suppress(ValueError):
                sections[name] = _peer_objects(tree, path.parent)
                continue
            tree[name] = tomllib.loads(text)[name]  # what is wrong there is found out table by table
        complaints += _validate(name, tree, path.parent, sections, curtailed)
    nameservers = _system(system_nameservers)
    complaints += disagreements(sections, tree, nameservers)
    complaints += _untold(unusable_files({**curtailed, **sections}), complaints)
    if complaints:
        unwrapped = [_unwrap(each, single) for each in complaints]
        tls = {**curtailed, **sections}.get("tls")
        folder = tls.certificates if isinstance(tls, TLS) and tls.certificates.is_dir() else None
        source = TOMLSource(text)
        raise ConfigError(path, [source.tell(each) for each in sorted(unwrapped, key=source.order)], folder)
    return Config.model_construct(
        path=path, system_nameservers=nameservers, backends=sections.pop("backend"), **sections,
    )  # fmt: skip


def _unknown_sections(tree: dict[str, Any]) -> list[Complaint]:
    unknown = [name for name in tree if name not in SECTIONS]
    return [Complaint((name,), f"there is no such section; {suggest(name, SECTIONS)}") for name in unknown]


def _validate(
    name: str, tree: dict[str, Any], folder: Path, sections: dict[str, Any], curtailed: dict[str, Any]
) -> list[Complaint]:
    """Puts the section, where it is sound, into `sections`; else what is left of it without its faults into `curtailed`."""
    written: Any = tree.get(name, [{}] if name in REPEATED else {})
    validate = partial(TypeAdapter(SECTIONS[name]).validate_python, context={"folder": folder})
    try:
        sections[name] = validate(written)
    except ValidationError as error:
        found = error.errors(include_url=False)
        with suppress(ValidationError):
            curtailed[name] = validate(_without(written, [each["loc"] for each in found]))
        return [Complaint(_path(name, each["loc"]), translate(each, _known(name, each["loc"]))) for each in found]
    return []


def _peer_objects(tree: dict[str, Any], folder: Path) -> dict[str, PeerObject]:
    """Return the peer objects, of which there may be very many; raises `ValueError` if anything is wrong with them.

    Tables that say the same are validated once, and share one object. Each table leaves the tree, so that not all are in memory
    twice.
    """
    written = tree.get("peers", {})
    if not isinstance(written, dict):
        raise ValueError("no table")
    validate = partial(TypeAdapter(PeerObject).validate_python, context={"folder": folder})
    same: dict[str, PeerObject] = {}
    found: dict[str, PeerObject] = {}
    for name, table in written.items():
        text = repr(table)
        if text not in same:
            same[text] = validate(table).compact()
        found[parse_peer_name(name)] = same[text]
        written[name] = {}
    return found


def _without(written: Any, locations: Sequence[tuple[int | str, ...]]) -> Any:
    """A copy of the section that lacks what stands there."""
    left = copy.deepcopy(written)
    for location in reversed(dict.fromkeys(locations)):
        _drop(left, location)
    return left


def _drop(tree: Any, location: tuple[int | str, ...]) -> bool:
    """Takes out what stands at `location`, or the nearest around it; False: there is nothing."""
    if not location or not isinstance(tree, dict | list):
        return False
    try:
        inner = tree[location[0]]  # type: ignore[index]
    except (LookupError, TypeError):
        return False
    if not _drop(inner, location[1:]):
        del tree[location[0]]  # type: ignore[arg-type]
    return True


def _untold(more: Iterable[Complaint], told: Sequence[Complaint]) -> list[Complaint]:
    """Those about keys of which nothing is said yet."""
    keys = {complaint.path for complaint in told}
    return [each for each in more if not any(each.path[:length] in keys for length in range(1, len(each.path) + 1))]


def _path(name: str, location: tuple[int | str, ...]) -> KeyPath:
    return (name, *(part for part in location if part != "[key]"))


def _known(name: str, location: tuple[int | str, ...]) -> list[str]:
    model = _MODELS.get((name, len(location))) or _INNER.get(location[-2] if len(location) > 1 else None)
    return list(model.model_fields) if model else []


def _unwrap(complaint: Complaint, single: set[str]) -> Complaint:
    """Without the index of a section that was written as one table."""
    path, text = complaint
    for name in single:
        text = text.replace(f"{name}[0]", name)
        if path[:2] == (name, 0):
            path = (name, *path[2:])
    return Complaint(path, text)


def _system(addresses: Sequence[str]) -> tuple[str, ...]:
    """Those of the system's name servers that are addresses: what else its file says is not ours to complain of."""
    servers = []
    for each in addresses:
        with suppress(ValueError):
            servers.append(parse_nameserver(each))
    return tuple(servers)
