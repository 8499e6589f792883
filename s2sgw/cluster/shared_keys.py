"""Keys of peers that all nodes of a cluster share: approvals, revocations and first uses (R20; docs/cluster.md).

The decisions of operators on one peer are one value. First uses, which strangers may cause, are `shared_items`, without their
certificates. A first use is remembered only if all that it was judged with is still true: of two nodes that learn two keys at the
same time, one judges again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime

from s2sgw.cluster.engine import ClusterEngine
from s2sgw.cluster.shared_items import ItemKind, SharedItems
from s2sgw.cluster.shared_table import NotChanged, SharedTable
from s2sgw.cluster.subjects import domain_of_word, key_word
from s2sgw.peerdb.keys import PER_PEER, KnownKeys, PeerKeys, RememberedKey, age, known_keys
from s2sgw.peerdb.stores import KeyStore
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain

#: The first word of the keys of operators' decisions, and the version of their values.
PREFIX = "pin"
VERSION = 1
#: Bytes of a certificate that is kept with a decision. A value has at most `PER_PEER` of them.
CERTIFICATE_BYTES = 8192

_Keys = Mapping[Fingerprint, RememberedKey]


class UnreadableKeys(ValueError):
    """The bytes are no keys, or those of a newer version."""


def _written(key: RememberedKey) -> dict[str, Any]:
    return {
        "key": str(key.key), "origin": key.origin, "at": key.at, "expires": key.expires, "revoked": key.revoked, "note": key.note,
        "certificate": base64.b64encode(key.certificate).decode(),
    }


def _read(name: str, words: dict[str, Any]) -> RememberedKey:
    """Return the key of `words`. Raises `ValueError`, `KeyError`, `TypeError` or `OverflowError`."""
    if words["origin"] not in ("operator", "first-use"):
        raise ValueError(f"no origin: {words['origin']!r}")
    expires, revoked = (None if words[each] is None else float(words[each]) for each in ("expires", "revoked"))
    certificate = base64.b64decode(words["certificate"], validate=True)
    key, at, note = Fingerprint.parse(words["key"]), float(words["at"]), str(words["note"])
    return RememberedKey(name, key, words["origin"], at, expires, revoked, note, certificate)


def _newer(old: RememberedKey, new: RememberedKey) -> RememberedKey:
    return new if new.at >= old.at else old


def _at(key: RememberedKey) -> float:
    return key.at


#: The first uses, by domain.
FIRST_USES: ItemKind[RememberedKey] = ItemKind("firstuse", 128, 64 * 1024, _written, _read, _newer, _at)


def _nothing(*_: object) -> None: ...


class SharedKeys(KeyStore):
    """The `KeyStore` of a node (see `peerdb.stores`).

    `secret` spreads first uses (see `SharedItems`). `report` gets texts about values that cannot be read.
    """

    def __init__(
        self, engine: ClusterEngine, clock: IReactorTime, may_change: Callable[[], bool], secret: bytes,
        report: Callable[[str], None],
    ) -> None:
        self.table = SharedTable(engine, PREFIX, clock, may_change, self._taken)
        self.first_uses = SharedItems(FIRST_USES, engine, clock, may_change, secret, report)
        #: called for each key that was approved, or revoked, on another node
        self.approved: Callable[[Domain], object] = _nothing
        self.revoked: Callable[[Domain, Fingerprint], object] = _nothing
        #: the copy on the disk of this node, and whether all that is in it was shared: until then nothing in it is replaced
        self._kept: PeerKeys | None = None
        self._all_shared = False
        self._report = report
        self._decided: dict[str, _Keys] = {}
        self._unreadable: set[str] = set()

    def keep_in(self, kept: PeerKeys) -> None:
        """Keep a copy of all decisions in `kept`, for `restore`."""
        self._kept = kept

    async def restore(self) -> None:
        """Write what is kept here of peers of which nothing is shared. Raises `OSError`.

        This node was alone when that was decided, or the engine has lost its store. A revocation that is kept counts also beside
        what another node has restored, unless the key was approved again.
        """
        if self._kept is None:
            return
        by_name: dict[str, list[RememberedKey]] = {}
        for key in self._kept.of():
            by_name.setdefault(key.domain, []).append(key)
        for name, keys in by_name.items():
            if not self._may_learn(name):
                continue
            if own := {key.key: _shortened(key) for key in keys if not key.is_first_use}:
                await self.table.change(key_word(Domain.parse(name)), partial(_restored, name, own))
            for key in keys:
                if key.is_first_use and not self._of(name):
                    await self.first_uses.change(name, partial(_first, replace(key, certificate=b"")))
            self._kept.mirror(name, self._decided.get(name, {}).values())
        self._all_shared = True
        for name, decided in self._decided.items():  # what was read, or has changed, meanwhile
            if self._may_learn(name):
                self._kept.mirror(name, decided.values())

    def known(self, domain: Domain, at: float) -> KnownKeys:
        return known_keys(self._of(domain.ascii), at)

    def of(self, domain: Domain | None = None) -> list[RememberedKey]:
        names = sorted({*self._decided, *self.first_uses.names()}) if domain is None else [domain.ascii]
        return [key for name in names for key in sorted(self._of(name), key=age)]

    def _of(self, name: str) -> list[RememberedKey]:
        decided = self._decided.get(name, {})
        first_use = None if name in self._unreadable else self.first_uses.get(name)
        return [*decided.values(), *([] if first_use is None or first_use.key in decided else [first_use])]

    # --- decisions of operators ---

    async def approve(self, key: RememberedKey) -> None:
        def edit(keys: dict[Fingerprint, RememberedKey]) -> bool:
            first_use = self.first_uses.get(key.domain)
            others = {*keys, *([] if first_use is None else [first_use.key])} - {key.key}
            if len(others) >= PER_PEER:
                text = f"{PER_PEER} keys are remembered for {key.domain} already; revoked ones go with `pins revoke --forget`"
                raise OSError(text)
            keys[key.key] = _shortened(key)
            return True

        await self._change(key.domain, edit)
        self._drop_first_use(key.domain, key.key)

    async def revoke(self, domain: Domain, key: Fingerprint, at: float) -> bool:
        def edit(keys: dict[Fingerprint, RememberedKey]) -> bool:
            found = keys.get(key)
            if found is None:
                first_use = self.first_uses.get(domain.ascii)
                found = first_use if first_use is not None and first_use.key == key else None
            if found is None or found.revoked is not None:
                return False
            keys[key] = replace(found, revoked=at)
            return True

        if not await self._change(domain.ascii, edit):
            return False
        self._drop_first_use(domain.ascii, key)
        return True

    async def forget(self, domain: Domain, key: Fingerprint) -> bool:
        def edit(keys: dict[Fingerprint, RememberedKey]) -> bool:
            return keys.pop(key, None) is not None

        def kept(found: RememberedKey | None) -> RememberedKey | None:
            return None if found is not None and found.key == key else found

        first_use = self.first_uses.get(domain.ascii)
        was_first_use = first_use is not None and first_use.key == key
        await self.first_uses.change(domain.ascii, kept)  # first, so that it is not known by that any more
        self._drop_first_use(domain.ascii, key)
        return await self._change(domain.ascii, edit) or was_first_use

    async def _change(self, name: str, edit: Callable[[dict[Fingerprint, RememberedKey]], bool]) -> bool:
        """Change the decisions on a peer; return whether there was anything to change. Raises `OSError`."""
        changed = False

        def edited(data: bytes | None) -> bytes | None:
            nonlocal changed
            try:
                keys = dict(_decoded(name, data))
            except UnreadableKeys as error:
                raise NotChanged(f"the keys of {name} that nodes share cannot be read: {error}") from error
            changed = edit(keys)
            return _encoded(keys) if changed else None

        await self.table.change(key_word(Domain.parse(name)), edited)
        return changed

    def _taken(self, word: str, data: bytes | None, own: bool) -> None:
        domain = domain_of_word(word)
        if domain is None:
            return
        before = self._decided.get(domain.ascii, {})
        try:
            keys = _decoded(domain.ascii, data)
        except UnreadableKeys as error:
            self._unreadable.add(domain.ascii)
            text = f"the keys of {domain} that nodes share cannot be read ({error}): the former ones count, and no first use"
            self._report(text)
            return
        self._unreadable.discard(domain.ascii)
        if keys:
            self._decided[domain.ascii] = keys
        else:
            self._decided.pop(domain.ascii, None)
        if self._kept is not None and self._all_shared:
            self._kept.mirror(domain.ascii, keys.values())
        if not own:
            self._tell(domain, before, keys)

    def _tell(self, domain: Domain, before: _Keys, keys: _Keys) -> None:
        """Tell what another node has decided."""
        for key, each in keys.items():
            if each.revoked is not None and (key not in before or before[key].revoked is None):
                self.revoked(domain, key)
        if any(each.revoked is None and before.get(key) != each for key, each in keys.items()):
            self.approved(domain)

    # --- first uses ---

    def learn(self, key: RememberedKey) -> bool:
        if not self._may_learn(key.domain):
            return False
        self.first_uses.put(key.domain, replace(key, certificate=b""))
        return True

    async def learn_if(self, key: RememberedKey, judged_with: KnownKeys) -> bool:
        same = False

        def edit(found: RememberedKey | None) -> RememberedKey | None:
            nonlocal same
            decided = self._decided.get(key.domain, {})
            present = [*decided.values(), *([] if found is None or found.key in decided else [found])]
            same = known_keys(present, key.at) == judged_with
            return replace(key, certificate=b"") if same else found

        if not self._may_learn(key.domain):
            raise NotChanged(f"the keys of {key.domain} that nodes share cannot be read")
        await self.first_uses.change(key.domain, edit)
        return same

    def _may_learn(self, name: str) -> bool:
        return name not in self._unreadable and self.first_uses.readable(name)

    def _drop_first_use(self, name: str, key: Fingerprint) -> None:
        """Remove a first use that an operator has decided on. Until that is done the decision counts."""
        found = self.first_uses.get(name)
        if found is not None and found.key == key:
            self.first_uses.remove(name)


def _first(kept: RememberedKey, found: RememberedKey | None) -> RememberedKey:
    return kept if found is None else found


def _restored(name: str, kept: _Keys, data: bytes | None) -> bytes | None:
    """Return the value of a peer with what one node has kept; None: there is nothing to add."""
    if data is None:
        return _encoded(kept)
    try:
        keys = _decoded(name, data)
    except UnreadableKeys:
        return None
    late = {
        key: each for key, each in kept.items()
        if each.revoked is not None and key in keys and keys[key].revoked is None and keys[key].at <= each.revoked
    }
    return _encoded({**keys, **late}) if late else None


def _shortened(key: RememberedKey) -> RememberedKey:
    return key if len(key.certificate) <= CERTIFICATE_BYTES else replace(key, certificate=b"")


def _decoded(name: str, data: bytes | None) -> _Keys:
    if data is None:
        return {}
    try:
        words = json.loads(data)
        if words["version"] > VERSION:
            raise UnreadableKeys(f"they have version {words['version']}, and this release knows {VERSION}")
        keys = [_read(name, each) for each in words["keys"]]
    except UnreadableKeys:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UnreadableKeys(f"{type(error).__name__}: {error}") from error
    return {key.key: key for key in keys}


def _encoded(keys: _Keys) -> bytes:
    return json.dumps({"version": VERSION, "keys": list(map(_written, keys.values()))}, separators=(",", ":")).encode()
