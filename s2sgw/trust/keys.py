"""The public keys that may be used to check a signature, decided by their encoding before use."""

from __future__ import annotations

import s2sgw.trust.der as der

#: An authority's RSA key must have `RSA_BITS` to `MAX_RSA_BITS`, and an exponent up to `MAX_EXPONENT`. A check with an RSA key
#: of 16,384 bits and an exponent of 64 bits takes fourteen times as long as with the slowest of these.
RSA_BITS, MAX_RSA_BITS = 2048, 8192
MAX_EXPONENT = 2**32

_RSA = bytes.fromhex("2a864886f70d010101")
_EC = bytes.fromhex("2a8648ce3d0201")
_CURVES = frozenset(map(bytes.fromhex, ("2a8648ce3d030107", "2b81040022", "2b81040023")))  # P-256, P-384, P-521
_EDWARDS = frozenset(map(bytes.fromhex, ("2b6570", "2b6571")))  # Ed25519, Ed448 (RFC 8410 §3)


def signing_fault(public_key_info: bytes) -> str:
    """Return why an authority may not sign with this key (a SubjectPublicKeyInfo in DER); "": it may.

    Nothing is computed with the key: its kind and size are read from the encoding.
    """
    try:
        algorithm, curve, key = _read(public_key_info)
        if algorithm == _RSA:
            return _rsa_fault(key, RSA_BITS)
    except ValueError as error:
        return f"its key cannot be read: {error}"
    known = algorithm in _EDWARDS or (algorithm == _EC and curve in _CURVES)
    return "" if known else "its key is neither RSA, P-256, P-384, P-521, Ed25519 nor Ed448"


def is_cheap(public_key_info: bytes) -> bool:
    """Return whether one signature check with this key is cheap. The key may be strong or weak."""
    try:
        algorithm, _, key = _read(public_key_info)
        return algorithm in _EDWARDS or algorithm == _EC or (algorithm == _RSA and not _rsa_fault(key, 0))
    except ValueError:
        return False


def _read(public_key_info: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the algorithm, the named curve (b"": there is none) and the contents of the key."""
    identifier, key = der.few(der.inside(public_key_info), 2)
    algorithm, *parameters = der.few(identifier.content, 2)
    curve = parameters[0].content if parameters and parameters[0].tag == der.OID else b""
    return algorithm.content, curve, key.content[1:]


def _rsa_fault(key: bytes, least: int) -> str:
    """Return the fault in the size of an RSAPublicKey (RFC 8017 §A.1.1); "": there is none."""
    modulus, exponent = (number.content.lstrip(b"\0") for number in der.few(der.inside(key), 2))
    bits = 8 * len(modulus) - 8 + modulus[0].bit_length() if modulus else 0
    if not least <= bits <= MAX_RSA_BITS:
        return f"its RSA key has {bits} bits, and {RSA_BITS} to {MAX_RSA_BITS} are asked for"
    if len(exponent) > 5 or int.from_bytes(exponent, "big") > MAX_EXPONENT:
        return "the exponent of its RSA key is larger than 2^32"
    return ""
