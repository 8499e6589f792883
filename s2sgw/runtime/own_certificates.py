"""The gateway's own certificates while it runs: renewed files are loaded without a reload, and expiry is announced in time.

A folder is checked several times a minute. A change is loaded once the files stop changing, because a tool such as certbot writes
the key and the chain one after the other. Files with a fault change nothing, and the fault is reported once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Protocol

from twisted.logger import Logger

from s2sgw.config.cross_checks import certificate_files
from s2sgw.net.certificates import CertificateDirectory, Credential, UnusableCertificate, read
from s2sgw.net.threads import Threads
from s2sgw.reporting.audit import AuditLog
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.parsed import ParsedCertificate
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.wall_clock import WallClock, date_of

#: Seconds between two looks. A change is loaded at the second look that finds it the same: within a minute.
LOOK_SECONDS = 20.0
#: Days before the expiry of a certificate of ours at which a warning is logged; 0: it has expired.
WARNING_DAYS = (21, 7, 3, 1, 0)

#: The fault of the chain of a certificate that no authority issued (`chain_fault`).
SELF_SIGNED = "is self-signed; most peers will refuse it"
#: The most certificates that the first lines of the log name.
NAMED_AT_START = 20

#: The identity of a file, its content and its rights: path, inode, size, time of the last change, mode, owner, group.
FileStamps = tuple[tuple[str, int, int, int, int, int, int], ...]


class CertificateHolder(Protocol):
    """The configuration in force, for certificates."""

    @property
    def certificates(self) -> CertificateDirectory:
        """Return the certificates of `[tls] certificates`."""

    @property
    def special_certificates(self) -> dict[Path, Credential]:
        """Return the certificates of `[peers."…"] certificate` that were read, by the path that names them."""

    @property
    def domains(self) -> Iterable[Domain]:
        """Return the local domains."""

    def anchors(self) -> Anchors:
        """Return the trust anchors of `[tls] trust_anchors`."""


@dataclass(frozen=True, slots=True)
class CertificateFact:
    """One certificate for the operator: `days` until it expires, and `chain`: why peers will object to its chain, or ""."""

    name: str
    ends: datetime
    days: int
    chain: str
    domains: tuple[str, ...]
    #: whether it is the `certificate` of a section of `[peers]`
    special: bool = False


def stamp_of(paths: Iterable[Path]) -> FileStamps:
    """Return the stamp of the files that exist. Links are followed."""
    found = []
    for path in sorted(paths):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_mode, stat.st_uid, stat.st_gid))
    return tuple(found)


def files_of(folder: Path) -> list[Path]:
    """Return the files of certificates and keys in a folder, and one level below it."""
    try:
        entries = list(folder.iterdir())
        below = [file for entry in entries if entry.is_dir() for file in entry.iterdir() if file.suffix == ".pem"]
    except OSError:
        return []
    return [*(entry for entry in entries if entry.suffix in (".crt", ".key")), *below]


def chain_fault(credential: Credential, anchors: Anchors) -> str:
    """Return why peers will object to a chain that can be used; "": they will not."""
    last = ParsedCertificate(credential.chain[-1])
    if last.issuer == last.subject:
        return SELF_SIGNED if len(credential.chain) == 1 else ""
    if anchors.named(last.issuer):
        return ""
    return f"its issuer {last.issuer_text} is neither in the file nor a trusted anchor; add the intermediate certificate"


def ends_in(days: int) -> str:
    """Return when a certificate expires, in words."""
    if days <= 0:
        return "has expired" if days < 0 else "ends within a day"
    return "ends in 1 day" if days == 1 else f"ends in {days} days"


def _with_end(credential: Credential) -> str:
    return f"{credential.name} until {credential.not_after:%Y-%m-%d %H:%M} UTC"


class OwnCertificates:
    """Loads renewed certificates of one running gateway, and warns before one expires."""

    log = Logger("s2sgw")

    def __init__(self, holder: CertificateHolder, threads: Threads, wall: WallClock, audit: AuditLog) -> None:
        self._holder = holder
        self._threads = threads
        self._wall = wall
        self._audit = audit
        #: the stamp of the files in use, or refused; and the stamp of the last look, if it differs
        self._known = self._stamp()
        self._changing: FileStamps | None = None
        #: the reasons why changed files are not in use
        self.complaints: tuple[str, ...] = ()
        #: the fewest `WARNING_DAYS` that were logged for each certificate, by its fingerprint
        self._told: dict[str, int] = {}

    def _stamp(self) -> FileStamps:
        special = [file for path in self._holder.special_certificates for file in certificate_files(path)]
        return stamp_of([*files_of(self._holder.certificates.path), *special])

    def reloaded(self) -> None:
        """Note that a reload has read all files, and has found no fault."""
        self.complaints = ()

    async def look(self) -> None:
        """Load files that have changed and are the same as at the last look. Warn of certificates that expire soon."""
        found = self._stamp()
        if found == self._known:
            self._changing = None
        elif found != self._changing:
            self._changing = found
        else:
            await self._load(found)
        self.tell_endings()

    async def _load(self, found: FileStamps) -> None:
        directory = self._holder.certificates
        path, special = directory.path, dict(self._holder.special_certificates)
        loaded, others, wrong = await self._threads.run(_read, path, special)
        if self._holder.certificates.path != path:
            return  # a reload has named another folder meanwhile
        self._known, self._changing = found, None
        complaints = (*(loaded.complaints or loaded.unserved(self._holder.domains)), *wrong)
        if complaints:
            self.complaints = complaints
            self.log.error(event="certificates not loaded", detail=[*complaints], kept="those in use stay in use")
            return
        self.complaints = ()
        before = {each.fingerprint for each in (*directory.credentials, *special.values())}
        renewed = [each for each in (*loaded.credentials, *others.values()) if each.fingerprint not in before]
        directory.adopt(loaded)
        self._holder.special_certificates.update(others)
        if renewed:
            self._tell_renewed(renewed)

    def _tell_renewed(self, renewed: list[Credential]) -> None:
        rows = [_with_end(each) for each in renewed]
        self.log.info(event="certificates loaded", certificates=rows)
        for each in renewed:
            fault = chain_fault(each, self._holder.anchors())
            if fault:
                self.log.warn(event="certificate warning", certificate=each.name, detail=fault)
        try:
            self._audit.note_or_log("certificates", by="their files", certificates=rows)
        except OSError:
            self.log.failure("the audit log cannot be written")

    # --- expiry ---

    def facts(self) -> Iterator[CertificateFact]:
        """Yield the facts about each certificate in use, with the local domains it serves."""
        now, directory, anchors = date_of(self._wall), self._holder.certificates, self._holder.anchors()
        serving: dict[str, list[str]] = {}
        for domain in self._holder.domains:
            credential = directory.for_domain(domain)
            if credential is not None:
                serving.setdefault(credential.fingerprint, []).append(str(domain))
        used = {each.fingerprint: each for each in self._used()}
        special = {each.fingerprint for each in self._holder.special_certificates.values()}
        for fingerprint, credential in used.items():
            days = (credential.not_after - now) // timedelta(days=1)
            domains = tuple(serving.get(fingerprint, ()))
            fault = chain_fault(credential, anchors)
            yield CertificateFact(credential.name, credential.not_after, days, fault, domains, fingerprint in special)

    def tell_used(self) -> None:
        """Log the certificates in use and when they expire, those that expire first before the others."""
        used = sorted(self._used(), key=attrgetter("not_after", "name"))
        others = [f"and {len(used) - NAMED_AT_START} more"] if len(used) > NAMED_AT_START else []
        self.log.info(event="certificates", certificates=[*map(_with_end, used[:NAMED_AT_START]), *others])

    def _used(self) -> Iterator[Credential]:
        yield from self._holder.certificates.credentials
        yield from self._holder.special_certificates.values()

    def tell_endings(self) -> None:
        """Log each certificate that has come within 21, 7, 3 and 1 days of its expiry, and one that has expired, once each."""
        now = date_of(self._wall)
        used = tuple(self._used())
        for credential in used:
            left = credential.not_after - now
            due = [days for days in WARNING_DAYS if left <= timedelta(days=days)]
            if due and due[-1] < self._told.get(credential.fingerprint, WARNING_DAYS[0] + 1):
                self._told[credential.fingerprint] = due[-1]
                words = ends_in(left // timedelta(days=1))
                self.log.warn(
                    event="certificate ends", certificate=credential.name, detail=words,
                    ends=f"{credential.not_after:%Y-%m-%dT%H:%M:%SZ}",
                )
        kept = {credential.fingerprint for credential in used}
        self._told = {fingerprint: days for fingerprint, days in self._told.items() if fingerprint in kept}

    def alerts(self) -> list[str]:
        """Return a sentence for each certificate that an operator should renew or fix."""
        found = [f"files of certificates that have changed are not in use: {text}" for text in self.complaints]
        for fact in self.facts():
            users = ", ".join(fact.domains) or ("peers that name it" if fact.special else "")
            if fact.days <= WARNING_DAYS[0] and users:
                found.append(f"the certificate {fact.name} (for {users}) {ends_in(fact.days)}: renew it")
            if fact.chain and users:
                found.append(f"the certificate {fact.name}: {fact.chain}")
        return found


def _read(path: Path, special: Mapping[Path, Credential]) -> tuple[CertificateDirectory, dict[Path, Credential], list[str]]:
    """Read everything again, in another thread."""
    others: dict[Path, Credential] = {}
    wrong: list[str] = []
    for named in special:
        try:
            others[named] = read(named.name, *certificate_files(named))
        except UnusableCertificate as error:
            wrong.append(str(error))
    return CertificateDirectory(path), others, wrong
