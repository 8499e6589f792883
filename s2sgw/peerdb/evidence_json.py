"""Evidence as JSON: complete for the database, and short for operators."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from s2sgw.trust.evidence import TLSA, Evidence, POSHLookup, TLSALookup
from s2sgw.xmpp.jid import Domain

#: Bytes of a chain that are kept.
CHAIN_BYTES = 32768


class LocatedTarget(Protocol):
    """A server of the peer, as discovery finds it (`net.discovery.Target`)."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def addresses(self) -> tuple[str, ...]: ...
    @property
    def secure(self) -> bool: ...


# --- complete --------------------------------------------------------------------------------------------------------


def evidence_json(evidence: Evidence) -> dict[str, Any]:
    """Return evidence as JSON. Of a chain longer than `CHAIN_BYTES` it has the first certificates."""
    return {
        "domain": evidence.domain.ascii, "role": evidence.role, "at": evidence.at.timestamp(), "chain": _chain(evidence.chain),
        "tls_version": evidence.tls_version, "cipher": evidence.cipher, "address": evidence.address, "target": evidence.target,
        "target_secure": evidence.target_secure, "tlsa": [_tlsa_json(each) for each in evidence.tlsa],
        "posh": None if evidence.posh is None else _posh_json(evidence.posh),
    }


def evidence_of(written: Mapping[str, Any]) -> Evidence:
    """Return the evidence that `evidence_json` wrote."""
    return Evidence(
        Domain.parse(written["domain"]), written["role"], datetime.fromtimestamp(written["at"], UTC),
        tuple(base64.b64decode(each) for each in written["chain"]), written["tls_version"], written["cipher"], written["address"],
        written["target"], written["target_secure"], tuple(_tlsa_of(each) for each in written["tlsa"]),
        None if written["posh"] is None else _posh_of(written["posh"]),
    )


def _chain(chain: tuple[bytes, ...]) -> list[str]:
    kept: list[str] = []
    left = CHAIN_BYTES
    for each in chain:
        left -= len(each)
        if left < 0:
            break
        kept.append(base64.b64encode(each).decode("ascii"))
    return kept


def _tlsa_json(lookup: TLSALookup) -> dict[str, Any]:
    return {
        "target": lookup.target, "secure": lookup.secure, "addresses_secure": lookup.addresses_secure, "failure": lookup.failure,
        "records": [[each.usage, each.selector, each.matching, each.data.hex()] for each in lookup.records],
    }


def _tlsa_of(written: Mapping[str, Any]) -> TLSALookup:
    records = tuple(TLSA(use, select, match, bytes.fromhex(data)) for use, select, match, data in written["records"])
    return TLSALookup(written["target"], records, written["secure"], written["addresses_secure"], written["failure"])


def _posh_json(lookup: POSHLookup) -> dict[str, Any]:
    return {
        "fingerprints": [{name: digest.hex() for name, digest in each.items()} for each in lookup.fingerprints],
        "expires": lookup.expires.timestamp() if lookup.expires else None, "failure": lookup.failure,
    }


def _posh_of(written: Mapping[str, Any]) -> POSHLookup:
    digests = tuple({name: bytes.fromhex(digest) for name, digest in each.items()} for each in written["fingerprints"])
    expires = None if written["expires"] is None else datetime.fromtimestamp(written["expires"], UTC)
    return POSHLookup(digests, expires, written["failure"])


# --- short -----------------------------------------------------------------------------------------------------------


def target_json(target: LocatedTarget) -> dict[str, object]:
    """Return one target for operators."""
    return {"host": target.host, "port": target.port, "addresses": list(target.addresses), "secure": target.secure}


def lookups_json(evidence: Evidence, targets: Sequence[LocatedTarget]) -> dict[str, object]:
    """Return the results of DNS and web look-ups for the peer."""
    return {
        "targets": [target_json(each) for each in targets],
        "tlsa": [
            {"target": each.target, "records": list(map(str, each.records)), "secure": each.secure, "failure": each.failure}
            for each in evidence.tlsa
        ],
        "posh": None if evidence.posh is None else evidence.posh.failure or f"{len(evidence.posh.fingerprints)} certificates",
    }
