"""TLS 1.3 in which both sides prove their peer id, with the means of Python's ``ssl``.

``ssl`` has no call-back for a certificate, and takes none that no authority signed. So there is an OPEN authority: its
private key is the constant below, for everybody to read. It grants no trust and only lets chain building end. A node
issues itself a certificate whose key IS its identity key; the handshake proves that it holds that key, and the peer id
is read from the certificate. What a certificate says besides its key is believed by nobody.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from hubless.errors import IntegrityError
from hubless.net.identity import Identity
from hubless.net.transports.transport import PeerId

MAIN, BULK = "hubless/1", "hubless/1-bulk"  # the lanes, told apart by ALPN
OPEN_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"hubless: this CA grants no trust").digest())
ALWAYS = datetime.datetime(2020, 1, 1), datetime.datetime(2120, 1, 1)  # clocks of peers may be wrong


@dataclass(frozen=True)
class Contexts:
    """What a node shows when it is dialled, and when it dials one lane or the other."""

    server: ssl.SSLContext
    clients: dict[str, ssl.SSLContext]

    @classmethod
    def of(cls, identity: Identity) -> Contexts:
        """Contexts that show a certificate made now for this identity."""
        certificate, key = leaf(identity), identity.key
        return cls(
            server=_context(ssl.PROTOCOL_TLS_SERVER, certificate, key, MAIN, BULK),
            clients={lane: _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key, lane) for lane in (MAIN, BULK)},
        )


def leaf(identity: Identity) -> x509.Certificate:
    """The certificate of an identity."""
    return _certificate(identity.peer_id, identity.key.public_key())


@cache
def authority() -> str:
    """The open authority's certificate, as PEM: the only one that a node accepts chains from."""
    certificate = _certificate(_NAME, OPEN_KEY.public_key(), authority=True)
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def proven(connection: ssl.SSLObject) -> tuple[PeerId, str]:
    """The peer and the lane that a finished handshake proves. Raises IntegrityError for any other client or server."""
    encoded, lane = connection.getpeercert(binary_form=True), connection.selected_alpn_protocol()
    if lane not in (MAIN, BULK):
        raise IntegrityError(f"a connection for {lane or 'no'} protocol: must be {MAIN} or {BULK}")
    try:
        key = x509.load_der_x509_certificate(encoded or b"").public_key()
    except Exception as error:  # a parser of hostile bytes: whatever it raises, this is no certificate
        raise IntegrityError(f"a certificate that cannot be read: {type(error).__name__}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise IntegrityError(f"a certificate with a key of another kind: {type(key).__name__}")
    return key.public_bytes_raw().hex(), lane


_NAME = "hubless open CA: grants no trust"


def _certificate(name: str, key: Ed25519PublicKey, *, authority: bool = False) -> x509.Certificate:
    begin, end = ALWAYS
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
    )
    return builder.sign(OPEN_KEY, algorithm=None)


def _context(protocol: int, certificate: x509.Certificate, key: Ed25519PrivateKey, *lanes: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a peer is its key, wherever it is
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority())  # this one alone, never the system's
    context.set_alpn_protocols(list(lanes))
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # nothing is resumed, so a ticket is only bytes
    password = os.urandom(32).hex().encode()
    with tempfile.TemporaryDirectory(prefix="hubless-") as folder:  # ssl reads keys from files only: encrypted, for now
        path = Path(folder) / "leaf.pem"
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
        path.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
        context.load_cert_chain(path, password=password)
    return context
