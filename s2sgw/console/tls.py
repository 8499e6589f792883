"""TLS of the console's port. The certificate is read again when its files have changed, so that a renewal needs no reload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL import SSL
from twisted.internet.interfaces import IAddress, IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from zope.interface import implementer

from s2sgw.config.cross_checks import certificate_files
from s2sgw.net.certificates import Credential, UnusableCertificate, read
from s2sgw.net.http_server import BoundedSite
from s2sgw.net.tls import CIPHERS

#: Seconds between two looks at the files.
LOOK_SECONDS = 60
#: Bytes that are read in one turn of the reactor: the smallest TLS messages take a microsecond for each byte.
READ_BYTES = 16384


@implementer(IOpenSSLServerConnectionCreator)
class ConsoleTLS:
    """Makes the TLS connections. Browsers are not asked for a certificate. Raises `UnusableCertificate`."""

    log = Logger("s2sgw")

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._path = path
        self._now = now
        self._looked = now()
        self._stamps = self._look()
        self.credential = read(path.name, *certificate_files(path))
        self._context = _context(self.credential)
        #: why the files, which have changed, are not in use; "": they are
        self.fault = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the DNS names of the certificate, in lower case."""
        return tuple(each.text.lower() for each in self.credential.names.presented if each.kind == "dNSName")

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:
        """Return the TLS connection of a new connection."""
        self._look_if_due()
        return SSL.Connection(self._context, None)

    def alerts(self) -> list[str]:
        """Return a sentence if the files have changed and cannot be used."""
        self._look_if_due()
        return [f"the certificate of the console has changed, and cannot be used: {self.fault}"] if self.fault else []

    def _look_if_due(self) -> None:
        if self._now() - self._looked >= LOOK_SECONDS:
            self._looked = self._now()
            self._refresh()

    def _refresh(self) -> None:
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self.credential = read(self._path.name, *certificate_files(self._path))
            self._context = _context(self.credential)
        except (UnusableCertificate, SSL.Error, UnsupportedAlgorithm, ValueError, OSError) as error:
            self.fault = str(error) or type(error).__name__
            self.log.error(event="console certificate", detail=f"the files have changed and cannot be used: {self.fault}")
        else:
            self.fault = ""
            self.log.info(event="console certificate", detail=f"read again, valid until {self.credential.not_after:%Y-%m-%d}")

    def _look(self) -> list[tuple[int, int]]:
        stamps = []
        for file in certificate_files(self._path):
            try:
                found = file.stat()
                stamps.append((found.st_ino, found.st_mtime_ns))
            except OSError:
                stamps.append((0, 0))
        return stamps


def _context(credential: Credential) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_cipher_list(CIPHERS)
    leaf, *rest = (x509.load_der_x509_certificate(certificate) for certificate in credential.chain)
    context.use_certificate(leaf)
    for certificate in rest:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(credential.key)
    context.check_privatekey()
    return context


class ConsoleTLSProtocol(BufferingTLSTransport):
    """TLS that reads little at once."""

    def makeConnection(self, transport: Any) -> None:
        transport.bufferSize = READ_BYTES
        super().makeConnection(transport)


class ConsoleTLSFactory(TLSMemoryBIOFactory):
    """Puts TLS below a site, which may refuse a connection."""

    protocol = ConsoleTLSProtocol
    noisy = False

    def __init__(self, tls: ConsoleTLS, site: BoundedSite, clock: Any) -> None:
        super().__init__(tls, False, site, clock)
        self._site = site

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a new connection; None: there is no room for it."""
        inner = self._site.buildProtocol(addr)
        return None if inner is None else self.protocol(self, inner)
