"""Keys of peers that all nodes of a cluster share: approvals, revocations and first uses (R20; docs/cluster.md).

The decisions of operators on one peer are one value. First uses, which strangers may cause, are `shared_items`, without their
certificates. A first use is remembered only if all that it was judged with is still true: of two nodes that learn two keys at the
same time, one judges again.

A decision on a key gives way to a newer one only. An engine that has lost its store may have got an older decision from a node
that was away. A node that knows a newer one writes that again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.cluster.engine import ClusterEngine
from s2sgw.cluster.shared_items import PAUSE, PAUSE_AFTER_FAILURE, ItemKind, SharedItems
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
#: Forgotten keys of a peer that a value names, so that no node brings their revocations back. The last ones count.
FORGOTTEN = 16
#: Seconds by which an approval is newer than the revocation that it replaces, whatever the clock of the node says.
LATER = 0.001

_Keys = Mapping[Fingerprint, RememberedKey]


class UnreadableKeys(ValueError):
    """The bytes are no keys, or those of a newer version."""


class _Value(NamedTuple):
    """A value of the table: the decisions on a peer, and the keys that were forgotten last."""

    keys: _Keys = {}
    forgotten: tuple[Fingerprint, ...] = ()


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


def _nothing(*_: object, **__: object) -> None: ...


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
        #: notes in the audit log that a newer decision was written again (`AuditLog.note_or_log`)
        self.audit: Callable[..., object] = _nothing
        #: the copy on the disk of this node, and whether all that is in it was shared: until then nothing in it is replaced
        self._kept: PeerKeys | None = None
        self._all_shared = False
        self._report = report
        self._decided: dict[str, _Keys] = {}
        self._unreadable: set[str] = set()
        #: the peers of which an older decision is shared than this node knows
        self._behind: set[str] = set()
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._busy = False

    def keep_in(self, kept: PeerKeys) -> None:
        """Keep a copy of all decisions in `kept`, for `restore`."""
        self._kept = kept

    async def restore(self) -> None:
        """Write what is kept here of peers of which nothing is shared, and newer decisions. Raises `OSError`.

        This node was alone when that was decided, or the engine has lost its store and another node was the first to restore.
        After an error it can be called again: what is on the disk was not replaced.
        """
        if self._kept is None:
            return
        by_name: dict[str, list[RememberedKey]] = {}
        for key in self._kept.of():
            by_name.setdefault(key.domain, []).append(key)
        for name, keys in by_name.items():
            if name in self._unreadable:
                continue
            if own := {key.key: _shortened(key) for key in keys if not key.is_first_use}:
                late: dict[Fingerprint, RememberedKey] = {}
                if await self.table.change(key_word(Domain.parse(name)), partial(_restored, name, own, late)):
                    self._note(name, late)
            if not self._may_learn(name):
                continue
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
            known = [each[key.key] for each in (keys, self._decided.get(key.domain, {})) if key.key in each]
            least = [_decided_at(each) + (0.0 if each.revoked is None else LATER) for each in known]
            keys[key.key] = replace(_shortened(key), at=max([key.at, *least]))
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
            keys[key] = replace(found, revoked=max(at, found.at))
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
                value = _decoded(name, data)
            except UnreadableKeys as error:
                raise NotChanged(f"the keys of {name} that nodes share cannot be read: {error}") from error
            keys = dict(value.keys)
            changed = edit(keys)
            forgotten = [*value.forgotten, *(key for key in value.keys if key not in keys)]
            return _encoded(keys, forgotten) if changed else None

        await self.table.change(key_word(Domain.parse(name)), edited)
        return changed

    def _taken(self, word: str, data: bytes | None, own: bool) -> None:
        domain = domain_of_word(word)
        if domain is None:
            return
        before = self._decided.get(domain.ascii, {})
        try:
            value = _decoded(domain.ascii, data)
        except UnreadableKeys as error:
            self._unreadable.add(domain.ascii)
            text = f"the keys of {domain} that nodes share cannot be read ({error}): the former ones count, and no first use"
            self._report(text)
            return
        self._unreadable.discard(domain.ascii)
        late = _late(self._own(domain), value)
        keys = {**value.keys, **late}
        if late:
            self._found_late(domain.ascii, late)
        if keys:
            self._decided[domain.ascii] = keys
        else:
            self._decided.pop(domain.ascii, None)
        if self._kept is not None and self._all_shared:
            self._kept.mirror(domain.ascii, keys.values())
        if not own:
            self._tell(domain, before, keys)

    # --- decisions that were undone ---

    def _own(self, domain: Domain) -> _Keys:
        """Return the newest decisions on a peer that this node knows: from the engine, and on its disk."""
        own = dict(self._decided.get(domain.ascii, {}))
        for key in [] if self._kept is None else self._kept.of(domain):
            if not key.is_first_use and (key.key not in own or _is_newer(key, own[key.key])):
                own[key.key] = _shortened(key)
        return own

    def _found_late(self, name: str, late: _Keys) -> None:
        """Report newer decisions than nodes share, and write them again. Before that `restore` does it."""
        for key, each in late.items():
            self._report(
                f"nodes share an older decision on the key {key} of {name} than this node knows: that it is "
                f"{_words(each)} counts, and is written again"
            )
        if self._all_shared:
            self._behind.add(name)
            self._write_soon(0.0)

    def _write_soon(self, seconds: float) -> None:
        if self._timer is None and not self._busy:
            self._timer = self._clock.callLater(seconds, self._write_late)

    def _write_late(self) -> None:
        """Write the newer decisions on one peer again. After a failure it is tried again."""
        self._timer, self._busy = None, True
        name = self._behind.pop()
        late: dict[Fingerprint, RememberedKey] = {}

        def edit(data: bytes | None) -> bytes | None:
            return _restored(name, self._decided.get(name, {}), late, data)

        def done(made: bool) -> None:
            self._busy = False
            if made:
                self._note(name, late)
            else:
                self._behind.add(name)
            if self._behind:
                self._write_soon(PAUSE if made else PAUSE_AFTER_FAILURE)

        self.table.begin_change(key_word(Domain.parse(name)), edit, done)

    def stop(self) -> None:
        """Write nothing more in the background."""
        self._busy = True
        self.first_uses.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note(self, name: str, late: _Keys) -> None:
        for key, each in late.items():
            try:
                self.audit("pins restore", by="this node", peer=name, key=str(key), at=each.at, revoked=each.revoked)
            except OSError as error:
                self._report(f"that the key {key} of {name} is {_words(each)} was written again, not to the audit log: {error}")

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


def _decided_at(key: RememberedKey) -> float:
    return key.at if key.revoked is None else max(key.at, key.revoked)


def _is_newer(own: RememberedKey, shared: RememberedKey) -> bool:
    """Return whether the decision `own` replaces `shared`. Of an approval and a revocation at the same time the latter counts."""
    if own.revoked is not None and shared.revoked is not None:
        return False
    return (_decided_at(own), own.revoked is not None) > (_decided_at(shared), shared.revoked is not None)


def _late(own: _Keys, shared: _Value) -> dict[Fingerprint, RememberedKey]:
    """Return the decisions of `own` that replace those that are shared, and revocations that are missing and not forgotten."""
    late = {key: each for key, each in own.items() if key in shared.keys and _is_newer(each, shared.keys[key])}
    missing = [each for key, each in own.items() if each.revoked is not None and key not in (*shared.keys, *shared.forgotten)]
    room = max(PER_PEER - len(shared.keys), 0)
    return {**late, **{each.key: each for each in sorted(missing, key=_decided_at, reverse=True)[:room]}}


def _words(key: RememberedKey) -> str:
    return "approved" if key.revoked is None else "revoked"


def _restored(name: str, own: _Keys, late: dict[Fingerprint, RememberedKey], data: bytes | None) -> bytes | None:
    """Return the value of a peer with what this node knows; None: there is nothing to add. `late`: what was added or replaced."""
    late.clear()
    if data is None:
        return _encoded(own) if own else None
    try:
        value = _decoded(name, data)
    except UnreadableKeys:
        return None
    late.update(_late(own, value))
    return _encoded({**value.keys, **late}, value.forgotten) if late else None


def _shortened(key: RememberedKey) -> RememberedKey:
    return key if len(key.certificate) <= CERTIFICATE_BYTES else replace(key, certificate=b"")


def _decoded(name: str, data: bytes | None) -> _Value:
    if data is None:
        return _Value()
    try:
        words = json.loads(data)
        if words["version"] > VERSION:
            raise UnreadableKeys(f"they have version {words['version']}, and this release knows {VERSION}")
        keys = [_read(name, each) for each in words["keys"]]
        forgotten = tuple(Fingerprint.parse(each) for each in words.get("forgotten", ()))
    except UnreadableKeys:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UnreadableKeys(f"{type(error).__name__}: {error}") from error
    return _Value({key.key: key for key in keys}, forgotten)


def _encoded(keys: _Keys, forgotten: Collection[Fingerprint] = ()) -> bytes:
    words: dict[str, Any] = {"version": VERSION, "keys": list(map(_written, keys.values()))}
    if left := [str(key) for key in forgotten if key not in keys][-FORGOTTEN:]:
        words["forgotten"] = left
    return json.dumps(words, separators=(",", ":")).encode()
