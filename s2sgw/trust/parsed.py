"""One certificate, parsed once: the facts that need no validation."""

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

#: The most characters of a distinguished name in words. A name with more bytes than this is not put into words.
NAME_CHARACTERS = 120
NAME_BYTES = 4096


class Unfit(NamedTuple):
    """Why an authority is left out of the path search."""

    cause: Cause
    text: str


class ParsedCertificate:
    """A certificate with the parts that the path search compares. Raises `ValueError` if `encoded` (DER) is not a certificate."""

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded
        self.certificate = _load(encoded)
        fields = der.fields(encoded)
        #: The contents of the INTEGER that is the serial number.
        self.serial = fields.serial
        #: Names in DER. They are compared in their encoding (RFC 5280 §7.1 requires no more of a careful authority).
        self.subject = fields.subject
        self.issuer = fields.issuer
        #: The SubjectPublicKeyInfo in DER.
        self.public_key_info = fields.public_key_info
        self._extensions = fields.extensions

    @cached_property
    def extensions(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the OID and value of each extension. Raises `ValueError` if one cannot be parsed, or there are too many."""
        return der.extensions(self._extensions)

    def extension(self, oid: bytes) -> bytes | None:
        """Return the value of an extension; None: it is absent.

        Raises `ValueError` if it occurs twice, or one cannot be parsed.
        """
        return der.single(self.extensions, oid)

    def has_extension(self, oid: bytes) -> bool:
        """Return whether the extension is there. An unreadable one counts as there: the parser of all extensions decides."""
        try:
            return any(name == oid for name, _ in self.extensions)
        except ValueError:
            return True

    @cached_property
    def subject_key(self) -> bytes | None:
        """Return the subject key identifier; None: there is none, or it is malformed."""
        return der.subject_key(self._readable(der.SUBJECT_KEY_IDENTIFIER))

    @cached_property
    def authority_key(self) -> bytes | None:
        """Return the key identifier of the issuer; None: there is none, or it is malformed."""
        return der.authority_key(self._readable(der.AUTHORITY_KEY_IDENTIFIER))

    @cached_property
    def names(self) -> int:
        """Return how many names the subjectAltName has, as far as it can be parsed. Raises `TooManyNames`."""
        return count_names(self._readable(der.SUBJECT_ALT_NAME))

    @cached_property
    def subtrees(self) -> int:
        """Return how many subtrees the name constraints have, as far as they can be parsed. Raises `TooManyNames`."""
        return count_subtrees(self._readable(der.NAME_CONSTRAINTS))

    @cached_property
    def key_purposes(self) -> set[bytes] | None:
        """Return the OIDs of the extended key usage; None: there is none. Raises `ValueError` if they cannot be parsed."""
        value = self.extension(der.EXTENDED_KEY_USAGE)
        return None if value is None else der.object_identifiers(value)

    def _readable(self, oid: bytes) -> bytes | None:
        try:
            return self.extension(oid)
        except ValueError:
            return None

    @cached_property
    def unfit(self) -> Unfit | None:
        """Return why this cannot be an authority on a path, before any signature is checked; None: it may be one."""
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
        """Whether its own key signed it. The same name as subject and issuer is not enough.

        One signature is checked, and only if that is cheap. Otherwise the signature counts as another key's.
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
        """Return the subject in words, bounded. Escape it before you display it."""
        return _words(self.subject, lambda: self.certificate.subject)

    @property
    def issuer_text(self) -> str:
        """Return the issuer in words, bounded. Escape it before you display it."""
        return _words(self.issuer, lambda: self.certificate.issuer)


def _words(name: bytes, read: Callable[[], x509.Name]) -> str:
    if len(name) > NAME_BYTES:
        return "of a name that is too long to tell"
    try:
        return f"'{read().rfc4514_string()[:NAME_CHARACTERS]}'"
    except (ValueError, TypeError):  # the library raises either, depending on the type of an attribute
        return "of an unreadable name"


def _load(data: bytes) -> x509.Certificate:
    with warnings.catch_warnings():  # a system's bundle has one or two with a serial number of 0
        warnings.simplefilter("ignore")
        try:
            return x509.load_der_x509_certificate(data)
        except x509.InvalidVersion as error:
            raise ValueError(str(error)) from error


def encoded(certificate: x509.Certificate) -> bytes:
    """Return the certificate in DER."""
    return certificate.public_bytes(Encoding.DER)
