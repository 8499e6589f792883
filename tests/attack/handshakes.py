"""The CPU time of one handshake: chains that are mazes, certificates with thousands of names, hundreds of TLSA records."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import threading
import time
import xml.etree.ElementTree as ET
from itertools import cycle, pairwise
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.attack.shared import TRICKS, begin, stage
from tests.attack.world import DANE, INSIDE, AttackWorld
from tests.lab.certificates import Certificate, Names
from tests.lab.peer import STREAMS, PeerError, client_context, header
from tests.lab.scenario import check, step

#: Seconds of CPU for a handshake, with everything before and after it. On a busy machine it takes longer.
HANDSHAKE_SECONDS = 0.03
SECONDS = 5.0
#: The lab's CA. A maze ends below another CA of that name.
_ANCHOR = "s2sgw lab CA"
_LEVELS, _NAMESAKES = 6, 4
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


_ISSUES = x509.KeyUsage(
    digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)


def _signed(subject: str, key: _Key, issuer: str, by: _Key, names: list[str] | None = None) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(issuer)).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=9)).add_extension(x509.BasicConstraints(names is None, None), critical=True)
    )
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    if names is None:
        builder = builder.add_extension(_ISSUES, critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
    return builder.sign(by, hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _maze(folder: Path, domain: str, dear: _Key) -> Certificate:
    """Write a chain in which every CA has others of the same name, and none leads to the anchor whose name is at the top."""
    subjects = [_ANCHOR, *(f"level {level}" for level in range(_LEVELS))]
    chain = [
        _signed(subject, dear, issuer, dear)
        for issuer, subject in pairwise(subjects) for _ in range(_NAMESAKES)
    ]
    key = ec.generate_private_key(ec.SECP256R1())
    return _written(folder, [_signed(domain, key, subjects[-1], dear, [domain]), *reversed(chain)], key)


def _tower(folder: Path, domain: str, dear: _Key) -> Certificate:
    """Write a chain of ninety CAs, each signed by the next. TLS must not verify more than the verdict needs."""
    subjects = ["top", *(f"floor {floor}" for floor in range(90))]
    chain = [_signed(subject, dear, issuer, dear) for issuer, subject in pairwise(subjects)]
    key = ec.generate_private_key(ec.SECP256R1())
    return _written(folder, [_signed(domain, key, subjects[-1], dear, [domain]), *reversed(chain)], key)


def _written(folder: Path, chain: list[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> Certificate:
    made = Certificate(folder / "chain.crt", folder / "chain.key")
    made.chain.write_bytes(b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain))
    made.key.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption(),
    ))
    return made


def handshakes(port: int, domain: str, files: tuple[str, str], seconds: float, log: str) -> None:
    """Do TLS with a certificate repeatedly, from a few threads; write the number to `log`."""
    certificate, end = Certificate(Path(files[0]), Path(files[1])), time.monotonic() + seconds
    counts = [0] * 4
    threads = [threading.Thread(target=_shake, args=(port, domain, certificate, end, counts, at)) for at in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Path(log).write_text(str(sum(counts)))


def _shake(port: int, domain: str, certificate: Certificate, end: float, counts: list[int], at: int) -> None:
    for number in cycle(range(250)):
        if time.monotonic() > end:
            return
        with contextlib.suppress(OSError, PeerError, ET.ParseError), contextlib.closing(
            begin(port, f"127.{40 + at}.{number}.1", "header", domain, None),
        ) as stream:
            stream.starttls(client_context(certificate), INSIDE)
            stream.send(header(INSIDE, domain))
            stream.expect(f"{STREAMS}features", f"{STREAMS}error")
            counts[at] += 1
        time.sleep(0.05)


async def _dear(at: AttackWorld, domain: str, certificate: Certificate) -> None:
    """Let strangers present a certificate, and check its cost."""
    await at.measure_quiet()
    log = at.lab.directory("handshakes") / "count"
    used, began = at.process.cpu_seconds(), time.monotonic()
    files = (str(certificate.chain), str(certificate.key))
    async with at.under(handshakes, SECONDS, domain=domain, files=files, log=str(log)):
        await asyncio.sleep(SECONDS)
        while not log.exists():
            await asyncio.sleep(0.1)
        used = at.process.cpu_seconds() - used - at.quiet_cpu * (time.monotonic() - began)
    number = int(log.read_text())
    size = len(certificate.chain.read_bytes()) * 3 // 4
    step(f"{number} handshakes with {size // 1000} kB of chain, {used / max(1, number) * 1000:.1f} ms of CPU each")
    check(number >= 5, "hardly any handshake was done")
    check(used / number <= HANDSHAKE_SECONDS * max(1.0, at.slowdown / 2), f"a handshake costs {used / number * 1000:.1f} ms")


@stage.scenario("a chain that is a maze of RSA keys of 4,096 bits, below a namesake of an anchor")
async def _rsa(at: AttackWorld) -> None:
    dear = await asyncio.to_thread(rsa.generate_private_key, 65537, 4096)
    await _dear(at, f"maze.{TRICKS}", await asyncio.to_thread(_maze, at.lab.directory("maze"), f"maze.{TRICKS}", dear))


@stage.scenario("a chain that is a maze of P-521 keys")
async def _curve(at: AttackWorld) -> None:
    await _dear(at, f"curve.{TRICKS}", _maze(at.lab.directory("maze"), f"curve.{TRICKS}", ec.generate_private_key(ec.SECP521R1())))


@stage.scenario("a chain of ninety authorities with P-521 keys", quick=True)
async def _high(at: AttackWorld) -> None:
    dear = ec.generate_private_key(ec.SECP521R1())
    await _dear(at, f"tower.{TRICKS}", await asyncio.to_thread(_tower, at.lab.directory("maze"), f"tower.{TRICKS}", dear))


@stage.scenario("certificates of a trusted authority with thousands of names")
async def _names(at: AttackWorld) -> None:
    names = [f"{number:x}.n.{TRICKS}" for number in range(3500)]
    await _dear(at, f"names.{TRICKS}", at.authority.issue(Names(dns=names)))
    await _dear(at, f"names.{TRICKS}", at.authority.issue(Names(xmpp=[f"{number:x}ä.{TRICKS}" for number in range(1500)])))


@stage.scenario("64 TLSA records for each of eight targets", quick=True)
async def _tlsa(at: AttackWorld) -> None:
    asked = at.questions("dane.example")
    stranger = ec.generate_private_key(ec.SECP384R1())
    domain = f"a.{DANE}"
    await _dear(at, domain, _maze(at.lab.directory("maze"), domain, stranger))
    check(at.questions("dane.example") > asked, "no TLSA record was looked up")
