"""SCRAM as an independent peer implements it (RFC 5802, RFC 9266), without code of the gateway."""

from __future__ import annotations

import base64
import hashlib
import hmac
import select
import socket
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import TypeVar

from OpenSSL import SSL

from tests.lab.certificates import Certificate
from tests.lab.peer import SASL, PeerError, Stream

_XMLNS = "urn:ietf:params:xml:ns:xmpp-sasl"
T = TypeVar("T")
_NONCE = "raw+peer/0123456789"


class BoundSocket:
    """The part of a socket that `Stream` uses, over OpenSSL, which gives the data of the channel binding."""

    def __init__(self, plain: socket.socket, certificate: Certificate | None, name: str, highest: int) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(highest)
        if certificate is not None:
            context.use_certificate_chain_file(str(certificate.chain))
            context.use_privatekey_file(str(certificate.key))
        self._plain = plain
        self._seconds = 8.0
        plain.setblocking(False)
        self._tls = SSL.Connection(context, plain)
        self._tls.set_tlsext_host_name(name.encode())
        self._tls.set_connect_state()
        self._insist(self._tls.do_handshake)

    @property
    def binding(self) -> bytes:
        """Return the tls-exporter channel binding (RFC 9266)."""
        return self._tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")

    def _insist(self, act: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                return act()
            except SSL.WantReadError:
                if not select.select([self._plain], [], [], max(deadline - time.monotonic(), 0))[0]:
                    raise TimeoutError from None
            except SSL.Error as problem:
                raise OSError(str(problem)) from None

    def settimeout(self, seconds: float) -> None:
        self._seconds = seconds

    def recv(self, size: int) -> bytes:
        return self._insist(lambda: self._tls.recv(size))

    def sendall(self, data: bytes) -> None:
        self._insist(lambda: self._tls.sendall(data))

    def close(self) -> None:
        self._plain.close()


def secure(stream: Stream, certificate: Certificate | None, name: str, highest: int = SSL.TLS1_3_VERSION) -> BoundSocket:
    """Do TLS on `stream`, after `<proceed/>`, with a certificate if there is one."""
    bound = BoundSocket(stream.raw, certificate, name, highest)
    stream.carry(bound)
    return bound


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def authenticate(
    stream: Stream, domain: str, secret: str, mechanism: str, binding: bytes = b"", flag: str | None = None,
) -> tuple[str, str]:
    """Do a whole exchange as client. Return ("success", "") if the other side has also proven itself, or "failure" and its condition."""
    bound = mechanism.endswith("-PLUS")
    name = "sha256" if "256" in mechanism else "sha1"
    gs2 = f"{flag or ('p=tls-exporter' if bound else 'n')},,"
    bare = f"n={domain},r={_NONCE}"
    stream.send(f"<auth xmlns='{_XMLNS}' mechanism='{mechanism}'>{_b64((gs2 + bare).encode())}</auth>")
    answer = stream.expect(f"{SASL}challenge", f"{SASL}failure")
    if answer.tag == f"{SASL}failure":
        return "failure", _condition(answer)
    challenge = base64.b64decode(answer.text or "").decode()
    said = dict(part.split("=", 1) for part in challenge.split(","))
    if not said["r"].startswith(_NONCE) or int(said["i"]) < 4096:
        raise PeerError(f"a weak challenge: {challenge}")
    salted = hashlib.pbkdf2_hmac(name, secret.encode(), base64.b64decode(said["s"]), int(said["i"]))
    client = hmac.digest(salted, b"Client Key", name)
    final = f"c={_b64(gs2.encode() + (binding if bound else b''))},r={said['r']}"
    message = f"{bare},{challenge},{final}".encode()
    proof = _xor(client, hmac.digest(hashlib.new(name, client).digest(), message, name))
    stream.send(f"<response xmlns='{_XMLNS}'>{_b64(f'{final},p={_b64(proof)}'.encode())}</response>")
    answer = stream.expect(f"{SASL}success", f"{SASL}failure")
    if answer.tag == f"{SASL}failure":
        return "failure", _condition(answer)
    verifier = "v=" + _b64(hmac.digest(hmac.digest(salted, b"Server Key", name), message, name))
    if base64.b64decode(answer.text or "").decode() != verifier:
        raise PeerError("the gateway has not proven that it has the secret")
    return "success", ""


def _condition(failure: ET.Element) -> str:
    return next((child.tag.removeprefix(SASL) for child in failure), "")
