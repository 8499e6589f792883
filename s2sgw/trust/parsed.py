"""One certificate, read once: what may be asked of it without validating it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

import s2sgw.trust.der as der
from s2sgw.trust.keys import is_cheap, signing_fault
from s2sgw.trust.name_bounds import count_names, count_subtrees
from s2sgw.xmpp.ending import Cause

#: A distinguished name is put into words up to this many characters, and not at all if it is longer than this many bytes.
NAME_CHARACTERS = 120
NAME_BYTES = 4096


class Unfit(NamedTuple):
    """Why an authority is left out of the search for a path."""

    cause: Cause
    text: str


class ParsedCertificate:
    """A certificate with the parts that path search compares. Raises `ValueError` where `encoded` (DER) is no certificate."""

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded
        self.certificate = _load(encoded)
        fields = der.fields(encoded)
        #: The contents of the INTEGER that is the serial number.
        self.serial = fields.serial
        #: Names in DER. They compare as they are encoded (RFC 5280 §7.1 asks no more of a careful authority).
        self.subject = fields.subject
        self.issuer = fields.issuer
        #: The SubjectPublicKeyInfo in DER.
        self.public_key_info = fields.public_key_info
        self._extensions = fields.extensions

    @cached_property
    def extensions(self) -> tuple[tuple[bytes, bytes], ...]:
        """The OID and value of each extension; raises `ValueError` where one cannot be read, or there are too many."""
        return der.extensions(self._extensions)

    def extension(self, oid: bytes) -> bytes | None:
        """Return the value of an extension, or None; raises `ValueError` where it is there twice, or one cannot be read."""
        return der.single(self.extensions, oid)

    def has_extension(self, oid: bytes) -> bool:
        """Return whether the extension is there. Where one cannot be read it counts as there: what reads them all decides."""
        try:
            return any(name == oid for name, _ in self.extensions)
        except ValueError:
            return True

    @cached_property
    def subject_key(self) -> bytes | None:
        """The subject key identifier; None where there is none that can be read."""
        return der.subject_key(self._readable(der.SUBJECT_KEY_IDENTIFIER))

    @cached_property
    def authority_key(self) -> bytes | None:
        """The key identifier of the issuer; None where there is none that can be read."""
        return der.authority_key(self._readable(der.AUTHORITY_KEY_IDENTIFIER))

    @cached_property
    def names(self) -> int:
        """How many names the subjectAltName has, as far as it can be read; raises `TooManyNames`."""
        return count_names(self._readable(der.SUBJECT_ALT_NAME))

    @cached_property
    def subtrees(self) -> int:
        """How many subtrees the name constraints have, as far as they can be read; raises `TooManyNames`."""
        return count_subtrees(self._readable(der.NAME_CONSTRAINTS))

    @cached_property
    def key_purposes(self) -> set[bytes] | None:
        """The OIDs of the extended key usage, None where there is none; raises `ValueError` where they cannot be read."""
        value = self.extension(der.EXTENDED_KEY_USAGE)
        return None if value is None else der.object_identifiers(value)

    def _readable(self, oid: bytes) -> bytes | None:
        try:
            return self.extension(oid)
        except ValueError:
            return None

    @cached_property
    def unfit(self) -> Unfit | None:
        """Why this cannot be an authority on a path, told before any signature is checked; None where it may be one."""
        fault = signing_fault(self.public_key_info)
        if fault:
            return Unfit(Cause.WEAK_KEY, fault)
        try:
            self.names, self.subtrees, self.key_purposes  # noqa: B018  each raises where there are too many
        except ValueError as error:
            return Unfit(Cause.BAD_CHAIN, f"its extensions cannot be used: {error}")
        return None

    @cached_property
    def self_signed(self) -> bool:
        """Whether its own key signed it; to be issued under its own name is not enough.

        One signature is checked, and only where that is cheap: a key that is dear to check with counts as another's.
        """
        if self.subject != self.issuer or not is_cheap(self.public_key_info):
            return False
        try:
            self.certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True

    @property
    def subject_text(self) -> str:
        """The subject in words, bounded. Who shows it escapes it."""
        return _words(self.subject, lambda: self.certificate.subject)

    @property
    def issuer_text(self) -> str:
        """The issuer in words, bounded. Who shows it escapes it."""
        return _words(self.issuer, lambda: self.certificate.issuer)


def _words(name: bytes, read: Callable[[], x509.Name]) -> str:
    if len(name) > NAME_BYTES:
        return "of a name that is too long to tell"
    try:
        return f"'{read().rfc4514_string()[:NAME_CHARACTERS]}'"
    except (ValueError, TypeError):  # the library refuses some types of attributes by the one, some by the other
        return "of an unreadable name"


def _load(data: bytes) -> x509.Certificate:
    with warnings.catch_warnings():  # a system's bundle holds one or two with a serial number of 0
        warnings.simplefilter("ignore")
        try:
            return x509.load_der_x509_certificate(data)
        except x509.InvalidVersion as error:
            raise ValueError(str(error)) from error


def encoded(certificate: x509.Certificate) -> bytes:
    """Return the certificate in DER."""
    return certificate.public_bytes(Encoding.DER)
